"""The answers of ``/v1/responses`` and the endpoints below it; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from offgrid.api.chat.request import Effort
from offgrid.api.chat.shapes import ChatTokenLogprob
from offgrid.api.fields.tiers import Tier
from offgrid.api.responses.hosted import HOSTED
from offgrid.api.responses.request import JsonObject, JsonSchema, PlainText
from offgrid.api.responses.tools import GrammarFormat, TextFormat
from offgrid.api.shapes import Answer, Count
from offgrid.api.timings import Progress, Timings

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


class FileOfInput(Answer, tag_field="type", tag="input_file"):
    """A file of text."""

    file_data: str
    filename: str


class ThoughtText(Answer, tag_field="type", tag="reasoning_text"):
    text: str


class ThoughtSummary(Answer, tag_field="type", tag="summary_text"):
    text: str


class MessageOfResponse(Answer, tag_field="type", tag="message"):
    """A message; in the input it may have any role."""

    id: str
    status: ItemStatus
    role: Literal["system", "developer", "user", "assistant"]
    content: list[TextOfAnswer | RefusalOfAnswer | TextOfInput | ImageOfInput | FileOfInput]
    phase: str | UnsetType = UNSET


class ReasoningOfResponse(Answer, tag_field="type", tag="reasoning"):
    """The reasoning of the model, in plain text."""

    id: str
    status: ItemStatus
    summary: list[ThoughtSummary]
    content: list[ThoughtText]
    encrypted_content: str | UnsetType | None = UNSET


class _OfTool(Answer):
    id: str
    status: ItemStatus
    namespace: str | UnsetType = UNSET
    caller: dict[str, Any] | UnsetType = UNSET


class CallOfResponse(_OfTool, kw_only=True, tag_field="type", tag="function_call"):
    """A tool call; its arguments are a string of JSON."""

    call_id: str
    name: str
    arguments: str


class CustomCallOfResponse(_OfTool, kw_only=True, tag_field="type", tag="custom_tool_call"):
    """A call of a custom tool; its input is a text."""

    call_id: str
    name: str
    input: str


class SearchOfResponse(Struct, kw_only=True, tag_field="type", tag="tool_search_call"):
    """A search for tools. That of an answer is executed by the client."""

    id: str
    status: str | UnsetType = UNSET
    call_id: str | UnsetType = UNSET
    execution: str | UnsetType = UNSET
    arguments: Any = UNSET


class CallOutputOfInput(_OfTool, kw_only=True, tag_field="type", tag="function_call_output"):
    call_id: str | None
    output: str | list[TextOfInput | ImageOfInput | FileOfInput]


class CustomOutputOfInput(_OfTool, kw_only=True, tag_field="type", tag="custom_tool_call_output"):
    call_id: str
    output: str | list[TextOfInput | ImageOfInput | FileOfInput]


def _as_given(kind: str) -> type[Struct]:
    """Return the type of an item that is listed as the client sent it."""
    name = "".join(word.capitalize() for word in kind.split("_")) + "OfInput"
    fields: list[Any] = [("id", str)]
    return msgspec.defstruct(
        name, fields, tag_field="type", tag=kind, kw_only=True, module=__name__
    )


OutputItem = (
    MessageOfResponse
    | ReasoningOfResponse
    | CallOfResponse
    | CustomCallOfResponse
    | SearchOfResponse
)
InputItem = OutputItem | CallOutputOfInput | CustomOutputOfInput
if not TYPE_CHECKING:
    _OTHERS = map(_as_given, sorted(HOSTED.keys() - {"tool_search_call"}))
    InputItem = functools.reduce(operator.or_, _OTHERS, InputItem)

INPUT_ITEMS: tuple[type[Struct], ...] = get_args(InputItem)
"""All types of items that may be listed."""


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
    reason: Literal["max_output_tokens", "content_filter"]


class ReasoningOfRequest(Answer):
    """The effort that the request asked for. Reasoning is never summarised."""

    effort: Effort | None
    summary: None


class FormatOfText(Answer):
    format: PlainText | JsonObject | JsonSchema


class FunctionOfRequest(Answer, tag_field="type", tag="function"):
    """A function that the model may call."""

    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class CustomToolOfRequest(Answer, tag_field="type", tag="custom"):
    """A tool of one text that the model may call."""

    name: str
    description: str | UnsetType = UNSET
    format: TextFormat | GrammarFormat | UnsetType = UNSET


class NamespaceOfRequest(Answer, tag_field="type", tag="namespace"):
    """Tools under a common name that the model may call."""

    name: str
    description: str
    tools: list[FunctionOfRequest | CustomToolOfRequest]


class ToolSearchOfRequest(Answer, tag_field="type", tag="tool_search"):
    """A search for tools that the client executes."""

    execution: Literal["client"]
    description: str | UnsetType = UNSET
    parameters: dict[str, Any] | UnsetType = UNSET


class FunctionChosen(Answer, tag_field="type", tag="function"):
    """The function that the model must call."""

    name: str
    namespace: str | UnsetType = UNSET


class CustomToolChosen(Answer, tag_field="type", tag="custom"):
    """The custom tool that the model must call."""

    name: str
    namespace: str | UnsetType = UNSET


class SearchChosen(Answer, tag_field="type", tag="tool_search"):
    """The model must search for tools."""


class ToolsChosen(Answer, tag_field="type", tag="allowed_tools"):
    """The tools to which the model is limited, as the request names them."""

    mode: Literal["auto", "required"]
    tools: list[dict[str, Any]]


class ConversationOfResponse(Answer):
    """The conversation to which the items of the response are added."""

    id: str


class ResponseObject(Answer, kw_only=True):
    """A response. ``store`` says whether it was stored."""

    id: ResponseId
    object: Literal["response"]
    created_at: Count
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: bool
    completed_at: Count | None
    conversation: ConversationOfResponse | UnsetType = UNSET
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
    service_tier: Tier
    store: bool
    temperature: float
    text: FormatOfText
    tool_choice: (
        Literal["none", "auto", "required"]
        | FunctionChosen
        | CustomToolChosen
        | SearchChosen
        | ToolsChosen
    )
    tools: list[FunctionOfRequest | CustomToolOfRequest | NamespaceOfRequest | ToolSearchOfRequest]
    top_logprobs: Count
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    timings: Timings | UnsetType = UNSET
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


class ResponseQueued(_OfResponse, tag_field="type", tag="response.queued"):
    pass


class ResponseInProgress(_OfResponse, tag_field="type", tag="response.in_progress"):
    """The response is being made. ``return_progress`` repeats the event during prefill."""

    prompt_progress: Progress | UnsetType = UNSET


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
    timings: Timings | UnsetType = UNSET


class TextDone(_WithinPart, tag_field="type", tag="response.output_text.done"):
    text: str
    logprobs: list[ChatTokenLogprob]


class ReasoningDelta(_WithinPart, tag_field="type", tag="response.reasoning_text.delta"):
    delta: str
    obfuscation: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class ReasoningDone(_WithinPart, tag_field="type", tag="response.reasoning_text.done"):
    text: str


class ArgumentsDelta(
    _WithinItem, tag_field="type", tag="response.function_call_arguments.delta"
):  # fmt: skip
    delta: str
    obfuscation: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class ArgumentsDone(
    _WithinItem, tag_field="type", tag="response.function_call_arguments.done"
):  # fmt: skip
    name: str
    arguments: str


class InputDelta(
    _WithinItem, tag_field="type", tag="response.custom_tool_call_input.delta"
):  # fmt: skip
    delta: str
    obfuscation: str | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET


class InputDone(
    _WithinItem, tag_field="type", tag="response.custom_tool_call_input.done"
):  # fmt: skip
    input: str


EVENTS: tuple[type[Struct], ...] = (
    ResponseCreated, ResponseQueued, ResponseInProgress, ResponseCompleted, ResponseIncomplete,
    ResponseFailed,
    ItemAdded, ItemDone, PartAdded, PartDone, TextDelta, TextDone, ReasoningDelta, ReasoningDone,
    ArgumentsDelta, ArgumentsDone, InputDelta, InputDone,
)  # fmt: skip
"""All types of events that a stream may contain."""
