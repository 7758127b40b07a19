"""Whether copying a state is cheaper than computing its tokens again. Pure.

The times of all copies and of prefill are measured as they happen: the cost of a token differs a
thousandfold between models and machines, that of a byte a hundredfold between disks.
"""

from __future__ import annotations

MIN_LENGTH = 128
"""Tokens. A shorter prefix is not saved: it is computed in an instant."""
MIN_GAIN = 32
"""Tokens. For fewer, nothing is saved or restored."""
MARGIN = 2.0
"""Computing again must take so many times as long as the copies."""
_LEAST_BYTES = 4 << 20
"""Bytes. Shorter copies say more about the threads than about memory or disk."""
_LEAST_TOKENS = 32
"""Tokens. Shorter chunks of prompts are slower per token."""
_WEIGHT = 0.2
"""Weight of a new measurement in the running mean."""
_SECONDS_PER_BYTE = {"save": 1e-9, "load": 1e-9, "read": 4e-9}
"""Until they are measured: copying from a slot and into it (1 GB/s), and reading a file with its
checksum (250 MB/s)."""


class Worth:
    """Compares measured times."""

    def __init__(self) -> None:
        self._byte = dict(_SECONDS_PER_BYTE)
        self._token: float | None = None

    def copied(self, what: str, size: int, seconds: float) -> None:
        """Learn from a copy.

        Args:
            what: ``save``, ``load`` or ``read``.
            size: bytes.
            seconds: time that it took.
        """
        if size >= _LEAST_BYTES:
            self._byte[what] += _WEIGHT * (seconds / size - self._byte[what])

    def computed(self, tokens: int, seconds: float) -> None:
        """Learn from a step that computed only tokens of prompts."""
        if tokens >= _LEAST_TOKENS:
            new = seconds / tokens
            old = new if self._token is None else self._token
            self._token = old + _WEIGHT * (new - old)

    def saving(self, length: int, unsaved: int, size: int) -> bool:
        """Whether it is worth saving a state: copying it out and back again must be cheaper than
        computing its tokens.

        Args:
            length: tokens that the state holds.
            unsaved: how many of them no saved prefix holds.
            size: bytes of the state.
        """
        enough = length >= MIN_LENGTH and unsaved >= MIN_GAIN
        return enough and self._pays(unsaved, size, "save", "load")

    def restoring(self, gained: int, size: int, *, from_disk: bool) -> bool:
        """Whether it is worth restoring a state.

        Args:
            gained: tokens that need not be computed then.
            size: bytes of the state, which may hold more tokens.
            from_disk: whether it must be read from a file.
        """
        copies = ("read", "load") if from_disk else ("load",)
        return gained >= MIN_GAIN and self._pays(gained, size, *copies)

    def _pays(self, tokens: int, size: int, *copies: str) -> bool:
        if self._token is None:  # nothing was computed yet
            return True
        return tokens * self._token > MARGIN * size * sum(self._byte[copy] for copy in copies)
