"""One choice of one request while it is generated, and its statuses."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from offgrid.engine.protocol.events import BranchLogprobs, Delta, TokenLogprob
from offgrid.engine.protocol.requests import GenerationRequest
from offgrid.engine.worker.banned import Bans, Rewind, Sent
from offgrid.engine.worker.branching import Branching
from offgrid.engine.worker.drafts.drafter import NO_COUNTS, Drafter
from offgrid.engine.worker.image import ImageSpan
from offgrid.engine.worker.lines import LineLimits
from offgrid.engine.worker.matcher import Matcher
from offgrid.engine.worker.reasoning import ReasoningLimit
from offgrid.engine.worker.screening import Screen
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
        Status.PREFILL,  # the model cannot cut the slot: at the beginning, or after a rewind;
        # or a branch is computed and the next one begins
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
        bans: keeps banned strings out of the answer, or None.
        pending_logits: a copy of its logits, float32 (n_vocab,), while the next token waits for the
            matcher's mask.
        scored: how many tokens of the prompt have got their logprobs; all if none are requested.
        visible: control tokens that appear in the answer's text, with their bytes.
        images: the spans of images in the prompt, in order.
        stopwatch: measures the times of prompt and answer.
        drafter: proposes its next tokens, or None.
        partition: prefixes are shared only within it.
        screen: ends the answer before what a content filter forbids, or None.
        answered: how many tokens of the prompt are before the answer that the request's
            ``next_token`` has; all if it has none.
        branching: the branches of which it computes one after another, instead of an answer; or
            None. Its tokens are then those of the prompt and of the branch that is being computed.
    """

    __slots__ = (
        "answered", "bans", "branching", "cached", "choice", "completion_tokens", "computed",
        "drafter", "images", "limit", "lines", "matcher", "n_ctx", "n_prompt", "n_tokens", "owner",
        "partition", "pending_logits", "priority", "reasoning", "request", "request_id", "reuse",
        "sampler", "scored", "screen", "slot", "status", "stopwatch", "stream", "tokens", "visible",
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
        partition: str = "",
        screen: Screen | None = None,
        branching: Branching | None = None,
    ) -> None:
        self.request_id = request_id
        self.choice = choice
        self.request = request
        self.owner = request.owner
        self.priority = request.priority
        self.partition = partition
        self.n_ctx = n_ctx
        self.sampler = sampler
        self.matcher = matcher
        self.reasoning = reasoning
        self.pending_logits: NDArray[np.float32] | None = None
        self.stream = TextStream(request.stop)
        self.lines: LineLimits | None = None
        if request.n_indent or request.t_max_predict_ms:
            self.lines = LineLimits(request.n_indent, request.t_max_predict_ms)
        self.bans: Bans | None = None
        if request.banned_strings:
            self.bans = Bans(request.banned_strings, request.stop, sampler.state)
        room = n_ctx - len(prompt)
        self.limit = room if request.max_tokens is None else min(room, request.max_tokens)
        self.tokens = np.empty(len(prompt) + self.limit, dtype=np.int32)
        self.tokens[: len(prompt)] = prompt
        self.n_tokens = self.n_prompt = self.answered = len(prompt)
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
        self.screen = screen
        self.completion_tokens = 0
        self.stopwatch = Stopwatch()
        self.branching = branching
        if branching is not None:
            self.go_on(branching)

    def __len__(self) -> int:
        return self.n_tokens

    @property
    def name(self) -> str:
        """How log lines name its request: the id in this process, and the one that the client
        knows."""
        label = self.request.label
        return f"{self.request_id} ({label})" if label else str(self.request_id)

    @property
    def mask_address(self) -> int:
        """Address of the mask for the next token; 0 if any token may come."""
        if self.bans is not None and self.bans.here:
            forced = None if self.reasoning is None else self.reasoning.mask
            if forced is None and self.matcher is not None:
                forced = self.matcher.mask
            return self.bans.mask(forced, self.sampler.n_vocab)
        if self.reasoning is not None and self.reasoning.address:
            return self.reasoning.address
        return 0 if self.matcher is None else self.matcher.address

    @property
    def wanted_from(self) -> int:
        """Index of the first token whose logits are still needed."""
        if self.scored < self.n_prompt:
            return max(0, self.scored - 1)
        if self.branching is not None:
            return min(self.n_prompt + self.branching.wanted, self.n_tokens - 1)
        return self.n_tokens - 1

    @property
    def lasting(self) -> int:
        """How many of its tokens stay in the slot, once computed, until it leaves the slot: of the
        branches, none does."""
        return self.n_tokens if self.branching is None else self.n_prompt

    @property
    def dispensable(self) -> bool:
        """Whether another sequence, which computes branches of the same request, would compute
        those of this one later."""
        return self.branching is not None and self.branching.trie.active > 1

    def stop(self) -> None:
        """Leave the branches that are not finished to another sequence."""
        assert self.branching is not None
        self.branching.stop()

    def helper(self) -> Sequence:
        """Return another sequence that computes branches of this one's request. There must be a
        group of paths that waits. No other request begins after what it computes."""
        assert self.branching is not None
        helper = Sequence(
            self.request_id,
            self.choice,
            self.request,
            self.tokens[: self.n_prompt],
            n_ctx=self.n_ctx,
            sampler=self.sampler,
            images=self.images,
            partition=self.partition,
            branching=Branching(self.branching.trie),
        )
        helper.reuse = False
        helper.stopwatch = self.stopwatch
        helper.completion_tokens = self.completion_tokens
        return helper

    @property
    def left(self) -> int:
        """How many more tokens its answer may have: with branches, those of choices that are not
        yet computed."""
        most = self.limit if self.branching is None else self.branching.trie.choice_tokens
        return max(0, most - self.completion_tokens)

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

    def go_on(self, branching: Branching) -> None:
        """Replace the tokens after the prompt by those that the branches need now. What follows the
        tokens that both have in common must have been cut off."""
        tokens = branching.tokens
        self.n_tokens = self.n_prompt + len(tokens)
        self.tokens[self.n_prompt : self.n_tokens] = tokens

    def branched(self, found: tuple[BranchLogprobs, ...], tokens: int, last: bool) -> Delta:
        """Return the delta with the logprobs of branches.

        Args:
            found: the branches of which all logprobs are known now.
            tokens: how many tokens of choices were computed so far.
            last: whether these are the last ones.
        """
        self.completion_tokens = tokens
        self.stopwatch.token()
        return msgspec.structs.replace(
            self._delta("", "stop" if last else None, ()), branches=found
        )

    def finish_empty(self) -> Delta:
        """Return the last delta of an answer that shall have no tokens."""
        return self._delta("", "length", ())

    def advance(
        self, token: int, piece: bytes, is_eog: bool, logprobs: tuple[TokenLogprob, ...]
    ) -> tuple[Delta, ...] | Rewind:
        """Append the sampled token; return what it adds to the answer.

        An end token (``is_eog``) counts as a completion token but adds no text. With ``ignore_eos``
        end tokens are never sampled.

        Returns:
            A delta for each token that is sent: none if the text is held back, because it may
            become a banned string, and several if it was. A :class:`Rewind` if one was complete, so
            that the token and perhaps others before it were taken away.
        """
        self.completion_tokens += 1
        self.stopwatch.token()
        if self.drafter is not None:
            self.drafter.came(token)
        if is_eog and not self.request.end_logprob:
            logprobs = ()
        if self.bans is not None:
            return self._advance_within(self.bans, token, piece, is_eog, logprobs)
        finish_reason = None
        if is_eog:
            text = self.stream.flush()
            finish_reason = "stop"
        else:
            self._append(token, piece)
            text = self.stream.feed(piece)
            if self.stream.finished:
                finish_reason = "stop"
            elif self.completion_tokens >= self.limit:
                finish_reason = "length"
                text += self.stream.flush()
        if self.lines is not None:
            text, finish_reason = self._within_lines(self.lines, text, finish_reason)
        if self.screen is not None:
            size = 0 if is_eog else len(piece)
            text, finish_reason, logprobs = self.screen.advance(text, finish_reason, size, logprobs)
        return (self._delta(text, finish_reason, logprobs),)

    def _within_lines(
        self, lines: LineLimits, text: str, finish_reason: str | None
    ) -> tuple[str, str | None]:
        """Return text and reason after the limits for lines have seen them."""
        text, cut = lines.advance(text)
        if cut:
            return text, "length"
        if finish_reason is None and lines.is_over(text, self.stopwatch.answer_ms):
            return text + self.stream.flush(), "length"
        return text, finish_reason

    def _append(self, token: int, piece: bytes) -> None:
        self.tokens[self.n_tokens] = token
        self.n_tokens += 1
        if self.reasoning is not None:
            self.reasoning.follow(piece)

    # --- banned strings -----------------------------------------------------------------------

    def _advance_within(
        self,
        bans: Bans,
        token: int,
        piece: bytes,
        is_eog: bool,
        logprobs: tuple[TokenLogprob, ...],
    ) -> tuple[Delta, ...] | Rewind:
        """Do the same as :meth:`advance`, with banned strings."""
        reasoning = None if self.reasoning is None else self.reasoning.state
        free = self._is_free(bans)
        before = self.n_tokens
        if not is_eog:
            self._append(token, piece)
        found = bans.add(token, b"" if is_eog else piece, logprobs, free=free, reasoning=reasoning)
        finish_reason = None
        if is_eog or bans.stopped_by:
            finish_reason = "stop"
        elif self.completion_tokens >= self.limit:
            finish_reason = "length"
        if found is None and finish_reason is not None:
            found = bans.finish()
        if found is not None:
            return self._rewind(bans, found, before)
        bans.sampler = self.sampler.state
        return self._send(bans, finish_reason)

    def _is_free(self, bans: Bans) -> bool:
        """Whether another token than the sampled one, and those that are banned, may come."""
        if self.reasoning is not None and self.reasoning.address:
            return False
        return self.matcher is None or self.matcher.allows_more_than(1 + len(bans.here))

    def give_up(self) -> tuple[Delta, ...] | Rewind:
        """Note that banned strings leave no token that may come next: rewind the answer further, or
        end it."""
        assert self.bans is not None
        end = self.bans.held
        return self._rewind(self.bans, range(end, end), self.n_tokens)

    def _rewind(self, bans: Bans, found: range, before: int) -> tuple[Delta, ...] | Rewind:
        """Rewind the answer, or end it if there is no way around a banned string.

        Args:
            bans: the banned strings.
            found: the tokens of the one that was found, as :meth:`Bans.choose` takes them.
            before: how many tokens the sequence had before the one that was sampled last.
        """
        sent = self.completion_tokens - bans.held
        index = bans.choose(found)
        if index is None:
            bans.drop(found.start)
            bans.cut()
            self._shorten(sent + bans.held)
            return self._last(bans, "content_filter")
        place = bans.rewind(index)
        self._shorten(sent + index)
        prompt = self.tokens[: self.n_prompt]
        answer = self.tokens[self.n_prompt : self.n_tokens]
        if self.images:
            prompt = prompt[prompt >= 0]
        self.sampler.rewind(place.sampler, prompt, answer.tolist())
        if self.reasoning is not None and place.reasoning is not None:
            self.reasoning.restore(place.reasoning)
        if self.drafter is not None:
            self.drafter.rewound()
        return Rewind(before - self.n_tokens)

    def _shorten(self, completion_tokens: int) -> None:
        self.completion_tokens = completion_tokens
        self.n_tokens = min(self.n_tokens, self.n_prompt + completion_tokens)

    def _send(self, bans: Bans, finish_reason: str | None) -> tuple[Delta, ...]:
        """Return what is sent of the text that was held back."""
        if finish_reason is not None:
            return self._last(bans, finish_reason)
        return self._sent(bans.release(), None)

    def _last(self, bans: Bans, finish_reason: str) -> tuple[Delta, ...]:
        return self._sent(bans.release(everything=True) or [Sent("", 0, ())], finish_reason)

    def _sent(self, sent: list[Sent], finish_reason: str | None) -> tuple[Delta, ...]:
        deltas: list[Delta] = []
        for later, (text, size, logprobs) in zip(reversed(range(len(sent))), sent, strict=True):
            reason = None if later else finish_reason
            if self.lines is not None:
                text, reason = self._within_lines(self.lines, text, reason)
            if self.screen is not None:
                text, reason, logprobs = self.screen.advance(text, reason, size, logprobs)
            if reason is not None:
                self.completion_tokens -= later  # they are not part of the answer
                return (*deltas, self._delta(text, reason, logprobs))
            deltas.append(self._delta(text, None, logprobs, later))
        return tuple(deltas)

    # --- the end ------------------------------------------------------------------------------

    def end(self) -> tuple[Delta, ...]:
        """End the answer here; return the text that was held back."""
        if self.bans is not None:
            sent = self.completion_tokens - self.bans.held
            self.bans.cut()
            self._shorten(sent + self.bans.held)
            return self._last(self.bans, "stop")
        text = self.stream.flush()
        reason: str | None = "stop"
        logprobs: tuple[TokenLogprob, ...] = ()
        if self.lines is not None:
            text, reason = self._within_lines(self.lines, text, reason)
        if self.screen is not None:
            text, reason, logprobs = self.screen.advance(text, reason, 0, logprobs)
        return (self._delta(text, reason, logprobs),)

    def _delta(
        self,
        text: str,
        finish_reason: str | None,
        logprobs: tuple[TokenLogprob, ...],
        later: int = 0,
    ) -> Delta:
        """Return a delta; ``later`` tokens are sent after it."""
        held = later if self.bans is None else self.bans.held + later
        counts, timed = NO_COUNTS, finish_reason is not None or self.request.timings
        if self.drafter is not None and (timed or self.drafter.predicts):
            counts = self.drafter.counts(self, timed)
        return Delta(
            id=self.request_id,
            choice=self.choice,
            text=text,
            completion_tokens=self.completion_tokens - held,
            finish_reason=finish_reason,
            logprobs=logprobs,
            cached_tokens=self.cached,
            times=self.stopwatch.times() if timed else None,
            drafted=counts.drafted,
            draft_accepted=counts.accepted,
            prediction_accepted=counts.prediction_accepted,
            prediction_rejected=counts.prediction_rejected,
            stopped_by=self._stopped_by if finish_reason == "stop" else "",
            slot=self.slot if self.request.ids else -1,
        )

    @property
    def _stopped_by(self) -> str:
        """The stop string that has ended the answer, or an empty string."""
        if self.bans is not None:
            return self.bans.stopped_by
        found = self.stream.stop_reason
        return found if isinstance(found, str) else ""
