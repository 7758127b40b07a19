"""``POST /v1/responses``: the request's fields, and their conversion into a chat request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import Meta

from offgrid.api.chat.request import ChatRequest, Effort, parse_chat
from offgrid.api.fields import structured
from offgrid.api.fields.common import MAX_TOKENS, Unsupported, refuse_others
from offgrid.api.fields.inert import (
    CacheRetention,
    Metadata,
    Moderation,
    PromptCacheOptions,
    Verbosity,
)
from offgrid.api.fields.keep_alive import KeepAlive, seconds_of
from offgrid.api.fields.messages import invalid
from offgrid.api.fields.nulls import present
from offgrid.api.fields.sampling import ALIASES, NAMES
from offgrid.api.fields.translated import Translated
from offgrid.api.responses.items import (
    Given,
    added_tools,
    parse_items,
    to_messages,
    without_earlier_reasoning,
)
from offgrid.api.responses.renamed import as_sent, of_item, renamed
from offgrid.api.responses.tools import Tools, choice_for_chat, gather, moved
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, RequestError

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"
Includable = Literal[
    "message.output_text.logprobs", "reasoning.encrypted_content", "file_search_call.results",
    "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs",
]  # fmt: skip
"""All but the first two ask for content that answers of a local model do not have."""

SAMPLING = NAMES | ALIASES.keys() | structured.NAMES - {"response_format"} | {
    "stop", "banned_strings", "ignore_eos", "cache_prompt", "post_sampling_probs",
    "chat_template_kwargs", "reasoning_budget_tokens", "timings_per_token", "return_progress",
    "service_tier", "priority", "cache_salt", "samplers", "t_max_predict_ms", "n_indent",
}  # fmt: skip
"""Fields with the same meaning as in chat; they are checked there."""

IGNORED = frozenset({
    "access_programs", "background_options", "client_metadata", "context_management", "image",
    "max_tool_calls", "moderation", "prompt_cache_options", "prompt_cache_retention",
})  # fmt: skip
"""Fields that are validated but ignored."""
ONLY_SHOWN = frozenset({"user", "safety_identifier", "prompt_cache_key"})
"""Fields that are validated and have no effect, except that the response repeats them."""

UNSUPPORTED: Unsupported = {"prompt": lambda value: False}


class PlainText(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"
):
    def for_chat(self) -> Json:
        """Return the format in the form of a chat request."""
        return {"type": "text"}


class JsonObject(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"
):
    def for_chat(self) -> Json:
        """Return the format in the form of a chat request."""
        return {"type": "json_object"}


class JsonSchema(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"
):
    name: str
    schema: Json
    description: str | None = None
    strict: bool | None = None

    def for_chat(self) -> Json:
        """Return the format in the form of a chat request."""
        fields = {
            "name": self.name, "schema": self.schema, "description": self.description,
            "strict": self.strict,
        }  # fmt: skip
        return {"type": "json_schema", "json_schema": fields}


class TextConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The field ``text``. Its ``verbosity`` has no effect."""

    format: PlainText | JsonObject | JsonSchema | None = None
    verbosity: Verbosity | None = None


class ResponseStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_obfuscation: bool | None = None


class ReasoningConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reasoning effort, and which reasoning of earlier answers the model sees.

    Reasoning is returned in full, so summary options have no effect; ``mode`` has none either.
    ``enabled`` and ``exclude`` are OpenRouter's: the translation of foreign fields takes them out.
    """

    effort: Effort | None = None
    enabled: bool | None = None
    exclude: bool | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class ConversationReference(msgspec.Struct, frozen=True):
    """The conversation that a response belongs to."""

    id: str


class BackgroundOptions(msgspec.Struct, frozen=True):
    """Options of background responses, which have no effect: each begins as soon as it can."""

    completion_window: str | None = None
    continuation_id: str | None = None


class AccessPrograms(msgspec.Struct, frozen=True):
    """Access programs, which have no effect here."""

    cyber: Literal["standard", "daybreak_blue", "daybreak_red"] | None = None


class ImageOptions(msgspec.Struct, frozen=True):
    """Compression of images, which this server does not do."""

    context_compression: Literal["auto", "enabled", "disabled"] | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checked request.

    Attributes:
        sampling: the fields of :data:`SAMPLING` that were given.
        labels: the names under which the client sent fields, by their names here.
    """

    PARSED: ClassVar[frozenset[str]] = frozenset({"sampling", "labels"})
    """Attributes that are made from fields and are not fields of the body."""

    model: str = ""
    input: Any
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    tools: list[Json | None] = []
    tool_choice: str | Json = "auto"
    parallel_tool_calls: bool = True
    text: TextConfig = TextConfig()
    reasoning: ReasoningConfig = ReasoningConfig()
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    store: bool = True
    previous_response_id: str | None = None
    conversation: str | ConversationReference | None = None
    background: bool = False
    background_options: BackgroundOptions | None = None
    client_metadata: Json | None = None
    context_management: list[Json] = []
    metadata: Metadata = {}
    truncation: Literal["auto", "disabled"] = "disabled"
    include: list[Includable] = []
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    access_programs: AccessPrograms | None = None
    image: ImageOptions | None = None
    max_tool_calls: Annotated[int, Meta(ge=0)] | None = None
    moderation: Moderation | None = None
    prompt_cache_options: PromptCacheOptions | None = None
    prompt_cache_retention: CacheRetention | None = None
    keep_alive: KeepAlive = None
    sampling: Json = {}
    labels: dict[str, str] = {}

    @property
    def logprobs(self) -> bool:
        """Whether the answer carries the logprobs of its tokens."""
        return LOGPROBS in self.include

    @property
    def sealed(self) -> bool:
        """Whether reasoning carries its text as ``encrypted_content`` too."""
        return ENCRYPTED in self.include

    @property
    def conversation_id(self) -> str | None:
        """The id of the conversation that the response belongs to."""
        given = self.conversation
        return given.id if isinstance(given, ConversationReference) else given

    @property
    def obfuscate(self) -> bool:
        """Whether deltas carry random padding."""
        return bool(self.stream_options and self.stream_options.include_obfuscation)


def parse_responses(body: Json) -> tuple[ResponsesRequest, list[Given]]:
    """Check the body of a request; return it and the items of its input.

    ``null`` counts as absent.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    known = set(ResponsesRequest.__struct_fields__) - ResponsesRequest.PARSED | SAMPLING
    later = {name: body[name] for name in _READ_LATER if body.get(name) is not None}
    now = present({name: value for name, value in body.items() if name not in later}, items=True)
    given = Translated({**now, **later}, known | UNSUPPORTED.keys() | {"reasoning_effort"})
    fields = given.fields
    _take_effort(fields)
    sampling = {name: fields.pop(name) for name in list(fields) if name in SAMPLING}
    refuse_others(fields, known, UNSUPPORTED, given)
    try:
        request = msgspec.convert(
            {**fields, "sampling": sampling, "labels": given.labels}, ResponsesRequest
        )
    except msgspec.ValidationError as ex:
        raise as_sent(invalid(str(ex), fields, ResponsesRequest), given.labels) from None
    _check(request)
    return request, parse_items(request.input)


def _take_effort(fields: Json) -> None:
    """Put the effort into ``reasoning``, from where the translation of the fields has taken it."""
    effort = fields.pop("reasoning_effort", None)
    reasoning = fields.get("reasoning", {})
    if effort is not None and isinstance(reasoning, dict):
        fields["reasoning"] = {**reasoning, "effort": effort}


def _check(request: ResponsesRequest) -> None:
    """Check the fields together, and the one whose type does not check its pattern."""
    seconds_of(request.keep_alive)
    if request.stream_options is not None and not request.stream:
        raise InvalidParameter("stream_options needs stream: true.", "stream_options")
    options = request.prompt_cache_options
    if options is not None and options.prewarm:  # such a request expects no answer
        name = "prompt_cache_options.prewarm"
        raise InvalidParameter(
            f"{name} is not supported by this server.", name, code="unsupported_parameter"
        )
    if request.top_logprobs and not request.logprobs:
        raise InvalidParameter(f"top_logprobs needs {LOGPROBS} in include.", "top_logprobs")
    if request.background and not request.store:
        raise InvalidParameter(
            "background needs store: true, because the response is read after it was made.",
            "background",
        )
    if request.conversation_id is not None and request.previous_response_id is not None:
        raise InvalidParameter(
            "previous_response_id and conversation are mutually exclusive; give one of them.",
            "previous_response_id",
        )


_READ_LATER = frozenset({"input", "tools"})


class ChatForm(NamedTuple):
    """A request in the form of a chat request.

    Attributes:
        chat: the chat request.
        tools: the tools that the model may call.
        tool_choice: the field, as the response shows it.
        effort: the reasoning effort in force.
        format: the format of the text in force.
        labels: as in :class:`ResponsesRequest`.
    """

    chat: ChatRequest
    tools: Tools
    tool_choice: str | Json
    effort: Effort | None
    format: PlainText | JsonObject | JsonSchema
    labels: Mapping[str, str]

    def renamed(self, error: RequestError) -> RequestError:
        """Return an error of the chat request with the field names of the original request."""
        return as_sent(renamed(error, self.tools), self.labels)


def to_chat(request: ResponsesRequest, items: Sequence[Json], places: Sequence[int]) -> ChatForm:
    """Convert a request into a chat request.

    Args:
        request: the checked request.
        items: all items of its conversation.
        places: the indices in ``input`` of the items at the end that are its input.

    Raises:
        InvalidParameter: ``param`` names the field of the original request.
    """
    tools = gather(request.tools, added_tools(items, places))
    choice, shown_choice = choice_for_chat(request.tool_choice, tools)
    update = _updates(items)
    effort = request.reasoning.effort or update.effort
    format = request.text.format or update.format
    seen = items
    if request.reasoning.context == "current_turn":
        seen = without_earlier_reasoning(items)
    messages, begins = to_messages(seen)
    if request.instructions is not None:
        messages.insert(0, {"role": "system", "content": request.instructions})
        begins.insert(0, -1)
    if not messages:
        raise InvalidParameter(
            "input holds no message, call or result that the model could answer.", "input"
        )
    body: Json = {
        **request.sampling,
        "model": request.model,
        "messages": messages,
        "stream": request.stream,
        "max_completion_tokens": request.max_output_tokens,
        "parallel_tool_calls": request.parallel_tool_calls,
        "reasoning_effort": effort,
    }
    if tools.offered or choice not in ("auto", "none"):
        body["tools"] = tools.for_chat()
        body["tool_choice"] = choice
    if format is not None:
        body["response_format"] = format.for_chat()
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    try:
        chat = parse_chat(body)
    except InvalidParameter as ex:
        error = of_item(ex, items, begins, places) or renamed(ex, tools)
        raise as_sent(error, request.labels) from ex
    return ChatForm(chat, tools, shown_choice, effort, format or PlainText(), request.labels)


class _Updates(NamedTuple):
    """The settings of ``configuration_update`` items: each holds until another replaces it."""

    effort: Effort | None = None
    format: PlainText | JsonObject | JsonSchema | None = None


class _Update(msgspec.Struct, frozen=True):
    reasoning: ReasoningConfig = ReasoningConfig()
    text: TextConfig = TextConfig()


def _updates(items: Sequence[Json]) -> _Updates:
    found = _Updates()
    for item in items:
        if item["type"] == "configuration_update":
            try:
                update = msgspec.convert(item, _Update)
            except msgspec.ValidationError as ex:
                raise invalid(moved(str(ex), "input")) from None
            found = _Updates(
                update.reasoning.effort or found.effort, update.text.format or found.format
            )
    return found
