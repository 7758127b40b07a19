"""``POST /v1/chat/completions``: the request's fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from offgrid.api.schema.fields import MAX_TOKENS, GenerationFields, Unsupported, convert
from offgrid.api.schema.tools import Offer, Tool, ToolChoice, make_offer, too_deep
from offgrid.errors import InvalidParameter

MAX_STOPS = 4


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """A content part. Other types than text and refusals are refused by their name."""

    text: str


class RefusalPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """How an earlier answer refused; text to the model."""

    refusal: str

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.refusal


class FunctionCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: str | None = None


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that an earlier answer made. Some clients send a null id."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | RefusalPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it; arguments as an object where they parse."""
        message: dict[str, Any] = {"role": self.role, "content": self._text()}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = [_call_for_template(call) for call in self.tool_calls]
        return message

    def _text(self) -> str:
        content = self.refusal if self.content is None else self.content
        if isinstance(content, list):
            return "".join(part.text for part in content)
        return content or ""


def _call_for_template(call: ToolCall) -> dict[str, Any]:
    arguments = call.function.arguments or "{}"
    try:
        parsed: Any = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        parsed = arguments
    if too_deep(parsed):
        parsed = arguments
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": parsed},
    }


class ChatRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] = msgspec.field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False

    @property
    def offer(self) -> Offer:
        """The functions that may be called, and how."""
        return make_offer(self.tools, self.tool_choice, self.parallel_tool_calls)

    @property
    def token_limit(self) -> int | None:
        """``max_completion_tokens`` wins over its deprecated name ``max_tokens``."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens


UNSUPPORTED: Unsupported = {
    "audio": lambda value: False,
    "function_call": lambda value: value in ("none", "auto"),
    "functions": lambda value: value == [],
    "modalities": lambda value: value == ["text"],
    "prediction": lambda value: False,
    "web_search_options": lambda value: False,
}


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """Check the body of a chat request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = convert(body, ChatRequest, UNSUPPORTED, MAX_STOPS)
    for index, message in enumerate(request.messages):
        empty = message.content in (None, []) and message.refusal is None
        if empty and not (message.role == "assistant" and message.tool_calls):
            raise InvalidParameter(
                "content is required.",
                f"messages[{index}].content",
                code="missing_required_parameter",
            )
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidParameter("top_logprobs needs logprobs: true.", "top_logprobs")
    make_offer(request.tools, request.tool_choice, request.parallel_tool_calls)
    if request.continue_final_message:
        _check_continued(request)
    return request


def _check_continued(request: ChatRequest) -> None:
    last = request.messages[-1]
    if last.role != "assistant" or last.content is None or last.tool_calls:
        raise InvalidParameter(
            "Only an assistant message with content and without tool calls can be continued.",
            "continue_final_message",
        )
    if request.add_generation_prompt:
        raise InvalidParameter(
            "An answer continues the last message or begins a new one, not both.",
            "add_generation_prompt",
        )
