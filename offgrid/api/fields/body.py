"""A strict parser from a request body to a JSON object, with a bound on the work.

Parsed JSON may take fifty times as much memory as its text, and other threads wait during each call
into the parser. So values are counted first (:func:`offgrid.sampling.count_json` does not make
other threads wait). A body with too many values is refused. A large body is parsed in pieces, and
other threads get their turn between these. The whole may take longer than any of its pieces.

Usual parsers accept JSON that is invalid or ambiguous (NaN, infinities, a repeated key, an unpaired
surrogate); here each returns 400 and names the reason.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from typing import Any

import msgspec

from offgrid.api.fields.bounds import bounds
from offgrid.errors import InvalidParameter
from offgrid.sampling import JsonCounts, count_json, cut_json

MAX_VALUES = 1_060_000
"""Values of a body, including keys and the values in lists and objects: 2,048 inputs of 512 token
ids each are 1,050,000."""
MAX_STRINGS = 150_000
"""Values of a body that are texts or keys."""
MAX_CONTAINERS = 40_000
"""Values of a body that are lists or objects."""
MAX_LONG_INTEGERS = 1_000
"""Values of a body that are integers of more than 19 digits: parsers are slow with these."""
MAX_FIELDS = 1_000
"""Keys of the outermost object; no endpoint has as many."""
MAX_AT_ONCE = 200_000
"""Values that are parsed in one call and not in pieces: a field that is not a list, an item below
the levels that are split."""
_PIECE = 1 << 18
"""Bytes of a list that are parsed in one call; at most half as many values."""
_SLICE = 1 << 15
"""Items that are checked in one call."""
_LEVELS = 3
"""Nested lists that are split into pieces: no field has more levels with many items."""
_MAX_NUMBER = 400
"""Characters of a number: the largest float has 309 digits."""
_SHOWN = 80
"""Characters of a key that an error message shows."""
_MAX_EXACT = 1 << 53
_PLACE = re.compile(r" \(byte \d+\)$")
LONE_SURROGATE = re.compile(rb'\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])[^"]{0,5}"')
"""Half a surrogate pair at the end of a string, or followed by something else."""
_SEARCHED = 1 << 16
"""Bytes that a regular expression searches in one call."""
_BLANK = re.compile(rb"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that ``raw`` holds.

    Whole numbers that are written as floats (``16.0``) are returned as integers, as some clients
    write all numbers that way.

    Raises:
        InvalidParameter: not JSON, not an object, or one of the ambiguities above; code
            ``invalid_json``. More values than the limits above; code ``too_many_values``.
    """
    text = memoryview(raw)[len(_BOM) :] if raw.startswith(_BOM) else memoryview(raw)
    counts = count_json(text)
    if counts.depth > bounds().max_depth:
        raise _too_deep()
    too_much = _excess(counts, MAX_VALUES)
    if counts.fields > MAX_FIELDS:
        too_much = f"{counts.fields} fields; the maximum is {MAX_FIELDS}"
    if too_much:
        raise InvalidParameter(f"The request body contains {too_much}.", code="too_many_values")
    if counts.longest_number > _MAX_NUMBER:
        raise _long_number(text)
    try:
        value = _decode(text)
    except RecursionError:
        raise _too_deep() from None
    except InvalidParameter:
        raise
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as ex:
        raise _malformed(_reason(raw, text, counts, ex)) from None
    if not isinstance(value, dict):
        raise _malformed("the top level must be an object")
    if _keys(value, counts.objects) < counts.keys:
        raise _malformed(_repeated(text))
    return value


def excess(text: str) -> str:
    """Return which limit a JSON text in a field exceeds; an empty string if it may be parsed."""
    counts = count_json(text.encode("utf-8", "surrogatepass"))
    if counts.longest_number > _MAX_NUMBER:
        return f"a number of more than {_MAX_NUMBER} characters"
    return _excess(counts, MAX_AT_ONCE)


def _excess(counts: JsonCounts, most: int) -> str:
    containers = counts.lists + counts.objects
    for number, limit, what in (
        (containers, MAX_CONTAINERS, "lists and objects"),
        (counts.strings, MAX_STRINGS, "texts and keys"),
        (counts.long_integers, MAX_LONG_INTEGERS, "numbers of more than 19 digits"),
        (counts.scalars + counts.strings + containers, most, "values"),
    ):
        if number > limit:
            return f"{number} {what}; the maximum is {limit}"
    return ""


def _malformed(reason: str, field: str | None = None) -> InvalidParameter:
    message = f"The request body is not valid JSON: {reason}."
    return InvalidParameter(message, field, code="invalid_json")


def _long_number(text: memoryview) -> InvalidParameter:
    """Return the error for a text with a number that is too long; it names the field if it can."""
    place, field = "", None
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        for name, value in _fields_decoder.decode(text).items():
            if count_json(memoryview(value)).longest_number > _MAX_NUMBER:
                place, field = f" in {name[:_SHOWN]}", name[:_SHOWN]
                break
    return _malformed(f"a number{place} has more than {_MAX_NUMBER} characters", field)


def _too_deep() -> InvalidParameter:
    return _malformed(f"it is nested too deeply (more than {bounds().max_depth} levels)")


def _number(text: str) -> float | int:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return int(number) if number.is_integer() and abs(number) < _MAX_EXACT else number


DECODER = msgspec.json.Decoder(float_hook=_number)
"""Parses JSON of bounded size."""
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _decode(text: memoryview) -> Any:
    """Parse a body; a large one field by field, so that other threads run in between."""
    if len(text) <= _PIECE:
        return DECODER.decode(text)
    blank = _BLANK.match(text)
    assert blank is not None
    text = text[blank.end() :]
    if bytes(text[:1]) != b"{":
        raise _malformed("the top level must be an object")
    # This checks that the text is JSON and finds the fields, without building their values.
    fields = _fields_decoder.decode(text)
    return {key: _piece(memoryview(value), _LEVELS) for key, value in fields.items()}


def _piece(text: memoryview, levels: int) -> Any:
    if len(text) <= _PIECE:
        return DECODER.decode(text)
    if levels == 0 or bytes(text[:1]) != b"[":
        counts = count_json(text)
        values = counts.scalars + counts.strings + counts.lists + counts.objects
        if values > MAX_AT_ONCE:
            raise InvalidParameter(
                f"The request body contains {values} values in one field that is not a list; the "
                f"maximum there is {MAX_AT_ONCE}.",
                code="too_many_values",
            )
        return DECODER.decode(text)
    result: list[Any] = []
    begin = 1
    for end in (*cut_json(text, _PIECE // 2), len(text) - 1):
        piece = bytes(text[begin:end]).strip()
        if len(piece) < _PIECE:
            result += DECODER.decode(b"[%b]" % piece)
        else:  # a single item
            result.append(_piece(memoryview(piece), levels - 1))
        begin = end + 1
    return result


def _reason(raw: bytes, text: memoryview, counts: JsonCounts, error: Exception) -> str:
    """Return the reason why a parser has refused a text."""
    if counts.constant >= 0:
        name = next(n for n in ("NaN", "Infinity", "-Infinity") if _at(text, counts.constant, n))
        return f"{name} is not a JSON number"
    # msgspec tells no position (0.23), or one that counts from a string's beginning (0.22).
    if isinstance(error, UnicodeDecodeError) or "invalid utf-8" in str(error).lower():
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError as ex:
            return f"it is not UTF-8 (byte {ex.start})"
    if not bytes(text).strip():
        return "it is empty"
    words = str(error).removeprefix("JSON is malformed: ")
    if "was truncated" in words and not _holds_half(raw):
        return "it is truncated: it ends before the value does"
    if len(text) > _PIECE:
        words = _PLACE.sub("", words)  # the position may count from the beginning of a piece
    # Near the end of the text, the parser reports an unpaired surrogate in other words.
    missed = "truncated" in words or "hex escape" in words
    if "surrogate" in words or (missed and _holds_half(raw)):
        return "a string contains an unpaired surrogate"
    return words[:1].lower() + words[1:]


def _holds_half(raw: bytes) -> bool:
    """Whether a string ends with an unpaired surrogate."""
    # Search in pieces, so that other threads run in between. They overlap by more than one match.
    return any(
        LONE_SURROGATE.search(raw, at, at + _SEARCHED + 32) for at in range(0, len(raw), _SEARCHED)
    )


def _at(text: memoryview, place: int, word: str) -> bool:
    return bytes(text[place : place + len(word)]) == word.encode()


def _keys(value: Any, n_objects: int) -> int:
    """Count the keys of all objects in a value, which holds ``n_objects`` of them."""
    keys = seen = 0
    stack = [value]
    while stack and seen < n_objects:
        item = stack.pop()
        if isinstance(item, dict):
            keys += len(item)
            seen += 1
            stack += [inner for inner in item.values() if isinstance(inner, (dict, list))]
        else:
            stack += [inner for inner in item if isinstance(inner, (dict, list))]
    return keys


class _Repeated(Exception):
    """An object has a repeated key, which is the argument."""


def _repeated(text: memoryview) -> str:
    """Return a reason that names a repeated key; the text must contain one."""
    try:
        # The hooks run Python code for each number, so that other threads can run in between.
        json.loads(
            str(text, "utf-8"),
            parse_int=lambda _: 0,
            parse_float=lambda _: 0,
            object_pairs_hook=_find_repeated,
        )
    except _Repeated as ex:
        return f"the key {ex.args[0][:_SHOWN]!r} comes twice"
    return "a key comes twice"


def _find_repeated(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _Repeated(key)
        seen.add(key)


def are_tokens(value: Any) -> bool:
    """Whether a JSON value is a non-empty list of numbers that can be token ids."""
    # Done in C, since there may be a million; in pieces, so that other threads run in between.
    return (
        isinstance(value, list)
        and bool(value)
        and all(_are_tokens(value[at : at + _SLICE]) for at in range(0, len(value), _SLICE))
    )


def _are_tokens(items: list[Any]) -> bool:
    return set(map(type, items)) == {int} and min(items) >= 0 and max(items) < 1 << 31
