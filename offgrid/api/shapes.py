"""What the answers of several endpoints share, for the OpenAPI document.

Resources build their answers as plain objects, token by token where it counts; these types say what
comes of it, and tests hold every answer against them. Nothing else may be in an answer than what is
named in its type. A field with the default ``UNSET`` may be absent.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0)]
Byte = Annotated[int, Meta(ge=0, le=255)]
Logprob = Annotated[float, Meta(le=0)]


class Answer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all answers: no field but those named."""


class ErrorDetail(Answer):
    """What is wrong, and which field of the request is at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Answer):
    """The answer to every request that fails; in a stream, the last event of one that fails."""

    error: ErrorDetail


class PromptTokensDetails(Answer):
    cached_tokens: Annotated[int, Meta(ge=0, description="Not computed again.")]
    audio_tokens: Literal[0]


class CompletionTokensDetails(Answer):
    reasoning_tokens: Count
    audio_tokens: Literal[0]
    accepted_prediction_tokens: Literal[0]
    rejected_prediction_tokens: Literal[0]


class Usage(Answer):
    """Tokens of all prompts and all answers of a request."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class PromptLogprob(Answer):
    """A token at a place of the prompt; ``rank`` 1 is the likeliest."""

    logprob: Logprob
    rank: Count
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""For each token a map from token ids; null for the first, which nothing goes before."""


class InputUsage(Answer):
    """Tokens of all inputs."""

    prompt_tokens: Count
    total_tokens: Count


class InputTokens(Answer):
    """What ``usage.prompt_tokens`` of the request would be."""

    object: Literal["response.input_tokens"]
    input_tokens: Count
