"""Tells clients that want to know how far the prefill of their prompt is."""

from __future__ import annotations

from offgrid.engine.protocol import Delta, PromptProgress
from offgrid.engine.worker.outbox import Outbox
from offgrid.engine.worker.sequence import Sequence


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
