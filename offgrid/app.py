"""The WSGI application: wiring only."""

from __future__ import annotations

import atexit
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import falcon
from falcon.routing import DefaultRouter

from offgrid.api.anthropic.resource import (
    CountTokensResource,
    MessagesResource,
    make_signer,
)
from offgrid.api.chat.resource import ChatResource, InputTokensResource
from offgrid.api.completions.resource import CompletionsResource
from offgrid.api.conversations.resource import (
    ConversationItemResource,
    ConversationItemsResource,
    ConversationResource,
    ConversationsResource,
)
from offgrid.api.decisions.resource import DecisionsResource
from offgrid.api.embeddings import EmbeddingsResource
from offgrid.api.health import HealthResource
from offgrid.api.history.resource import (
    HistoryConversationExportResource,
    HistoryConversationResource,
    HistoryExportResource,
    HistoryImportResource,
    HistoryMessagesResource,
    HistoryResource,
)
from offgrid.api.http.access import Access, Authorize, unknown_url
from offgrid.api.http.caller import Identify
from offgrid.api.http.error_handlers import add_error_handlers
from offgrid.api.http.forwarding import Forwarding
from offgrid.api.http.gate import Gate
from offgrid.api.http.headers import protective_headers
from offgrid.api.http.machines import OnlyThisMachine
from offgrid.api.http.meter import LIVE as LIMITS
from offgrid.api.http.meter import RateLimits
from offgrid.api.http.middleware import HostGuard, OneLength, UnknownFields
from offgrid.api.http.observe import endpoint_of
from offgrid.api.http.peer_gate import PeerGate, admit_peers
from offgrid.api.http.queries import UnknownQueries
from offgrid.api.http.waitress.environ import BODY, WRITE
from offgrid.api.keys.resource import (
    KeyResource,
    KeyRotateResource,
    Keys,
    KeysResource,
    OwnKeyResource,
)
from offgrid.api.lab.resource import LabResource
from offgrid.api.llama_server.props import PropsResource
from offgrid.api.llama_server.resource import CompletionResource, InfillResource
from offgrid.api.llama_server.slots import SlotResource, SlotsResource
from offgrid.api.llama_server.template import ApplyTemplateResource
from offgrid.api.loaded import LoadedResource
from offgrid.api.models.resources import ModelResource, ModelsResource
from offgrid.api.moderations import ModerationsResource
from offgrid.api.ollama.embed import EmbedResource, OlderEmbeddingsResource
from offgrid.api.ollama.models import PsResource, ShowResource, TagsResource, VersionResource
from offgrid.api.ollama.resource import OllamaChatResource, OllamaGenerateResource
from offgrid.api.ollama.unsupported import (
    BlobResource,
    NotDeletedResource,
    NotOfferedResource,
    PullResource,
)
from offgrid.api.openapi.document import OpenApiResource
from offgrid.api.openapi.operations import OPERATIONS
from offgrid.api.peers.forward import Forward
from offgrid.api.peers.inner import AliveResource, StatusResource
from offgrid.api.peers.listed import advice
from offgrid.api.peers.listing import PeersResource
from offgrid.api.peers.models import PeerModelResource, PeerModelsResource
from offgrid.api.peers.own import OwnStatus
from offgrid.api.peers.pairing import ConfirmResource, PairingResource, PairResource
from offgrid.api.peers.resource import PeerResource
from offgrid.api.rerank import RerankResource
from offgrid.api.responses.background import Background
from offgrid.api.responses.resource import (
    CancelResource,
    CompactResource,
    InputItemsResource,
    ResponseResource,
    ResponsesResource,
    ResponseTokensResource,
)
from offgrid.api.score import ScoreResource
from offgrid.api.screening import Filters, Screening
from offgrid.api.stats.developed import SeriesResource, SlotsOverviewResource
from offgrid.api.stats.metrics import Metrics
from offgrid.api.stats.resource import MetricsResource, ReadyResource, StatsResource
from offgrid.api.stats.source import Source
from offgrid.api.tokens import (
    DetokenizeResource,
    TokenizeResource,
    TokenizerInfoResource,
)
from offgrid.api.transfers.exports import Export, ExportsResource
from offgrid.api.transfers.imports import Import, ImportsResource
from offgrid.api.transfers.resources import TransferCancelResource, TransferResource
from offgrid.api.transfers.running import Transfers
from offgrid.api.web.resource import Page, page_routes
from offgrid.collaborators import (
    Observation,
    log_skipped,
    make_collaborators,
    make_observation,
)
from offgrid.config import BY_NAME, Reloads, Settings, load_settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ConfigError
from offgrid.peers.peers import Peers
from offgrid.stats.totals import TotalsFile
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.history.store import HistoryStore
from offgrid.store.key_ring import KeyRing
from offgrid.store.offers import Offers
from offgrid.store.responses import ResponseStore
from offgrid.terminal import escape_log

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long the end of the server waits until unfinished background responses are stored."""


class App(falcon.App[Any, Any]):
    """The application. It remembers the server's ``write`` for streams, adds headers to every
    response, and closes the body of one that the server refuses to begin."""

    def __call__(self, env: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Answer a request (PEP 3333)."""

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            secure = env.get("wsgi.url_scheme") == "https"
            added = protective_headers((name for name, _ in headers), secure=secure)
            env[WRITE] = start_response(status, [*headers, *added], *rest)
            return env[WRITE]

        try:
            return super().__call__(env, start)
        except BaseException:
            # The server does not get the body, so it cannot close it.
            if BODY in env:
                env[BODY].close()
            raise
        finally:
            env.pop(BODY, None)


def build_app(
    settings: Settings,
    catalogue: Catalogue,
    pool: EnginePool,
    responses: ResponseStore,
    background: Background | None = None,
    imports: Transfers[Import] | None = None,
    exports: Transfers[Export] | None = None,
    hashes: Hashes | None = None,
    reloads: Reloads | None = None,
    filters: Filters | None = None,
    access: Access | None = None,
    observation: Observation | None = None,
    history: HistoryStore | None = None,
    peers: Peers | None = None,
) -> App:
    """Make the application: its middleware, its resources and their routes."""
    reloads = reloads or Reloads(settings)
    filters = filters or Filters(settings)
    access = access or Access(KeyRing(settings.keys_file))
    background = background or Background(settings)
    hashes = hashes or Hashes.beside(settings.responses_file)
    imports = imports or Transfers()
    exports = exports or Transfers()
    observation = observation or make_observation(settings, catalogue, pool, TotalsFile(None))
    history = history or HistoryStore.of_settings(settings)
    gate = Gate(pool, settings)
    forwarding = None if peers is None else peers.forwarding
    if forwarding is not None:
        pool.elsewhere = functools.partial(advice, forwarding)
    source = Source(
        observation.observer.stats,
        observation.keeper,
        pool,
        observation.readiness,
        lambda: (gate.taken, gate.total),
    )
    page = Page(settings)
    pages = page_routes(page)
    health, ready = HealthResource(), ReadyResource(observation.readiness)
    own = None
    if peers is not None:
        own = OwnStatus(peers.identity, catalogue, pool, hashes, settings.peers_dir)
    # A machine that is not paired yet reaches them, through the peers port only.
    pair, confirm = PairResource(peers), ConfirmResource(peers)
    reloads.add(("ui",), page.prepare)
    unknown_fields, guard = UnknownFields(settings), HostGuard(settings)
    metrics = Metrics(source, with_keys=settings.metrics_keys)
    reloads.add(("unknown_fields",), unknown_fields.prepare)
    reloads.add(("ready_timeout",), observation.readiness.prepare)
    reloads.add(("log_prompts",), observation.observer.prepare)
    reloads.add(("metrics_keys",), metrics.prepare)
    reloads.add(("allowed_hosts", "cors_origins"), guard.prepare)
    book = None if peers is None else peers.book
    limits = RateLimits(settings)
    reloads.add(LIMITS, limits.prepare)
    router = DefaultRouter()
    app = App(
        router=router,
        middleware=[
            observation.observer,
            unknown_fields,
            Forwarding(settings),
            OneLength(),
            # It comes before others that may refuse the request, so that all know the caller.
            Identify(admit_peers(access.admit, book)),
            guard,
            OnlyThisMachine(settings, access),
            PeerGate(),
            Authorize(public=(health, ready, pair, confirm, *pages.values())),
            limits,
            UnknownQueries({(one.method, one.path): one.query for one in OPERATIONS}),
            Screening(filters),
            gate,
            Forward.of(peers, pool, settings),
        ],
    )

    def endpoint_at(path: str) -> str:
        found = router.find(path)
        return "" if found is None else endpoint_of(found[3])

    observation.observer.endpoint_at = endpoint_at
    app.req_options.strip_url_path_trailing_slash = True
    add_error_handlers(app)
    app.add_sink(unknown_url)
    for path, resource in pages.items():
        app.add_route(path, resource)
    app.add_route("/health", health)
    app.add_route("/ready", ready)
    app.add_route("/peer/alive", AliveResource())
    app.add_route("/peer/status", StatusResource(own, peers))
    offers = Offers(settings, catalogue, hashes)
    app.add_route("/peer/models", PeerModelsResource(offers, pool))
    app.add_route("/peer/models/{rest:path}", PeerModelResource(offers, pool, book))
    app.add_route("/peer/pair", pair)
    app.add_route("/peer/pair/confirm", confirm)
    app.add_route("/v1/peers/pair", PairingResource(settings, peers))
    app.add_route("/v1/peers", PeersResource(peers))
    app.add_route("/v1/peers/{id}", PeerResource(settings, peers, catalogue))
    app.add_route("/metrics", MetricsResource(metrics))
    app.add_route("/openapi.json", OpenApiResource())
    app.add_route("/v1/stats", StatsResource(source))
    app.add_route("/v1/stats/series", SeriesResource(source))
    app.add_route("/v1/stats/slots", SlotsOverviewResource(pool, access.ring.names))
    keys = Keys(access, catalogue, tuple if forwarding is None else forwarding.where.names)
    app.add_route("/v1/keys", KeysResource(settings, keys))
    app.add_route("/v1/keys/self", OwnKeyResource())
    app.add_route("/v1/keys/{id}", KeyResource(settings, keys))
    app.add_route("/v1/keys/{id}/rotate", KeyRotateResource(settings, keys))
    app.add_route("/v1/models", ModelsResource(catalogue, pool, hashes, forwarding))
    model = ModelResource(catalogue, pool, settings, hashes, forwarding)
    app.add_route("/v1/models/{model:path}", model)
    app.add_route("/v1/loaded", LoadedResource(pool))
    app.add_route("/v1/import", ImportsResource(settings, catalogue, imports, hashes, peers))
    app.add_route("/v1/export", ExportsResource(settings, catalogue, pool, exports, hashes))
    ping = settings.sse_ping_interval
    app.add_route("/v1/import/{id}", TransferResource(imports, "import", ping))
    app.add_route("/v1/export/{id}", TransferResource(exports, "export", ping))
    app.add_route("/v1/import/{id}/cancel", TransferCancelResource(imports, "import"))
    app.add_route("/v1/export/{id}/cancel", TransferCancelResource(exports, "export"))
    app.add_route("/v1/chat/completions", ChatResource(pool, settings))
    app.add_route("/v1/chat/completions/input_tokens", InputTokensResource(pool, settings))
    signer = make_signer(settings)
    app.add_route("/v1/messages", MessagesResource(pool, settings, signer))
    app.add_route("/v1/messages/count_tokens", CountTokensResource(pool, settings, signer))
    app.add_route("/tokenize", TokenizeResource(pool, settings))
    app.add_route("/detokenize", DetokenizeResource(pool, settings))
    app.add_route("/tokenizer_info", TokenizerInfoResource(pool, settings))
    app.add_route("/v1/completions", CompletionsResource(pool, settings))
    app.add_route("/completion", CompletionResource(pool, settings))
    app.add_route("/completions", CompletionResource(pool, settings))
    app.add_route("/infill", InfillResource(pool, settings))
    app.add_route("/apply-template", ApplyTemplateResource(pool, settings))
    app.add_route("/props", PropsResource(pool, forwarding))
    app.add_route("/slots", SlotsResource(pool, forwarding))
    app.add_route("/slots/{id}", SlotResource())
    app.add_route("/v1/embeddings", EmbeddingsResource(pool, settings))
    app.add_route("/v1/rerank", RerankResource(pool, settings))
    app.add_route("/v1/score", ScoreResource(pool, settings))
    app.add_route("/score", ScoreResource(pool, settings))
    app.add_route("/v1/decisions", DecisionsResource(pool, settings))
    app.add_route("/v1/lab/distribution", LabResource(pool, settings))
    app.add_route("/v1/moderations", ModerationsResource(pool, settings))
    app.add_route("/v1/responses", ResponsesResource(pool, settings, responses, background))
    app.add_route("/v1/responses/compact", CompactResource())
    app.add_route("/v1/responses/input_tokens", ResponseTokensResource(pool, settings, responses))
    app.add_route("/v1/responses/{id}", ResponseResource(settings, responses, background))
    app.add_route("/v1/responses/{id}/cancel", CancelResource(responses, background))
    app.add_route("/v1/responses/{id}/input_items", InputItemsResource(responses, background))
    app.add_route("/v1/conversations", ConversationsResource(settings, responses))
    app.add_route("/v1/conversations/{id}", ConversationResource(settings, responses))
    app.add_route("/v1/conversations/{id}/items", ConversationItemsResource(settings, responses))
    one = "/v1/history/{id}"
    app.add_route("/v1/history", HistoryResource(settings, history))
    app.add_route("/v1/history/export", HistoryExportResource(settings, history))
    app.add_route("/v1/history/import", HistoryImportResource(settings, history))
    app.add_route(one, HistoryConversationResource(settings, history))
    app.add_route(f"{one}/messages", HistoryMessagesResource(settings, history))
    app.add_route(f"{one}/export", HistoryConversationExportResource(settings, history))
    app.add_route("/api/version", VersionResource())
    app.add_route("/api/tags", TagsResource(catalogue, pool, forwarding))
    app.add_route("/api/ps", PsResource(catalogue, pool))
    app.add_route("/api/show", ShowResource(catalogue, pool, settings, forwarding))
    app.add_route("/api/chat", OllamaChatResource(pool, settings))
    app.add_route("/api/generate", OllamaGenerateResource(pool, settings))
    app.add_route("/api/embed", EmbedResource(pool, settings))
    app.add_route("/api/embeddings", OlderEmbeddingsResource(pool, settings))
    app.add_route("/api/pull", PullResource(pool, settings))
    for name in ("create", "copy", "push"):
        app.add_route(f"/api/{name}", NotOfferedResource(name))
    app.add_route("/api/delete", NotDeletedResource("delete"))
    app.add_route("/api/blobs/{digest}", BlobResource("blobs"))
    # Compile the router now, and not during the first requests.
    item = ConversationItemResource(responses)
    app.add_route("/v1/conversations/{id}/items/{item_id}", item, compile=True)
    return app


def create_app(settings: Settings | None = None) -> App:
    """Make the application with its own pool of engines. ``waitress-serve --call`` calls this.

    Args:
        settings: if omitted, read from the environment and the file that it names.

    Raises:
        ConfigError: a setting is wrong, a configured models directory cannot be used, or peers are
            on: another WSGI server has no port for them.
    """
    escape_log()
    settings = load_settings() if settings is None else settings
    if settings.peers:
        raise ConfigError(
            f"{BY_NAME['peers'].source_names}: peers need the server of 'offgrid serve', which has "
            "a port for them; start that, or turn peers off"
        )
    made = make_collaborators(settings)
    made.pool.start()
    # It reads the header of every file, which takes a while on slow media.
    threading.Thread(target=log_skipped, name="survey", args=(made.catalogue,), daemon=True).start()
    # The functions run in reverse order: the pool ends the answers, and then they are stored.
    atexit.register(made.background.close, CLOSE_SECONDS)
    atexit.register(made.imports.close, CLOSE_SECONDS)
    atexit.register(made.exports.close, CLOSE_SECONDS)
    atexit.register(made.pool.shutdown, 0.0)
    made.observation.keeper.start()
    atexit.register(made.observation.keeper.close)
    return build_app(*made)
