"""Failed computations: which requests end, what is tried again, and when the worker gives up.

A failure ends only the requests in the failed computation. If llama.cpp has no free memory cell, no
request ends as long as an idle slot can be evicted or a sequence preempted.
"""

from __future__ import annotations

import dataclasses
import logging

from offgrid.engine.protocol.events import Failed
from offgrid.engine.worker.batching import FilledBatch
from offgrid.engine.worker.llama.errors import DecodeError
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.outbox import Outbox
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Sequence
from offgrid.engine.worker.spans import BatchSpan
from offgrid.errors import EngineFault, RequestError, SamplingError

log = logging.getLogger(__name__)

MAX_FAILURES = 2
"""Failed computations in a row after which the process cannot be trusted any more."""


class EngineBroken(Exception):
    """llama.cpp fails repeatedly; only a new process helps."""


class Failures:
    """Ends requests that failed, makes room for others to continue, and counts failures."""

    def __init__(self, model: Model, scheduler: Scheduler[Sequence], outbox: Outbox) -> None:
        self._model = model
        self._scheduler = scheduler
        self._outbox = outbox
        self._in_a_row = 0

    def fail(self, request_id: int, error: RequestError) -> None:
        """End all sequences of a request, and tell its client why."""
        self._scheduler.cancel(request_id)
        self._outbox.add(Failed.of(request_id, error))

    def fail_rows(self, sequence: Sequence, error: SamplingError) -> None:
        """End the request of a sequence whose logits are unusable."""
        log.error("request %s: %s", sequence.name, error)
        fault = EngineFault(f"No token can be sampled from the logits of the model: {error}")
        id = sequence.request_id
        slots = [one.slot for one in self._scheduler.running if one.request_id == id]
        self.fail(id, fault)
        for slot in slots:  # what they hold may be the reason
            self._scheduler.forget(slot)

    def reset(self) -> None:
        """Note that a computation has succeeded."""
        self._in_a_row = 0

    def count(self, error: DecodeError) -> None:
        """Note that a computation has failed and its requests have ended.

        Raises:
            EngineBroken: it was the :data:`MAX_FAILURES`-th failure in a row.
        """
        self._in_a_row += 1
        if self._in_a_row >= MAX_FAILURES:
            self._outbox.push()
            raise EngineBroken(f"{self._in_a_row} failures in a row, last: {error}")

    def after_decode(
        self, batch: FilledBatch, error: DecodeError
    ) -> list[list[BatchSpan[Sequence]]]:
        """Decide what to try after a failed decode, and end requests if nothing is left to try.

        Returns:
            Lists of spans to try instead, each in a separate batch. Their sequences may have ended,
            or been preempted, by then.

        Raises:
            EngineBroken: see :meth:`count`.
        """
        spans = batch.spans
        if error.retriable and any(span.draft for span in spans):
            return [[dataclasses.replace(span, draft=()) for span in spans]]
        log.error("decode of %d spans failed: %s", len(spans), error)
        if error.no_room and self.make_room():
            return [spans]
        if error.retriable and len(spans) > 1:
            return [[span] for span in spans]
        fault = EngineFault("The model failed to compute this request.")
        slots = [*(slot for slot, _ in batch.bridges), *(span.sequence.slot for span in spans)]
        for request_id in dict.fromkeys(span.sequence.request_id for span in spans):
            self.fail(request_id, fault)
        for slot in slots:
            self._scheduler.forget(slot)
        self.count(error)
        return []

    def make_room(self) -> bool:
        """Free memory cells: end dispensable sequences and evict all idle slots or, if they are
        empty, preempt the youngest sequence of the caller that has the most slots.

        No token is lost: a preempted sequence is computed again later.

        Returns:
            Whether cells were freed, so that another try makes sense.
        """
        self._scheduler.withdraw(len(self._scheduler.running))
        emptied = self._scheduler.idle.clear()
        for slot in emptied:
            self._model.forget(slot)
            self._scheduler.checkpoints.clear(slot)
        if emptied:
            return True
        youngest = self._scheduler.to_preempt()
        if youngest is None:
            return False
        slot = youngest.slot
        youngest.pending_logits = None  # its logits are computed again
        self._scheduler.preempt(youngest)
        self._model.forget(slot)
        return True
