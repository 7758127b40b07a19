"""Loads models again that other machines had a part in, when these machines are back.

A request for such a model loads it too. But where a load balancer asks ``/ready``, no request comes
before the models of the start are loaded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_SHORTEST, _LONGEST = 5.0, 60.0
"""Seconds between two attempts: more after each one that has failed."""


class Returning:
    """A thread that tries again.

    Args:
        attempt: tries to load what is missing; returns whether a load has begun, or nothing is
            missing.
    """

    def __init__(self, attempt: Callable[[], bool]) -> None:
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
            try:
                well = self._attempt()
            except Exception:
                log.exception("loading the models of the start again has failed")
                well = False
            pause = _SHORTEST if well else min(2 * pause, _LONGEST)
