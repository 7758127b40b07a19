"""What a step computes of a sequence: spans, and what they need to know of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from offgrid.engine.worker.prefix import TokenIds
from offgrid.engine.worker.sequence import Status


class Schedulable(Protocol):
    """The part of a sequence that the scheduler uses."""

    request_id: int
    choice: int
    """Which of the request's choices it is."""
    status: Status
    """Set by the scheduler alone."""
    slot: int
    """Sequence id in llama.cpp's memory; -1 while the sequence waits and after its end."""
    computed: int
    """Tokens whose keys and values are in the slot."""
    cached: int
    """How many of these the slot held already, so that they were not computed again."""
    reuse: bool
    """Whether it may begin after the prefix of another sequence, and others after its prefix."""
    tokens: TokenIds
    """Ids of prompt and answer; only the first ``len()`` elements are valid."""
    n_prompt: int
    """How many of them are the prompt."""
    owner: str
    """The caller whose request it belongs to."""
    priority: int
    """The class of its request."""
    partition: str
    """Prefixes are shared only within a partition."""

    @property
    def readable(self) -> int:
        """End of the tokens that spans can compute now: the next image, or all tokens."""

    def before_image(self, length: int) -> int:
        """Return the largest prefix length up to ``length`` that does not end inside an image."""

    @property
    def wanted_from(self) -> int:
        """Index of the first token whose logits are still needed: the last token, or an earlier
        one while the prompt gets logprobs. No prefix of another sequence is used beyond it."""

    @property
    def lasting(self) -> int:
        """How many of its tokens stay in the slot, once computed, until it leaves the slot."""

    @property
    def dispensable(self) -> bool:
        """Whether another running sequence of its request would do its work later."""

    def stop(self) -> None:
        """Leave its work to that other sequence."""

    def __len__(self) -> int:
        """Tokens of prompt and answer so far."""


S = TypeVar("S", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class BatchSpan(Generic[S]):
    """Consecutive tokens of one sequence in a batch: ``count`` tokens from index ``start``, and
    after them the proposed tokens of a ``draft``."""

    sequence: S
    start: int
    count: int
    draft: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many tokens the span has in the batch."""
        return self.count + len(self.draft)

    @property
    def n_logits(self) -> int:
        """How many tokens at the end of the span need logits."""
        end = self.start + self.count
        return max(0, end - max(self.start, self.sequence.wanted_from)) + len(self.draft)

    @property
    def completes(self) -> bool:
        """Whether the span contains the sequence's last token, so that the next is sampled."""
        return self.start + self.count == len(self.sequence)
