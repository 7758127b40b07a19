"""The result of one check."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]
STATES: tuple[State, ...] = ("ok", "warning", "problem")
"""From good to bad. With a warning the server works, but not as well as it could, or not for long.
With a problem it does not."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, how it is, and how to mend it; ``fix`` is empty if nothing is to do."""

    subject: str
    state: State
    text: str
    fix: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the check for JSON."""
        return asdict(self)


def worst(checks: list[Check]) -> State:
    """Return the worst state of several checks."""
    return max((check.state for check in checks), key=STATES.index, default="ok")
