"""Calls a function at each line of some code, as another thread or a collector of garbage might."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def interrupted(call: Callable[[], None], where: Callable[[FrameType], bool]) -> Iterator[None]:
    """Call a function before each line that this thread runs inside, in frames for which ``where``
    returns True."""

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if where(frame):
            call()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
