"""The loop: plan, decode, sample, push, over all running sequences at once.

An :class:`Engine` does not know whether it runs in a worker process or inside a test: it takes
requests by method call and gives events to a function. One thread calls :meth:`Engine.run` (or
:meth:`Engine.step`); :meth:`prepare`, :meth:`submit` and :meth:`cancel` may be called from others.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.protocol import (
    Delta,
    Event,
    Failed,
    GenerationRequest,
    Started,
    TokenLogprob,
    TokenQuery,
    Tokens,
)
from offgrid.engine.worker.batching import Filled
from offgrid.engine.worker.embedder import Embedder, EmbeddingJob
from offgrid.engine.worker.encoder import Encoder
from offgrid.engine.worker.grammars import DEAD_ENDS, Masks, Matcher
from offgrid.engine.worker.image import Span
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.vision import EncodeError
from offgrid.engine.worker.pace import Pace
from offgrid.engine.worker.prepare import Prepared, Preparer
from offgrid.engine.worker.prompts import answer
from offgrid.engine.worker.scheduler import Placement, Row, Scheduler
from offgrid.engine.worker.scoring import SCORED_BYTES, Scored, drawn_token
from offgrid.engine.worker.sequence import Sequence
from offgrid.errors import (
    EngineFault,
    InvalidParameter,
    RequestError,
    SamplingError,
)
from offgrid.sampling import (
    SampleResult,
    sample_rows,
)

log = logging.getLogger(__name__)

_PREFILL_SHARE = 8
"""Until it is known what prefill costs, a step in which streams run spends at most this fraction
(1/8) of its batch on it."""
NO_ROOM = 1
"""What ``llama_decode`` returns when no memory cell is free; nothing has changed then."""
_LARGE_VOCABULARY = 16384
"""Logits of a row from which on it pays to share rows among threads."""
_MASK_SECONDS = 0.002
"""Masks are there before the logits, but for hard ones. Who has to wait longer draws later: the
others go on meanwhile."""
_IDLE_SECONDS = 0.05
"""Longest wait for a mask or an image when there is nothing else to do; then a cancel is seen."""
_GATHER_SECONDS = 0.01
_FATAL_FAILURES = 2
"""Failed computations in a row after which the process is not to be trusted any more."""


class EngineBroken(Exception):
    """llama.cpp fails again and again; only a new process helps."""


class Engine:
    """Generates for many requests at once on one :class:`~offgrid.engine.worker.llama.model.Model`.

    Args:
        model: what computes logits. Tests also pass stand-ins that fail on purpose.
        emit: receives all events of a step, in order, on the thread that runs the loop.
    """

    def __init__(self, model: Model, emit: Callable[[tuple[Event, ...]], None]) -> None:
        self.model = model
        self._emit = emit
        capacity = model.batch.capacity
        self._pace = Pace(max(1, capacity // _PREFILL_SHARE), capacity)
        self.scheduler: Scheduler[Sequence] = Scheduler(
            model.n_parallel,
            capacity,
            self._pace.prefill_tokens(),
            model.n_ctx,
            max(1, min(capacity, SCORED_BYTES // (4 * model.n_vocab))),
        )
        self.scheduler.can_cut = model.can_cut
        self._sampling_threads = model.n_threads if model.n_vocab >= _LARGE_VOCABULARY else 1
        self._preparer = Preparer(model)
        self._masks = Masks()
        self._drawn: list[tuple[Matcher, int]] = []
        """Tokens of this step that matchers have to follow."""
        self.embedder = Embedder(model, emit)
        self._encoder = Encoder(model.encode)
        self._inbox: deque[Prepared | EmbeddingJob | int] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self.expecting: Callable[[], bool] = lambda: False
        """Whether more requests are on their way to :meth:`submit`."""
        self._failures = 0
        self._events: list[Event] = []
        self.step_began: float | None = None
        """When the running step began (``time.monotonic``), None while the loop waits."""

    # --- from any thread ----------------------------------------------------------------------

    def prepare(self, id: int, request: GenerationRequest) -> Prepared:
        """Tokenise and check a request without touching the loop.

        Raises:
            InvalidParameter, ContextLengthExceeded: see :meth:`Preparer.prepare`.
        """
        return self._preparer.prepare(id, request)

    def look_up(self, id: int, query: TokenQuery) -> Tokens:
        """Answer a question to the tokenizer, on the thread that prepares requests.

        Raises:
            InvalidParameter, ContextLengthExceeded: see
                :func:`offgrid.engine.worker.prompts.answer`.
        """
        return answer(self.model, id, query)

    def submit(self, prepared: Prepared | EmbeddingJob) -> None:
        """Put a prepared request into the queue."""
        self._post(prepared)

    def cancel(self, id: int) -> None:
        """Take a request out at the next step, wherever it is. Unknown ids are ignored."""
        self._post(id)

    def nudge(self) -> None:
        """Tell the loop to ask :attr:`expecting` again."""
        with self._wake:
            self._wake.notify()

    def stop(self) -> None:
        """Make :meth:`run` return after its current step."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def _post(self, item: Prepared | EmbeddingJob | int) -> None:
        with self._wake:
            self._inbox.append(item)
            self._wake.notify()

    # --- the loop's thread --------------------------------------------------------------------

    def run(self) -> None:
        """Step while there is work, wait without using the processor while there is none.

        Raises:
            EngineBroken: llama.cpp failed several times in a row.
        """
        while True:
            with self._wake:
                while not (self._inbox or self.has_work or self._stopping):
                    self.step_began = None
                    self._wake.wait()
                if self._stopping:
                    return
            self._gather()
            self.step_began = time.monotonic()
            self.step()

    @property
    def has_work(self) -> bool:
        """Whether another step has something to do."""
        return self.scheduler.has_work or self.embedder.has_work

    def _gather(self) -> None:
        """Before anything runs, wait a moment for requests that are just being tokenised.

        Prompts of requests that come at once are read in one call then; read one after the other,
        the first would stream meanwhile and make the chunks of the rest short.
        """
        if self.scheduler.has_work:
            return
        until = time.monotonic() + _GATHER_SECONDS
        with self._wake:
            while self.expecting() and (left := until - time.monotonic()) > 0:
                self._wake.wait(left)

    def step(self) -> bool:
        """Take in what arrived, compute one batch, draw its tokens, push the events.

        Inputs to be embedded get a batch of their own beside it.

        Returns:
            Whether anything is left to compute.
        """
        self._take_inbox()
        for placement in self.scheduler.admit():
            self._begin(placement)
        # Whose prompt is computed now has to be known before it may end the process.
        self._flush()
        # Prompts and inputs to embed share what a step may take beside the streams.
        share = self._pace.prefill_tokens(*self.scheduler.counts())
        share = max(1, share // 2) if self.embedder.has_work else share
        self.scheduler.prefill_tokens = share
        self.scheduler.burst_tokens = self._pace.burst_tokens
        rows = self.scheduler.plan()
        if rows:
            began = time.monotonic()
            self._compute(rows)
            decoding = sum(row.count == 1 for row in rows)
            prefilling = sum(row.count for row in rows) - decoding
            self._pace.observe(decoding, prefilling, time.monotonic() - began)
        self._draw_late(idle=not rows)
        if self.embedder.has_work:
            self._embed(share if rows else None)
        self._flush()
        drawn, self._drawn = self._drawn, []
        self._masks.start(drawn)
        self._see(idle=not rows)
        return self.has_work

    def _see(self, idle: bool) -> None:
        """Compute an image that is encoded, or see to it that the next one will be.

        One image in a step: it takes the time of a decode of its own. What the others got in this
        step is on its way.
        """
        waiting = [
            (sequence, span)
            for sequence in self.scheduler.running
            if sequence.images and not self.scheduler.is_parked(sequence.slot)
            if (span := sequence.next_image) is not None
        ]
        if not waiting:
            return
        started = self._encoder.chunk
        sequence, span = next((w for w in waiting if w[1].chunk is started), waiting[0])
        try:
            embeddings = self._encoder.take(span.chunk, _IDLE_SECONDS if idle else 0.0)
            if embeddings is None:
                return
            start = sequence.position(span.start)
            self.model.see(span.chunk, embeddings, sequence.slot, start)
        except Exception as ex:
            self._after_failed_image(sequence, span, ex)
            return
        self._failures = 0
        sequence.computed = span.end

    def _after_failed_image(self, sequence: Sequence, span: Span, error: Exception) -> None:
        log.error("an image of request %d failed: %s", sequence.request_id, error)
        slot = sequence.slot
        no_room = getattr(error, "code", None) == NO_ROOM and self.scheduler.can_cut
        start = sequence.position(span.start)
        if no_room and self.model.cut(slot, start) and self._make_room():
            return  # it is tried again
        self._fail(sequence.request_id, EngineFault("The model failed to compute an image."))
        if isinstance(error, EncodeError):
            return  # that was beside the model
        self.model.forget(slot)
        self.scheduler.forget(slot)
        self._flush()
        self._failures += 1
        if self._failures >= _FATAL_FAILURES:
            raise EngineBroken(f"{self._failures} failures in a row, last: {error}")

    def _embed(self, budget: int | None) -> None:
        self._events += self.embedder.step(budget)
        if self.embedder.failures >= _FATAL_FAILURES:
            self._flush()
            raise EngineBroken(f"{self.embedder.failures} failed decodes of inputs in a row")

    def _take_inbox(self) -> None:
        while True:
            with self._wake:
                if not self._inbox:
                    return
                item = self._inbox.popleft()
            if isinstance(item, Prepared):
                self.scheduler.submit(item.sequences)
            elif isinstance(item, EmbeddingJob):
                self.embedder.submit(item)
            else:
                self._drop(item)

    def _flush(self) -> None:
        if self._events:
            events, self._events = tuple(self._events), []
            self._emit(events)

    def _begin(self, placement: Placement[Sequence]) -> None:
        """Prepare the slot of a sequence that starts to run."""
        sequence, slot = placement.sequence, placement.sequence.slot
        if placement.rescue is not None:
            self.model.forget(placement.rescue)
            self.model.copy(slot, placement.rescue)
        parked = self.scheduler.is_parked(slot)
        if sequence.choice == 0:
            self._events.append(Started(sequence.request_id, computing=not parked))
        if parked:
            return
        if placement.source != slot:
            self.model.forget(slot)
        if placement.source is None:
            return
        if placement.source != slot:
            self.model.copy(placement.source, slot)
        if not self._cut(slot, sequence.position(placement.keep)):
            # This kind of memory only knows whole sequences. Nothing is lost: it is computed.
            self.model.forget(slot)
            sequence.computed = sequence.cached = 0
            self.scheduler.can_cut = False

    def _cut(self, slot: int, keep: int) -> bool:
        """Cut a slot off at position ``keep``; False where the model cannot."""
        if not self.scheduler.can_cut:
            return True  # only whole ones are shared: nothing is to be cut
        return self.model.cut(slot, keep)

    def _drop(self, request_id: int) -> None:
        self.scheduler.cancel(request_id)
        self.embedder.cancel(request_id)

    def _fail(self, request_id: int, error: RequestError) -> None:
        self._drop(request_id)
        self._events.append(
            Failed(request_id, type(error).__name__, error.message, error.param, error.code)
        )

    def _compute(self, rows: list[Row[Sequence]]) -> None:
        """Decode rows and draw their tokens; a failure ends only the requests it belongs to."""
        filled = Filled(self.model, self.scheduler, rows)
        try:
            self.model.decode()
            addresses = [self.model.logits(index) for index in filled.indices]
            prompts = [
                Scored(self.model, row, filled.ends[row.sequence.slot])
                for row in rows
                if row.sequence.scored < row.sequence.n_prompt
            ]
        except Exception as ex:
            self._after_failed_decode(rows, [slot for slot, _ in filled.bridges], ex)
            return
        self._failures = 0
        for row in rows:
            row.sequence.computed += row.count
        for slot, position in filled.bridges:
            self.model.cut(slot, position)
        self._score(prompts)
        self._draw(filled.complete, addresses)

    def _after_failed_decode(
        self, rows: list[Row[Sequence]], bridges: list[int], error: Exception
    ) -> None:
        """Find whose fault it was.

        Return values 1 and -1 leave llama.cpp's memory as it was, so each row can be tried alone.
        After any other failure the memory of all rows is undefined: their requests end.
        """
        code = getattr(error, "code", None)
        log.error("decode of %d rows failed: %s", len(rows), error)
        if code == NO_ROOM and self._make_room():
            left = [row for row in rows if row.sequence.slot >= 0]
            if left:
                self._compute(left)
            return
        if code in (NO_ROOM, -1) and len(rows) > 1:
            for row in rows:
                # An earlier row's failure may have ended this row's request too (n > 1).
                if row.sequence.slot >= 0:
                    self._compute([row])
            return
        fault = EngineFault("The model failed to compute this request.")
        slots = [*bridges, *(row.sequence.slot for row in rows)]
        for request_id in dict.fromkeys(row.sequence.request_id for row in rows):
            self._fail(request_id, fault)
        for slot in slots:
            self.scheduler.forget(slot)
        self._failures += 1
        if self._failures >= _FATAL_FAILURES:
            self._flush()
            raise EngineBroken(f"{self._failures} failed decodes in a row, last: {error}")

    def _make_room(self) -> bool:
        """No memory cell is free: give up what nobody runs in, then the youngest sequence.

        Nobody loses a token: who had to give way is computed again when its turn comes.

        Returns:
            Whether there is hope that who is left can be computed in the next step.
        """
        emptied = self.scheduler.idle.clear()
        for slot in emptied:
            self.model.forget(slot)
        if emptied:
            return True
        if len(self.scheduler.running) < 2:
            return False
        youngest = self.scheduler.running[-1]
        slot = youngest.slot
        youngest.row = None  # its logits are computed again
        self.scheduler.preempt(youngest)
        self.model.forget(slot)
        return True

    def _score(self, prompts: list[Scored]) -> None:
        """Tell the logprobs of prompts' tokens, before anything is drawn behind them."""
        for scored in prompts:
            try:
                self._events.append(scored.delta())
            except SamplingError as ex:
                self._fail_draw(scored.sequence, ex)

    def _finish_empty(self, sequence: Sequence) -> None:
        self._events.append(sequence.finish_empty())
        self.scheduler.release(sequence)

    def _fail_draw(self, sequence: Sequence, error: SamplingError) -> None:
        log.error("request %d: %s", sequence.request_id, error)
        self._fail(
            sequence.request_id,
            EngineFault(f"No token can be sampled from the logits of the model: {error}"),
        )

    def _draw(self, sequences: list[Sequence], addresses: list[int]) -> None:
        if any(s.limit == 0 for s in sequences):
            for sequence in [s for s in sequences if s.limit == 0 and s.slot >= 0]:
                self._finish_empty(sequence)
            pairs = [(s, a) for s, a in zip(sequences, addresses, strict=True) if s.limit]
            sequences, addresses = [s for s, _ in pairs], [a for _, a in pairs]
        masks = None
        if any(sequence.matcher is not None for sequence in sequences):
            sequences, addresses = self._with_masks(sequences, addresses)
            masks = [0 if s.matcher is None else s.matcher.address for s in sequences]
        if not sequences:
            return
        wanted = [-1 if s.request.top_logprobs is None else s.request.top_logprobs
                  for s in sequences]  # fmt: skip
        results = sample_rows(
            addresses,
            [s.sampler for s in sequences],
            top_logprobs=wanted,
            masks=masks,
            post_sampling=[s.request.post_sampling for s in sequences],
            threads=self._sampling_threads,
        )
        drawn = [*zip(sequences, results, strict=True)]
        if any(sequence.choice for sequence in sequences):
            # Rows stand in the order of slots; clients get the choices of a step in their own.
            drawn.sort(key=lambda pair: pair[0].choice)
        for sequence, result in drawn:
            if sequence.slot < 0:  # its request failed on a sibling's row just now
                continue
            if isinstance(result, SamplingError):
                self._not_drawn(sequence, result)
                continue
            self._push(sequence, result)
            if sequence.matcher is not None and sequence.slot >= 0:
                self._drawn.append((sequence.matcher, result.token))

    def _not_drawn(self, sequence: Sequence, error: SamplingError) -> None:
        """No token can be drawn: a bad row, or nothing is left of the grammar's tokens."""
        if sequence.matcher is not None and error.code == "no_candidate":
            if sequence.matcher.accepting:  # only the end was allowed, and ignore_eos bans it
                self._events.append(sequence.end())
                self.scheduler.release(sequence)
                return
            message = "No token satisfies both the grammar and logit_bias."
            self._fail(sequence.request_id, InvalidParameter(message, sequence.matcher.param))
            return
        self._fail_draw(sequence, error)

    def _with_masks(
        self, sequences: list[Sequence], addresses: list[int]
    ) -> tuple[list[Sequence], list[int]]:
        """Leave out who cannot be drawn for: the mask is not there yet, or the matcher failed."""
        self._masks.wait([s.matcher for s in sequences if s.matcher is not None], _MASK_SECONDS)
        ready: list[Sequence] = []
        found: list[int] = []
        for sequence, address in zip(sequences, addresses, strict=True):
            matcher = sequence.matcher
            if matcher is not None and not matcher.ready:
                sequence.row = _copied(address, self.model.n_vocab)
            elif matcher is not None and matcher.error is not None:
                if sequence.slot >= 0:
                    self._fail(sequence.request_id, _beyond(matcher))
            else:
                ready.append(sequence)
                found.append(address)
        if any(sequence.slot < 0 for sequence in ready):  # siblings of one that failed
            pairs = [p for p in zip(ready, found, strict=True) if p[0].slot >= 0]
            return [s for s, _ in pairs], [a for _, a in pairs]
        return ready, found

    def _draw_late(self, idle: bool) -> None:
        """Draw for those whose masks were not there when their logits were."""
        late = [s for s in self.scheduler.running if s.row is not None]
        if not late:
            return
        if idle:
            self._masks.wait([s.matcher for s in late if s.matcher is not None], _IDLE_SECONDS)
        late = [s for s in late if s.matcher is not None and s.matcher.ready]
        rows = [s.row for s in late]  # alive until they were read
        for sequence in late:
            sequence.row = None
        self._draw(late, [row.ctypes.data for row in rows if row is not None])

    def _push(self, sequence: Sequence, result: SampleResult) -> None:
        token = result.token
        logprobs: tuple[TokenLogprob, ...] = ()
        if sequence.request.top_logprobs is not None:
            logprobs = (drawn_token(self.model, result),)
        piece = sequence.visible.get(token) or self.model.piece(token)
        delta: Delta = sequence.advance(token, piece, token in self.model.eog_ids, logprobs)
        self._events.append(delta)
        if delta.finish_reason is not None:
            self.scheduler.release(sequence)


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
    """A row of logits that outlives the next decode."""
    return np.ctypeslib.as_array((ctypes.c_float * n_vocab).from_address(address)).copy()
