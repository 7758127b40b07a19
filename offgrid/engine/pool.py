"""Which models run: one worker process each, loaded when first asked for.

At most ``max_models`` are loaded. The least recently used one without requests makes room for
another; a model that is at work is never taken away from its requests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from offgrid.config import Settings
from offgrid.engine.client import EngineClient
from offgrid.engine.protocol import Load
from offgrid.errors import InvalidParameter, Overloaded
from offgrid.store.catalogue import Catalogue, ModelEntry

log = logging.getLogger(__name__)


class EnginePool:
    """Gives out the engine of a model, loading it first if need be."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue
        # Least recently used first. The entry is what was loaded, to see that a file was replaced.
        self._engines: OrderedDict[str, tuple[ModelEntry, EngineClient]] = OrderedDict()
        self._lock = threading.Lock()
        self._draining = False

    @property
    def default_id(self) -> str | None:
        """The model that is loaded at start: the configured one, else the first by id."""
        if self._catalogue.default_id is not None:
            return self._catalogue.default_id
        entries = self._catalogue.entries()
        return entries[0].id if entries else None

    def start(self) -> None:
        """Begin to load the default model; does not wait for it."""
        model_id = self.default_id
        if model_id is not None:
            self._client(self._catalogue.get(model_id))

    def loaded(self) -> list[EngineClient]:
        """The engines of all models that are loaded or loading."""
        with self._lock:
            return [client for _, client in self._engines.values()]

    def engine(self, model_id: str, alive: Callable[[], bool] = lambda: True) -> EngineClient:
        """Return the engine of a model that is ready to take requests.

        Args:
            model_id: an id of the catalogue.
            alive: asked while waiting whether the client is still there.

        Raises:
            ModelNotFound: no such model.
            ModelLoadFailed: llama.cpp does not load it.
            Overloaded: every loaded model is at work and there is no room for another.
            ClientGone: ``alive`` said no.
        """
        client = self._client(self._catalogue.get(model_id))
        client.wait_ready(alive)
        return client

    def generator(self, model_id: str, alive: Callable[[], bool] = lambda: True) -> EngineClient:
        """Return :meth:`engine` of a model that writes text.

        Raises:
            InvalidParameter: it is made for embedding or ranking.
        """
        client = self.engine(model_id, alive)
        if not client.info.generates:
            use = "/v1/rerank" if client.info.pooling == "rank" else "/v1/embeddings"
            raise InvalidParameter(
                f"The model {model_id} does not generate text; it serves {use}.",
                "model",
                code="unsupported_model",
            )
        return client

    def drain(self) -> None:
        """Refuse new requests from now on."""
        with self._lock:
            self._draining = True
            for _, client in self._engines.values():
                client.drain()

    def shutdown(self, timeout: float) -> None:
        """Wait for running answers up to ``timeout`` seconds, then stop everything. Idempotent."""
        self.drain()
        deadline = time.monotonic() + timeout
        with self._lock:
            clients = [client for _, client in self._engines.values()]
            self._engines.clear()
        for client in clients:
            client.close(max(0.0, deadline - time.monotonic()))

    def _client(self, entry: ModelEntry) -> EngineClient:
        """Return the client of a model, started; does not wait until it is ready."""
        with self._lock:
            if self._draining:
                raise Overloaded("The server is shutting down.", code="server_shutting_down")
            known = self._engines.get(entry.id)
            if known is not None:
                loaded, client = known
                outdated = loaded != entry and client.in_flight == 0
                if not client.load_failed and not outdated:
                    self._engines.move_to_end(entry.id)
                    return client
                del self._engines[entry.id]
                client.close()
            self._make_room()
            client = EngineClient(
                self._load(entry),
                queue_size=self._settings.queue_size,
                queue_timeout=self._settings.queue_timeout,
                load_timeout=self._settings.load_timeout,
                stall_timeout=self._settings.stall_timeout,
            )
            client.start()
            self._engines[entry.id] = (entry, client)
            return client

    def _make_room(self) -> None:
        if len(self._engines) < self._settings.max_models:
            return
        for model_id, (_, client) in self._engines.items():
            if client.in_flight == 0:
                log.info("unloading %s", model_id)
                del self._engines[model_id]
                client.close()
                return
        raise Overloaded(
            "All loaded models are at work and there is no room for another.", retry_after=5
        )

    def _load(self, entry: ModelEntry) -> Load:
        s = self._settings
        return Load(
            path=str(entry.path),
            ctx_size=s.ctx_size,
            parallel=s.parallel,
            batch_size=s.batch_size,
            threads=s.threads,
            gpu_layers=s.gpu_layers,
            use_mmap=s.use_mmap,
            use_mlock=s.use_mlock,
            projector=None if entry.projector is None else str(entry.projector),
        )
