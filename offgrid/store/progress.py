"""How a transfer reports its progress, and how it is stopped: the report raises an exception."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Phase = Literal["comparing", "copying", "verifying"]
Report = Callable[[str, Phase, int, int], None]
"""Is called with a file's name, its phase, and the bytes done and to do. It may raise to stop the
transfer, which a later one continues."""


def silent(name: str, phase: Phase, done: int, total: int) -> None:
    """Report nothing."""
