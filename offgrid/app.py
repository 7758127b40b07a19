"""The WSGI application: wiring only."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import falcon

from offgrid.api.chat.resource import ChatResource, InputTokensResource
from offgrid.api.completions.resource import CompletionsResource
from offgrid.api.conversations.resource import (
    ConversationItemResource,
    ConversationItemsResource,
    ConversationResource,
    ConversationsResource,
)
from offgrid.api.embeddings import EmbeddingsResource
from offgrid.api.health import HealthResource, RootResource
from offgrid.api.http.errors import add_error_handlers
from offgrid.api.http.gate import Gate
from offgrid.api.http.memory import keep_little
from offgrid.api.http.middleware import HostGuard, OneLength, RequestId, UnknownFields
from offgrid.api.http.waitress.environ import WRITE
from offgrid.api.imports.resource import ImportCancelResource, ImportResource, ImportsResource
from offgrid.api.imports.running import Imports
from offgrid.api.loaded import LoadedResource
from offgrid.api.models import ModelResource, ModelsResource
from offgrid.api.openapi.document import OpenApiResource
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
from offgrid.api.tokens import (
    DetokenizeResource,
    TokenizeResource,
    TokenizerInfoResource,
)
from offgrid.chat.template import ChatTemplate
from offgrid.config import Settings, load_settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ConfigError, InvalidParameter
from offgrid.startup import prepare_process
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.responses import ResponseStore
from offgrid.terminal import escape_log

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long the end of the server waits until unfinished background responses are stored."""


class App(falcon.App[Any, Any]):
    """The application, which remembers the server's ``write`` for streams."""

    def __call__(self, env: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Answer a request (PEP 3333)."""

        def start(*args: Any) -> Any:
            env[WRITE] = start_response(*args)
            return env[WRITE]

        return super().__call__(env, start)


class Collaborators(NamedTuple):
    """The objects that resources share, one of each per process; arguments of :func:`build_app`."""

    settings: Settings
    catalogue: Catalogue
    pool: EnginePool
    responses: ResponseStore
    background: Background
    imports: Imports
    hashes: Hashes


def make_collaborators(settings: Settings) -> Collaborators:
    """Prepare this process and make the arguments of :func:`build_app`. Starts no thread.

    Raises:
        ConfigError: the default model does not exist, a configured place has no models, or the
            chat template is not valid.
    """
    prepare_process()
    keep_little()
    catalogue = Catalogue(settings)
    catalogue.check()
    _check_template(catalogue.template, "OFFGRID_CHAT_TEMPLATE (--chat-template)")
    for name, template in catalogue.profiles.templates.items():
        _check_template(template, catalogue.profiles.by_id[name].key("chat_template"))
    responses = ResponseStore(
        settings.responses_file, settings.max_responses, settings.max_responses_mb << 20
    )
    pool = EnginePool(settings, catalogue)
    hashes = Hashes.beside(settings.responses_file)
    imports = Imports(settings, hashes)
    return Collaborators(
        settings, catalogue, pool, responses, Background(settings), imports, hashes
    )


def _check_template(template: str | None, source: str) -> None:
    """Compile the chat template of the settings: a fault in it ends the start, not a request."""
    if template is None:
        return
    try:
        ChatTemplate(template, "", "", ())
    except InvalidParameter as ex:
        raise ConfigError(f"{source}: {ex}") from None


def log_skipped(catalogue: Catalogue) -> None:
    """Log the files that are not served, and aliases that have no effect.

    It leaves out models that are loaded at start: why one cannot be is in the log already.
    """
    entries, skipped = catalogue.survey()
    told = catalogue.start_ids()
    for file in skipped:
        log.warning("not served: %s: %s", file.path, file.reason)
    for entry in entries:
        problem = catalogue.fault(entry)
        if problem is not None and entry.id not in told:
            log.warning("cannot be used: %s: %s", entry.path, problem)
    default = catalogue.default
    for entry in entries:
        kind = catalogue.describe(entry).kind
        if entry.id == default and entry.template is not None and kind not in ("chat", "base"):
            log.warning("%s does not chat, so the setting chat_template has no effect", entry.id)
    for alias, wanted in catalogue.unknown_aliases():
        log.warning("the alias %s stands for %s, and no model has that id", alias, wanted)
    for alias, wanted in catalogue.hidden_aliases():
        log.warning(
            "the alias %s of %s has no effect, because a model has the id %s; choose another alias",
            alias, wanted, alias,
        )  # fmt: skip


def build_app(
    settings: Settings,
    catalogue: Catalogue,
    pool: EnginePool,
    responses: ResponseStore,
    background: Background | None = None,
    imports: Imports | None = None,
    hashes: Hashes | None = None,
) -> App:
    """Make the application: its middleware, its resources and their routes."""
    background = background or Background(settings)
    hashes = hashes or Hashes.beside(settings.responses_file)
    imports = imports or Imports(settings, hashes)
    app = App(
        middleware=[
            RequestId(),
            UnknownFields(settings),
            OneLength(),
            HostGuard(settings),
            Gate(pool, settings),
        ]
    )
    app.req_options.strip_url_path_trailing_slash = True
    add_error_handlers(app)
    app.add_route("/", RootResource())
    app.add_route("/health", HealthResource())
    app.add_route("/openapi.json", OpenApiResource())
    app.add_route("/v1/models", ModelsResource(catalogue, pool))
    app.add_route("/v1/models/{model:path}", ModelResource(catalogue, pool, settings, hashes))
    app.add_route("/v1/loaded", LoadedResource(pool))
    app.add_route("/v1/import", ImportsResource(settings, catalogue, imports))
    app.add_route("/v1/import/{id}", ImportResource(settings, imports))
    app.add_route("/v1/import/{id}/cancel", ImportCancelResource(imports))
    app.add_route("/v1/chat/completions", ChatResource(pool, settings))
    app.add_route("/v1/chat/completions/input_tokens", InputTokensResource(pool, settings))
    app.add_route("/tokenize", TokenizeResource(pool, settings))
    app.add_route("/detokenize", DetokenizeResource(pool, settings))
    app.add_route("/tokenizer_info", TokenizerInfoResource(pool, settings))
    app.add_route("/v1/completions", CompletionsResource(pool, settings))
    app.add_route("/v1/embeddings", EmbeddingsResource(pool, settings))
    app.add_route("/v1/rerank", RerankResource(pool, settings))
    app.add_route("/v1/responses", ResponsesResource(pool, settings, responses, background))
    app.add_route("/v1/responses/compact", CompactResource())
    app.add_route("/v1/responses/input_tokens", ResponseTokensResource(pool, settings, responses))
    app.add_route("/v1/responses/{id}", ResponseResource(settings, responses, background))
    app.add_route("/v1/responses/{id}/cancel", CancelResource(responses, background))
    app.add_route("/v1/responses/{id}/input_items", InputItemsResource(responses, background))
    app.add_route("/v1/conversations", ConversationsResource(settings, responses))
    app.add_route("/v1/conversations/{id}", ConversationResource(settings, responses))
    app.add_route("/v1/conversations/{id}/items", ConversationItemsResource(settings, responses))
    # Compile the router now, and not during the first requests.
    item = ConversationItemResource(responses)
    app.add_route("/v1/conversations/{id}/items/{item_id}", item, compile=True)
    return app


def create_app(settings: Settings | None = None) -> App:
    """Make the application with its own pool of engines. ``waitress-serve --call`` calls this.

    Args:
        settings: if omitted, read from the environment and the file that it names.

    Raises:
        ConfigError: a setting is wrong, or a configured models directory cannot be used.
    """
    escape_log()
    made = make_collaborators(load_settings() if settings is None else settings)
    made.pool.start()
    # It reads the header of every file, which takes a while on slow media.
    threading.Thread(target=log_skipped, name="survey", args=(made.catalogue,), daemon=True).start()
    # The functions run in reverse order: the pool ends the answers, and then they are stored.
    atexit.register(made.background.close, CLOSE_SECONDS)
    atexit.register(made.imports.close, CLOSE_SECONDS)
    atexit.register(made.pool.shutdown, 0.0)
    return build_app(*made)
