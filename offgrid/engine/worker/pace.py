"""How much prefill fits into a step beside running streams. Pure: it is told how long steps took.

A chunk of a prompt makes the step longer for every stream in it. What a token of prefill costs
differs a thousandfold between models and machines, so it is measured: the chunk is as long as what
makes a step twice as long as the streams alone would make it.
"""

from __future__ import annotations

_SLOWDOWN = 1.0
"""Time that prefill may add to a step, as a share of the streams' own."""
_WEIGHT = 0.1
"""Of a new measurement in the running mean."""
_NOTHING = 1e-9
"""Seconds. A token costs something, also where a step was quicker than it should have been."""
_LEAST = 8
"""Tokens. Prompts go on, however slow the machine is."""
_UNNOTICED = 0.01
"""Seconds. A prompt whose rest takes no longer is read at once: a stream that halts once for so
short a time looks the same, and in many small chunks it would take several times as long."""


class Pace:
    """Learns from steps how many prefill tokens the next one may have.

    Args:
        start: tokens, as long as nothing is known.
        most: tokens at most.
    """

    def __init__(self, start: int, most: int) -> None:
        self._start = min(start, most)
        self._most = most
        self._streams: float | None = None
        self._token: float | None = None

    def observe(self, decoding: int, prefilling: int, seconds: float) -> None:
        """Learn from a step: sequences that decoded one token, tokens of prefill, and its time."""
        if prefilling == 0 and decoding:
            self._streams = _mean(self._streams, seconds)
        elif prefilling:
            # Before streams were ever seen alone, all of the time counts as prefill's.
            rest = seconds - (self._streams or 0.0 if decoding else 0.0)
            self._token = _mean(self._token, max(rest / prefilling, _NOTHING))

    def prefill_tokens(self, streams: int = 1, prompts: int = 1) -> int:
        """Return the tokens of prefill for a step in which streams run.

        Where more prompts are to be read than streams run, they get as much more time: everyone
        who has a slot has the same share, and streams that are more have half of it at least.

        Args:
            streams: how many run.
            prompts: how many are to be read.
        """
        if self._streams is None or not self._token:
            return self._start
        share = max(_SLOWDOWN, prompts / max(1, streams))
        fitting = int(min(share * self._streams / self._token, self._most))
        return max(min(_LEAST, self._most), fitting)

    @property
    def burst_tokens(self) -> int:
        """Tokens that the rest of a prompt may have to be read in one step beside streams."""
        return int(min(_UNNOTICED / self._token, self._most)) if self._token else 0


def _mean(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
