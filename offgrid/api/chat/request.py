"""``POST /v1/chat/completions``: the request's fields."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta, structs

from offgrid.api.chat.tools import MAX_DEPTH, Offer, Tool, ToolChoice, make_offer, too_deep
from offgrid.api.fields.body import excess
from offgrid.api.fields.bounds import check_messages
from offgrid.api.fields.common import MAX_TOKENS, GenerationFields, Unsupported, convert
from offgrid.api.fields.messages import missing
from offgrid.chat.images import check_images, read_data_url
from offgrid.errors import InvalidParameter

MAX_TEMPLATE_VARIABLES = 32
MAX_TEMPLATE_BYTES = 65_536
"""Maximum length of ``chat_template_kwargs``, in bytes of JSON."""
MAX_DOCUMENTS = 256
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
TemplateVariables = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Any],
    Meta(max_length=MAX_TEMPLATE_VARIABLES),
]
_OWN_VARIABLES = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """A part with text. Parts of other types than those below are refused.

    Here and in the other objects of messages and tools, unknown fields are ignored: they are notes
    of clients and gateways.
    """

    text: str
    prompt_cache_breakpoint: dict[str, Any] | None = None


class RefusalPart(msgspec.Struct, frozen=True, tag="refusal"):
    """The refusal of an earlier answer; the model reads it as text."""

    refusal: str

    @property
    def text(self) -> str:
        """The text that the model reads."""
        return self.refusal


class ImageURL(msgspec.Struct, frozen=True):
    """The URL of an image. ``detail`` has no effect: the projector determines the size."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(msgspec.Struct, frozen=True, tag="image_url"):
    """An image, for vision models."""

    image_url: ImageURL
    prompt_cache_breakpoint: dict[str, Any] | None = None


class ThinkingPart(msgspec.Struct, frozen=True, tag="thinking"):
    """Reasoning of an earlier answer, as Mistral's clients send it back."""

    thinking: str | list[TextPart]
    closed: bool | None = None
    signature: str | None = None

    @property
    def reasoning(self) -> str:
        """The reasoning as one text."""
        if isinstance(self.thinking, str):
            return self.thinking
        return _lines(part.text for part in self.thinking)


def _lines(texts: Iterable[str]) -> str:
    """Join the texts of one message, as llama-server and vLLM do: each begins a new line."""
    return "\n".join(filter(None, texts))


class FunctionCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str | dict[str, Any] | None = None
    """JSON text. Clients of Ollama send the object itself."""


class ToolCall(msgspec.Struct, frozen=True):
    """A call that an earlier answer made. Some clients send a null id."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None


class Message(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart | RefusalPart | ThinkingPart | ImagePart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    """Must be null, as well as ``function_call``: an answer of this server has neither."""
    function_call: Any = None

    def for_template(self, numbers: Iterator[int]) -> dict[str, Any]:
        """Return the message as chat templates expect it; arguments as an object if they are one.

        Args:
            numbers: numbers for the request's images; takes one for each image of this message.
        """
        message: dict[str, Any] = {"role": self.role, "content": self._content(numbers)}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        reasoning = self._reasoning()
        if reasoning is not None:
            message["reasoning_content"] = reasoning
        if self.tool_calls:
            message["tool_calls"] = [_call_for_template(call) for call in self.tool_calls]
        return message

    def _reasoning(self) -> str | None:
        """Return the reasoning, which clients send in one of two fields or in parts."""
        for given in (self.reasoning_content, self.reasoning):
            if given is not None:
                return given
        parts = self.content if isinstance(self.content, list) else ()
        thoughts = [part.reasoning for part in parts if isinstance(part, ThinkingPart)]
        return _lines(thoughts) if thoughts else None

    def _content(self, numbers: Iterator[int]) -> str | list[str | int]:
        """Return the text; if there are images, a list of texts and image numbers."""
        content = self.refusal if self.content is None else self.content
        if not isinstance(content, list):
            return content or ""
        pieces: list[str | int] = []
        texts: list[str] = []  # since the last image
        for part in content:
            if isinstance(part, ImagePart):
                pieces += [_lines(texts)] * bool(texts)
                pieces.append(next(numbers))
                texts = []
            elif not isinstance(part, ThinkingPart) and part.text:
                texts.append(part.text)
        pieces += [_lines(texts)] * bool(texts)
        if any(isinstance(piece, int) for piece in pieces):
            return pieces
        return "".join(map(str, pieces))


def _call_for_template(call: ToolCall) -> dict[str, Any]:
    given = call.function.arguments or "{}"
    arguments: Any = given  # clients send back whatever a model generated, also invalid JSON
    if isinstance(given, dict):
        arguments = msgspec.json.encode(given).decode() if too_deep(given) else given
    else:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeError, RecursionError):
            # The limits of a body apply: JSON that would take too long to parse stays text.
            parsed = None if excess(given) else msgspec.json.decode(given)
            if isinstance(parsed, dict) and not too_deep(parsed):
                arguments = parsed
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


Messages = Annotated[list[Message], Meta(min_length=1)]
Documents = Annotated[
    list[Annotated[dict[str, Any], Meta(min_length=1)]], Meta(max_length=MAX_DOCUMENTS)
]


class Prediction(msgspec.Struct, frozen=True):
    """A text that the answer is expected to repeat in large parts, as OpenAI's predicted outputs.

    It changes how fast the answer comes, not the answer.
    """

    type: Literal["content"]
    content: str | Annotated[list[TextPart], Meta(min_length=1)]

    @property
    def text(self) -> str:
        """The text; parts follow one another without anything between them."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Image(NamedTuple):
    """An image of a conversation, checked.

    Attributes:
        data: the image file.
        param: the request field that errors name.
        message: index of its message in the body.
    """

    data: bytes
    param: str
    message: int


class ChatRequest(GenerationFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    PARSED: ClassVar[frozenset[str]] = GenerationFields.PARSED | {
        "budget_param", "images", "offer",
    }  # fmt: skip

    messages: Messages
    max_completion_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[Tool] = msgspec.field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    reasoning_effort: Effort | None = None
    reasoning_budget_tokens: Annotated[int, Meta(ge=-1, le=MAX_TOKENS)] | None = None
    chat_template_kwargs: TemplateVariables = msgspec.field(default_factory=dict)
    documents: Documents = msgspec.field(default_factory=list)
    prediction: Prediction | None = None
    budget_param: str = ""
    """The field that set ``reasoning_budget_tokens``, as the client named it; empty if none did."""
    images: tuple[Image, ...] = ()
    """The images of all messages, in order."""
    offer: Offer = Offer()
    """The functions that may be called, made from ``tools`` and its related fields."""

    @property
    def template_variables(self) -> dict[str, Any]:
        """Variables for the model's template in addition to the conversation.

        Templates have different names for a switch that turns reasoning off, so ``none`` sets each
        of the usual ones. So does a budget without tokens.
        """
        variables: dict[str, Any] = {}
        effort = self.reasoning_effort
        if effort is None and self.reasoning_budget_tokens == 0:
            effort = "none"
        if effort is not None:
            thinking = effort != "none"
            variables = {"enable_thinking": thinking, "thinking": thinking}
            if thinking:
                variables["reasoning_effort"] = effort
        if self.documents:
            variables["documents"] = self.documents
        return variables | self.chat_template_kwargs

    def without(self, begin: int, end: int) -> ChatRequest:
        """Return the request without the messages from ``begin`` up to ``end`` and their images."""
        return structs.replace(
            self,
            messages=self.messages[:begin] + self.messages[end:],
            images=tuple(image for image in self.images if not begin <= image.message < end),
        )

    def with_system(self, prompt: str) -> ChatRequest:
        """Return the request with a system message in front, if it has none itself."""
        if not prompt or any(m.role in ("system", "developer") for m in self.messages):
            return self
        message = Message(role="system", content=prompt)
        return structs.replace(self, messages=[message, *self.messages])

    def with_budget(self, tokens: int) -> ChatRequest:
        """Return the request with a reasoning budget, if it has none; -1 is no budget."""
        if tokens < 0 or self.reasoning_budget_tokens is not None:
            return self
        return structs.replace(self, reasoning_budget_tokens=tokens)

    @property
    def token_limit(self) -> int | None:
        """``max_completion_tokens``, or else ``max_tokens``, which is its deprecated name."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens


UNSUPPORTED: Unsupported = {
    "audio": lambda value: False,
    "function_call": lambda value: value in ("none", "auto"),
    "functions": lambda value: value == [],
    "modalities": lambda value: value == ["text"],
    "web_search_options": lambda value: False,
}


NAMED = {"budget_param": "reasoning_budget_tokens"}
"""Attribute -> the field whose name, as the client sent it, it holds."""


def parse_chat(body: dict[str, Any]) -> ChatRequest:
    """Check the body of a chat request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    return checked(convert(body, ChatRequest, UNSUPPORTED, NAMED))


def checked(request: ChatRequest) -> ChatRequest:
    """Check the fields of a typed request together; return it with images and functions.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    check_messages(len(request.messages), "messages")
    for index, message in enumerate(request.messages):
        _check_message(message, f"messages[{index}]")
    _check_results(request.messages)
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidParameter("top_logprobs needs logprobs: true.", "top_logprobs")
    _check_variables(request)
    if request.continue_final_message:
        _check_continued(request)
    images = _read_images(request.messages)
    if images and request.prompt_logprobs is not None:
        raise InvalidParameter("prompt_logprobs cannot be combined with images.", "prompt_logprobs")
    offer = make_offer(request.tools, request.tool_choice, request.parallel_tool_calls)
    return structs.replace(request, images=images, offer=offer)


def _check_message(message: Message, param: str) -> None:
    """Check that a message has content, if it must have some, and nothing that it cannot have.

    An assistant may have said nothing, and a tool may return nothing: clients store ``null`` then.
    """
    empty = message.content in (None, []) and message.refusal is None
    if empty and message.role not in ("assistant", "tool"):
        raise missing(f"{param}.content")
    for name in ("audio", "function_call"):
        if getattr(message, name) is not None:
            advice = "; use tool_calls" if name == "function_call" else ""
            raise InvalidParameter(
                f"{param}.{name} is not supported by this server{advice}.",
                f"{param}.{name}",
                code="unsupported_parameter",
            )


def _read_images(messages: list[Message]) -> tuple[Image, ...]:
    """Return the images of all messages.

    Raises:
        InvalidParameter: a URL is not a data URL with base64, an image cannot be decoded or is
            too large, or a part is in a message that cannot contain it.
    """
    images = []
    for i, message in enumerate(messages):
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            field = f"messages[{i}].content[{j}]"
            if isinstance(part, ThinkingPart) and message.role != "assistant":
                raise InvalidParameter(
                    f"{field}: only assistant messages can contain reasoning.", field
                )
            if not isinstance(part, ImagePart):
                continue
            if message.role not in ("user", "tool"):
                raise InvalidParameter(
                    f"{field}: only user and tool messages can contain images.", field
                )
            url = f"{field}.image_url.url"
            images.append(Image(read_data_url(part.image_url.url, url), url, i))
    check_images([(image.data, image.param) for image in images])
    return tuple(images)


def _check_variables(request: ChatRequest) -> None:
    """Check the values that go to the template as they are."""
    variables = request.chat_template_kwargs
    for name, value in variables.items():
        field = f"chat_template_kwargs.{name}"
        if name in _OWN_VARIABLES:
            raise InvalidParameter(f"{field} is set by the server and cannot be overridden.", field)
        if too_deep(value):
            raise InvalidParameter(f"{field} is nested deeper than {MAX_DEPTH} levels.", field)
    size = len(msgspec.json.encode(variables))
    if size > MAX_TEMPLATE_BYTES:
        raise InvalidParameter(
            f"chat_template_kwargs takes at most {MAX_TEMPLATE_BYTES} bytes of JSON, not {size}.",
            "chat_template_kwargs",
        )
    for index, document in enumerate(request.documents):
        if too_deep(document):
            field = f"documents[{index}]"
            raise InvalidParameter(f"{field} is nested deeper than {MAX_DEPTH} levels.", field)


def _check_results(messages: list[Message]) -> None:
    """Check that each result after a message with calls belongs to a call before it.

    Agents drop the oldest messages of long conversations. So a result that follows no message with
    calls is accepted: its call was dropped. If a call has no id, its results cannot be checked.
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
            field = f"messages[{index}].tool_call_id"
            raise InvalidParameter(
                f"{field}: no call before this message has the id {message.tool_call_id[:80]!r}.",
                field,
            )


def _check_continued(request: ChatRequest) -> None:
    last = request.messages[-1]
    if last.role != "assistant" or last.content is None or last.tool_calls:
        raise InvalidParameter(
            "continue_final_message: only an assistant message with content and without tool calls "
            "can be continued.",
            "continue_final_message",
        )
    if request.add_generation_prompt:
        raise InvalidParameter(
            "continue_final_message and add_generation_prompt cannot both be true.",
            "add_generation_prompt",
        )
