"""The items of ``/v1/responses``: as clients send them, as they are stored, and as chat messages.

Items are checked and converted into the form that the API lists and stores (with ids, a status, and
content in parts). From that form they are converted into messages for the model's chat template.

There are three classes of items. Messages, calls, results and reasoning are checked field by field.
Items that tools of hosted services write (:mod:`offgrid.api.responses.hosted`) are stored as the
client sent them; those with text that matters to the model become calls and results. Items of
unknown types are left out. Unknown fields are ignored, since newer clients send new ones.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from offgrid.api.fields.messages import invalid, one_of, shown
from offgrid.api.responses.hosted import HOSTED, Call, Meaning, Result, refused
from offgrid.api.responses.lenient import without_nulls
from offgrid.api.responses.tools import INPUT, called_name
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter

MAX_ITEMS = 10_000
"""Maximum number of items in one request."""
ROLES = ("system", "developer", "user", "assistant")
Status = Literal["in_progress", "completed", "incomplete"]
Detail = Literal["auto", "low", "high", "original"]


class InputText(msgspec.Struct, frozen=True, tag_field="type", tag="input_text"):
    """Text of an input."""

    text: str


class PlainPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """Text under the name that chat has for it."""

    text: str


class InputImage(msgspec.Struct, frozen=True, tag_field="type", tag="input_image"):
    """An image, for vision models. This server stores no files, so ``file_id`` must be absent."""

    image_url: str | None = None
    detail: Detail | None = None
    file_id: str | None = None


class InputFile(msgspec.Struct, frozen=True, tag_field="type", tag="input_file"):
    """A file of text, whose data is in the request."""

    file_data: str | None = None
    filename: str | None = None
    file_id: str | None = None
    file_url: str | None = None


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """Text of an earlier answer; its annotations and logprobs are ignored."""

    text: str


class Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


class SummaryPart(msgspec.Struct, frozen=True, tag_field="type", tag="summary_text"):
    text: str


class ReasoningPart(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    text: str


InputPart = InputText | PlainPart | InputImage | InputFile
ContentPart = InputPart | OutputText | Refusal | SummaryPart | ReasoningPart


class MessageItem(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] = ""
    type: Literal["message"] = "message"
    id: str | None = None
    status: Status = "completed"
    phase: str | None = None

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        answer = self.role == "assistant"
        parts = self.content
        if isinstance(parts, str):
            parts = [OutputText(parts) if answer else InputText(parts)]
        item: Json = {
            "id": self.id or new_id("msg"), "type": "message", "status": self.status,
            "role": self.role, "content": [_part(part, answer) for part in parts],
        }  # fmt: skip
        if self.phase is not None:
            item["phase"] = self.phase
        return item


def _part(part: ContentPart, answer: bool = False) -> Json:
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.refusal}
    if isinstance(part, InputImage):
        return {
            "type": "input_image", "image_url": part.image_url, "detail": part.detail or "auto",
            "file_id": None,
        }  # fmt: skip
    if isinstance(part, InputFile):
        return {
            "type": "input_file", "file_data": part.file_data, "filename": part.filename or "file",
        }  # fmt: skip
    if answer:
        return {"type": "output_text", "text": part.text, "annotations": []}
    return {"type": "input_text", "text": part.text}


class _OfTool(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of all calls and results."""

    id: str | None = None
    status: Status = "completed"
    namespace: str | None = None
    caller: Json | None = None

    def _extra(self) -> Json:
        """The fields that are listed only if they were given."""
        extra = {"namespace": self.namespace, "caller": self.caller}
        return {name: value for name, value in extra.items() if value is not None}


class CallItem(_OfTool, frozen=True, kw_only=True):
    """A tool call of an earlier answer."""

    type: Literal["function_call"]
    name: str
    call_id: str | None = None
    arguments: str = ""

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        return {
            "id": self.id or new_id("fc"), "type": "function_call", "status": self.status,
            "call_id": self.call_id or new_id("call"), "name": self.name,
            "arguments": self.arguments, **self._extra(),
        }  # fmt: skip


class CallOutputItem(_OfTool, frozen=True, kw_only=True):
    """The result of a called function. Without ``call_id`` it belongs to the latest call."""

    type: Literal["function_call_output"]
    output: str | list[InputPart] = ""
    call_id: str | None = None

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        return {
            "id": self.id or new_id("fc"), "type": "function_call_output", "status": self.status,
            "call_id": self.call_id, "output": _output(self.output), **self._extra(),
        }  # fmt: skip


class CustomCallItem(_OfTool, frozen=True, kw_only=True):
    """A call of a custom tool in an earlier answer."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str = ""

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        return {
            "id": self.id or new_id("ctc"), "type": "custom_tool_call", "status": self.status,
            "call_id": self.call_id, "name": self.name, "input": self.input, **self._extra(),
        }  # fmt: skip


class CustomOutputItem(_OfTool, frozen=True, kw_only=True):
    """The result of a custom tool."""

    type: Literal["custom_tool_call_output"]
    call_id: str
    output: str | list[InputPart] = ""

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        return {
            "id": self.id or new_id("cto"), "type": "custom_tool_call_output",
            "status": self.status, "call_id": self.call_id, "output": _output(self.output),
            **self._extra(),
        }  # fmt: skip


def _output(output: str | list[InputPart]) -> str | list[Json]:
    return output if isinstance(output, str) else [_part(part) for part in output]


class ReasoningText(msgspec.Struct, frozen=True):
    """A part of reasoning or of its summary."""

    text: str


class ReasoningItem(msgspec.Struct, frozen=True):
    """Reasoning of an earlier answer. Encrypted reasoning of other services is ignored.

    Some clients send back only ``encrypted_content``; that of this server is readable.
    """

    type: Literal["reasoning"]
    summary: list[ReasoningText] = []
    content: list[ReasoningText] = []
    id: str | None = None
    status: Status = "completed"
    encrypted_content: str | None = None

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        content = self.content
        if not content and not self.summary:
            text = opened(self.encrypted_content or "")
            content = [ReasoningText(text)] if text else []
        return {
            "id": self.id or new_id("rs"), "type": "reasoning", "status": self.status,
            "summary": [{"type": "summary_text", "text": part.text} for part in self.summary],
            "content": [{"type": "reasoning_text", "text": part.text} for part in content],
        }  # fmt: skip


_SEALED = "offgrid-reasoning:"
"""Begins ``encrypted_content`` that this server has written."""


def sealed(text: str) -> str:
    """Return reasoning as ``encrypted_content``: base64, and not encrypted."""
    return _SEALED + base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()


def opened(content: str) -> str:
    """Return the reasoning of ``encrypted_content``; an empty text if another service wrote it."""
    if not content.startswith(_SEALED):
        return ""
    try:
        return base64.b64decode(content[len(_SEALED) :], validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""


class ItemReference(msgspec.Struct, frozen=True):
    """Stands for a stored item."""

    id: str
    type: Literal["item_reference"] = "item_reference"


class LeftOut(NamedTuple):
    """Stands for an item of an unknown type."""

    type: str


TYPES: dict[str, Any] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": CallOutputItem,
    "custom_tool_call": CustomCallItem,
    "custom_tool_call_output": CustomOutputItem,
    "reasoning": ReasoningItem,
    "item_reference": ItemReference,
}
Given = Json | ItemReference | LeftOut


def new_id(prefix: str) -> str:
    """Return a new unique id."""
    return f"{prefix}_{secrets.token_hex(24)}"


def parse_items(value: Any, name: str = "input", most: int = MAX_ITEMS) -> list[Given]:
    """Check a list of items; return them in their stored form, and references unchanged.

    Args:
        value: the value of the field; a text stands for a message of the user.
        name: the field.
        most: largest number of items.

    Raises:
        InvalidParameter: ``param`` names the item and the field.
    """
    if isinstance(value, str) and name == "input":
        return [MessageItem("user", value).normal()]
    if not isinstance(value, list) or all(item is None for item in value):
        expected = "text or a list of items" if name == "input" else "a list of items"
        found = "an empty list" if isinstance(value, list) else shown(value)
        raise InvalidParameter(f"{name} must be {expected}, not {found}.", name)
    if len(value) > most:
        raise InvalidParameter(f"{name} takes at most {most} items, not {len(value)}.", name)
    return [
        _parse_item(item, f"{name}[{index}]")
        for index, item in enumerate(value) if item is not None
    ]  # fmt: skip


def _parse_item(value: Any, where: str) -> Given:
    if not isinstance(value, dict):
        raise InvalidParameter(f"{where} must be an object.", where)
    fields = without_nulls(value)
    kind = fields.get("type", "message" if "role" in fields else "item_reference")
    if isinstance(kind, str) and kind in HOSTED:
        return _parse_hosted(kind, fields, where)
    if not isinstance(kind, str) or kind not in TYPES:
        if isinstance(kind, str) and "content" not in fields:
            return LeftOut(kind)
        raise InvalidParameter(
            f"{where}.type: {str(kind)[:80]!r} is not a type of items with content; "
            f"these are: {', '.join(TYPES)}.",
            f"{where}.type",
        )
    if kind == "message" and "role" in fields and fields["role"] not in ROLES:
        raise InvalidParameter(
            f"{where}.role must be {one_of(ROLES)}, not {shown(fields['role'])}.", f"{where}.role"
        )
    if kind == "message" and "content" not in fields and fields.get("role") != "assistant":
        raise InvalidParameter(
            f"{where}.content is required: a text or a list of parts.",
            f"{where}.content",
            code="missing_required_parameter",
        )
    try:
        item = msgspec.convert(fields, TYPES[kind])
    except msgspec.ValidationError as ex:
        raise invalid(str(ex), fields, TYPES[kind], where) from None
    if isinstance(item, MessageItem):
        _check_parts(item.content, f"{where}.content", images=item.role == "user")
    elif isinstance(item, (CallOutputItem, CustomOutputItem)):
        _check_parts(item.output, f"{where}.output", images=True)
    return item if isinstance(item, ItemReference) else item.normal()


def _parse_hosted(kind: str, fields: Json, where: str) -> Json:
    reason = refused(kind)
    if reason:
        raise InvalidParameter(
            f"{where}.type: {reason}", f"{where}.type", code="unsupported_parameter"
        )
    id = fields.get("id", new_id(HOSTED[kind].prefix))
    if not isinstance(id, str):
        raise InvalidParameter(f"{where}.id must be a string.", f"{where}.id")
    return {**fields, "id": id, "type": kind}


def _check_parts(parts: str | Sequence[ContentPart], where: str, *, images: bool) -> None:
    """Check that images and files can be passed on."""
    for index, part in enumerate(parts if not isinstance(parts, str) else ()):
        place = f"{where}[{index}]"
        if isinstance(part, InputImage):
            if not images:
                raise InvalidParameter(
                    f"{place}: only user messages and results of tools can contain images.", place
                )
            if part.image_url is None:
                raise _no_files(place, "image_url with a data URL")
        elif isinstance(part, InputFile):
            if part.file_data is None:
                raise _no_files(place, "file_data")
            _file_text(part.file_data, f"{place}.file_data")


def _no_files(place: str, instead: str) -> InvalidParameter:
    return InvalidParameter(
        f"{place}: this server stores and fetches no files; send {instead} instead of an id or a "
        "URL.",
        place,
        code="unsupported_parameter",
    )


def _file_text(data: str, param: str) -> str:
    """Return the text of a file, which is base64, as a data URL or by itself."""
    encoded = data.partition(",")[2] if data.startswith("data:") else data
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        text = "\0"
    if "\0" in text:
        raise InvalidParameter(
            f"{param}: only files of text (base64 of UTF-8) are supported by this server.",
            param,
            code="unsupported_parameter",
        )
    return text


def added_tools(items: Sequence[Json], places: Sequence[int]) -> list[tuple[str, list[Json]]]:
    """Return the lists of tools that items add to those of the request.

    Args:
        items: the items of the conversation.
        places: the indices in ``input`` of the items at its end.
    """
    before = len(items) - len(places)
    return [
        (f"input[{places[index - before]}]" if index >= before else "input", item["tools"])
        for index, item in enumerate(items)
        if item["type"] in ("additional_tools", "tool_search_output")
        and isinstance(item.get("tools"), list)
    ]


def check_calls(items: Iterable[Json]) -> None:
    """Check that every result belongs to a call before it.

    Raises:
        InvalidParameter: a result belongs to no earlier call.
    """
    calls: set[str] = set()
    for item in items:
        kind = item["type"]
        if kind in ("function_call", "custom_tool_call"):
            calls.add(item["call_id"])
        elif kind in HOSTED:
            calls.update(one.id for one in HOSTED[kind].meaning(item) if isinstance(one, Call))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            id = item["call_id"]
            if id is not None and id not in calls:
                what = "function" if kind == "function_call_output" else "custom tool"
                raise InvalidParameter(
                    f"No {what} call found for the output with call_id {id[:80]!r}.", "input"
                )


def to_messages(items: Iterable[Json]) -> tuple[list[Json], list[int]]:
    """Return the chat messages of items, and the index of each message's first item.

    The reasoning, text and calls of one answer form one message.
    """
    messages: list[Json] = []
    begins: list[int] = []
    turn: Json | None = None
    calls: dict[str | None, str] = {}  # ids of calls, by the names that results have for them
    for index, item in enumerate(items):
        for meant in _meaning(item):
            message: Json
            if isinstance(meant, Result):
                if meant.optional and meant.id not in calls:
                    continue
                message = {"role": "tool", "content": meant.content}
                if meant.id is not None:
                    message["tool_call_id"] = calls.get(meant.id, meant.id)
                turn = None
            elif isinstance(meant, dict) and meant["type"] == "message" and _is_given(meant):
                message = {"role": meant["role"], "content": _content(meant["content"])}
                turn = None
            else:
                if isinstance(meant, Call):
                    calls[item["id"]] = calls[meant.id] = meant.id
                if turn is not None and not _starts_anew(turn, meant):
                    _add(turn, meant)
                    continue
                message = turn = {"role": "assistant", "content": ""}
                _add(turn, meant)
            messages.append(message)
            begins.append(index)
    return messages, begins


def without_earlier_reasoning(items: Sequence[Json]) -> list[Json]:
    """Return the items with an empty text for the reasoning before the last user message.

    Their number stays the same, so that errors name the right item.
    """
    users = [n for n, i in enumerate(items) if i["type"] == "message" and i["role"] == "user"]
    last = users[-1] if users else 0
    return [
        {**item, "summary": [], "content": []} if item["type"] == "reasoning" and n < last else item
        for n, item in enumerate(items)
    ]


def _is_given(message: Json) -> bool:
    return bool(message["role"] != "assistant")


def _meaning(item: Json) -> Meaning:
    """Return the calls and results of an item; a message or reasoning stays as it is."""
    kind = item["type"]
    if kind == "function_call":
        name = called_name(item.get("namespace"), item["name"])
        return [Call(item["call_id"], name, item["arguments"])]
    if kind == "custom_tool_call":
        name = called_name(item.get("namespace"), item["name"])
        arguments = msgspec.json.encode({INPUT: item["input"]}).decode()
        return [Call(item["call_id"], name, arguments)]
    if kind in ("function_call_output", "custom_tool_call_output"):
        output = item["output"]
        content = output if isinstance(output, str) else _content(output)
        return [Result(item["call_id"], content, optional=False)]
    if kind in HOSTED:
        return HOSTED[kind].meaning(item)
    if kind == "reasoning" and not any(part["text"] for part in item["content"] or item["summary"]):
        return []
    return [item]


def _starts_anew(turn: Json, meant: Json | Call) -> bool:
    """Whether it must begin a new message, as the current one already has later content."""
    if isinstance(meant, Call):
        return False
    said = bool(turn["content"]) or "tool_calls" in turn
    return said or (meant["type"] == "reasoning" and "reasoning_content" in turn)


def _add(turn: Json, meant: Json | Call) -> None:
    if isinstance(meant, Call):
        function = {"name": meant.name, "arguments": meant.arguments}
        turn.setdefault("tool_calls", []).append(
            {"id": meant.id, "type": "function", "function": function}
        )
    elif meant["type"] == "message":
        turn["content"] = _text(meant["content"])
    else:
        text = "".join(part["text"] for part in meant["content"] or meant["summary"])
        turn["reasoning_content"] = text


def _content(parts: list[Json]) -> str | list[Json]:
    """Return the text; if there are images, a list of chat's parts."""
    if all(part["type"] != "input_image" for part in parts):
        return _text(parts)
    return [
        {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part["detail"]}}
        if part["type"] == "input_image"
        else {"type": "text", "text": _text([part])}
        for part in parts
    ]


def _text(content: list[Json]) -> str:
    return "".join(map(_text_of, content))


def _text_of(part: Json) -> str:
    if part["type"] == "refusal":
        return str(part["refusal"])
    if part["type"] == "input_file":
        return f"File {part['filename']}:\n{_file_text(part['file_data'], 'input')}\n"
    return str(part["text"])
