"""Types that the answers of several endpoints share, for the OpenAPI document.

Resources build their answers as plain dictionaries, for speed. These types describe the result, and
tests check every answer against them. An answer has no fields but those of its type. A field with
the default ``UNSET`` may be absent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Json = dict[str, Any]
"""A JSON object."""
Count = Annotated[int, Meta(ge=0)]
Byte = Annotated[int, Meta(ge=0, le=255)]
Logprob = Annotated[float, Meta(le=0)]


class Answer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of all answers; they have no other fields than the named ones."""


class ErrorDetail(Answer):
    """The reason of the error, and the field of the request at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(Answer):
    """The answer to every request that fails, and the last event of a stream that fails."""

    error: ErrorDetail


class PromptTokensDetails(Answer):
    cached_tokens: Annotated[int, Meta(ge=0, description="Not computed again.")]
    audio_tokens: Literal[0]


class CompletionTokensDetails(Answer):
    reasoning_tokens: Count
    audio_tokens: Literal[0]
    accepted_prediction_tokens: Annotated[
        int, Meta(ge=0, description="Tokens of the prediction that the answers contain.")
    ]
    rejected_prediction_tokens: Annotated[
        int, Meta(ge=0, description="The other tokens of the prediction.")
    ]


class Usage(Answer):
    """Tokens of all prompts and all answers of a request."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class PromptLogprob(Answer):
    """A token at a position of the prompt; the likeliest has ``rank`` 1."""

    logprob: Logprob
    rank: Count
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""For each token a map from token ids; null for the first, which has no token before it."""


class InputUsage(Answer):
    """Tokens of all inputs."""

    prompt_tokens: Count
    total_tokens: Count


class InputTokens(Answer):
    """The value that ``usage.prompt_tokens`` of the request would have."""

    object: Literal["response.input_tokens"]
    input_tokens: Count
