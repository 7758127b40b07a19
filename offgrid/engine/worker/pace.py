"""How much prefill fits into a step beside running streams. Pure: callers pass the measured times.

A chunk of a prompt makes the step longer for every stream in it. The cost of a token of prefill
differs a thousandfold between models and machines, so it is measured. The chunk is chosen so that
the step takes twice as long as with the streams alone.
"""

from __future__ import annotations

_SLOWDOWN = 1.0
"""Time that prefill may add to a step, relative to the time of the streams alone."""
_WEIGHT = 0.1
"""Weight of a new measurement in the running mean."""
_NOTHING = 1e-9
"""Seconds. Smallest cost of a token, even if a step was quicker than streams alone usually are."""
_LEAST = 8
"""Tokens. Smallest chunk, so that prompts advance however slow the machine is."""
_UNNOTICED = 0.01
"""Seconds. If the rest of a prompt takes no longer than this, it is prefilled at once: a pause this
short is not noticeable, and small chunks would take several times as long overall."""


class Pace:
    """Learns from past steps how many tokens of prefill the next one may have.

    Args:
        start: tokens per step while the costs are unknown.
        most: most tokens per step.
    """

    def __init__(self, start: int, most: int) -> None:
        self._start = min(start, most)
        self._most = most
        self._streams: float | None = None
        self._token: float | None = None

    def observe(self, decoding: int, prefilling: int, seconds: float) -> None:
        """Learn from a step.

        Args:
            decoding: number of sequences that decoded one token.
            prefilling: number of tokens of prefill.
            seconds: time that the step took.
        """
        if prefilling == 0 and decoding:
            self._streams = _mean(self._streams, seconds)
        elif prefilling:
            # Until a step with streams alone was measured, all of the time counts as prefill's.
            rest = seconds - (self._streams or 0.0 if decoding else 0.0)
            self._token = _mean(self._token, max(rest / prefilling, _NOTHING))

    @property
    def streams(self) -> float:
        """Seconds of a step with streams alone; 0 until one was measured."""
        return self._streams or 0.0

    def prefill_tokens(self, streams: int = 1, prompts: int = 1) -> int:
        """Return how many tokens a step may prefill beside streams.

        If there are more prompts than streams, prefill gets proportionally more time, so that every
        sequence has the same share. Otherwise streams get half of the time.

        Args:
            streams: number of streams.
            prompts: number of prompts to be prefilled.
        """
        if self._streams is None or not self._token:
            return self._start
        share = max(_SLOWDOWN, prompts / max(1, streams))
        fitting = int(min(share * self._streams / self._token, self._most))
        return max(min(_LEAST, self._most), fitting)

    @property
    def burst_tokens(self) -> int:
        """Most tokens of the rest of a prompt that is prefilled in one step beside streams."""
        return int(min(_UNNOTICED / self._token, self._most)) if self._token else 0


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
