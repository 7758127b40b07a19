"""``POST /v1/chat/completions``: the request's fields."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta, structs

from offgrid.api.chat.tools import Offer, Tool, ToolChoice, make_offer, too_deep
from offgrid.api.fields.body import excess
from offgrid.api.fields.common import MAX_TOKENS, GenerationFields, Unsupported, convert
from offgrid.chat.images import check_images, read_data_url
from offgrid.errors import InvalidParameter

MAX_STOPS = 4
MAX_TEMPLATE_TEXT = 256
"""Characters of a text in ``chat_template_kwargs``."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """A content part. Other types than those below are refused by their name."""

    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None


class RefusalPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="refusal"):
    """How an earlier answer refused; text to the model."""

    refusal: str

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.refusal


class ImageURL(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where an image is. ``detail`` means nothing to a projector, which has a size of its own."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="image_url"):
    """An image, for models that see."""

    image_url: ImageURL
    prompt_cache_breakpoint: dict[str, Any] | None = None


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
    content: str | list[TextPart | RefusalPart | ImagePart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None

    def for_template(self, numbers: Iterator[int]) -> dict[str, Any]:
        """The message as chat templates expect it; arguments as an object where they are one.

        Args:
            numbers: of the request's images, from which this message takes those of its own.
        """
        message: dict[str, Any] = {"role": self.role, "content": self._content(numbers)}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        # Two names of one thing; templates know the first.
        reasoning = self.reasoning if self.reasoning_content is None else self.reasoning_content
        if reasoning is not None:
            message["reasoning_content"] = reasoning
        if self.tool_calls:
            message["tool_calls"] = [_call_for_template(call) for call in self.tool_calls]
        return message

    def _content(self, numbers: Iterator[int]) -> str | list[str | int]:
        """The text, or texts and numbers of images."""
        content = self.refusal if self.content is None else self.content
        if not isinstance(content, list):
            return content or ""
        parts = [next(numbers) if isinstance(part, ImagePart) else part.text for part in content]
        return parts if any(isinstance(part, int) for part in parts) else "".join(map(str, parts))


def _call_for_template(call: ToolCall) -> dict[str, Any]:
    text = call.function.arguments or "{}"
    arguments: Any = text  # a model may have written anything, and clients send it back
    with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
        # As in a body: what would take too long stays text.
        parsed = None if excess(text) else msgspec.json.decode(text)
        if isinstance(parsed, dict) and not too_deep(parsed):
            arguments = parsed
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


class Image(NamedTuple):
    """An image of a conversation, checked.

    Attributes:
        data: the file.
        param: the request field that errors name.
        message: index of its message in the body.
    """

    data: bytes
    param: str
    message: int


class ChatRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    PARSED: ClassVar[frozenset[str]] = GenerationFields.PARSED | {"images", "offer"}

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] = msgspec.field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    reasoning_effort: Effort | None = None
    chat_template_kwargs: Annotated[
        dict[
            Annotated[str, Meta(min_length=1, max_length=64)],
            bool | float | int | Annotated[str, Meta(max_length=MAX_TEMPLATE_TEXT)] | None,
        ],
        Meta(max_length=32),
    ] = msgspec.field(default_factory=dict)
    images: tuple[Image, ...] = ()
    """Of all messages, in order."""
    offer: Offer = Offer()
    """The functions that may be called, and how: made of ``tools`` and what goes with them."""

    @property
    def template_variables(self) -> dict[str, Any]:
        """What the model's template is told beside the conversation.

        There is no one name for it: ``none`` turns thinking off by those that are in use.
        """
        variables: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            thinking = self.reasoning_effort != "none"
            variables = {"enable_thinking": thinking, "thinking": thinking}
            if thinking:
                variables["reasoning_effort"] = self.reasoning_effort
        return variables | self.chat_template_kwargs

    def without(self, begin: int, end: int) -> ChatRequest:
        """Return the request without the messages from ``begin`` up to ``end`` and their images."""
        return structs.replace(
            self,
            messages=self.messages[:begin] + self.messages[end:],
            images=tuple(image for image in self.images if not begin <= image.message < end),
        )

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
    _check_results(request.messages)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidParameter("top_logprobs needs logprobs: true.", "top_logprobs")
    for name in request.chat_template_kwargs:
        if name in _OWN_VARIABLES:
            raise InvalidParameter(
                f"{name} is set by the server and cannot be overridden.",
                f"chat_template_kwargs.{name}",
            )
    if request.continue_final_message:
        _check_continued(request)
    images = _read_images(request.messages)
    if images and request.prompt_logprobs is not None:
        raise InvalidParameter("prompt_logprobs cannot be combined with images.", "prompt_logprobs")
    offer = make_offer(request.tools, request.tool_choice, request.parallel_tool_calls)
    return structs.replace(request, images=images, offer=offer)


def _read_images(messages: list[Message]) -> tuple[Image, ...]:
    """Return the images of all messages.

    Raises:
        InvalidParameter: a URL that is no data URL with base64, an image that cannot be decoded
            or is too large, an image where a user does not speak.
    """
    images = []
    for i, message in enumerate(messages):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if not isinstance(part, ImagePart):
                continue
            field = f"messages[{i}].content[{j}]"
            if message.role != "user":
                raise InvalidParameter("Only user messages can contain images.", field)
            url = f"{field}.image_url.url"
            images.append(Image(read_data_url(part.image_url.url, url), url, i))
    check_images([(image.data, image.param) for image in images])
    return tuple(images)


def _check_results(messages: list[Message]) -> None:
    """Check that results behind calls are results of calls.

    Agents cut the beginnings of long conversations: results behind anything else have lost theirs.
    Where a call has no id, nobody can tell.
    """
    ids: set[str | None] = set()
    behind_calls = False
    for index, message in enumerate(messages):
        if message.tool_calls:
            ids.update(call.id for call in message.tool_calls)
            behind_calls = all(call.id is not None for call in message.tool_calls)
        elif message.role != "tool":
            behind_calls = False
        elif behind_calls and message.tool_call_id is not None and message.tool_call_id not in ids:
            raise InvalidParameter(
                f"No tool call before this message has the id {message.tool_call_id[:80]!r}.",
                f"messages[{index}].tool_call_id",
            )


def _check_continued(request: ChatRequest) -> None:
    last = request.messages[-1]
    if last.role != "assistant" or last.content is None or last.tool_calls:
        raise InvalidParameter(
            "Only an assistant message with content and without tool calls can be continued.",
            "continue_final_message",
        )
    if request.add_generation_prompt:
        raise InvalidParameter(
            "continue_final_message and add_generation_prompt cannot both be true.",
            "add_generation_prompt",
        )
