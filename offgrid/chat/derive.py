"""Derives the format of calls from what a template writes, for formats that are in no table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from offgrid.chat.formats import CallFormat, Parameters
from offgrid.chat.writing import Call

_TURN_END = 8
"""Characters of the text after an answer by which its end is found."""
_TRIES = 64
"""Brackets at which a JSON object is looked for."""
_LONGEST = 256
"""Characters of the text before, between or after the parts of a call."""


def derive(
    one: str | None, two: str | None, around: tuple[str, str], calls: Sequence[Call]
) -> CallFormat | None:
    """Return the format in which a template has written one call and two; None if unclear.

    Args:
        one: the text from the question on, with one call.
        two: the same with two calls, None if the template does not write two.
        around: what stands between the question and an answer of text, and after that answer.
        calls: the calls: names and arguments, whose values are texts.
    """
    if one is None:
        return None
    first = _parts(_within(one, around), *calls[0])
    if first is None:
        return None
    both = None if two is None else _both(_within(two, around), first, calls)
    if two is not None and both is None:
        return None
    begin, call_begin, separator, call_end, end = both or ("", first.before, "", first.after, "")
    if max(map(len, (begin, call_begin, separator, call_end, end))) > _LONGEST:
        return None
    if not (begin + call_begin).strip():
        return None
    array = begin.rstrip().endswith("[") and end.lstrip().startswith("]")
    if array:
        begin, end = begin.rstrip()[:-1], end.lstrip()[1:]
    return CallFormat(
        first.body, begin, end, call_begin, call_end, separator, array,
        name_end=first.name_end, object_begin=first.object_begin, parameters=first.parameters,
    )  # fmt: skip


def _within(text: str, around: tuple[str, str]) -> str:
    """Return the text of an answer without what surrounds any answer."""
    header = _common([text, around[0]])
    text = text[len(header) :]
    end = around[1].strip()[:_TURN_END]
    return text.partition(end)[0] if end else text


def _common(texts: Sequence[str]) -> str:
    """Return the longest common beginning of two texts."""
    first, second = texts
    size = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    return first[: min(len(first), len(second)) if size is None else size]


class _Parts:
    """One call, taken apart. ``after`` may contain more than the end of the call."""

    def __init__(self, body: Any, before: str, core: str, after: str) -> None:
        self.body = body
        self.before = before
        self.core = core
        self.after = after
        self.name_end = ""
        self.object_begin = '{"name": "{name}", "arguments": '
        self.parameters: Parameters | None = None


def _parts(text: str, name: str, arguments: Any) -> _Parts | None:
    return (
        _object(text, name, arguments) or _json(text, name, arguments)
        or _parameters(text, name, arguments)
    )  # fmt: skip


def _values(text: str) -> list[tuple[int, int, Any]]:
    """Return the JSON objects in a text: where each begins and ends, and its value."""
    decoder, index = json.JSONDecoder(), text.find("{")
    found: list[tuple[int, int, Any]] = []
    for _ in range(_TRIES):
        if index < 0:
            break
        try:
            value, end = decoder.raw_decode(text, index)
            found.append((index, end, value))
        except (ValueError, RecursionError):
            pass
        index = text.find("{", index + 1)
    return found


def _object(text: str, name: str, arguments: Any) -> _Parts | None:
    for start, end, value in _values(text):
        if value == {name: arguments}:
            return _Parts("keyed", text[:start], text[start:end], text[end:])
        if name in value.values() and arguments in value.values():
            keys = list(value)
            if value[keys[-1]] != arguments:
                return None
            parts = _Parts("object", text[:start], text[start:end], text[end:])
            members = [
                f'"{key}": ' + ('"{name}"' if value[key] == name else json.dumps(value[key]))
                for key in keys[:-1]
            ]
            parts.object_begin = "{" + ", ".join(members) + f', "{keys[-1]}": '
            return parts
    return None


def _json(text: str, name: str, arguments: Any) -> _Parts | None:
    start = text.find(name)
    if start < 0:
        return None
    for begin, end, value in _values(text):
        if value == arguments and begin > start:
            parts = _Parts("json", text[:start], text[start:end], text[end:])
            parts.name_end = text[start + len(name) : begin]
            return parts
    return None


def _parameters(text: str, name: str, arguments: Any) -> _Parts | None:
    """``A name B key C value D key C value E``: D ends with the text before a key, as B does."""
    start = text.find(name)
    position, gaps = start + len(name), []
    if start < 0:
        return None
    for key, value in arguments.items():
        for word in (key, value):
            index = text.find(word, position)
            if index < 0:
                return None
            gaps.append(text[position:index])
            position = index + len(word)
    if len(gaps) != 4 or gaps[1] != gaps[3]:
        return None
    before = _common([gaps[0][::-1], gaps[2][::-1]])[::-1]
    after = gaps[2][: len(gaps[2]) - len(before)]
    tail = text[position:]
    if not before.strip() or not after.strip() or not tail.startswith(after.rstrip()):
        return None
    end = len(after) if tail.startswith(after) else len(after.rstrip())
    parts = _Parts("parameters", text[:start], text[start : position + end], tail[end:])
    parts.name_end = gaps[0][: len(gaps[0]) - len(before)]
    parts.parameters = Parameters(before, gaps[1], after)
    return parts


def _both(text: str, first: _Parts, calls: Sequence[Call]) -> tuple[str, str, str, str, str] | None:
    """Return the texts before, around, between and after two calls."""
    start = text.find(first.core)
    if start < 0:
        return None
    rest = text[start + len(first.core) :]
    second = _parts(rest, *calls[1][:2]) if first.parameters is None else None
    if second is None and first.parameters is None:
        return None
    index = rest.find(second.core) if second is not None else rest.find(calls[1][0])
    if index < 0:
        return None
    if second is not None:
        tail = rest[index + len(second.core) :]
    else:
        tail = rest[rest.rfind(str(next(iter(calls[1][1].values())))) :]
        assert first.parameters is not None
        tail = tail.partition(first.parameters.after.strip())[2]
    before, middle = text[:start], rest[:index]
    call_begin = _common([before[::-1], middle[::-1]])[::-1]
    call_end = _common([middle[: len(middle) - len(call_begin)], tail])
    separator = middle[len(call_end) : len(middle) - len(call_begin)]
    end = _common([tail[len(call_end) :], first.after[len(call_end) :]])
    return before[: len(before) - len(call_begin)], call_begin, separator, call_end, end
