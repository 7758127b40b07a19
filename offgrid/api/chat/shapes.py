"""The answers of ``/v1/chat/completions``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from offgrid.api.fields.tiers import Tier
from offgrid.api.shapes import Answer, Byte, Count, Logprob, PromptLogprobs, Usage
from offgrid.api.timings import Progress, Timings


class TopLogprob(Answer):
    """An alternative: another likely token at this position."""

    token: str
    logprob: Logprob
    bytes: list[Byte]


class ChatTokenLogprob(TopLogprob):
    """A token of the answer. Its bytes may be only a part of a character."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    content: list[ChatTokenLogprob]
    refusal: None


ChatFinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
CallId = Annotated[str, Meta(pattern="^call_[0-9a-f]{24}$")]


class CalledFunction(Answer):
    """The function's name, and its arguments as a string of JSON."""

    name: str
    arguments: str


class AnswerToolCall(Answer):
    id: CallId
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Answer):
    """The message of an answer. ``content`` is null if there are calls and no text."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: Annotated[list[str], Meta(max_length=0)]
    reasoning_content: str | UnsetType = UNSET
    tool_calls: Annotated[list[AnswerToolCall], Meta(min_length=1)] | UnsetType = UNSET


class ChatChoice(Answer):
    index: Count
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason


ChatId = Annotated[str, Meta(pattern="^chatcmpl-[0-9a-f]{28}$")]


class ChatCompletion(Answer):
    """The next message of a conversation."""

    id: ChatId
    object: Literal["chat.completion"]
    created: Count
    model: str
    service_tier: Tier
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class FunctionFragment(Answer):
    """A part of a function call: first the name, then the arguments, in several chunks."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallFragment(Answer):
    """A part of a tool call; only a call's first part has ``id`` and ``type``."""

    index: Count
    function: FunctionFragment
    id: CallId | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Answer):
    """The delta of a choice: first the role, then text or calls; empty in its last chunk."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: Annotated[list[ToolCallFragment], Meta(min_length=1, max_length=1)] | UnsetType = (
        UNSET
    )
    refusal: UnsetType | None = UNSET


class ChatChunkChoice(Answer):
    index: Count
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinishReason | None


class ChatCompletionChunk(Answer):
    """An event of a streamed chat answer. ``usage`` is present only with ``include_usage``: it is
    null except in the last chunk, which has the token counts and no choices. The last chunk has
    ``timings``; with ``timings_per_token``, all chunks do after the first token. With
    ``return_progress``, chunks with ``prompt_progress`` come before."""

    id: ChatId
    object: Literal["chat.completion.chunk"]
    created: Count
    model: str
    service_tier: Tier
    system_fingerprint: str
    choices: Annotated[list[ChatChunkChoice], Meta(max_length=1)]
    usage: Usage | UnsetType | None = UNSET
    obfuscation: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: Progress | UnsetType = UNSET
