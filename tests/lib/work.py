"""Measures a function's work as a number that no other program on the machine can change."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any


def lines_run(function: Callable[[], Any], *errors: type[BaseException]) -> int:
    """Call a function and return how many lines of Python it runs, in new threads too.

    Nothing is collected meanwhile: the destructors of other tests' objects would count.

    Args:
        errors: exceptions that it may raise.
    """
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before, collects = sys.gettrace(), gc.isenabled()
    gc.disable()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        with suppress(*errors):
            function()
    finally:
        sys.settrace(before)
        threading.settrace(None)  # type: ignore[arg-type]
        if collects:
            gc.enable()
    return count
