"""Places of any kind, shared by caller so that no caller can take them all. Pure.

One caller may take all of the usual places: while no other one needs them, that is harmless. When
they are taken, further places exist for callers that hold fewer than their share, which is the
number of usual places divided by the number of callers that hold some. So a caller that comes while
the usual places are full gets a place, and the first caller gets no other one until it holds fewer
than its share, or until some of the usual places are free.
"""

from __future__ import annotations


class Shares:
    """Counts the places that callers hold.

    Args:
        usual: places that one caller may take.
        more: further places, for callers that hold fewer than their share.
    """

    def __init__(self, usual: int, more: int) -> None:
        self.usual = usual
        self.most = usual + more
        self.taken = 0
        self._held: dict[str, int] = {}
        """Caller -> the number of places that it holds, at least 1."""

    def held(self, owner: str) -> int:
        """Return how many places a caller holds."""
        return self._held.get(owner, 0)

    def share(self, owner: str) -> int:
        """Return how many places a caller may hold even if the usual ones are taken."""
        callers = len(self._held) + (owner not in self._held)
        return max(1, self.usual // callers)

    def missing(self, owner: str, n: int) -> int:
        """Return how many places must be given back before a caller can take ``n``; 0 if it can
        take them now."""
        usual = self.taken + n - self.usual
        if usual <= 0:
            return 0
        held = self.held(owner)
        # The first request of a caller may need more places than its share.
        above_share = held + n - self.share(owner) if held else 0
        return min(usual, max(above_share, self.taken + n - self.most, 0))

    def take(self, owner: str, n: int = 1) -> bool:
        """Take ``n`` places for a caller, all or none; return whether it got them."""
        if self.missing(owner, n):
            return False
        self.add(owner, n)
        return True

    def add(self, owner: str, n: int) -> None:
        """Count ``n`` places more, whatever the shares."""
        if n:
            self.taken += n
            self._held[owner] = self.held(owner) + n

    def give_back(self, owner: str, n: int = 1) -> None:
        """Give ``n`` places of a caller back."""
        self.taken -= n
        left = self.held(owner) - n
        if left > 0:
            self._held[owner] = left
        else:
            self._held.pop(owner, None)
