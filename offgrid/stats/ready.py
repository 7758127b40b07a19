"""Whether the server can answer requests now. Nothing here takes a lock or asks a worker."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from offgrid.config import Commit, Settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool

Reason = Literal["draining", "loading", "failed", "stalled"]
"""Why the server is not ready: it is stopping; a model that it loads at start is not loaded, or
cannot be; a worker makes no step, or does not answer."""


class Readiness:
    """Tells whether the server is ready.

    Args:
        pool: the loaded models.
        at_start: ids of the models that are loaded at start. The server is not ready before they
            are. Any other model may load while others answer.
        limit: seconds without a step after which a worker counts as stalled.
    """

    def __init__(self, pool: EnginePool, at_start: Collection[str], limit: float) -> None:
        self._pool = pool
        self._at_start = frozenset(at_start)
        self._limit = limit

    def prepare(self, settings: Settings) -> Commit:
        """Take a new ``ready_timeout``."""

        def commit() -> None:
            self._limit = settings.ready_timeout

        return commit

    def obstacle(self) -> Reason | None:
        """Return why the server is not ready; None if it is."""
        if self._pool.draining:
            return "draining"
        clients = self._pool.snapshot()
        reasons = {self._of(client) for client in clients}
        gone = self._at_start.difference([client.name for client in clients])
        if any(self._pool.has_failed(model) for model in gone):
            return "failed"
        for reason in ("stalled", "failed", "loading"):
            if reason in reasons:
                return reason
        return None

    def _of(self, client: EngineClient) -> Reason | None:
        if client.ready:
            return "stalled" if client.without_progress > self._limit else None
        if client.name not in self._at_start:
            return None
        return "loading" if client.load_failure is None else "failed"
