"""How much work a template may do: steps, characters and processor time."""

from __future__ import annotations

import time
from typing import Any

from jinja2 import TemplateError

MAX_STEPS = 1_000_000
"""Steps of all renderings for one request, about a second."""
MAX_TEXT = 256 * 1024 * 1024
"""Characters that all these steps together may read and create."""
_FIRST_STEPS, _FIRST_TEXT = 20_000, 8 * 1024 * 1024
_STEPS_PER_VALUE, _CHARACTERS_PER_STEP, _TEXT_PER_CHARACTER = 200, 4, 1024
"""The budget of a request: a fixed part, and a part for each value and each character that the
template is given. Real templates need up to 1,300 steps for a few messages, and some look at all
messages for each message. Several variants may be tried of a conversation that is refused."""
MAX_STEP = 8 * 1024 * 1024
"""Characters that one step may handle. Most steps are a single call into C, which blocks other
threads: a step of this size takes some hundredths of a second."""
MAX_SECONDS = 5.0
"""Processor time of the thread, so that a busy machine gives the same answer as an idle one. Real
templates take milliseconds; this limit catches cases that the other limits do not foresee."""


_LONG = 10_000
_TIMED_TOGETHER = 64
ITEM = 32
"""Characters charged for each item of a list when the list is copied."""


class TemplateLimit(TemplateError):
    """The template exceeds the budget of a rendering."""


class Budget:
    """What is left of the work that a template may do; several renderings may share it.

    Args:
        steps: at most this many steps.
        text: characters that they may read and create.
        seconds: processor time of the thread.
    """

    def __init__(self, steps: int, text: int, seconds: float) -> None:
        self.steps = self._steps = steps
        self.text = self._text = text
        self._left = self._seconds = seconds
        self._deadline = 0.0

    @property
    def spent(self) -> bool:
        """Whether nothing is left of it."""
        return self.steps < 0 or self.text < 0 or self._left < 0

    def left(self) -> tuple[int, int, float]:
        """Return the steps, characters and seconds that are left, while no rendering runs."""
        return self.steps, self.text, self._left

    def set_left(self, steps: int, text: int, seconds: float) -> None:
        """Set what is left, after a rendering in another process."""
        self.steps, self.text, self._left = steps, text, seconds

    def start(self) -> None:
        """Begin a rendering in this thread."""
        self._deadline = time.thread_time() + self._left

    def stop(self) -> None:
        """End the rendering, in the same thread."""
        self._left = self._deadline - time.thread_time()

    def take(self, size: int = 0, speed: int = 1) -> None:
        """Take one step; ``speed`` is how many characters it handles in the time of one."""
        self.steps -= 1
        self.text -= size
        if size > MAX_STEP * speed:
            raise TemplateLimit(
                f"one step of the chat template handles more than {MAX_STEP} characters"
            )
        if self.steps < 0:
            raise TemplateLimit(f"the chat template takes more than {self._steps} steps")
        if self.text < 0:
            raise TemplateLimit(f"the chat template handles more than {self._text} characters")
        # Reading the clock costs as much as a step, so small steps share one reading.
        timed = size > _LONG or self.steps % _TIMED_TOGETHER == 0
        if timed and time.thread_time() > self._deadline:
            raise TemplateLimit(f"the chat template takes more than {self._seconds:g} seconds")


def budget_for(*values: Any) -> Budget:
    """Return the budget of a request that gives a template these values."""
    count, size = _count(values)
    steps = _FIRST_STEPS + _STEPS_PER_VALUE * count + size // _CHARACTERS_PER_STEP
    text = _FIRST_TEXT + _TEXT_PER_CHARACTER * (ITEM * count + size)
    return Budget(min(steps, MAX_STEPS), min(text, MAX_TEXT), MAX_SECONDS)


def _count(values: Any) -> tuple[int, int]:
    """Return how many values stand in lists and objects, and how many characters in texts."""
    count = size = 0
    stack: list[Any] = [values]
    while stack:
        value = stack.pop()
        count += 1
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, dict):
            stack += value
            stack += value.values()
        elif isinstance(value, (list, tuple)):
            stack += value
    return count, size
