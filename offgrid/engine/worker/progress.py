"""Tells clients how far the prefill of their prompt is, and how long they have to wait."""

from __future__ import annotations

from offgrid.engine.protocol.events import Delta, PromptProgress, Queued
from offgrid.engine.worker.outbox import Outbox
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Sequence, Status

REPORT_SECONDS = 1.0
"""Seconds between two reports to the requests that wait."""


def report_prefill(sequence: Sequence, outbox: Outbox) -> None:
    """Emit how much of a prompt is computed, if its request wants to know and its answer has not
    begun. Choices share their prompt, so only the first one reports."""
    if not sequence.request.return_progress or sequence.choice or sequence.completion_tokens:
        return
    processed = min(sequence.computed, sequence.n_prompt)
    progress = PromptProgress(processed, sequence.stopwatch.prompt_ms)
    outbox.add(
        Delta(
            sequence.request_id,
            sequence.choice,
            "",
            0,
            cached_tokens=sequence.cached,
            progress=progress,
        )
    )


class WaitReports:
    """Tells the server the places of waiting requests in the queue, and how far prompts are."""

    def __init__(self) -> None:
        self._next = 0.0

    def report(self, scheduler: Scheduler[Sequence], outbox: Outbox, now: float) -> None:
        """Emit one event for each request that wants to know and has no token yet, if the last
        events were :data:`REPORT_SECONDS` ago.

        Args:
            scheduler: knows the sequences.
            outbox: takes the events.
            now: monotonic seconds.
        """
        if now < self._next:
            return
        self._next = now + REPORT_SECONDS
        if scheduler.waiting:
            order = scheduler.waiting.order(scheduler.running)
            for position, sequence in enumerate(order, 1):
                if _wants(sequence):
                    outbox.add(Queued(sequence.request_id, position, len(order)))
        for sequence in scheduler.running:
            if sequence.status in (Status.PARKED, Status.PREFILL) and _wants(sequence):
                processed = min(sequence.computed, sequence.n_prompt)
                outbox.add(Queued(sequence.request_id, processed=processed))


def _wants(sequence: Sequence) -> bool:
    """Whether a sequence stands for its request, which waits for its first token."""
    first = sequence.choice == 0 and not sequence.completion_tokens
    return first and sequence.request.report_wait
