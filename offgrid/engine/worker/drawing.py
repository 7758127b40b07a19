"""Samples the tokens of a step, within the masks of grammars, and emits the deltas of answers."""

from __future__ import annotations

import ctypes
import logging

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from offgrid.engine.protocol.events import TokenLogprob
from offgrid.engine.worker.banned import Rewind
from offgrid.engine.worker.batching import DraftedSpan, FilledBatch
from offgrid.engine.worker.failures import Failures
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import DEAD_ENDS, Masks, Matcher
from offgrid.engine.worker.outbox import Outbox
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.scoring import drawn_token, next_row
from offgrid.engine.worker.sequence import Sequence, Status
from offgrid.errors import InvalidParameter, RequestError, SamplingError
from offgrid.sampling import SampleResult, sample_rows

log = logging.getLogger(__name__)

_LARGE_VOCABULARY = 16384
"""Vocabulary size from which it is faster to sample rows on several threads."""
_REDRAWS = 32
"""Most tokens that are sampled from one row because banned strings refuse them. What follows is
sampled in the next step, so that the other sequences do not wait for it."""
_MASK_SECONDS = 0.002
"""Longest wait for masks once the logits are computed. Most masks are ready by then; a sequence
whose mask is late is sampled in a later step, so that it does not delay the others."""


class Drawing:
    """Samples for many sequences in one call, and passes the tokens to their matchers."""

    def __init__(
        self,
        model: Model,
        scheduler: Scheduler[Sequence],
        failures: Failures,
        outbox: Outbox,
        masks: Masks,
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._failures = failures
        self._outbox = outbox
        self._masks = masks
        self._is_large = model.n_vocab >= _LARGE_VOCABULARY
        self.sampled = 0
        """Tokens that were sampled so far."""
        self._drawn: list[tuple[Matcher, int]] = []
        """Sampled tokens of this step that matchers have not yet followed."""
        self._rewound: list[Sequence] = []
        """Sequences whose slots hold more than their tokens since they were rewound."""

    def sample(self, batch: FilledBatch) -> None:
        """Sample the next token of each sequence that a decoded batch completes.

        Logprobs of prompts' tokens are emitted first.
        """
        for scored in batch.scored:
            try:
                if (delta := scored.delta()) is not None:
                    self._outbox.add(delta)
            except SamplingError as ex:
                self._failures.fail_rows(scored.sequence, ex)
        for draft in batch.drafts:
            if draft.sequence.drafter is not None:
                draft.sequence.drafter.decoded(draft.tokens)
        drawn = self._draw(batch.complete, batch.addresses)
        if batch.drafts:
            self._verify(batch.drafts, drawn)
        self._cut_rewound()

    def _verify(self, drafts: list[DraftedSpan], drawn: dict[Sequence, int]) -> None:
        """Sample the rows of proposed tokens, as long as these are what was sampled.

        The rows of one sequence depend on each other, so each call samples one row of every draft
        that still agrees. What was computed for the others is cut off.

        Args:
            drafts: of the batch.
            drawn: the tokens that were sampled from the rows before the proposed tokens.
        """
        rest = drafts
        while rest:
            rest = [draft for draft in rest if self._agrees(draft, drawn)]
            sequences = [draft.sequence for draft in rest]
            self._follow(sequences)
            rows = [self._model.logits(draft.first + draft.accepted) for draft in rest]
            drawn = self._draw(sequences, rows)
        for draft in drafts:
            sequence = draft.sequence
            if sequence.computed < draft.end:
                self._model.cut(draft.slot, sequence.position(sequence.computed))
            if sequence.drafter is not None:
                sequence.drafter.verified(sequence, len(draft.tokens), draft.accepted)

    @staticmethod
    def _agrees(draft: DraftedSpan, drawn: dict[Sequence, int]) -> bool:
        """Whether the next proposed token was sampled, and its row can be sampled now."""
        if draft.accepted == len(draft.tokens):
            return False
        if drawn.get(draft.sequence) != draft.tokens[draft.accepted]:
            return False
        draft.accepted += 1
        if draft.sequence.status is not Status.DECODING:  # this token has ended the answer
            return False
        draft.sequence.computed += 1
        return True

    def _follow(self, sequences: list[Sequence]) -> None:
        """Let the matchers of some sequences follow the sampled tokens now."""
        if not self._drawn:
            return
        now = {id(sequence.matcher) for sequence in sequences}
        drawn, self._drawn = self._drawn, []
        self._drawn = [pair for pair in drawn if id(pair[0]) not in now]
        self._masks.start([pair for pair in drawn if id(pair[0]) in now])

    def sample_late(self, seconds: float) -> None:
        """Sample for sequences whose masks were not ready when their logits were computed.

        Args:
            seconds: how long to wait for the masks.
        """
        awaiting = Status.AWAITING_MASK
        late = [s for s in self._scheduler.running if s.status is awaiting]
        if not late:
            return
        if seconds:
            self._masks.wait([s.matcher for s in late if s.matcher is not None], seconds)
        late = [s for s in late if s.matcher is not None and s.matcher.ready]
        rows = [s.pending_logits for s in late]  # keeps the rows alive until they are sampled
        for sequence in late:
            sequence.pending_logits = None
            self._scheduler.resume(sequence)
        self._draw(late, [row.ctypes.data for row in rows if row is not None])
        self._cut_rewound()

    def start_masks(self) -> None:
        """Let the matchers follow the tokens of this step. Call it after the step's events were
        pushed, so that clients do not wait for it."""
        drawn, self._drawn = self._drawn, []
        self._masks.start(drawn)

    def _draw(self, sequences: list[Sequence], addresses: list[int]) -> dict[Sequence, int]:
        """Sample from one row of each sequence; return the sampled tokens that were not refused."""
        tokens: dict[Sequence, int] = {}
        again = self._draw_once(sequences, addresses, tokens)
        if again:
            rows = dict(zip(sequences, addresses, strict=True))
            for _ in range(_REDRAWS):
                again = self._draw_once(again, [rows[sequence] for sequence in again], tokens)
                if not again:
                    break
            self._rewound += again
        return tokens

    def _draw_once(
        self, sequences: list[Sequence], addresses: list[int], tokens: dict[Sequence, int]
    ) -> list[Sequence]:
        """Sample from one row of each sequence.

        Args:
            sequences: the sequences.
            addresses: of their rows.
            tokens: gets the sampled tokens.

        Returns:
            The sequences of which a token was refused and another one can be sampled from the same
            row.
        """
        if any(s.limit == 0 for s in sequences):
            sequences, addresses = self._without_empty(sequences, addresses)
        if any(sequence.matcher is not None for sequence in sequences):
            sequences, addresses = self._with_masks(sequences, addresses)
        if not sequences:
            return []
        masks = [s.mask_address for s in sequences]
        wanted = [-1 if s.request.top_logprobs is None else s.request.top_logprobs
                  for s in sequences]  # fmt: skip
        results = sample_rows(
            addresses,
            [s.sampler for s in sequences],
            top_logprobs=wanted,
            masks=masks if any(masks) else None,
            post_sampling=[s.request.post_sampling for s in sequences],
            # The same number as in the decode: OpenMP would otherwise end and start threads.
            threads=self._model.threads_in_use if self._is_large else 1,
        )
        drawn = [*zip(sequences, results, strict=True)]
        if any(sequence.choice for sequence in sequences):
            # Rows are in the order of slots; clients get the choices of a step in order.
            drawn.sort(key=lambda pair: pair[0].choice)
        finished = Status.FINISHED
        again: list[Sequence] = []
        for sequence, result in drawn:
            if sequence.status is finished:  # another choice has just failed their request
                continue
            if isinstance(result, SamplingError):
                self._not_drawn(sequence, result)
                continue
            rewind = self._push(sequence, result)
            if rewind is not None and not rewind.tokens:
                again.append(sequence)
            elif rewind is not None:
                self._take_back(sequence, rewind)
            else:
                tokens[sequence] = result.token
                if sequence.status is not finished and sequence.matcher is not None:
                    self._drawn.append((sequence.matcher, result.token))
        return again

    def _take_back(self, sequence: Sequence, rewind: Rewind) -> None:
        """Note that tokens before the last sampled one were taken away from a sequence."""
        self._rewound.append(sequence)
        if sequence.matcher is not None and rewind.tokens:
            self._masks.rewind(sequence.matcher, rewind.tokens)

    def _cut_rewound(self) -> None:
        """Let the slots of rewound sequences hold all of their tokens but the last: its logits are
        computed again. Call it when no row of the batch is needed any more."""
        rewound, self._rewound = self._rewound, []
        for sequence in rewound:
            if sequence.status is Status.FINISHED:
                continue
            slot, keep = sequence.slot, len(sequence) - 1
            keep, checkpoint = self._scheduler.usable(sequence, keep)
            position = sequence.position(keep)
            if checkpoint is not None:
                kept = self._model.restore(slot, checkpoint.state, position)
            else:
                kept = self._model.cut(slot, position)
            if not kept:
                self._model.forget(slot)
                keep = 0
            self._scheduler.rewind(sequence, keep)

    def _without_empty(
        self, sequences: list[Sequence], addresses: list[int]
    ) -> tuple[list[Sequence], list[int]]:
        """End the answers that shall have no tokens; return the others."""
        for sequence, address in zip(sequences, addresses, strict=True):
            if sequence.limit == 0 and sequence.status is not Status.FINISHED:
                delta = sequence.finish_empty()
                if sequence.request.next_token is not None:
                    row = next_row(self._model, sequence, address)
                    delta = structs.replace(delta, row=row)
                self._outbox.add(delta)
                self._scheduler.release(sequence)
        pairs = [(s, a) for s, a in zip(sequences, addresses, strict=True) if s.limit]
        return [s for s, _ in pairs], [a for _, a in pairs]

    def _not_drawn(self, sequence: Sequence, error: SamplingError) -> None:
        """Handle a failed draw: the row is unusable, or no token is left that the grammar and
        banned strings allow."""
        matcher, bans = sequence.matcher, sequence.bans
        if error.code != "no_candidate" or (matcher is None and bans is None):
            self._failures.fail_rows(sequence, error)
        elif matcher is not None and matcher.accepting:
            # Only the end was allowed, and ignore_eos bans it.
            for delta in sequence.end():
                self._outbox.add(delta)
            self._scheduler.release(sequence)
        elif bans is not None and bans.here:
            outcome = sequence.give_up()
            if isinstance(outcome, Rewind):
                self._take_back(sequence, outcome)
            else:
                for delta in outcome:
                    self._outbox.add(delta)
                self._scheduler.release(sequence)
        elif matcher is not None:
            message = "No token satisfies both the grammar and logit_bias."
            refused = InvalidParameter(message, matcher.param)
            self._failures.fail(sequence.request_id, refused)
        else:
            self._failures.fail_rows(sequence, error)

    def _with_masks(
        self, sequences: list[Sequence], addresses: list[int]
    ) -> tuple[list[Sequence], list[int]]:
        """Leave out sequences that cannot be sampled: the mask is late, or the matcher failed."""
        self._masks.wait([s.matcher for s in sequences if s.matcher is not None], _MASK_SECONDS)
        ready: list[Sequence] = []
        found: list[int] = []
        for sequence, address in zip(sequences, addresses, strict=True):
            matcher = sequence.matcher
            if sequence.status is Status.FINISHED:
                continue
            if matcher is not None and not matcher.ready:
                sequence.pending_logits = _copied(address, self._model.n_vocab)
                self._scheduler.await_mask(sequence)
            elif matcher is not None and matcher.error is not None:
                self._failures.fail(sequence.request_id, _beyond(matcher))
            else:
                ready.append(sequence)
                found.append(address)
        # If a sequence failed, the other choices of its request have ended with it.
        pairs = [p for p in zip(ready, found, strict=True) if p[0].status is not Status.FINISHED]
        return [s for s, _ in pairs], [a for _, a in pairs]

    def _push(self, sequence: Sequence, result: SampleResult) -> Rewind | None:
        """Emit what a token adds to an answer; if the answer was rewound instead, say so."""
        token = result.token
        self.sampled += 1
        logprobs: tuple[TokenLogprob, ...] = ()
        if sequence.request.top_logprobs is not None:
            logprobs = (drawn_token(self._model, result, ids=sequence.request.ids),)
        piece = sequence.visible.get(token) or self._model.piece(token)
        outcome = sequence.advance(token, piece, token in self._model.eog_ids, logprobs)
        if isinstance(outcome, Rewind):
            return outcome
        for delta in outcome:
            self._outbox.add(delta)
            if delta.finish_reason is not None:
                self._scheduler.release(sequence)
        return None


def _beyond(matcher: Matcher) -> RequestError:
    log.warning("grammar abandoned: %s", matcher.error)
    if matcher.error in DEAD_ENDS:
        return InvalidParameter(
            "The grammar reached a dead end: no token of this model can follow, and the answer may"
            " not end here.",
            matcher.param,
            code="grammar_dead_end",
        )
    return InvalidParameter(
        f"The answer cannot be continued within the grammar: {matcher.error}.",
        matcher.param,
        code="grammar_too_complex",
    )


def _copied(address: int, n_vocab: int) -> NDArray[np.float32]:
    """Return a copy of a row that stays valid after the next decode."""
    return np.ctypeslib.as_array((ctypes.c_float * n_vocab).from_address(address)).copy()
