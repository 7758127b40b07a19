"""What a source of drafts is, and what it knows of its sequence.

A source belongs to one sequence. It only proposes: whatever it returns, the answer is the same. It
learns the answer from the sequence's tokens, never from what was decoded: a proposed token may be
refused, or not be decoded at all because drafts do not pay.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.worker.matcher import Matcher


class Draft(NamedTuple):
    """Proposed tokens.

    Attributes:
        tokens: the ids that may follow the sequence, in order; empty if the source knows none.
        kind: the name under which acceptance is counted. A source may use several, such as one for
            short matches and one for long ones, so that each is judged by its own past.
    """

    tokens: list[int]
    kind: str


class Drafted(Protocol):
    """The part of a :class:`~offgrid.engine.worker.sequence.Sequence` that sources read."""

    tokens: NDArray[np.int32]
    """Ids of prompt and answer; only the first ``len()`` elements are valid. Positions of images
    have negative ids."""
    n_prompt: int
    """How many of them are the prompt."""
    slot: int
    """Where it runs; -1 while it does not."""
    matcher: Matcher | None
    """Follows the answer through a grammar. While :attr:`Matcher.ready` is false, another thread
    uses it."""

    def __len__(self) -> int:
        """Tokens of prompt and answer so far, the last sampled one included."""


class Source(Protocol):
    """Proposes the next tokens of one sequence. Only the loop's thread calls it.

    Attributes:
        costly: whether a proposal takes noticeable time. Cheap sources are asked in every step, and
            judged by their proposals even if these are not decoded. Costly ones are asked only
            where some draft could pay.
    """

    costly: bool

    def propose(self, sequence: Drafted, most: int) -> Draft:
        """Return up to ``most`` (at least 1) tokens that may follow the sequence's last one.

        Tokens may have been added to the sequence since the last call. If some were taken away,
        :meth:`rewound` was called.
        """

    def rewound(self) -> None:
        """Note that tokens were taken away from the sequence, whose place others may have taken."""

    def verified(self, sequence: Drafted, proposed: int, accepted: int) -> None:
        """Note that a step has decoded the first ``proposed`` tokens of the latest proposal, and
        that ``accepted`` of these are in the answer. Not called for proposals that were not
        decoded."""
