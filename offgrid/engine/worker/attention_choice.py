"""Chooses between flash attention and attention with scores, from the times of both. Pure.

llama-server always uses flash attention. So it is turned off only where no case gets noticeably
slower by that, and long contexts get faster. If nothing was measured, it is on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offgrid.engine.attention import Choice

ALLOWED = 1.05
"""Without flash attention, no case may take longer than this factor of its time with it."""
_WORTH = 1.02
"""On the mean, flash attention must take this much longer before it is turned off: smaller
differences are within the errors of the measurement."""


STREAMS = 4
"""Most streams of a case: more of them change hardly anything."""
_BARRIERS_ON, _BARRIERS_OFF = 3, 7
"""How often llama.cpp's threads wait for each other in the attention of a layer."""
_BARRIER_SECONDS = 1.5e-6
"""Time of each wait, if there is more than one thread."""


@dataclass(frozen=True, slots=True)
class Case:
    """Times of a step in one case, in seconds.

    Attributes:
        context: tokens that each sequence has.
        rows: tokens that are computed: one for each stream, or a chunk of a prompt.
        prefill: whether they are a chunk of a prompt.
        on, off: times with flash attention, and with scores.
        weight: how often the case occurs, relative to others.
    """

    context: int
    rows: int
    prefill: bool
    on: float
    off: float
    weight: float = 1.0

    @property
    def ratio(self) -> float:
        """The time with scores over the time with flash attention."""
        return self.off / self.on

    def __str__(self) -> str:
        what = "a prompt" if self.prefill else f"{self.rows} stream{'s' if self.rows > 1 else ''}"
        return f"{what} at {self.context:,} tokens"


def needs_flash(cases: Sequence[Case]) -> bool:
    """Return whether a case is too slow without flash attention."""
    return any(case.on > 0 and case.ratio > ALLOWED for case in cases)


def choose(cases: Sequence[Case]) -> Choice:
    """Return the better way for all cases together."""
    sound = [case for case in cases if case.on > 0 and case.off > 0]
    if not sound or len(sound) < len(cases):
        return Choice(True, "the measurement failed")
    worst = max(sound, key=lambda case: case.ratio)
    best = min(sound, key=lambda case: case.ratio)
    if needs_flash(sound):
        return Choice(True, f"without it, {worst} takes {worst.ratio:.2f} times as long")
    weights = sum(case.weight for case in sound)
    mean = sum(case.weight / case.ratio for case in sound) / weights
    if mean < _WORTH:
        return Choice(True, f"without it, a step takes {1 / mean:.2f} times as long on the mean")
    return Choice(False, f"with it, {best} takes {1 / best.ratio:.2f} times as long")


def cases_of(
    attention: Mapping[tuple[int, int], tuple[float, float]],
    rest: Mapping[int, float],
    weights: Mapping[tuple[int, int], float],
    *,
    layers: int,
    threads: int,
    streams: int,
) -> list[Case]:
    """Return the times of whole steps.

    Args:
        attention: (context, rows) -> seconds of one thread with flash attention, and with scores.
            One row is a stream, more are a chunk of a prompt.
        rest: rows -> seconds of one thread for a step without attention, for 1 and
            :data:`STREAMS` rows.
        weights: how often each (context, rows) occurs.
        layers: of the model.
        threads: that llama.cpp uses.
        streams: most streams, the slots of the model.
    """
    waits = layers * _BARRIER_SECONDS * (threads > 1)
    found = []
    for (context, rows), (on, off) in attention.items():
        for count in (rows,) if rows > 1 else sorted({1, min(STREAMS, streams)}):
            same = rest[STREAMS] * count / STREAMS if count >= STREAMS else rest[1]
            if 1 < count < STREAMS:
                same += (rest[STREAMS] - rest[1]) * (count - 1) / (STREAMS - 1)
            calls = 1 if rows > 1 else count
            found.append(
                Case(
                    context, count, rows > 1,
                    on=(same + calls * on) / threads + _BARRIERS_ON * waits,
                    off=(same + calls * off) / threads + _BARRIERS_OFF * waits,
                    weight=weights[context, rows],
                )
            )  # fmt: skip
    return found
