"""What a step computes, and how long such steps usually take."""

from __future__ import annotations

import math
from dataclasses import dataclass

_EXACT = 8
"""Steps of up to this many tokens are compared with steps of the same number only."""
_PER_OCTAVE = 4
"""Longer steps, and contexts, are similar if they differ by less than a quarter of an octave."""
_SHORT_CONTEXT = 256
"""Tokens. Below this, the length of the context hardly matters."""
_KNOWN_STEPS = 3
_KNOWN_SECONDS = 0.2
"""A shape is known after three steps, or after one that took this long."""
_WEIGHT = 0.1
"""Weight of a new measurement in the running mean."""
_CLIP = 2.0
"""A step counts at most as this multiple of the mean: stalls are not usual."""

Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Work:
    """What a step computes.

    Attributes:
        tokens: tokens of the batch.
        context: most tokens that one of them attends to.
    """

    tokens: int
    context: int

    @property
    def shape(self) -> Shape:
        """Steps of the same shape take about the same time per token."""
        size = self.tokens
        if size > _EXACT:
            size = _EXACT + round(_PER_OCTAVE * math.log2(size / _EXACT))
        return size, round(_PER_OCTAVE * math.log2(1 + self.context / _SHORT_CONTEXT))


class Usual:
    """The usual time of steps with the number of threads in use, for each shape."""

    def __init__(self) -> None:
        self._means: dict[Shape, float] = {}
        """Seconds per token."""
        self._learned: dict[Shape, tuple[int, float]] = {}
        """Number of steps so far, and their total time."""

    def of(self, work: Work) -> float | None:
        """Return the usual seconds of a step; None if too few of its shape were measured."""
        count, seconds = self._learned.get(work.shape, (0, 0.0))
        if count < _KNOWN_STEPS and seconds < _KNOWN_SECONDS:
            return None
        return self._means[work.shape] * work.tokens

    def learn(self, work: Work, seconds: float) -> None:
        """Add a step to the running mean of its shape."""
        shape, each = work.shape, seconds / work.tokens
        count, total = self._learned.get(shape, (0, 0.0))
        mean = self._means.get(shape, each)
        if count >= _KNOWN_STEPS:
            each = min(each, _CLIP * mean)
        self._means[shape] = mean + max(_WEIGHT, 1 / (count + 1)) * (each - mean)
        self._learned[shape] = count + 1, total + seconds

    def scale(self, factor: float) -> None:
        """Note that steps of all shapes now take ``factor`` times as long."""
        for shape in self._means:
            self._means[shape] *= factor
