"""One choice of one request while it is generated, and its statuses."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.protocol import Delta, GenerationRequest, TokenLogprob
from offgrid.engine.worker.drafts.drafter import NO_COUNTS, Drafter
from offgrid.engine.worker.image import ImageSpan
from offgrid.engine.worker.matcher import Matcher
from offgrid.engine.worker.reasoning import ReasoningLimit
from offgrid.engine.worker.stopwatch import Stopwatch
from offgrid.sampling import Sampler, TextStream


class Status(Enum):
    """The status of a sequence. :data:`TRANSITIONS` says which may follow which."""

    WAITING = "waiting"
    """In the queue, without a slot."""
    PARKED = "parked"
    """Has a slot, and waits until another sequence has computed the prefix that both share, or
    until a saved prefix has been read."""
    PREFILL = "prefill"
    """More than its last token, or an image, is still to be computed."""
    DECODING = "decoding"
    """All but its last token are computed: each step computes that one and samples the next."""
    AWAITING_MASK = "awaiting mask"
    """The logits of its next token are computed, the mask of its grammar is not."""
    FINISHED = "finished"
    """Answered, cancelled or failed; its slot is released."""


TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.WAITING: frozenset({
        Status.PARKED,  # gets a slot; another sequence is computing its prefix, or it is read
        Status.PREFILL,  # gets a slot
        Status.DECODING,  # gets a slot, and begins after a prefix of all but one token
        Status.FINISHED,  # cancelled, or another choice failed
    }),
    Status.PARKED: frozenset({
        Status.PREFILL,  # the prefix is there, or never will be
        Status.DECODING,  # the same; the prefix is all but one token
        Status.WAITING,  # preempted: another sequence needs its cells
        Status.FINISHED,  # cancelled, or another choice failed
    }),
    Status.PREFILL: frozenset({
        Status.DECODING,  # a step has computed the rest of its prompt
        Status.WAITING,  # preempted
        Status.FINISHED,  # cancelled or failed
    }),
    Status.DECODING: frozenset({
        Status.PREFILL,  # the model cannot cut the slot that it was to begin in
        Status.AWAITING_MASK,  # the mask takes longer than the step
        Status.WAITING,  # preempted
        Status.FINISHED,  # the answer is complete, cancelled or failed
    }),
    Status.AWAITING_MASK: frozenset({
        Status.DECODING,  # the mask is ready: its next token is sampled now
        Status.WAITING,  # preempted; its logits are computed again
        Status.FINISHED,  # cancelled or failed
    }),
    Status.FINISHED: frozenset(),
}  # fmt: skip
"""The statuses that may follow each status. Only the scheduler sets :attr:`Sequence.status`."""


class Sequence:
    """Tokens, sampler and text of one choice. Implements ``scheduler.Schedulable``.

    Attributes:
        status: set by the scheduler only.
        tokens: ids of prompt and answer, int32, in a buffer for the longest possible answer.
        computed: how many of them llama.cpp has computed in ``slot``.
        matcher: keeps the answer within a grammar, or None.
        reasoning: limits the reasoning of the answer, or None.
        pending_logits: a copy of its logits, float32 (n_vocab,), while the next token waits for the
            matcher's mask.
        scored: how many tokens of the prompt have got their logprobs; all if none are requested.
        visible: control tokens that appear in the answer's text, with their bytes.
        images: the spans of images in the prompt, in order.
        stopwatch: measures the times of prompt and answer.
        drafter: proposes its next tokens, or None.
    """

    __slots__ = (
        "cached", "choice", "completion_tokens", "computed", "drafter", "images", "limit",
        "matcher", "n_ctx", "n_prompt", "n_tokens", "pending_logits", "reasoning", "request",
        "request_id", "reuse", "sampler", "scored", "slot", "status", "stopwatch", "stream",
        "tokens", "visible",
    )  # fmt: skip

    def __init__(
        self,
        request_id: int,
        choice: int,
        request: GenerationRequest,
        prompt: NDArray[np.int32],
        *,
        n_ctx: int,
        sampler: Sampler,
        matcher: Matcher | None = None,
        reasoning: ReasoningLimit | None = None,
        visible: Mapping[int, bytes] = MappingProxyType({}),
        images: tuple[ImageSpan, ...] = (),
        drafter: Drafter | None = None,
    ) -> None:
        self.request_id = request_id
        self.choice = choice
        self.request = request
        self.n_ctx = n_ctx
        self.sampler = sampler
        self.matcher = matcher
        self.reasoning = reasoning
        self.pending_logits: NDArray[np.float32] | None = None
        self.stream = TextStream(request.stop)
        room = n_ctx - len(prompt)
        self.limit = room if request.max_tokens is None else min(room, request.max_tokens)
        self.tokens = np.empty(len(prompt) + self.limit, dtype=np.int32)
        self.tokens[: len(prompt)] = prompt
        self.n_tokens = self.n_prompt = len(prompt)
        # Only choice 0 gets the prompt's logprobs: the others have the same prompt.
        self.scored = 0 if request.prompt_logprobs is not None and choice == 0 else len(prompt)
        self.computed = 0
        self.cached = 0
        self.reuse = request.cache_prompt
        self.slot = -1
        self.status = Status.WAITING
        self.visible = visible
        self.images = images
        self.drafter = drafter
        self.completion_tokens = 0
        self.stopwatch = Stopwatch()

    def __len__(self) -> int:
        return self.n_tokens

    @property
    def mask_address(self) -> int:
        """Address of the mask for the next token; 0 if any token may come."""
        if self.reasoning is not None and self.reasoning.address:
            return self.reasoning.address
        return 0 if self.matcher is None else self.matcher.address

    @property
    def wanted_from(self) -> int:
        """Index of the first token whose logits are still needed."""
        if self.scored < self.n_prompt:
            return max(0, self.scored - 1)
        return self.n_tokens - 1

    @property
    def readable(self) -> int:
        """End of the tokens that spans can compute now: the next image, or the sequence's end."""
        for span in self.images:
            if span.start >= self.computed:
                return span.start
        return self.n_tokens

    @property
    def next_image(self) -> ImageSpan | None:
        """The image that comes next in the computation; None if a token does."""
        return next((span for span in self.images if span.start == self.computed), None)

    def position(self, index: int) -> int:
        """Return the position of a token: its index minus the lag of the images before it."""
        return index - sum(span.lag for span in self.images if span.end <= index)

    def before_image(self, length: int) -> int:
        """Return the largest prefix length up to ``length`` that does not end inside an image."""
        for span in self.images:
            if span.start < length < span.end:
                return span.start
        return length

    def finish_empty(self) -> Delta:
        """Return the last delta of an answer that shall have no tokens."""
        return self._delta("", "length", ())

    def advance(
        self, token: int, piece: bytes, is_eog: bool, logprobs: tuple[TokenLogprob, ...]
    ) -> Delta:
        """Append the sampled token; return what it adds to the answer.

        An end token (``is_eog``) counts as a completion token but adds no text. With ``ignore_eos``
        end tokens are never sampled.
        """
        self.completion_tokens += 1
        self.stopwatch.token()
        if self.drafter is not None:
            self.drafter.came(token)
        finish_reason = None
        if is_eog:
            text = self.stream.flush()
            finish_reason = "stop"
            if not self.request.end_logprob:
                logprobs = ()
        else:
            self.tokens[self.n_tokens] = token
            self.n_tokens += 1
            if self.reasoning is not None:
                self.reasoning.follow(piece)
            text = self.stream.feed(piece)
            if self.stream.finished:
                finish_reason = "stop"
            elif self.completion_tokens >= self.limit:
                finish_reason = "length"
                text += self.stream.flush()
        return self._delta(text, finish_reason, logprobs)

    def end(self) -> Delta:
        """End the answer here; return the text that was held back."""
        return self._delta(self.stream.flush(), "stop", ())

    def _delta(
        self, text: str, finish_reason: str | None, logprobs: tuple[TokenLogprob, ...]
    ) -> Delta:
        counts, timed = NO_COUNTS, finish_reason is not None or self.request.timings
        if self.drafter is not None and (timed or self.drafter.predicts):
            counts = self.drafter.counts(self, timed)
        return Delta(
            id=self.request_id,
            choice=self.choice,
            text=text,
            completion_tokens=self.completion_tokens,
            finish_reason=finish_reason,
            logprobs=logprobs,
            cached_tokens=self.cached,
            times=self.stopwatch.times() if timed else None,
            drafted=counts.drafted,
            draft_accepted=counts.accepted,
            prediction_accepted=counts.prediction_accepted,
            prediction_rejected=counts.prediction_rejected,
        )
