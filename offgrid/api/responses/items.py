"""The items of ``/v1/responses``: as clients send them, as they are stored, and as chat messages.

Items are checked and converted into the form that the API lists and stores (with ids, a status, and
content in parts). From that form they are converted into messages for the model's chat template.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from offgrid.api.fields.messages import invalid
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter

MAX_ITEMS = 10_000
"""Maximum number of items in one request."""
ROLES = ("system", "developer", "user", "assistant")
Status = Literal["in_progress", "completed", "incomplete"]


class InputText(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="input_text"
):
    """Text of an input. Cache breakpoints have no effect: the cache needs none."""

    text: str
    prompt_cache_breakpoint: Json | None = None


class InputImage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="input_image"
):
    """An image, for vision models. This server stores no files, so ``file_id`` must be null."""

    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: None = None
    prompt_cache_breakpoint: Json | None = None


class OutputText(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="output_text"
):
    """Text of an earlier answer; its annotations and logprobs are ignored."""

    text: str
    annotations: list[Json] | None = None
    logprobs: list[Json] | None = None


class Refusal(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="refusal"
):
    refusal: str


ContentPart = InputText | InputImage | OutputText | Refusal


class MessageItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart]
    type: Literal["message"] = "message"
    id: str | None = None
    status: Status = "completed"
    phase: Literal["commentary", "final_answer"] | None = None

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


def _part(part: ContentPart, answer: bool) -> Json:
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.refusal}
    if isinstance(part, InputImage):
        return {
            "type": "input_image", "image_url": part.image_url, "detail": part.detail or "auto",
            "file_id": None,
        }  # fmt: skip
    if answer:
        return {"type": "output_text", "text": part.text, "annotations": []}
    return {"type": "input_text", "text": part.text}


class CallItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call of an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: Status = "completed"

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        return {
            "id": self.id or new_id("fc"), "type": "function_call", "status": self.status,
            "call_id": self.call_id, "name": self.name, "arguments": self.arguments,
        }  # fmt: skip


class CallOutputItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of a called function."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    status: Status = "completed"
    name: str | None = None

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        output: Any = self.output
        if not isinstance(output, str):
            output = [{"type": "input_text", "text": part.text} for part in output]
        return {
            "id": self.id or new_id("fc"), "type": "function_call_output", "status": self.status,
            "call_id": self.call_id, "output": output,
        }  # fmt: skip


class SummaryText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["summary_text"]
    text: str


class ReasoningText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reasoning of an earlier answer. Encrypted reasoning of other services is ignored."""

    type: Literal["reasoning"]
    summary: list[SummaryText] = []
    content: list[ReasoningText] = []
    id: str | None = None
    status: Status = "completed"
    encrypted_content: str | None = None

    def normal(self) -> Json:
        """The item as it is listed and stored."""
        return {
            "id": self.id or new_id("rs"), "type": "reasoning", "status": self.status,
            "summary": msgspec.to_builtins(self.summary),
            "content": msgspec.to_builtins(self.content),
        }  # fmt: skip


class ItemReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stands for a stored item."""

    id: str
    type: Literal["item_reference"] = "item_reference"


TYPES: dict[str, Any] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": CallOutputItem,
    "reasoning": ReasoningItem,
    "item_reference": ItemReference,
}


def new_id(prefix: str) -> str:
    """Return a new unique id."""
    return f"{prefix}_{secrets.token_hex(24)}"


def parse_items(value: Any) -> list[Json | ItemReference]:
    """Check ``input``; return its items in their stored form, and references unchanged.

    Raises:
        InvalidParameter: ``param`` names the item and the field.
    """
    if isinstance(value, str):
        return [MessageItem("user", value).normal()]
    if not isinstance(value, list) or not value:
        raise InvalidParameter("input must be text or a list of items, not empty.", "input")
    if len(value) > MAX_ITEMS:
        raise InvalidParameter(f"input takes at most {MAX_ITEMS} items, not {len(value)}.", "input")
    return [_parse_item(item, f"input[{index}]") for index, item in enumerate(value)]


def _parse_item(value: Any, where: str) -> Json | ItemReference:
    if not isinstance(value, dict):
        raise InvalidParameter(f"{where} must be an object.", where)
    fields = {name: inner for name, inner in value.items() if inner is not None}
    kind = fields.get("type", "message" if "role" in fields else "item_reference")
    if not isinstance(kind, str) or kind not in TYPES:
        raise InvalidParameter(
            f"{where}.type: items of the type {str(kind)[:80]!r} are not supported by this server; "
            f"the supported types are: {', '.join(TYPES)}.",
            f"{where}.type",
            code="unsupported_parameter",
        )
    if kind == "message" and "role" in fields and fields["role"] not in ROLES:
        known = ", ".join(ROLES)
        raise InvalidParameter(f"{where}.role must be one of {known}.", f"{where}.role")
    try:
        item = msgspec.convert(fields, TYPES[kind])
    except msgspec.ValidationError as ex:
        raise invalid(str(ex), fields, TYPES[kind], where) from None
    if isinstance(item, MessageItem) and item.role != "user":
        for index, part in enumerate(item.content):
            if isinstance(part, InputImage):
                raise InvalidParameter(
                    "Only user messages can contain images.", f"{where}.content[{index}]"
                )
    return item if isinstance(item, ItemReference) else item.normal()


def check_calls(items: Iterable[Json]) -> None:
    """Check that every result belongs to a call before it.

    Raises:
        InvalidParameter: a result belongs to no earlier call.
    """
    calls: set[str] = set()
    for item in items:
        if item["type"] == "function_call":
            calls.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in calls:
            raise InvalidParameter(
                f"No function call found for the output with call_id {item['call_id'][:80]!r}.",
                "input",
            )


def to_messages(items: Iterable[Json]) -> tuple[list[Json], list[int]]:
    """Return the chat messages of items, and the index of each message's first item.

    The reasoning, text and calls of one answer form one message.
    """
    messages: list[Json] = []
    begins: list[int] = []
    turn: Json | None = None
    for index, item in enumerate(items):
        message: Json
        if item["type"] == "message" and item["role"] != "assistant":
            message = {"role": item["role"], "content": _content(item["content"])}
            turn = None
        elif item["type"] == "function_call_output":
            content = _text(item["output"])
            message = {"role": "tool", "tool_call_id": item["call_id"], "content": content}
            turn = None
        elif turn is None or _starts_anew(turn, item):
            message = turn = {"role": "assistant", "content": ""}
            _add(turn, item)
        else:
            _add(turn, item)
            continue
        messages.append(message)
        begins.append(index)
    return messages, begins


def _starts_anew(turn: Json, item: Json) -> bool:
    """Whether an item must begin a new message, as the current one already has later content."""
    if item["type"] == "function_call":
        return False
    said = bool(turn["content"]) or "tool_calls" in turn
    return said or (item["type"] == "reasoning" and "reasoning_content" in turn)


def _add(turn: Json, item: Json) -> None:
    if item["type"] == "message":
        turn["content"] = _text(item["content"])
    elif item["type"] == "reasoning":
        text = "".join(part["text"] for part in item["content"] or item["summary"])
        if text:
            turn["reasoning_content"] = text
    else:
        function = {"name": item["name"], "arguments": item["arguments"]}
        turn.setdefault("tool_calls", []).append(
            {"id": item["call_id"], "type": "function", "function": function}
        )


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


def _text(content: str | list[Json]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["refusal"] if part["type"] == "refusal" else part["text"]
                   for part in content)  # fmt: skip
