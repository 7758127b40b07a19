"""What became of a request that was closed, for its record."""

from __future__ import annotations

from collections import Counter

from offgrid.engine.client.pending import Embedding, Generation, Pending, State
from offgrid.engine.protocol.events import Delta
from offgrid.record import Outcome


def outcome_of(pending: Pending, model: str) -> Outcome:
    """Return what became of a request.

    Args:
        pending: it was closed.
        model: id of the model.
    """
    if isinstance(pending, Generation):
        return _of_generation(pending, model)
    error = pending.error
    status, code = (error.status, error.code or "") if error is not None else (0, "")
    tokens = pending.prompt_tokens if isinstance(pending, Embedding) else 0
    return Outcome(model, tokens, generates=False, status=status, code=code)


def _of_generation(generation: Generation, model: str) -> Outcome:
    moments = generation.moments
    began, started = moments[State.WAITING], moments[State.STARTED]
    first = moments[State.ANSWERING] or None
    latest = generation.latest
    error = generation.error
    finished = Counter(
        (latest[choice].finish_reason if choice in latest else None)
        or ("abort" if error is None else "error")
        for choice in range(generation.command.request.n)
    )
    # Choices share the prefix of their prompt, which the first one computes.
    head = latest.get(0)
    return Outcome(
        model,
        generation.prompt_tokens,
        0 if head is None else head.cached_tokens,
        sum(delta.completion_tokens for delta in latest.values()),
        sum(max(0, delta.completion_tokens - 1) for delta in latest.values()),
        tuple(finished.items()),
        sum(delta.drafted for delta in latest.values()),
        sum(delta.draft_accepted for delta in latest.values()),
        max(0.0, started - began) if started else None,
        first,
        _prefill(head, started, first),
        sum(_decode(delta, first, moments[State.COMPLETE]) for delta in latest.values()),
        status=0 if error is None else error.status,
        code="" if error is None else error.code or "",
    )


def _prefill(head: Delta | None, started: float, first: float | None) -> float | None:
    """Return the seconds of the prompt, as the worker measured them if the answer is complete."""
    if head is not None and head.times is not None:
        return head.times.prompt_ms / 1000.0
    return max(0.0, first - started) if first and started else None


def _decode(delta: Delta, first: float | None, last: float) -> float:
    """Return the seconds of a choice after its first token."""
    if delta.times is not None:
        return delta.times.answer_ms / 1000.0
    return max(0.0, last - first) if first and last else 0.0
