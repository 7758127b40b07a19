"""``POST /v1/decisions``: the request's fields, and its input as a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from offgrid.api.fields.common import check_fields
from offgrid.api.fields.inert import InertFields
from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.fields.messages import shown
from offgrid.api.fields.tiers import ServiceTier
from offgrid.api.responses.items import Given, check_calls, parse_items, to_messages
from offgrid.api.responses.renamed import of_item
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter

MAX_QUESTIONS = 400
MAX_CHOICES = 255
"""Most choices, or levels, of a question."""
MAX_VALUE = 4096
"""Maximum length of a choice or a label, in characters."""
MAX_JSON_BYTES = 256 << 10
MAX_JSON_VALUES = 10_000
MAX_JSON_LEVELS = 32
"""Limits of the data of an ``input_json`` part; the size is that of compact JSON."""
ITEM_TYPES = (
    "message", "function_call", "function_call_output", "custom_tool_call",
    "custom_tool_call_output",
)  # fmt: skip
"""Types of items in the input; an item without a type is a message."""

Text = Annotated[str, Meta(min_length=1, max_length=MAX_VALUE)]


class QuestionPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the instructions."""

    prompt_cache_breakpoint: dict[str, Any] | None = None
    """Without effect: prefixes are always kept."""


class QuestionText(QuestionPart, frozen=True, kw_only=True, tag_field="type", tag="input_text"):
    """Text of the instructions."""

    text: str


class QuestionImage(QuestionPart, frozen=True, kw_only=True, tag_field="type", tag="input_image"):
    """An image, for vision models. ``detail`` has no effect: the projector determines the size."""

    image_url: str
    detail: str | None = None


class QuestionJson(QuestionPart, frozen=True, kw_only=True, tag_field="type", tag="input_json"):
    """An object or a list of objects, which the model reads as compact JSON."""

    data: dict[str, Any] | list[dict[str, Any]]


_Part = QuestionText | QuestionImage | QuestionJson
Instructions = str | Annotated[list[_Part], Meta(min_length=1)]


class Predicate(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="predicate"
):
    """How likely is it that a statement about the input is true?"""

    instructions: Instructions
    name: str | None = None


class Option(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A choice: a text or a boolean, which are different even if they are written alike."""

    value: bool | Text
    description: str | None = None


class Choice(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="choice"
):
    """Which of the choices fits the input?"""

    instructions: Instructions
    choices: Annotated[list[Option], Meta(min_length=2, max_length=MAX_CHOICES)]
    name: str | None = None


class Level(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A level of a score, which begins with 0 and grows by 1 from level to level."""

    label: Text
    description: str | None = None


class Score(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="score"):
    """Which of the levels, in ascending order, has the input?"""

    instructions: Instructions
    levels: Annotated[list[Level], Meta(min_length=2, max_length=MAX_CHOICES)]
    name: str | None = None


Question = Predicate | Choice | Score


class DecisionsRequest(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str = ""
    input: Any
    questions: Annotated[list[Question], Meta(min_length=1, max_length=MAX_QUESTIONS)]
    cache_prompt: bool = True
    cache_salt: Annotated[str, Meta(max_length=1024)] = ""
    service_tier: ServiceTier = "auto"
    priority: Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)] = 0
    keep_alive: KeepAlive = None

    @property
    def for_chat(self) -> Json:
        """The fields that a chat request has too, with the same meaning."""
        names = ("cache_prompt", "cache_salt", "service_tier", "priority")
        return {"model": self.model, **{name: getattr(self, name) for name in names}}


class Talk(NamedTuple):
    """The input as messages of a chat request.

    Attributes:
        messages: the messages.
        items: the items from which they were made.
        begins: index in ``items`` of each message's first item.
        plain: whether the input is a single text.
    """

    messages: list[Json]
    items: list[Json]
    begins: list[int]
    plain: bool

    def param(self, param: str | None) -> str:
        """Return the field of the input to which a field of the chat request belongs."""
        if self.plain:
            return "input"
        found = of_item(
            InvalidParameter("", param or ""), self.items, self.begins, range(len(self.items))
        )
        return "input" if found is None or found.param is None else found.param


def parse_decisions(body: Json) -> tuple[DecisionsRequest, Talk]:
    """Check the body of a request; return it, and its input.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = check_fields(body, DecisionsRequest, items=True)
    for index, question in enumerate(request.questions):
        _check_question(question, f"questions[{index}]")
    return request, _talk(request.input)


def text_of(instructions: Instructions) -> str:
    """Return the text of instructions, without images."""
    if isinstance(instructions, str):
        return instructions
    return "\n".join(_texts(instructions))


def has_image(question: Question) -> bool:
    """Whether the instructions of a question contain an image."""
    parts = question.instructions
    return not isinstance(parts, str) and any(isinstance(part, QuestionImage) for part in parts)


def for_chat(instructions: Instructions) -> list[Json]:
    """Return instructions as parts of a chat message."""
    if isinstance(instructions, str):
        return [{"type": "text", "text": instructions}]
    return [
        {"type": "image_url", "image_url": {"url": part.image_url}}
        if isinstance(part, QuestionImage)
        else {"type": "text", "text": "".join(_texts([part]))}
        for part in instructions
    ]


def _texts(parts: list[_Part]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, QuestionText):
            yield part.text
        elif isinstance(part, QuestionJson):
            yield msgspec.json.encode(part.data).decode()


def _check_question(question: Question, where: str) -> None:
    instructions = question.instructions
    if not isinstance(instructions, str):
        for index, part in enumerate(instructions):
            if isinstance(part, QuestionJson):
                _json_text(part.data, f"{where}.instructions[{index}]")
    if not text_of(instructions).strip() and not has_image(question):
        raise InvalidParameter(f"{where}.instructions is empty.", f"{where}.instructions")
    if isinstance(question, Choice):
        _check_values(
            [(option.value, f"{where}.choices[{index}].value")
             for index, option in enumerate(question.choices)]
        )  # fmt: skip
    elif isinstance(question, Score):
        _check_values(
            [(level.label, f"{where}.levels[{index}].label")
             for index, level in enumerate(question.levels)]
        )  # fmt: skip


def _check_values(values: list[tuple[str | bool, str]]) -> None:
    seen: set[tuple[type, str | bool]] = set()
    for value, param in values:
        if isinstance(value, str) and not value.strip():
            raise InvalidParameter(f"{param} must contain text.", param)
        if (type(value), value) in seen:
            raise InvalidParameter(f"{param}: {shown(value)} occurs twice.", param)
        seen.add((type(value), value))


def _talk(value: Any) -> Talk:
    if isinstance(value, str):
        return Talk([{"role": "user", "content": value}], [], [], True)
    if isinstance(value, list):
        value = [_checked_item(item, f"input[{index}]") for index, item in enumerate(value)]
    given: list[Given] = parse_items(value)
    items = [item for item in given if isinstance(item, dict)]
    check_calls(items)
    messages, begins = to_messages(items)
    return Talk(messages, items, begins, False)


def _checked_item(item: Any, where: str) -> Any:
    """Return an item with text in place of JSON, if it has one of the types of this endpoint."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type", "message")
    if kind not in ITEM_TYPES:
        raise InvalidParameter(
            f"{where}.type must be one of {', '.join(ITEM_TYPES)}, not {shown(kind)}.",
            f"{where}.type",
        )
    content = item.get("content")
    if kind != "message" or not isinstance(content, list):
        return item
    parts = [_with_text(part, f"{where}.content[{index}]") for index, part in enumerate(content)]
    return {**item, "type": "message", "content": parts}


def _with_text(part: Any, where: str) -> Any:
    if not isinstance(part, dict) or part.get("type") != "input_json":
        return part
    data = part.get("data")
    objects = data if isinstance(data, list) else [data]
    if not all(isinstance(one, dict) for one in objects):
        raise InvalidParameter(
            f"{where}.data must be an object or a list of objects, not {shown(data)}.",
            f"{where}.data",
        )
    return {"type": "input_text", "text": _json_text(data, where)}


def _json_text(data: Any, where: str) -> str:
    """Return compact JSON.

    Raises:
        InvalidParameter: it is larger than the limits.
    """
    text = msgspec.json.encode(data).decode()
    values, levels = _measure(data)
    if values > MAX_JSON_VALUES or levels > MAX_JSON_LEVELS or len(text) > MAX_JSON_BYTES:
        raise InvalidParameter(
            f"{where}.data has {values} values in {levels} levels and {len(text)} characters of "
            f"JSON; the limits are {MAX_JSON_VALUES}, {MAX_JSON_LEVELS} and {MAX_JSON_BYTES}.",
            f"{where}.data",
        )
    return text


def _measure(data: Any) -> tuple[int, int]:
    """Return how many values JSON data has, and how many levels of lists and objects."""
    values, levels = 0, 0
    waiting = [(data, 1)]
    while waiting:
        value, level = waiting.pop()
        values += 1
        if isinstance(value, (dict, list)):
            levels = max(levels, level)
            inner = value.values() if isinstance(value, dict) else value
            waiting += ((one, level + 1) for one in inner)
    return values, levels
