"""``timings`` and ``prompt_progress``, as llama-server's answers have them."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from offgrid.api.shapes import Answer, Count, Json
from offgrid.engine.protocol.events import Delta

Number = Annotated[float, Meta(ge=0)]


class Timings(Answer):
    """Tokens, and milliseconds of computation: of prompts, and of answers after their first tokens.

    With several prompts or choices, tokens and times are those of all of them added up, so the
    speeds are those of a single answer.
    """

    cache_n: Annotated[int, Meta(ge=0, description="Prompt tokens that were cached.")]
    prompt_n: Annotated[int, Meta(ge=0, description="The other prompt tokens.")]
    prompt_ms: Number
    prompt_per_token_ms: Number
    prompt_per_second: Number
    predicted_n: Annotated[int, Meta(ge=0, description="Tokens of the answers.")]
    predicted_ms: Number
    predicted_per_token_ms: Number
    predicted_per_second: Number
    draft_n: Annotated[int, Meta(ge=1, description="Proposed tokens.")] | UnsetType = UNSET
    draft_n_accepted: (
        Annotated[int, Meta(ge=0, description="Proposed tokens in the answers.")] | UnsetType
    ) = UNSET


class Progress(Answer):
    """How far the prefill of a prompt is: ``processed`` of ``total`` tokens in ``time_ms``
    milliseconds; ``cache`` of them were cached."""

    total: Count
    cache: Count
    processed: Count
    time_ms: Count


class Clock:
    """Adds up the times of a request's choices."""

    def __init__(self) -> None:
        self._prompts: dict[int, float] = {}
        self._answers: dict[int, float] = {}
        self._drafts: dict[int, tuple[int, int]] = {}
        """Choice -> proposed tokens, and those that are in the answer."""

    def add(self, index: int, delta: Delta) -> None:
        """Note the times and drafts of a choice so far.

        Args:
            index: of the choice in the whole request.
            delta: its latest one. The first choice of each prompt computes the prompt.
        """
        if delta.times is None:
            return
        if delta.choice == 0:
            self._prompts[index] = delta.times.prompt_ms
        self._answers[index] = delta.times.answer_ms
        self._drafts[index] = (delta.drafted, delta.draft_accepted)

    def timings(self, prompt_tokens: int, cached_tokens: int, answers: list[int]) -> Json:
        """Return the ``timings`` object.

        Args:
            prompt_tokens: of all prompts.
            cached_tokens: how many of these were cached.
            answers: tokens of each choice.
        """
        prompt_ms, answer_ms = sum(self._prompts.values()), sum(self._answers.values())
        # The first token of an answer comes from the logits of the prompt.
        steps = sum(max(0, tokens - 1) for tokens in answers)
        computed = prompt_tokens - cached_tokens
        timings: Json = {
            "cache_n": cached_tokens,
            "prompt_n": computed,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": _ratio(prompt_ms, computed),
            "prompt_per_second": _ratio(1000.0 * computed, prompt_ms),
            "predicted_n": sum(answers),
            "predicted_ms": answer_ms,
            "predicted_per_token_ms": _ratio(answer_ms, steps),
            "predicted_per_second": _ratio(1000.0 * steps, answer_ms),
        }
        if any(drafted := [drafted for drafted, _ in self._drafts.values()]):
            accepted = sum(accepted for _, accepted in self._drafts.values())
            timings |= {"draft_n": sum(drafted), "draft_n_accepted": accepted}
        return timings


def _ratio(value: float, by: float) -> float:
    return value / by if by > 0 else 0.0


def with_progress(chunk: Json, delta: Delta, prompt_tokens: int) -> Json:
    """Return a chunk or event with the ``prompt_progress`` of a delta.

    Args:
        chunk: what it is added to.
        delta: has ``progress``.
        prompt_tokens: of its prompt.
    """
    assert delta.progress is not None
    progress = {
        "total": prompt_tokens,
        "cache": delta.cached_tokens,
        "processed": delta.progress.processed,
        "time_ms": int(delta.progress.ms),
    }
    return {**chunk, "prompt_progress": progress}
