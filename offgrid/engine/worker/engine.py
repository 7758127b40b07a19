"""The loop: admit, plan, decode, sample, push, for all running sequences at once.

An :class:`Engine` works the same in a worker process and in a test: it takes requests by method
call and passes events to a function. One thread calls :meth:`Engine.run` (or :meth:`Engine.step`);
:meth:`prepare`, :meth:`submit` and :meth:`cancel` may be called from other threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from offgrid.engine.memory import MIB
from offgrid.engine.protocol.events import EngineEvent, Started, TokenResult
from offgrid.engine.protocol.requests import GenerationRequest, TokenQuery
from offgrid.engine.worker.batching import FilledBatch, build_batch
from offgrid.engine.worker.branches import Branches
from offgrid.engine.worker.cache.keeper import Keeper
from offgrid.engine.worker.cache.tiers import Fetch, Tiers
from offgrid.engine.worker.checkpoints import Checkpoints
from offgrid.engine.worker.drafts.model import DraftModel
from offgrid.engine.worker.drafts.planner import Planner
from offgrid.engine.worker.drawing import Drawing
from offgrid.engine.worker.embedder import Embedder, EmbeddingJob
from offgrid.engine.worker.failures import MAX_FAILURES, EngineBroken, Failures
from offgrid.engine.worker.images import Images
from offgrid.engine.worker.llama.errors import DecodeError
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Masks
from offgrid.engine.worker.outbox import Outbox
from offgrid.engine.worker.pace import Pace
from offgrid.engine.worker.prepare import Prepared, Preparer
from offgrid.engine.worker.progress import WaitReports, report_prefill
from offgrid.engine.worker.prompts import answer
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.scheduler.slots import Placement
from offgrid.engine.worker.scoring import SCORED_BYTES
from offgrid.engine.worker.sequence import Sequence, Status
from offgrid.engine.worker.spans import BatchSpan
from offgrid.engine.worker.threads.control import Kind
from offgrid.engine.worker.threads.loop import LoopThreads

_PREFILL_SHARE = 8
"""Until the cost of prefill is known, a step that also decodes streams spends at most this fraction
(1/8) of its batch on prefill."""
_IDLE_SECONDS = 0.05
"""Longest wait for a mask or an image when there is nothing else to do. After it, the loop checks
for cancels."""
_GATHER_SECONDS = 0.01


class Engine:
    """Generates for many requests at once on one :class:`~offgrid.engine.worker.llama.model.Model`.

    Args:
        model: computes logits. Tests also pass stand-ins that fail on purpose.
        emit: receives all events of a step, in order, on the thread that runs the loop.
        expecting: returns whether more requests are about to be submitted.
        masks: computes the masks of grammars. Tests pass an object whose masks are late.
        hold: most seconds that a token may wait for those of later steps.
        draft_model: proposes tokens for all sequences, or None.
        tiers: where the contents of slots are saved; None to save none.
        row_costs: those of an earlier load; see :attr:`row_costs`.
    """

    def __init__(
        self,
        model: Model,
        emit: Callable[[tuple[EngineEvent, ...]], None],
        expecting: Callable[[], bool] = lambda: False,
        masks: Masks | None = None,
        hold: float = 0.0,
        draft_model: DraftModel | None = None,
        tiers: Tiers | None = None,
        row_costs: Mapping[int, float] | None = None,
    ) -> None:
        self.model = model
        self._outbox = Outbox(emit, hold)
        capacity = model.batch.capacity
        self._pace = Pace(max(1, capacity // _PREFILL_SHARE), capacity)
        self.scheduler: Scheduler[Sequence] = Scheduler(
            model.n_parallel,
            capacity,
            model.n_ctx,
            max(1, min(capacity, SCORED_BYTES // (4 * model.n_vocab))),
            model.can_cut,
            tiers,
            Checkpoints(model.load.checkpoints_mb * MIB, window=model.window, oldest=model.oldest),
        )
        self._keeper = Keeper(model, tiers)
        self._planner = Planner(model.n_vocab, capacity, draft_model, row_costs)
        self._draft_model = draft_model
        self._failures = Failures(model, self.scheduler, self._outbox)
        self._drawing = Drawing(
            model, self.scheduler, self._failures, self._outbox, masks or Masks()
        )
        self._branches = Branches(model, self.scheduler, self._keeper, self._failures, self._outbox)
        self._images = Images(model, self.scheduler, self._failures, self._outbox)
        self.threads = LoopThreads(model.load.threads)
        self.embedder = Embedder(model, emit, self.threads)
        self._preparer = Preparer(model)
        self._reports = WaitReports()
        self.filters = self._preparer.filters
        self._inbox: deque[Prepared | EmbeddingJob | int | tuple[int, int]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._expecting = expecting
        self.step_began: float | None = None
        """When the running step began (``time.monotonic``), None while the loop waits."""
        self.steps = 0
        """Steps that have ended."""
        self.prefilled = 0
        """Tokens of prompts that were computed."""

    # --- from any thread ----------------------------------------------------------------------

    @property
    def generated(self) -> int:
        """Tokens that were sampled."""
        return self._drawing.sampled

    @property
    def is_idle(self) -> bool:
        """Whether the loop waits for requests."""
        return self.step_began is None and not self._inbox

    def ready_grammars(self) -> None:
        """Build what requests with grammars need, so that the first of them does not wait for it.

        With a large vocabulary, this holds Python's lock for seconds, so that nothing else runs.
        """
        self._preparer.ready()

    def prepare(self, id: int, request: GenerationRequest) -> Prepared:
        """Tokenise and check a request without touching the loop.

        Raises:
            InvalidParameter, ContextLengthExceeded: see :meth:`Preparer.prepare`.
        """
        return self._preparer.prepare(id, request)

    def look_up(self, id: int, query: TokenQuery) -> TokenResult:
        """Answer a token query, on the thread that prepares requests.

        Raises:
            InvalidParameter, ContextLengthExceeded: see
                :func:`offgrid.engine.worker.prompts.answer`.
        """
        return answer(self.model, id, query)

    def submit(self, prepared: Prepared | EmbeddingJob) -> None:
        """Put a prepared request into the queue."""
        self._post(prepared)

    def cancel(self, id: int) -> None:
        """Remove a request at the next step, whatever its status. Unknown ids are ignored."""
        self._post(id)

    def end(self, id: int, choice: int) -> None:
        """End one choice of a request at the next step, as if the model had ended its answer.
        Unknown ids, and choices that have ended, are ignored."""
        self._post((id, choice))

    def nudge(self) -> None:
        """Make the loop check again whether more requests are expected."""
        with self._wake:
            self._wake.notify()

    def stop(self) -> None:
        """Make :meth:`run` return after its current step."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def _post(self, item: Prepared | EmbeddingJob | int | tuple[int, int]) -> None:
        with self._wake:
            self._inbox.append(item)
            self._wake.notify()

    # --- the loop's thread --------------------------------------------------------------------

    def run(self) -> None:
        """Step while there is work; sleep while there is none.

        Raises:
            EngineBroken: llama.cpp failed several times in a row.
        """
        while True:
            if not self._await_work():
                return
            self._gather()
            self.step_began = time.monotonic()
            self.step()

    def _await_work(self) -> bool:
        """Wait until there is something to do; return False if it is time to stop. After a while
        without requests, save what the slots hold."""
        while True:
            with self._wake:
                if self._stopping:
                    return False
                if self._inbox or self.has_work:
                    return True
                self.step_began = None
                waited = self._wake.wait(self._keeper.pause(self.scheduler.idle))
            if not waited:
                self._obey()
                self._keeper.write_one(self.scheduler.idle, self.scheduler.checkpoints)

    @property
    def saves(self) -> bool:
        """Whether :meth:`save_all` may have something to write."""
        return self._keeper.tiers is not None and self._keeper.tiers.on_disk

    @property
    def row_costs(self) -> dict[int, float]:
        """What decode calls cost by their number of rows, relative to one row, as far as drafts
        have shown. After :meth:`run`."""
        return self._planner.pace.costs.known

    def save_all(self, until: float) -> None:
        """Write what slots and memory hold to disk, until ``time.monotonic()`` has reached a
        value. After :meth:`run`; answers that were running end here."""
        for sequence in (*self.scheduler.waiting, *self.scheduler.running):
            self.scheduler.cancel(sequence.request_id)
        self._obey()
        self._keeper.write_all(self.scheduler.idle, self.scheduler.checkpoints, until)

    def _obey(self) -> None:
        """Empty the idle slots if somebody has deleted all saved prefixes."""
        if self._keeper.obeys():
            for slot in self.scheduler.idle.clear():
                self.model.forget(slot)
                self.scheduler.checkpoints.clear(slot)

    @property
    def has_work(self) -> bool:
        """Whether another step has something to do."""
        return self.scheduler.has_work or self.embedder.has_work

    def _gather(self) -> None:
        """If nothing runs, wait a moment for requests that are being tokenised.

        Prompts of simultaneous requests are then prefilled in one call. Otherwise the first request
        would already stream, and the other prompts would be prefilled in short chunks.
        """
        if self.scheduler.has_work:
            return
        until = time.monotonic() + _GATHER_SECONDS
        with self._wake:
            while self._expecting() and (left := until - time.monotonic()) > 0:
                self._wake.wait(left)

    def step(self) -> bool:
        """Take new requests, admit, plan, decode one batch, sample its tokens, push the events.

        Inputs to be embedded are computed in a separate batch.

        Returns:
            Whether anything is left to compute.
        """
        self._take_inbox()
        if self.scheduler.waiting:  # what is evicted for them may have to be forgotten
            self._obey()
        placements = self.scheduler.admit()
        if placements:  # saving and restoring prefixes takes longer than what is held may wait
            self._outbox.push()
        self._begin_all(placements)
        # The server must know which prompts are computed now before one of them can end the
        # process.
        self._outbox.push_new()
        share = self._prefill_share()
        spans = self.scheduler.plan(prefill=share, burst=self._pace.burst_tokens)
        began = time.perf_counter()
        if self.scheduler.can_cut_tail:
            spans = self._planner.extend(spans)
        if self.embedder.has_work or any(span.count > 1 for span in spans):
            self._outbox.push()  # this step takes longer than what is held may wait
        self._choose_threads(spans)
        batches = []
        for batch in self._decode(spans):
            for span in batch.spans:
                if span.start < span.sequence.n_prompt:
                    report_prefill(span.sequence, self._outbox)
            self._drawing.sample(batch)
            self._branches.follow(batch.branched)
            batches.append(batch)
        if spans:
            self._observe(spans, batches, time.perf_counter() - began)
        patience = 0.0 if spans else _IDLE_SECONDS
        self._drawing.sample_late(patience)
        self._keeper.wait(patience)
        if self.embedder.has_work:
            self._embed(share if spans else None)
        self._reports.report(self.scheduler, self._outbox, time.monotonic())
        if spans and self.has_work:
            self._outbox.push_or_hold(time.perf_counter() - began)
        else:
            self._outbox.push()
        self._drawing.start_masks()
        self._take_checkpoints()
        self._images.step(patience)
        self.steps += 1
        return self.has_work

    def _prefill_share(self) -> int:
        """Return how many tokens of prompts this step may prefill beside the streams. If there are
        inputs to be embedded, prompts and inputs get half each."""
        # While streams draft, prefill gets more tokens, and so the same share of the time.
        share = int(self._pace.prefill_tokens(*self.scheduler.counts()) * self._planner.slowdown)
        return max(1, share // 2) if self.embedder.has_work else share

    def _choose_threads(self, spans: list[BatchSpan[Sequence]]) -> None:
        if spans:
            tokens = sum(span.size for span in spans)
            kind = Kind.PREFILL if any(span.count > 1 for span in spans) else Kind.DECODE
            context = max(span.start + span.size for span in spans)
            self.model.use_threads(self.threads.begin(kind, tokens, context))
            if self._draft_model is not None:
                self._draft_model.use_threads(self.threads.in_use[0])

    def _observe(
        self, spans: list[BatchSpan[Sequence]], batches: list[FilledBatch], seconds: float
    ) -> None:
        decoding = sum(span.count == 1 for span in spans)
        prefilling = sum(span.count for span in spans) - decoding
        self.prefilled += prefilling
        if not self.threads.end():
            return  # a trial: its times are not those of other steps
        # What drafts add to the streams' time is not prefill's.
        added = self._pace.streams * (self._planner.slowdown - 1)
        self._pace.observe(decoding, prefilling, max(seconds - added, 0.0))
        if not decoding:
            self._keeper.computed(prefilling, seconds)
        if len(batches) == 1 and not prefilling:
            self._planner.observe(batches[0], seconds)

    def _decode(self, spans: list[BatchSpan[Sequence]]) -> Iterator[FilledBatch]:
        """Decode spans and yield each batch. The caller samples from it before it takes the next.

        There is one batch unless llama.cpp refuses it: see :meth:`Failures.after_decode`.
        """
        left = [spans] if spans else []
        while left:
            batch = build_batch(self.model, self.scheduler, left.pop(0))
            try:
                batch.decode()
            except DecodeError as ex:
                left = self._failures.after_decode(batch, ex) + left
            else:
                self._failures.reset()
                self.scheduler.record(batch.spans)
                for slot, position in batch.bridges:
                    self.model.cut(slot, position)
                yield batch
            # A failure may have ended or preempted sequences whose spans are still to be tried.
            left = [rest for spans in left if (rest := _still_planned(spans))]

    def _embed(self, budget: int | None) -> None:
        for event in self.embedder.step(budget):
            self._outbox.add(event)
        if self.embedder.failures >= MAX_FAILURES:
            self._outbox.push()
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
            elif isinstance(item, tuple):
                ended = {one.choice: one for one in self.scheduler.cancel(*item)}
                for sequence in ended.values():
                    for delta in sequence.end():
                        self._outbox.add(delta)
            else:
                self._drop(item)

    def _begin_all(self, placements: list[Placement[Sequence]]) -> None:
        """Prepare the slots of admitted sequences."""
        emptied: set[int] = set()
        for placement in placements:
            sequence, slot = placement.sequence, placement.sequence.slot
            if placement.lost is not None:
                self._keeper.save(*placement.lost)
            self._rescue(placement)
            parked = sequence.status is Status.PARKED
            if sequence.choice == 0:
                self._outbox.add(Started(sequence.request_id, computing=not parked))
            if parked:
                continue
            sequence.stopwatch.begin()
            emptied.discard(slot)
            if placement.source in emptied or not self._fill(placement):
                self.model.forget(slot)
                emptied.add(slot)  # the next ones may have been placed to begin after its prefix
                if self.scheduler.can_cut and placement.fetched is None:
                    self.scheduler.cannot_cut(sequence)
                else:
                    self.scheduler.start_over(sequence)
            report_prefill(sequence, self._outbox)

    def _rescue(self, placement: Placement[Sequence]) -> None:
        """Copy the old content of a slot to the slot that was chosen for it."""
        if placement.rescue is not None:
            self.model.forget(placement.rescue)
            self.model.copy(
                placement.sequence.slot, placement.rescue, at_once=not self.scheduler.can_cut
            )

    def _fill(self, placement: Placement[Sequence]) -> bool:
        """Let a slot hold the prefix after which its sequence begins; return whether it does."""
        sequence, slot = placement.sequence, placement.sequence.slot
        position = sequence.position(placement.keep)
        if isinstance(placement.fetched, Fetch):
            return self._restore(placement.fetched, slot, position)
        checkpoint = placement.checkpoint
        if placement.source != slot:
            self.model.forget(slot)
        if placement.source is None:
            return True
        if placement.source != slot:
            self.model.copy(placement.source, slot, at_once=checkpoint is not None)
        if checkpoint is None:
            return self.model.cut(slot, position)
        return self.model.restore(slot, checkpoint.state, position)

    def _restore(self, fetched: Fetch, slot: int, position: int) -> bool:
        """Put a saved prefix into a slot, with its checkpoint; return whether that was done."""
        if not self._keeper.restore(fetched, slot, position):
            return False
        prefix, state = fetched.prefix, fetched.state
        if prefix.mark and state is not None:
            checkpoint = prefix.parts(state)[1].copy()
            self.scheduler.checkpoints.add(slot, prefix.tokens[: prefix.mark], checkpoint)
        return True

    def _take_checkpoints(self) -> None:
        """Copy what later sequences may begin with, if the model cannot cut its sequences."""
        for sequence in self.scheduler.due():
            state = self.model.save_checkpoint(sequence.slot)
            self.scheduler.checkpoints.add(
                sequence.slot, sequence.tokens[: sequence.computed], state
            )

    def _drop(self, request_id: int) -> None:
        self.scheduler.cancel(request_id)
        self.embedder.cancel(request_id)


def _still_planned(spans: list[BatchSpan[Sequence]]) -> list[BatchSpan[Sequence]]:
    """Return the spans of sequences that have neither ended nor been preempted since the plan."""
    in_batches = (Status.DECODING, Status.PREFILL)
    return [span for span in spans if span.sequence.status in in_batches]
