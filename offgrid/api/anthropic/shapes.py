"""The answers of ``/v1/messages``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from offgrid.api.shapes import Answer, Count

MessageId = Annotated[str, Meta(pattern="^msg_[0-9a-f]{24}$")]
ToolUseId = Annotated[str, Meta(pattern="^toolu_[0-9a-f]{24}$")]


class TextOfMessage(Answer, tag_field="type", tag="text"):
    text: str


class ThinkingOfMessage(Answer, tag_field="type", tag="thinking"):
    """Reasoning. Its text is empty if the request does not want to see it."""

    thinking: str
    signature: str


class ToolUseOfMessage(Answer, tag_field="type", tag="tool_use"):
    """A call. Its input is empty if the answer was cut within it."""

    id: ToolUseId
    name: str
    input: dict[str, Any]


BlockOfMessage = TextOfMessage | ThinkingOfMessage | ToolUseOfMessage
StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal",
    "model_context_window_exceeded",
]  # fmt: skip


class CacheCreation(Answer):
    ephemeral_5m_input_tokens: Literal[0]
    ephemeral_1h_input_tokens: Literal[0]


class OutputTokensOfMessage(Answer):
    thinking_tokens: Count


class MessageUsage(Answer):
    """Tokens of the prompt, computed and cached, and of the answer so far."""

    input_tokens: Annotated[int, Meta(ge=0, description="Of the prompt, without cached ones.")]
    cache_creation_input_tokens: Annotated[
        Literal[0], Meta(description="Every prompt is cached, at no extra cost.")
    ]
    cache_read_input_tokens: Annotated[int, Meta(ge=0, description="Not computed again.")]
    cache_creation: CacheCreation
    output_tokens: Count
    output_tokens_details: OutputTokensOfMessage
    service_tier: Literal["standard", "priority", "batch"]


class Refusal(Answer, tag_field="type", tag="refusal"):
    """The content filter has ended the answer."""

    category: None
    explanation: str


class AppliedEdits(Answer):
    """What context management has done: nothing."""

    applied_edits: Annotated[list[str], Meta(max_length=0)]


class MessageObject(Answer, tag_field="type", tag="message"):
    """The next message of a conversation."""

    id: MessageId
    role: Literal["assistant"]
    model: str
    content: list[BlockOfMessage]
    stop_reason: StopReason
    stop_sequence: str | None
    usage: MessageUsage
    stop_details: Refusal | UnsetType = UNSET
    context_management: AppliedEdits | UnsetType = UNSET


class MessageBegun(Answer, tag_field="type", tag="message"):
    """A message whose content is still to come."""

    id: MessageId
    role: Literal["assistant"]
    model: str
    content: Annotated[list[BlockOfMessage], Meta(max_length=0)]
    stop_reason: None
    stop_sequence: None
    usage: MessageUsage


class MessageTokens(Answer):
    """The tokens of the prompt that a request would have."""

    input_tokens: Count


class MessageStart(Answer, tag_field="type", tag="message_start"):
    message: MessageBegun


class BlockStart(Answer, tag_field="type", tag="content_block_start"):
    index: Count
    content_block: BlockOfMessage


class TextOfDelta(Answer, tag_field="type", tag="text_delta"):
    text: str


class ThinkingOfDelta(Answer, tag_field="type", tag="thinking_delta"):
    thinking: str


class SignatureOfDelta(Answer, tag_field="type", tag="signature_delta"):
    signature: str


class InputOfDelta(Answer, tag_field="type", tag="input_json_delta"):
    """A part of the JSON text of a call's input."""

    partial_json: str


class BlockDelta(Answer, tag_field="type", tag="content_block_delta"):
    index: Count
    delta: TextOfDelta | ThinkingOfDelta | SignatureOfDelta | InputOfDelta


class BlockStop(Answer, tag_field="type", tag="content_block_stop"):
    index: Count


class EndOfMessage(Answer):
    stop_reason: StopReason
    stop_sequence: str | None
    stop_details: Refusal | UnsetType = UNSET


class MessageDelta(Answer, tag_field="type", tag="message_delta"):
    """Why the message has ended, and the final counts."""

    delta: EndOfMessage
    usage: MessageUsage
    context_management: AppliedEdits | UnsetType = UNSET


class MessageStop(Answer, tag_field="type", tag="message_stop"):
    pass


class MessagePing(Answer, tag_field="type", tag="ping"):
    """Says that the server is still there."""


class UnsupportedThread(Answer):
    """The request asks the server to keep the conversation."""

    error_code: Literal["thread_unsupported_request"]
    unsupported: list[Literal["thread"]]


class MessageErrorDetail(Answer):
    type: Literal[
        "invalid_request_error", "authentication_error", "permission_error", "not_found_error",
        "conflict_error", "request_too_large", "rate_limit_error", "timeout_error", "api_error",
        "overloaded_error",
    ]  # fmt: skip
    message: str
    details: UnsupportedThread | UnsetType = UNSET


class MessageError(Answer, tag_field="type", tag="error"):
    """The answer to every request that fails, and the last event of a stream that fails."""

    error: MessageErrorDetail
    request_id: str | None


EVENTS: tuple[type[msgspec.Struct], ...] = (
    MessageStart, BlockStart, BlockDelta, BlockStop, MessageDelta, MessageStop, MessagePing,
)  # fmt: skip
"""All types of events that a stream may contain, besides an error."""
