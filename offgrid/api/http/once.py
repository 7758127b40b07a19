"""A function that runs once, however many threads call it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Once:
    """Runs a function on the first call only: several threads may end the same stream."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            function, self._function = self._function, None
        if function is not None:
            function()
