"""What ``/v1/chat/completions`` answers; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from offgrid.api.shapes import Answer, Byte, Count, Logprob, PromptLogprobs, Usage


class TopLogprob(Answer):
    """A token that could have been."""

    token: str
    logprob: Logprob
    bytes: list[Byte]


class ChatTokenLogprob(TopLogprob):
    """A token of the answer. Its bytes may be a part of a character only."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    content: list[ChatTokenLogprob]
    refusal: None


ChatFinishReason = Literal["stop", "length", "tool_calls"]
CallId = Annotated[str, Meta(pattern="^call_[0-9a-f]{24}$")]


class CalledFunction(Answer):
    """Name, and arguments as JSON in a string."""

    name: str
    arguments: str


class AnswerToolCall(Answer):
    id: CallId
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Answer):
    """``content`` is null when there is nothing but calls."""

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
    service_tier: Literal["default"]
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET


class FunctionFragment(Answer):
    """The name comes first, then the arguments piece by piece."""

    arguments: str
    name: str | UnsetType = UNSET


class ToolCallFragment(Answer):
    """A piece of a call; the first one of a call has ``id`` and ``type``."""

    index: Count
    function: FunctionFragment
    id: CallId | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class ChatDelta(Answer):
    """What a chunk adds to its choice: the role first, then what is said, at last nothing."""

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
    """An event of a streamed chat answer. ``usage`` is there with ``include_usage`` only: null, and
    in the last chunk, which has no choices, the numbers."""

    id: ChatId
    object: Literal["chat.completion.chunk"]
    created: Count
    model: str
    service_tier: Literal["default"]
    system_fingerprint: str
    choices: Annotated[list[ChatChunkChoice], Meta(max_length=1)]
    usage: Usage | UnsetType | None = UNSET
    obfuscation: str | UnsetType = UNSET
