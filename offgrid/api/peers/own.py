"""What this machine says about itself to a peer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from offgrid import __version__
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.use import Status
from offgrid.peers.identity import Identity
from offgrid.peers.rpc import STATUS_FILE
from offgrid.peers.status import MAX_MODELS, Lent, ReportedModel, StatusReport
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.survey import ModelEntry

KEPT_SECONDS = 1.5
"""How long the list of models is used again: peers ask every two seconds, and there may be many."""
_LENT_SECONDS = 30.0
"""A note of the RPC worker that is older was left by one that was killed."""


class OwnStatus:
    """Makes the reports. It waits for no model and reads no model file, and one request at a time
    looks at the folders of models. Thread-safe.

    Args:
        identity: this machine.
        catalogue: its models.
        pool: the loaded ones.
        hashes: the known hashes of files.
        folder: where the RPC worker notes what it lends, the setting ``peers_dir``.
    """

    def __init__(
        self,
        identity: Identity,
        catalogue: Catalogue,
        pool: EnginePool,
        hashes: Hashes,
        folder: Path,
    ) -> None:
        self._identity, self._catalogue, self._pool = identity, catalogue, pool
        self._hashes, self._note = hashes, folder / STATUS_FILE
        self._looking = threading.Lock()
        self._rows: list[ReportedModel] | None = None
        self._looked_at = 0.0

    def report(self, allowed: frozenset[str] | None) -> StatusReport:
        """Return what this machine says now.

        Args:
            allowed: ids and aliases of the models that the peer may use; None means all.
        """
        clients = self._pool.snapshot()
        status = {client.name: _status_of(client) for client in clients}
        rows = [
            msgspec.structs.replace(row, status=status.get(row.id, "unloaded"))
            for row in self._models()
            if allowed is None or not allowed.isdisjoint((row.id, *row.aliases))
        ]
        ready = [client for client in clients if client.ready]
        running, waiting = _sequences(ready)
        total = sum(client.load.parallel for client in ready)
        return StatusReport(
            id=self._identity.id,
            name=self._identity.name,
            version=__version__,
            models=tuple(rows[:MAX_MODELS]),
            models_left_out=max(0, len(rows) - MAX_MODELS),
            slots_total=total,
            slots_free=max(0, total - running),
            queue=waiting,
            tokens_per_second=round(sum(client.throughput[1] for client in ready), 1),
            rpc=self._lent(),
            time=time.time(),
        )

    def _models(self) -> list[ReportedModel]:
        """Return the models, as they were a moment ago. A disk that does not answer delays one
        request."""
        rows = self._rows
        is_old = time.monotonic() - self._looked_at > KEPT_SECONDS
        if rows is not None and not (is_old and self._looking.acquire(blocking=False)):
            return rows
        if rows is None:
            self._looking.acquire()
        try:
            self._rows = rows = list(self._look())
            self._looked_at = time.monotonic()
        finally:
            self._looking.release()
        return rows

    def _look(self) -> Iterable[ReportedModel]:
        entries = self._catalogue.entries()
        aliases = self._catalogue.aliases()
        for entry in entries:
            row = self._row(entry, tuple(aliases.get(entry.id, ())))
            if row is not None:
                yield row

    def _row(self, entry: ModelEntry, aliases: tuple[str, ...]) -> ReportedModel | None:
        """Return a model; None if it cannot be used."""
        description = self._catalogue.describe(entry)
        if description.problem is not None:
            return None
        return ReportedModel(
            id=entry.id,
            size=entry.size,
            created=entry.created,
            kind=description.kind,
            sha256=None if entry.parts else self._hashes.get(entry.path),
            context_length=description.context_length,
            architecture=description.architecture,
            parameters=description.parameters,
            quantization=description.quantization,
            vision=entry.projector is not None,
            tools=description.tools,
            reasoning=description.reasoning,
            aliases=aliases,
        )

    def _lent(self) -> Lent | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            if time.time() - self._note.stat().st_mtime < _LENT_SECONDS:
                return msgspec.json.decode(self._note.read_bytes(), type=Lent)
        return None


def _status_of(client: EngineClient) -> Status:
    if client.load_failure is not None:
        return "failed"
    return "loaded" if client.ready else "loading"


def _sequences(clients: Iterable[EngineClient]) -> tuple[int, int]:
    """Return how many sequences have a slot, and how many wait for one."""
    beats = [beat for client in clients if (beat := client.latest) is not None]
    return sum(beat.running for beat in beats), sum(beat.waiting for beat in beats)
