"""``POST /v1/responses``: the request's fields, and their conversion into a chat request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from offgrid.api.chat.request import ChatRequest, Effort, parse_chat
from offgrid.api.fields.common import MAX_TOKENS, Unsupported, refuse_others
from offgrid.api.fields.foreign import Translated
from offgrid.api.fields.inert import (
    CacheRetention,
    Metadata,
    Moderation,
    PromptCacheOptions,
    ServiceTier,
    Verbosity,
)
from offgrid.api.fields.messages import invalid
from offgrid.api.fields.nulls import present
from offgrid.api.fields.sampling import ALIASES, NAMES
from offgrid.api.responses.items import ItemReference, parse_items, to_messages
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, RequestError

LOGPROBS = "message.output_text.logprobs"
Includable = Literal[
    "message.output_text.logprobs", "reasoning.encrypted_content", "file_search_call.results",
    "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs",
]  # fmt: skip
"""All but the first ask for content that answers of a local model do not have."""

SAMPLING = NAMES | ALIASES.keys() | {
    "stop", "ignore_eos", "cache_prompt", "post_sampling_probs", "chat_template_kwargs",
}  # fmt: skip
"""Fields with the same meaning as in chat; they are checked there."""

IGNORED = frozenset({
    "access_programs", "image", "max_tool_calls", "moderation", "prompt_cache_options",
    "prompt_cache_retention", "service_tier",
})  # fmt: skip
"""Fields that are validated but ignored."""
ONLY_SHOWN = frozenset({"user", "safety_identifier", "prompt_cache_key"})
"""Fields that are validated and have no effect, except that the response repeats them."""

UNSUPPORTED: Unsupported = {
    "background": lambda value: value is False,
    "background_options": lambda value: False,
    "context_management": lambda value: value == [],
    "conversation": lambda value: False,
    "prompt": lambda value: False,
}


class FunctionTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None

    def for_chat(self) -> Json:
        """Return the tool in the form of a chat request."""
        function = msgspec.to_builtins(self)
        del function["type"]
        return {"type": "function", "function": function}


class ResponseFunctionChoice(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    name: str

    def for_chat(self) -> Json:
        """Return the choice in the form of a chat request."""
        return {"type": "function", "function": {"name": self.name}}


class ResponseAllowedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str


class ResponseAllowedChoice(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    mode: Literal["auto", "required"]
    tools: list[ResponseAllowedTool]

    def for_chat(self) -> Json:
        """Return the choice in the form of a chat request."""
        tools = [{"type": "function", "function": {"name": tool.name}} for tool in self.tools]
        return {"type": "allowed_tools", "allowed_tools": {"mode": self.mode, "tools": tools}}


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
    """The reasoning effort. Reasoning is returned in full, so summary options have no effect."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class AccessPrograms(msgspec.Struct, frozen=True):
    """Access programs, which have no effect here."""

    cyber: Literal["standard", "daybreak_blue", "daybreak_red"] | None = None


class ImageOptions(msgspec.Struct, frozen=True):
    """Compression of images, which this server does not do."""

    context_compression: Literal["auto", "enabled", "disabled"] | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checked request. ``sampling`` holds the fields of :data:`SAMPLING` that were given."""

    model: str = ""
    input: Any
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    tools: list[FunctionTool] = []
    tool_choice: (
        Literal["none", "auto", "required"] | ResponseFunctionChoice | ResponseAllowedChoice
    ) = "auto"
    parallel_tool_calls: bool = True
    text: TextConfig = TextConfig()
    reasoning: ReasoningConfig = ReasoningConfig()
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    store: bool = True
    previous_response_id: str | None = None
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
    service_tier: ServiceTier = "auto"
    sampling: Json = {}

    @property
    def logprobs(self) -> bool:
        """Whether the answer carries the logprobs of its tokens."""
        return LOGPROBS in self.include

    @property
    def obfuscate(self) -> bool:
        """Whether deltas carry random padding."""
        return bool(self.stream_options and self.stream_options.include_obfuscation)


def parse_responses(body: Json) -> tuple[ResponsesRequest, list[Json | ItemReference]]:
    """Check the body of a request; return it and the items of its input.

    ``null`` counts as absent.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    known = set(ResponsesRequest.__struct_fields__) - {"sampling"} | SAMPLING
    given = Translated(present(body, items=True), known | UNSUPPORTED.keys())
    fields = given.fields
    sampling = {name: fields.pop(name) for name in list(fields) if name in SAMPLING}
    refuse_others(fields, known, UNSUPPORTED, given)
    try:
        request = msgspec.convert({**fields, "sampling": sampling}, ResponsesRequest)
    except msgspec.ValidationError as ex:
        raise _only_functions(invalid(str(ex), fields, ResponsesRequest)) from None
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
    return request, parse_items(request.input)


def _only_functions(error: InvalidParameter) -> InvalidParameter:
    if not re.fullmatch(r"(tool_choice\.)?(tools\[\d+\]\.)?type", error.param or ""):
        return error
    return InvalidParameter(
        f"{error.param}: only functions are supported by this server.",
        error.param,
        code="unsupported_parameter",
    )


def to_chat(request: ResponsesRequest, items: Sequence[Json], n_input: int) -> ChatRequest:
    """Convert a request into a chat request.

    Args:
        request: the checked request.
        items: all items of its conversation.
        n_input: number of items at the end that are its input.

    Raises:
        InvalidParameter: ``param`` names the field of the original request.
    """
    messages, begins = to_messages(items)
    if request.instructions is not None:
        messages.insert(0, {"role": "system", "content": request.instructions})
        begins.insert(0, -1)
    choice = request.tool_choice
    body: Json = {
        **request.sampling,
        "model": request.model,
        "messages": messages,
        "stream": request.stream,
        "max_completion_tokens": request.max_output_tokens,
        "parallel_tool_calls": request.parallel_tool_calls,
        "reasoning_effort": request.reasoning.effort,
    }
    if request.tools or choice not in ("auto", "none"):
        body["tools"] = [tool.for_chat() for tool in request.tools]
        body["tool_choice"] = choice if isinstance(choice, str) else choice.for_chat()
    if request.text.format is not None:
        body["response_format"] = request.text.format.for_chat()
    if request.logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    try:
        return parse_chat(body)
    except InvalidParameter as ex:
        image = _IMAGE.match(ex.param or "")
        item = begins[int(image[1])] - (len(items) - n_input) if image else -1
        if image and item >= 0:
            param = f"input[{item}].content[{image[2]}].image_url"
            raise InvalidParameter(ex.message, param, code=ex.code) from ex
        raise renamed(ex) from ex


_IMAGE = re.compile(r"messages\[(\d+)\]\.content\[(\d+)\]\.image_url\.url$")
_NAMES = [
    (re.compile(r"^tools(\[\d+\])\.function\b"), r"tools\1"),
    (re.compile(r"^tool_choice\.allowed_tools\b"), "tool_choice"),
    (re.compile(r"^tool_choice(.*)\.function\b"), r"tool_choice\1"),
    (re.compile(r"^response_format(\.json_schema)?\b"), "text.format"),
    (re.compile(r"^messages\b.*"), "input"),
    (re.compile(r"^max_completion_tokens\b"), "max_output_tokens"),
]


def renamed(error: RequestError) -> RequestError:
    """Return an error of the chat request with the field names of the original request."""
    old = error.param or ""
    new = old
    for pattern, name in _NAMES:
        new = pattern.sub(name, new)
    if new == old:
        return error
    # Replace only names with a dot: a name of one word may be an ordinary word of the message.
    message = error.message.replace(old, new) if "." in old else error.message
    return type(error)(message, new, code=error.code)
