"""The answers of ``/v1/completions``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from offgrid.api.shapes import Answer, Count, Logprob, PromptLogprobs, Usage
from offgrid.api.timings import Progress, Timings

FinishReason = Literal["stop", "length", "content_filter"]
TextId = Annotated[str, Meta(pattern="^cmpl-[0-9a-f]{28}$")]


class TextLogprobs(Answer):
    """Four lists of equal length, one entry for each token. The entries of an echoed prompt's first
    token are null, except its text and offset."""

    tokens: list[str]
    token_logprobs: list[Logprob | None]
    top_logprobs: list[dict[str, Logprob] | None]
    text_offset: list[Count]


class TextChoice(Answer):
    text: str
    index: Count
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class TextCompletion(Answer):
    """Continuations of texts. A choice's index is prompt number times ``n`` plus choice."""

    id: TextId
    object: Literal["text_completion"]
    created: Count
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage
    timings: Timings


class TextChunkChoice(Answer):
    text: str
    index: Count
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class TextCompletionChunk(Answer):
    """An event of a streamed continuation; ``usage``, ``timings`` and ``prompt_progress`` are
    present as in the chunks of chat."""

    id: TextId
    object: Literal["text_completion"]
    created: Count
    model: str
    system_fingerprint: str
    choices: Annotated[list[TextChunkChoice], Meta(max_length=1)]
    usage: Usage | UnsetType | None = UNSET
    obfuscation: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: Progress | UnsetType = UNSET
