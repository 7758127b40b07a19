"""Loads models again that other machines had a part in, when these machines are back.

A request for such a model loads it too. But where a load balancer asks ``/ready``, no request comes
before the models of the start are loaded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

log = logging.getLogger(__name__)

Found = Literal["complete", "loading", "missing"]
"""What an attempt has found: all models are loaded, apart from those that stay away; or some are
still loading; or some are missing, even if it has begun to load one. That load may fail too."""
_SHORTEST, _LONGEST = 5.0, 60.0
"""Seconds between two attempts: more after each one that has found a model missing."""


class Returning:
    """A thread that tries again.

    Args:
        attempt: tries to load what is missing; returns what it has found.
    """

    def __init__(self, attempt: Callable[[], Found]) -> None:
        self._attempt = attempt
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to try. Idempotent."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rpc-return", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Try no more. Does not wait for an attempt that is under way."""
        self._ended.set()

    def _run(self) -> None:
        pause = _SHORTEST
        while not self._ended.wait(pause):
            found: Found = "missing"
            try:
                found = self._attempt()
            except Exception:
                log.exception("loading the models of the start again has failed")
            pause = next_pause(pause, found)


def next_pause(pause: float, found: Found) -> float:
    """Return the seconds until the next attempt: more with each load that fails, from the least
    again once all models are loaded.

    Args:
        pause: the seconds before this attempt.
        found: what it has found.
    """
    if found == "complete":
        return _SHORTEST
    return pause if found == "loading" else min(2 * pause, _LONGEST)
