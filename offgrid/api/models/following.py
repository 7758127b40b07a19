"""Events about a model that is being loaded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from offgrid.api.http.framing import NAMED, PING
from offgrid.api.shapes import Json
from offgrid.engine.client.pending import POLL
from offgrid.engine.client.pool import EnginePool
from offgrid.store.survey import ModelEntry

_PAUSE = 0.2
"""Least seconds between two events."""


def follow(
    pool: EnginePool,
    entry: ModelEntry,
    details: Callable[[], Json],
    ping_interval: float,
    alive: Callable[[], bool],
) -> Iterator[bytes]:
    """Yield the frames of all events until a model is loaded or has failed to load.

    The model is loaded whether or not the client listens.

    Args:
        pool: the loaded models.
        entry: the model, which has begun to load or waits for room.
        details: returns its whole description.
        ping_interval: seconds without an event before a comment is sent, 0 for never.
        alive: whether the client is still connected.
    """
    pause, shown, spoke = threading.Event(), None, 0.0
    while alive():
        state = pool.status(entry)
        if state.status == "loaded":
            yield NAMED.chunk({"type": "model.loaded", "model": details()})
            return
        if state.status not in ("waiting", "loading"):
            message = state.error or f"The model {entry.id} was unloaded before it was loaded."
            yield NAMED.chunk({"type": "model.failed", "error": _error(message)})
            return
        now = time.monotonic()
        told = (state.status, round(state.progress, 3))
        if told != shown and now - spoke >= _PAUSE:
            progress = {"id": entry.id, "status": told[0], "progress": told[1]}
            yield NAMED.chunk({"type": "model.loading", **progress})
            shown, spoke = told, now
        elif ping_interval and now - spoke >= ping_interval:
            yield PING
            spoke = now
        pause.wait(POLL)


def _error(message: str) -> Json:
    return {
        "message": message,
        "type": "server_error",
        "param": "model",
        "code": "model_load_failed",
    }
