"""``POST /v1/messages``: the request's fields, and their conversion into a chat request."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, structs

from offgrid.api.anthropic import tools as tool_fields
from offgrid.api.anthropic.blocks import (
    SYSTEM,
    CacheControl,
    Conversation,
    Effort,
    InputMessage,
    Place,
    TextBlock,
    to_conversation,
)
from offgrid.api.anthropic.signature import Signer
from offgrid.api.anthropic.tools import ToolChoice, ToolDefinition
from offgrid.api.chat.request import ChatRequest, parse_chat
from offgrid.api.fields import notices, structured
from offgrid.api.fields.common import MAX_TOKENS, Unsupported, refuse_others
from offgrid.api.fields.keep_alive import KeepAlive, seconds_of
from offgrid.api.fields.messages import invalid
from offgrid.api.fields.nulls import present
from offgrid.api.fields.sampling import ALIASES, NAMES
from offgrid.api.fields.translated import Translated, labelled, with_first
from offgrid.api.shapes import Json
from offgrid.errors import ContextLengthExceeded, InvalidParameter, RequestError

TEMPERATURE, TOP_P = 1.0, 1.0
"""Defaults of this API, unless the model has its own."""
BILLING = "x-anthropic-billing-header:"
"""Begins a line that Claude Code puts in front of its system prompt. It changes with every request
of some versions, and every token after it would have to be computed again."""
_RANGED = frozenset({"temperature", "top_k", "top_p"})
"""Fields with ranges of this API."""
EXTENSIONS = (NAMES | ALIASES.keys() | structured.NAMES | {
    "ignore_eos", "cache_prompt", "chat_template_kwargs", "priority", "cache_salt",
    "banned_strings", "samplers", "t_max_predict_ms", "n_indent",
}) - {*_RANGED, "response_format"}  # fmt: skip
"""Fields of this server's chat requests, with the same meaning; they are checked there."""
IGNORED = frozenset({
    "billing_policy", "context_management", "diagnostics", "fallbacks", "fallback_credit_token",
    "inference_geo", "speed", "user_profile_id",
})  # fmt: skip
"""Fields without effect that the response names."""
INERT = frozenset({"cache_control", "metadata"})
"""Fields without effect."""
UNSUPPORTED: Unsupported = {
    "compaction": lambda value: False,
    "container": lambda value: False,
    "mcp_servers": lambda value: value == [],
    "thread": lambda value: False,
}


F = TypeVar("F", bound="MessagesFields")


class MessageMetadata(msgspec.Struct, frozen=True):
    """Notes about the request."""

    user_id: Annotated[str, Meta(max_length=4096)] | None = None


class _Thinking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ThinkingOn(_Thinking, frozen=True, tag="enabled"):
    """The model reasons, in at most ``budget_tokens`` tokens."""

    budget_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
    display: Literal["summarized", "omitted"] | None = None


class ThinkingAdaptive(_Thinking, frozen=True, tag="adaptive"):
    """The model reasons as much as it wants."""

    display: Literal["summarized", "omitted"] | None = None


class ThinkingOff(_Thinking, frozen=True, tag="disabled"):
    """The model does not reason, if its template can say so."""


class ThinkingBetweenTools(_Thinking, frozen=True, tag="between_tools"):
    """The same as ``disabled``."""


Thinking = ThinkingOn | ThinkingAdaptive | ThinkingOff | ThinkingBetweenTools


class JsonFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The text of the answer is JSON that satisfies a schema."""

    type: Literal["json_schema"]
    schema: Json
    name: str | None = None


class OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The effort of reasoning, and the format of the text."""

    effort: Effort | None = None
    format: JsonFormat | None = None


class MessagesFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of both requests.

    Attributes:
        extensions: the fields of :data:`EXTENSIONS` that were given.
        labels: the names under which the client sent fields, by their names here.
    """

    PARSED: ClassVar[frozenset[str]] = frozenset({"extensions", "labels"})
    """Attributes that are made from fields and are not fields of the body."""

    model: str = ""
    messages: Annotated[list[InputMessage], Meta(min_length=1)]
    system: str | list[TextBlock] = ""
    stop_sequences: list[str] = []
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    thinking: Thinking = ThinkingOff()
    tools: list[ToolDefinition] = []
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: JsonFormat | None = None
    service_tier: Literal["auto", "standard_only"] = "auto"
    metadata: MessageMetadata | None = None
    cache_control: CacheControl | None = None
    context_management: Json | None = None
    billing_policy: Json | None = None
    diagnostics: Json | None = None
    fallbacks: list[Json] | None = None
    fallback_credit_token: str | Json | None = None
    inference_geo: str | None = None
    speed: Literal["standard", "fast"] | None = None
    user_profile_id: str | None = None
    keep_alive: KeepAlive = None
    extensions: Json = {}
    labels: dict[str, str] = {}

    @property
    def thinks(self) -> bool:
        """Whether the answer may contain reasoning."""
        return isinstance(self.thinking, (ThinkingOn, ThinkingAdaptive))

    @property
    def hides_thinking(self) -> bool:
        """Whether the text of reasoning is left out of the answer."""
        return getattr(self.thinking, "display", None) == "omitted"


class MessageRequest(MessagesFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checked request. ``max_tokens`` 0 computes the prompt, for later requests."""

    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)]


class CountTokensRequest(MessagesFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same request, to be counted."""

    max_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] = 1


class ChatForm(NamedTuple):
    """A request in the form of a chat request."""

    chat: ChatRequest
    request: MessageRequest | CountTokensRequest
    conversation: Conversation

    def renamed(self, error: RequestError) -> RequestError:
        """Return an error of the chat request with the field names of the client's request."""
        return _renamed(error, self.conversation, self.request)

    def without_budget(self) -> ChatForm:
        """Return the form for a model that does not reason: it keeps to any budget."""
        chat = structs.replace(self.chat, reasoning_budget_tokens=None, budget_param="")
        return self._replace(chat=chat)


def parse_messages(body: Json) -> MessageRequest:
    """Check the body of a request. ``null`` counts as absent.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    return _parse(body, MessageRequest)


def parse_count(body: Json) -> CountTokensRequest:
    """Check the body of a request whose tokens are to be counted; see :func:`parse_messages`."""
    return _parse(body, CountTokensRequest)


def _parse(body: Json, kind: type[F]) -> F:
    known = set(kind.__struct_fields__) - kind.PARSED | EXTENSIONS
    # ``stop`` makes the translation treat this as a request that generates.
    given = Translated(present(body), known | UNSUPPORTED.keys() | {"stop"})
    fields = given.fields
    extensions = {name: fields.pop(name) for name in list(fields) if name in EXTENSIONS}
    if "stop" in fields:
        stop = fields.pop("stop")
        stops = [stop] if isinstance(stop, str) else stop
        if fields.setdefault("stop_sequences", stops) != stops:
            raise InvalidParameter(
                "stop and stop_sequences are the same parameter and have different values; give "
                "only one.",
                "stop",
            )
    refuse_others(fields, known, UNSUPPORTED, given)
    try:
        request = msgspec.convert(
            {**fields, "extensions": extensions, "labels": given.labels}, kind
        )
    except msgspec.ValidationError as ex:
        raise labelled(invalid(str(ex), fields, kind), given.labels) from None
    seconds_of(request.keep_alive)
    if request.output_format is not None and request.output_config.format is not None:
        raise InvalidParameter(
            "output_format and output_config.format are the same parameter; give only one.",
            "output_format",
        )
    for name in IGNORED & fields.keys():
        notices.ignore(name)
    return request


def to_chat(request: MessageRequest | CountTokensRequest, signer: Signer) -> ChatForm:
    """Convert a request into a chat request.

    Raises:
        InvalidParameter: ``param`` names the field of the original request.
    """
    conversation = to_conversation(request.messages, signer)
    system = _system(request.system)
    if system:
        conversation.messages.insert(0, {"role": "system", "content": system})
        conversation.places.insert(0, Place(SYSTEM))
    body: Json = {
        **request.extensions,
        "model": request.model,
        "messages": conversation.messages,
        "stream": request.stream,
        "max_tokens": max(1, request.max_tokens),
        "stop": request.stop_sequences,
        **{name: value for name in _RANGED if (value := getattr(request, name)) is not None},
        **tool_fields.for_chat(request.tools, request.tool_choice),
        **_thinking(request),
    }
    if request.messages[-1].role == "assistant":
        _check_prefill(request.messages[-1], f"messages[{len(request.messages) - 1}]")
        body["continue_final_message"] = True
    format = request.output_format or request.output_config.format
    if format is not None:
        schema = {"name": format.name or "answer", "schema": format.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.service_tier == "standard_only":
        body["service_tier"] = "default"
    try:
        chat = parse_chat(body)
    except InvalidParameter as ex:
        raise _renamed(ex, conversation, request) from ex
    sampling = chat.sampling
    own: Json = {"temperature": TEMPERATURE, "top_p": TOP_P}
    absent: Json = {name: value for name, value in own.items() if name not in sampling.given}
    params = dataclasses.replace(sampling.params, **absent)
    chat = structs.replace(
        chat,
        sampling=structs.replace(sampling, params=params),
        max_tokens=request.max_tokens,
        # The first event of a stream says how much of the prompt was cached.
        return_progress=request.stream,
    )
    return ChatForm(chat, request, conversation)


def _system(given: str | list[TextBlock]) -> str:
    """Return the system prompt, without a line about billing at its beginning."""
    texts = [given] if isinstance(given, str) else [block.text for block in given]
    if texts and texts[0].startswith(BILLING):
        notices.ignore("system" if isinstance(given, str) else "system[0]")
        texts[0] = texts[0].partition("\n")[2]
    return "\n".join(filter(None, texts))


def _thinking(request: MessagesFields) -> Json:
    """Return the fields of a chat request about reasoning."""
    effort = request.output_config.effort
    for message in request.messages:
        if message.output_config is not None and message.output_config.effort is not None:
            effort = message.output_config.effort
    if not request.thinks:
        if effort is not None:
            notices.ignore("output_config.effort")
        return {"reasoning_effort": "none"}
    fields: Json = {"enable_thinking": True} if effort is None else {"reasoning_effort": effort}
    if isinstance(request.thinking, ThinkingOn):
        fields["reasoning_budget_tokens"] = request.thinking.budget_tokens
    return fields


def _check_prefill(message: InputMessage, param: str) -> None:
    """Check a last message that the answer continues."""
    blocks = message.content or ""
    if isinstance(blocks, str):
        text = blocks
    else:
        for index, block in enumerate(blocks):
            if block.__struct_config__.tag == "tool_use":
                place = f"{param}.content[{index}]"
                raise InvalidParameter(
                    f"{place}: the call has no result; send a tool_result block in a user message.",
                    place,
                )
        text = "".join(b.text for b in blocks if isinstance(b, TextBlock))
    if not text:
        raise InvalidParameter(
            f"{param}: the answer can only continue a last message with text.", param
        )


_NAMES = [
    (re.compile(r"^tool_choice\.function\b"), "tool_choice"),
    (re.compile(r"^(tools\[\d+\])\.function\.parameters\b"), r"\1.input_schema"),
    (re.compile(r"^(tools\[\d+\])\.function\b"), r"\1"),
    (re.compile(r"^response_format\.json_schema\b"), "output_config.format"),
    (re.compile(r"^response_format\b"), "output_config.format"),
    (re.compile(r"^reasoning_budget_tokens\b"), "thinking.budget_tokens"),
    (re.compile(r"^stop\b"), "stop_sequences"),
]
_FORMAT = re.compile(r"^output_config\.format\b")
_TOO_LONG = re.compile(r"maximum context length is (\d+) tokens and the prompt has (\d+)")


def _renamed(
    error: RequestError, conversation: Conversation, request: MessagesFields
) -> RequestError:
    def rename(path: str) -> str:
        for pattern, name in _NAMES:
            path = pattern.sub(name, path)
        if request.output_format is not None:
            path = _FORMAT.sub("output_format", path)
        return path

    error = with_first(conversation.renamed(error), rename)
    if isinstance(error, ContextLengthExceeded):
        # Clients know the beginning of this message, and shorten the conversation.
        numbers = _TOO_LONG.search(error.message)
        words = f"{numbers[2]} tokens > {numbers[1]} maximum." if numbers else error.message
        return type(error)(f"prompt is too long: {words}", error.param, code=error.code)
    old = error.param or ""
    new = rename(old)
    if new == old:
        return labelled(error, request.labels)
    return type(error)(error.message.replace(old, new), new, code=error.code)
