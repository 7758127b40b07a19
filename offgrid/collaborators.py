"""The objects that one server process has once, and how they are made."""

from __future__ import annotations

import logging
from typing import NamedTuple

from offgrid.api.http.access import Access
from offgrid.api.http.memory import keep_little
from offgrid.api.http.observe import Observer
from offgrid.api.http.request_log import RequestLog
from offgrid.api.responses.background import Background
from offgrid.api.screening import Filters
from offgrid.api.transfers.exports import Export
from offgrid.api.transfers.imports import Import
from offgrid.api.transfers.running import Transfers
from offgrid.chat.template import ChatTemplate
from offgrid.config import Reloads, Settings
from offgrid.engine.client.pool import LIVE as POOL_SETTINGS
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ConfigError, InvalidParameter
from offgrid.peers.peers import Peers
from offgrid.peers.rpc import rpc_servers, warn_of_rpc_servers
from offgrid.startup import forbid_core_dumps, prepare_process
from offgrid.stats.collected import Stats
from offgrid.stats.keeper import StatsKeeper
from offgrid.stats.ready import Readiness
from offgrid.stats.totals import TotalsFile
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.history.store import HistoryStore
from offgrid.store.key_ring import KeyRing
from offgrid.store.keys import KeysError
from offgrid.store.live_catalogue import LIVE as CATALOGUE_SETTINGS
from offgrid.store.live_catalogue import LiveCatalogue
from offgrid.store.responses import ResponseStore

log = logging.getLogger(__name__)


class Collaborators(NamedTuple):
    """The objects that resources share, one of each per process; arguments of :func:`build_app`."""

    settings: Settings
    catalogue: Catalogue
    pool: EnginePool
    responses: ResponseStore
    background: Background
    imports: Transfers[Import]
    exports: Transfers[Export]
    hashes: Hashes
    reloads: Reloads
    filters: Filters
    access: Access
    observation: Observation
    history: HistoryStore
    peers: Peers | None


class Observation(NamedTuple):
    """What observes the requests and the machine."""

    observer: Observer
    keeper: StatsKeeper
    readiness: Readiness


def make_observation(
    settings: Settings, catalogue: Catalogue, pool: EnginePool, file: TotalsFile
) -> Observation:
    """Make what observes requests and the machine. Starts no thread."""
    stats, log_of_requests = Stats(file), RequestLog()
    places = {
        "models": settings.models_dir,
        "cache": settings.cache_dir,
        "responses": settings.responses_file.parent,
    }
    return Observation(
        Observer(stats, log_of_requests, log_prompts=settings.log_prompts),
        StatsKeeper(stats, pool, places, log_of_requests.tell_repeated),
        Readiness(pool, catalogue.start_ids(), settings.ready_timeout),
    )


def make_collaborators(settings: Settings) -> Collaborators:
    """Prepare this process and make the arguments of :func:`build_app`. Starts no thread.

    Raises:
        ConfigError: the default model does not exist, a configured place has no models, or the
            chat template or the filter file is not valid, or the keys file cannot be read.
    """
    prepare_process()
    if not settings.core_dumps:
        forbid_core_dumps()
    keep_little()
    catalogue = LiveCatalogue(settings)
    check_catalogue(catalogue)
    filters = Filters(settings)
    responses = ResponseStore(
        settings.responses_file, settings.max_responses, settings.max_responses_mb << 20
    )
    access = Access(_open_ring(settings))
    pool = EnginePool(settings, catalogue, servers=rpc_servers)
    hashes = Hashes.beside(settings.responses_file)
    observation = make_observation(
        settings, catalogue, pool, TotalsFile.beside(settings.responses_file)
    )
    reloads = Reloads(settings)
    reloads.add(CATALOGUE_SETTINGS, lambda settings: catalogue.prepare(settings, check_catalogue))
    reloads.add(POOL_SETTINGS, pool.prepare)
    warn_of_rpc_servers(settings)
    reloads.add((), warn_of_rpc_servers)
    reloads.add(("filter_file",), filters.prepare)
    reloads.add((), access.prepare)
    reloads.add(("max_responses", "max_responses_mb"), responses.prepare)
    history = HistoryStore.of_settings(settings)
    reloads.add(("history", "max_history_mb"), history.prepare)
    return Collaborators(
        settings,
        catalogue,
        pool,
        responses,
        Background(settings),
        Transfers(),
        Transfers(),
        hashes,
        reloads,
        filters,
        access,
        observation,
        history,
        Peers.of(settings),
    )


def check_catalogue(catalogue: Catalogue) -> None:
    """Check that there is a model to serve, and compile the chat templates of the settings.

    Raises:
        ConfigError: a configured place has no models, or a template is not valid.
    """
    catalogue.check()
    _check_template(catalogue.template, "OFFGRID_CHAT_TEMPLATE (--chat-template)")
    for name, template in catalogue.profiles.templates.items():
        _check_template(template, catalogue.profiles.by_id[name].key("chat_template"))


def _open_ring(settings: Settings) -> KeyRing:
    """Return the keys. A file that cannot be read ends the start: the server would be open."""
    ring = KeyRing(settings.keys_file)
    try:
        ring.open()
    except KeysError as ex:
        raise ConfigError(f"OFFGRID_KEYS_FILE (--keys-file): {ex}") from None
    return ring


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
