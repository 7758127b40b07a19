"""The content blocks of messages, and their conversion into the messages of a chat request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from offgrid.api.anthropic.signature import Forged, Signer
from offgrid.api.fields import notices
from offgrid.api.fields.messages import missing
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, RequestError

SYSTEM = "system"
"""The field from which the first message of a chat request may come."""
ERROR = "Error:"
"""Begins the result of a tool that failed: chat templates have no other way to say so."""
_CHAT_PATH = re.compile(r"messages\[(\d+)\](?:\.content\[(\d+)\])?(.*)", re.DOTALL)


class CacheControl(msgspec.Struct, frozen=True):
    """A breakpoint of the prompt cache. It has no effect: every prefix is cached."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    """Text. Here and in the other blocks, unknown fields are ignored: they are notes."""

    text: str
    cache_control: CacheControl | None = None


class Base64Image(msgspec.Struct, frozen=True, tag="base64"):
    data: str
    media_type: Annotated[str, Meta(pattern=r"^image/[\w.+-]{1,40}$")]


class UrlImage(msgspec.Struct, frozen=True, tag="url"):
    """An image at a ``data:`` URL; this server fetches nothing."""

    url: str


class ImageBlock(msgspec.Struct, frozen=True, tag="image"):
    """An image, for vision models."""

    source: Base64Image | UrlImage
    cache_control: CacheControl | None = None


class Citations(msgspec.Struct, frozen=True):
    """Whether the answer shall cite a document; only false is accepted."""

    enabled: bool = False


class PlainTextSource(msgspec.Struct, frozen=True, tag="text"):
    data: str
    media_type: Literal["text/plain"] = "text/plain"


class ContentSource(msgspec.Struct, frozen=True, tag="content"):
    content: str | list[TextBlock | ImageBlock]


class DocumentBlock(msgspec.Struct, frozen=True, tag="document"):
    """A document of text, which the model reads in its place in the message."""

    source: PlainTextSource | ContentSource
    title: str | None = None
    context: str | None = None
    citations: Citations | None = None
    cache_control: CacheControl | None = None


class SearchResultBlock(msgspec.Struct, frozen=True, tag="search_result"):
    """A result of a search that the client has done."""

    source: str
    title: str
    content: list[TextBlock]
    citations: Citations | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    """Reasoning of an earlier answer. The model sees it if this server has signed it."""

    thinking: str
    signature: str


class RedactedThinkingBlock(msgspec.Struct, frozen=True, tag="redacted_thinking"):
    """Reasoning that only its author can read. It is left out: this server writes none."""

    data: str


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call that an earlier answer made."""

    id: str
    name: str
    input: Json
    cache_control: CacheControl | None = None


class ToolResultBlock(msgspec.Struct, frozen=True, tag="tool_result"):
    """The result of a call."""

    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock | SearchResultBlock] = ""
    is_error: bool = False
    cache_control: CacheControl | None = None


Block = (
    TextBlock
    | ImageBlock
    | DocumentBlock
    | SearchResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
)
Effort = Literal["low", "medium", "high", "xhigh", "max"]


class EffortOfMessage(msgspec.Struct, frozen=True):
    """The effort from a system message on."""

    effort: Effort | None = None


class InputMessage(msgspec.Struct, frozen=True):
    """A message. One with the role ``system`` may stand anywhere; only such a one may have no
    content, if it sets the effort."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block] | None = None
    clear_at: Literal["next_user_message", "never"] | None = None
    output_config: EffortOfMessage | None = None


class Place(NamedTuple):
    """Where a chat message comes from.

    Attributes:
        path: of the message or the block that it was made of.
        parts: the paths of the parts of its content; empty if that is one text.
    """

    path: str
    parts: tuple[str, ...] = ()


class Conversation(NamedTuple):
    """The messages of a chat request, and for each where it comes from."""

    messages: list[Json]
    places: list[Place]

    def renamed(self, error: RequestError) -> RequestError:
        """Return an error about a part of a chat message with the path in the client's request."""
        match = _CHAT_PATH.fullmatch(error.param or "")
        if match is None or int(match[1]) >= len(self.places):
            return error
        place, rest = self.places[int(match[1])], match[3]
        path = place.path
        if path == SYSTEM:
            rest = ""
        elif match[2] is not None and int(match[2]) < len(place.parts):
            path = place.parts[int(match[2])]
        elif match[2] is not None:
            rest = f".content[{match[2]}]{rest}"
        for chat, own in _ENDS.items():
            if rest.startswith(chat):
                rest = own + rest[len(chat) :]
        message = error.message.replace(error.param or "", path + rest)
        return type(error)(message, path + rest, code=error.code)


_ENDS = {".image_url.url": ".source", ".image_url": ".source", ".tool_call_id": ".tool_use_id"}
"""End of the path in a chat request -> end of the path in a block."""


class _Part(NamedTuple):
    part: Json
    path: str


def to_conversation(messages: Sequence[InputMessage], signer: Signer) -> Conversation:
    """Convert messages into those of a chat request.

    Args:
        messages: at least one.
        signer: checks the signatures of reasoning.

    Raises:
        InvalidParameter: a block is where it cannot be; ``param`` is its path.
    """
    made = Conversation([], [])
    last_user = max((i for i, m in enumerate(messages) if m.role == "user"), default=-1)
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if message.clear_at == "next_user_message" and index < last_user:
            continue
        if message.content is None:
            if message.output_config is None:
                raise missing(f"{path}.content")
        elif isinstance(message.content, str):
            _add(made, {"role": message.role, "content": message.content}, Place(path))
        elif message.role == "assistant":
            _add_answer(made, message.content, path, signer)
        else:
            _add_turn(made, message.role, message.content, path)
    return made


def _add(made: Conversation, message: Json, place: Place) -> None:
    made.messages.append(message)
    made.places.append(place)


def _add_turn(made: Conversation, role: str, blocks: Sequence[Block], path: str) -> None:
    """Add a message of the user or the system. The results in it come first, as the API wants."""
    parts: list[_Part] = []
    for index, block in enumerate(blocks):
        place = f"{path}.content[{index}]"
        if isinstance(block, (ThinkingBlock, RedactedThinkingBlock, ToolUseBlock)):
            raise _misplaced(block, place, "assistant")
        if role == "system" and not isinstance(block, TextBlock):
            raise InvalidParameter(f"{place}: system messages can contain only text.", place)
        if isinstance(block, ToolResultBlock):
            result = _result(block, place)
            content = [part.part for part in result]
            chat = {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
            _add(made, chat, Place(place, tuple(part.path for part in result)))
        else:
            parts += _parts(block, place)
    if parts or not any(isinstance(block, ToolResultBlock) for block in blocks):
        content = [part.part for part in parts]
        _add(made, {"role": role, "content": content},
             Place(path, tuple(part.path for part in parts)))  # fmt: skip


def _add_answer(made: Conversation, blocks: Sequence[Block], path: str, signer: Signer) -> None:
    """Add a message of the assistant."""
    parts: list[_Part] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for index, block in enumerate(blocks):
        place = f"{path}.content[{index}]"
        if isinstance(block, TextBlock):
            parts += _parts(block, place)
        elif isinstance(block, ThinkingBlock):
            thoughts += _thought(block, place, signer)
        elif isinstance(block, RedactedThinkingBlock):
            notices.ignore(place)
        elif isinstance(block, ToolUseBlock):
            function = {"name": block.name, "arguments": block.input}
            calls.append({"id": block.id, "type": "function", "function": function})
        else:
            raise _misplaced(block, place, "user")
    message: Json = {"role": "assistant", "content": [part.part for part in parts]}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    _add(made, message, Place(path, tuple(part.path for part in parts)))


def _thought(block: ThinkingBlock, place: str, signer: Signer) -> Iterable[str]:
    """Yield the text of a block, if this server has signed it."""
    try:
        text = signer.opened(block.thinking, block.signature)
    except Forged:
        raise InvalidParameter(
            f"{place}: Invalid `signature` in `thinking` block: its text was changed. Send the "
            "block as it was received, or leave it out.",
            place,
        ) from None
    if text is None:
        notices.ignore(place)
    elif text:
        yield text


def _result(block: ToolResultBlock, place: str) -> list[_Part]:
    """Return the parts of a result."""
    if isinstance(block.content, str):
        parts = [_text(block.content, place)]
    else:
        parts = [
            part
            for index, inner in enumerate(block.content)
            for part in _parts(inner, f"{place}.content[{index}]")
        ]
    return [_text(ERROR, place), *parts] if block.is_error else parts


def _parts(
    block: TextBlock | ImageBlock | DocumentBlock | SearchResultBlock, place: str
) -> list[_Part]:
    """Return the chat parts of a block."""
    if isinstance(block, TextBlock):
        return [_text(block.text, place)]
    if isinstance(block, ImageBlock):
        source = block.source
        url = source.url if isinstance(source, UrlImage) else _data_url(source)
        return [_Part({"type": "image_url", "image_url": {"url": url}}, place)]
    if block.citations is not None and block.citations.enabled:
        field = f"{place}.citations.enabled"
        raise InvalidParameter(
            f"{field}: this server makes no citations; leave the field out.",
            field,
            code="unsupported_parameter",
        )
    if isinstance(block, SearchResultBlock):
        texts = [f"Search result: {block.title} ({block.source})"]
        return [_text("\n".join([*texts, *(inner.text for inner in block.content)]), place)]
    head = "\n".join(filter(None, [f"Document: {block.title or ''}".rstrip(), block.context]))
    if isinstance(block.source, PlainTextSource):
        return [_text(f"{head}\n{block.source.data}", place)]
    inside = block.source.content
    if isinstance(inside, str):
        return [_text(f"{head}\n{inside}", place)]
    place = f"{place}.source"
    parts = [
        part
        for index, inner in enumerate(inside)
        for part in _parts(inner, f"{place}.content[{index}]")
    ]
    return [_text(head, place), *parts]


def _text(text: str, place: str) -> _Part:
    return _Part({"type": "text", "text": text}, place)


def _data_url(source: Base64Image) -> str:
    return f"data:{source.media_type};base64,{source.data}"


def _misplaced(block: Any, place: str, role: str) -> InvalidParameter:
    kind = block.__struct_config__.tag
    return InvalidParameter(
        f"{place}: blocks of type {kind} can only be in {role} messages.", place
    )
