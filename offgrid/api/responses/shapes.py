"""The answers of ``/v1/responses`` and the endpoints below it; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from offgrid.api.chat.request import Effort
from offgrid.api.chat.shapes import ChatTokenLogprob
from offgrid.api.responses.request import (
    FunctionTool,
    JsonObject,
    JsonSchema,
    PlainText,
    ResponseAllowedChoice,
    ResponseFunctionChoice,
)
from offgrid.api.shapes import Answer, Count

Nothing = Annotated[list[str], Meta(max_length=0)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseId = Annotated[str, Meta(pattern="^resp_[0-9a-f]{48}$")]


class TextOfAnswer(Answer, tag_field="type", tag="output_text"):
    """Text of an answer; in the input, text of an earlier answer."""

    text: str
    annotations: Nothing
    logprobs: list[ChatTokenLogprob] | UnsetType = UNSET


class RefusalOfAnswer(Answer, tag_field="type", tag="refusal"):
    refusal: str


class TextOfInput(Answer, tag_field="type", tag="input_text"):
    text: str


class ImageOfInput(Answer, tag_field="type", tag="input_image"):
    image_url: str
    detail: Literal["auto", "low", "high", "original"]
    file_id: None


class ThoughtText(Answer, tag_field="type", tag="reasoning_text"):
    text: str


class ThoughtSummary(Answer, tag_field="type", tag="summary_text"):
    text: str


class MessageOfResponse(Answer, tag_field="type", tag="message"):
    """A message; in the input it may have any role."""

    id: str
    status: ItemStatus
    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextOfAnswer | RefusalOfAnswer | TextOfInput | ImageOfInput]
    phase: str | UnsetType = UNSET


class ReasoningOfResponse(Answer, tag_field="type", tag="reasoning"):
    """The reasoning of the model, in plain text."""

    id: str
    status: ItemStatus
    summary: list[ThoughtSummary]
    content: list[ThoughtText]


class CallOfResponse(Answer, tag_field="type", tag="function_call"):
    """A tool call; its arguments are a string of JSON."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


class CallOutputOfInput(Answer, tag_field="type", tag="function_call_output"):
    id: str
    status: ItemStatus
    call_id: str
    output: str | list[TextOfInput]


OutputItem = MessageOfResponse | ReasoningOfResponse | CallOfResponse
InputItem = OutputItem | CallOutputOfInput


class InputTokensDetails(Answer):
    cached_tokens: Annotated[int, Meta(ge=0, description="Not computed again.")]
    cache_write_tokens: Literal[0]


class OutputTokensDetails(Answer):
    reasoning_tokens: Count


class ResponseUsage(Answer):
    """Tokens of the prompt and of the answer."""

    input_tokens: Count
    input_tokens_details: InputTokensDetails
    output_tokens: Count
    output_tokens_details: OutputTokensDetails
    total_tokens: Count


class ResponseFault(Answer):
    code: Literal["server_error", "invalid_prompt"]
    message: str


class WhyIncomplete(Answer):
    reason: Literal["max_output_tokens"]


class ReasoningOfRequest(Answer):
    """The effort that the request asked for. Reasoning is never summarised."""

    effort: Effort | None
    summary: None


class FormatOfText(Answer):
    format: PlainText | JsonObject | JsonSchema


class ResponseObject(Answer):
    """A response. ``store`` says whether it was stored."""

    id: ResponseId
    object: Literal["response"]
    created_at: Count
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    completed_at: Count | None
    error: ResponseFault | None
    incomplete_details: WhyIncomplete | None
    instructions: str | None
    max_output_tokens: Count | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningOfRequest
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float
    text: FormatOfText
    tool_choice: (
        Literal["none", "auto", "required"] | ResponseFunctionChoice | ResponseAllowedChoice
    )
    tools: list[FunctionTool]
    top_logprobs: Count
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class DeletedResponse(Answer):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItems(Answer):
    """A page of a response's input items."""

    object: Literal["list"]
    data: list[InputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class _Numbered(Answer):
    sequence_number: Count


class _OfResponse(_Numbered):
    response: ResponseObject


class ResponseCreated(_OfResponse, tag_field="type", tag="response.created"):
    pass


class ResponseInProgress(_OfResponse, tag_field="type", tag="response.in_progress"):
    pass


class ResponseCompleted(_OfResponse, tag_field="type", tag="response.completed"):
    pass


class ResponseIncomplete(_OfResponse, tag_field="type", tag="response.incomplete"):
    pass


class ResponseFailed(_OfResponse, tag_field="type", tag="response.failed"):
    pass


class _OfItem(_Numbered):
    output_index: Count
    item: OutputItem


class ItemAdded(_OfItem, tag_field="type", tag="response.output_item.added"):
    pass


class ItemDone(_OfItem, tag_field="type", tag="response.output_item.done"):
    pass


class _WithinItem(_Numbered):
    item_id: str
    output_index: Count


class _WithinPart(_WithinItem):
    content_index: Literal[0]


class _OfPart(_WithinPart):
    part: TextOfAnswer | ThoughtText


class PartAdded(_OfPart, tag_field="type", tag="response.content_part.added"):
    pass


class PartDone(_OfPart, tag_field="type", tag="response.content_part.done"):
    pass


class TextDelta(_WithinPart, tag_field="type", tag="response.output_text.delta"):
    delta: str
    logprobs: list[ChatTokenLogprob]
    obfuscation: str | UnsetType = UNSET


class TextDone(_WithinPart, tag_field="type", tag="response.output_text.done"):
    text: str
    logprobs: list[ChatTokenLogprob]


class ReasoningDelta(_WithinPart, tag_field="type", tag="response.reasoning_text.delta"):
    delta: str
    obfuscation: str | UnsetType = UNSET


class ReasoningDone(_WithinPart, tag_field="type", tag="response.reasoning_text.done"):
    text: str


class ArgumentsDelta(
    _WithinItem, tag_field="type", tag="response.function_call_arguments.delta"
):  # fmt: skip
    delta: str
    obfuscation: str | UnsetType = UNSET


class ArgumentsDone(
    _WithinItem, tag_field="type", tag="response.function_call_arguments.done"
):  # fmt: skip
    name: str
    arguments: str


EVENTS: tuple[type[Struct], ...] = (
    ResponseCreated, ResponseInProgress, ResponseCompleted, ResponseIncomplete, ResponseFailed,
    ItemAdded, ItemDone, PartAdded, PartDone, TextDelta, TextDone, ReasoningDelta, ReasoningDone,
    ArgumentsDelta, ArgumentsDone,
)  # fmt: skip
"""All types of events that a stream may contain."""
