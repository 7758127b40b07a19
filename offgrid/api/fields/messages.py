"""Converts validation errors of msgspec into errors of the API, in the API's own words.

msgspec's text names the place of the wrong value, but only one of the limits that the value breaks,
and no list of valid values. So only the place is taken from it; the words are made from the value
and from the type of the field.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from msgspec import inspect

from offgrid.errors import InvalidParameter

EXAMPLES = {"messages": '[{"role": "user", "content": "Hello!"}]'}
"""Field -> a value that is shown to clients that send none or one of the wrong shape."""
MEANT = {
    "banned_words": ("banned_strings",),
    "input": ("messages", "prompt"), "messages": ("input", "prompt"),
    "prompt": ("messages", "input"), "reasoning_effort": ("thinking", "think"),
    "response_format": ("text", "output_config", "format"),
    "system": ("instructions", "messages"), "texts": ("input",),
}  # fmt: skip
"""Field of another endpoint or API -> fields with its purpose, of which an endpoint has one."""
MAX_SHOWN = 40
"""Maximum length of a value or a name in a message, in characters."""
_LONGEST_GUESSED = 64
"""Maximum length of an unknown name that is compared with the known ones: it takes time."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PART_TYPE = re.compile(r"(?:^|\.)content\[\d+\]\.type$")
_PATH = re.compile(r" - at (`key` in )?`\$\.?([^`]*)`$")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])")
_NAMED = re.compile(r"Object (missing required|contains unknown) field `([^`]+)`")
_WRONG_TYPE = re.compile(r"Expected `([^`]+)`, got `[^`]*`")
_BOUND = re.compile(r"Expected `(?:int|float)` ([<>]=?) (\S+)")
_LENGTH = re.compile(r"Expected `(str|array|object)` of length ([<>]=) (\d+)")
_MISSING: Any = object()

_KINDS = {
    str: "a string", bool: "a boolean", int: "an integer", float: "a number", list: "a list",
    dict: "an object", type(None): "null",
}  # fmt: skip
_WORDS = {
    "str": "a string", "bool": "true or false", "int": "an integer", "float": "a number",
    "array": "a list", "object": "an object", "null": "null",
}  # fmt: skip
_PATTERNS = {"^image/": 'the media type of an image, such as "image/png"'}
"""Begin of a pattern -> words for the texts that match it."""
_UNITS = {"str": "character", "array": "item", "object": "entr"}


def invalid(
    message: str, value: Any = _MISSING, kind: Any = None, where: str = ""
) -> InvalidParameter:
    """Convert the message of a :class:`msgspec.ValidationError` into our error.

    Args:
        message: the exception's text.
        value: the value that was checked. Without it, the words are made from the message alone.
        kind: the type that it was checked against.
        where: path of the value in the request; empty for the request itself.

    Returns:
        The error; its ``param`` is the path of the field at fault.
    """
    match = _PATH.search(message)
    inside = match[2] if match else ""
    reason = message[: match.start()] if match else message
    path = f"{where}.{inside}" if where and inside and inside[0] != "[" else where + inside
    named = _NAMED.match(reason)
    if named:
        field = f"{path}.{named[2]}" if path else named[2]
        if named[1] == "missing required":
            inner = f"{inside}.{named[2]}" if inside else named[2]
            return missing(field, _values(_types(kind, inner, value)))
        parents = _tagged(_types(kind, inside, value), _at(value, inside))
        return unknown(field, _fields(parents), path)
    types = [] if value is _MISSING else _types(kind, inside, value)
    wrong = _MISSING if value is _MISSING else _at(value, inside)
    subject = path
    if match and match[1]:
        subject, types, wrong = f"a name in {path}", [], _MISSING
    elif path.endswith("[...]"):  # msgspec does not say which entry of a map it is
        path = path.removesuffix("[...]")
        subject, wrong = _entry(path, wrong, types)
    if _PART_TYPE.search(path):
        return _unsupported_part(path, wrong, types)
    words = _problem(types, wrong) if types and wrong is not _MISSING else ""
    return InvalidParameter(f"{subject} {words or _plain(reason)}.{_example(path)}", path or None)


def missing(path: str, values: Sequence[Any] = ()) -> InvalidParameter:
    """Return the error for a required field that is absent; ``values`` are its valid ones."""
    valid = f" It must be {one_of(values)}." if values else ""
    return InvalidParameter(
        f"Missing required field: {path}.{valid}{_example(path)}",
        path,
        code="missing_required_parameter",
    )


def unknown(path: str, known: Collection[str] = (), parent: str = "") -> InvalidParameter:
    """Return the error for a field that does not exist; it names the most similar known field.

    Args:
        path: the field.
        known: names of the fields that exist in its place.
        parent: path of the object that contains it; empty for the request itself.
    """
    name = path[len(parent) + 1 :] if parent else path
    guess = nearest(name, known)
    hint = ""
    if guess:
        hint = f" Did you mean {parent}.{guess}?" if parent else f" Did you mean {guess}?"
    shown = path if len(path) <= 2 * MAX_SHOWN else f"{path[: 2 * MAX_SHOWN]}..."
    return InvalidParameter(f"Unknown field: {shown}.{hint}", path, code="unknown_parameter")


def different(name: str, other: str) -> InvalidParameter:
    """Return the error for two names of one field that have different values."""
    return InvalidParameter(
        f"{name} and {other} are the same parameter and have different values; give only one.", name
    )


def nearest(name: str, known: Collection[str]) -> str:
    """Return the known name that has the purpose of an unknown one, or is most similar to it; empty
    if there is none."""
    if len(name) > _LONGEST_GUESSED:
        return ""
    if meant := [own for own in MEANT.get(name, ()) if own in known]:
        return meant[0]
    plain = _CAMEL.sub("_", name).replace("-", "_").lower()
    found = difflib.get_close_matches(plain, sorted(known), n=1, cutoff=0.7)
    return found[0] if found else ""


def shown(value: Any) -> str:
    """Return a value of the request as JSON: a long one cut, of a nested one only its type."""
    if isinstance(value, (dict, list)):
        return _KINDS[type(value)]
    text = json.dumps(value[: 2 * MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def one_of(values: Sequence[Any]) -> str:
    """Return the words for a value that must be one of a few."""
    listed = [json.dumps(value) for value in values]
    return listed[0] if len(listed) == 1 else f"one of {', '.join(listed)}"


def _example(path: str) -> str:
    """Return a sentence with an example for a field, if there is one."""
    name = path.partition("[")[0]
    deep = "." in path.removeprefix(name)
    return "" if deep or name not in EXAMPLES else f" Example: {EXAMPLES[name]}."


def _unsupported_part(path: str, wrong: Any, types: list[inspect.Type]) -> InvalidParameter:
    known = [str(value) for value in _values(types)]
    listed = f"; the supported types are {', '.join(known)}" if known else ""
    of = "this type" if wrong is _MISSING else f"the type {shown(wrong)}"
    return InvalidParameter(
        f"{path}: parts of {of} are not supported by this server{listed}.",
        path,
        code="unsupported_parameter",
    )


@lru_cache(maxsize=64)
def _information(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _types(kind: Any, path: str, value: Any) -> list[inspect.Type]:
    """Return the types that the value at a path may have, without null.

    Of several structs that have tags, the tag of the object at their place says which it must be.
    """
    if kind is None:
        return []
    found = _options(_information(kind))
    for step in _STEP.finditer(path):
        found = [
            option for outer in _tagged(found, value, step[1]) for option in _inner(outer, step)
        ]
        value = _at(value, step[0])
    return found


def _tagged(types: list[inspect.Type], value: Any, name: str | None = None) -> list[inspect.Type]:
    """Leave out the structs that have another tag than an object, unless it has the tag of none.

    Args:
        types: the types that the object may have.
        value: the object; anything else leaves nothing out.
        name: a field of the object that is looked at. If it is the tag, all tags are valid.
    """
    if not isinstance(value, dict):
        return types
    fitting = [
        kind for kind in types
        if not isinstance(kind, inspect.StructType) or kind.tag_field in (None, name)
        or value.get(kind.tag_field) == kind.tag
    ]  # fmt: skip
    return fitting or types


def _options(kind: inspect.Type) -> list[inspect.Type]:
    if isinstance(kind, inspect.UnionType):
        return [option for inner in kind.types for option in _options(inner)]
    if isinstance(kind, inspect.Metadata):  # a type with a description
        return _options(kind.type)
    return [] if isinstance(kind, inspect.NoneType) else [kind]


def _inner(outer: inspect.Type, step: re.Match[str]) -> list[inspect.Type]:
    """Return the types behind one step of a path."""
    name, index, entry = step.groups()
    if index is not None:
        return _options(outer.item_type) if isinstance(outer, inspect.ListType) else []
    if entry is not None:
        return _options(outer.value_type) if isinstance(outer, inspect.DictType) else []
    if not isinstance(outer, inspect.StructType):
        return []
    if name == outer.tag_field:
        return [inspect.LiteralType((outer.tag,))]
    return [o for field in outer.fields if field.encode_name == name for o in _options(field.type)]


def _fields(types: list[inspect.Type]) -> list[str]:
    structs = [kind for kind in types if isinstance(kind, inspect.StructType)]
    return [field.encode_name for struct in structs for field in struct.fields]


def _values(types: list[inspect.Type]) -> list[Any]:
    """Return the values that types list."""
    return [v for kind in types if isinstance(kind, inspect.LiteralType) for v in kind.values]


def _at(value: Any, path: str) -> Any:
    """Return the value at a path, if there is one; at ``[...]``, the map."""
    for step in _STEP.finditer(path):
        name, index, entry = step.groups()
        try:
            if index is not None:
                value = value[int(index)]
            elif entry is None:
                value = value[name]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return value


def _entry(path: str, entries: Any, types: list[inspect.Type]) -> tuple[str, Any]:
    """Return the name and the value of the first wrong entry of a map."""
    if isinstance(entries, dict) and types:
        for name, value in entries.items():
            if value is not None and _problem(types, value):
                return f"{path}.{name[:MAX_SHOWN]}", value
    return f"an entry of {path}", _MISSING


def _problem(types: list[inspect.Type], value: Any) -> str:
    """Return why a value fits none of the types; an empty string if it fits one."""
    values = _values(types)
    expected: list[str] = []
    for kind in types:
        if isinstance(kind, inspect.LiteralType):
            continue
        if not _fits(kind, value):
            expected.append(_expected(kind))
            continue
        beyond = _beyond(kind, value)
        if beyond is not None:
            return beyond
    if value in values and type(value) is not bool:
        return ""
    if values:
        expected.insert(0, one_of(values))
    if _WORDS["float"] in expected:
        expected = [word for word in expected if word != _WORDS["int"]]
    *others, last = dict.fromkeys(expected)
    allowed = f"{', '.join(others)} or {last}" if others else last
    same = values and type(value) is type(values[0])
    fraction = isinstance(value, float) and "an integer" in expected
    return f"must be {allowed}, not {shown(value) if same or fraction else _KINDS[type(value)]}"


def _fits(kind: inspect.Type, value: Any) -> bool:
    """Whether a value has the JSON type that a type needs."""
    if isinstance(kind, inspect.BoolType):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return isinstance(kind, inspect.AnyType)
    for types, json_types in (
        (inspect.StrType, str),
        (inspect.IntType, int),
        (inspect.FloatType, (int, float)),
        ((inspect.ListType, inspect.VarTupleType), list),
        ((inspect.DictType, inspect.StructType), dict),
    ):
        if isinstance(kind, types):
            return isinstance(value, json_types)
    return True


def _expected(kind: inspect.Type) -> str:
    for types, word in (
        (inspect.StrType, "str"), (inspect.BoolType, "bool"), (inspect.IntType, "int"),
        (inspect.FloatType, "float"), ((inspect.ListType, inspect.VarTupleType), "array"),
    ):  # fmt: skip
        if isinstance(kind, types):
            return _WORDS[word]
    return _WORDS["object"]


def _beyond(kind: inspect.Type, value: Any) -> str | None:
    """Return which limit of a type a value of the right JSON type exceeds.

    An empty string if it exceeds none; None if the type has no limits.
    """
    if isinstance(kind, (inspect.IntType, inspect.FloatType)):
        if (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le):
            return ""
        if kind.le is None or kind.ge is None:
            limits = f"at least {kind.ge:g}" if kind.le is None else f"at most {kind.le:g}"
        else:
            limits = f"between {_number(kind.ge)} and {_number(kind.le)}"
        return f"must be {limits}, not {shown(value)}"
    if not isinstance(kind, (inspect.StrType, inspect.ListType, inspect.DictType)):
        return ""
    if isinstance(kind, inspect.StrType) and kind.pattern and not re.search(kind.pattern, value):
        return f"must be {_of_pattern(kind.pattern)}, not {shown(value)}"
    unit = "str" if isinstance(kind, inspect.StrType) else "array"
    unit = "object" if isinstance(kind, inspect.DictType) else unit
    least, most = kind.min_length or 0, kind.max_length
    if len(value) >= least and (most is None or len(value) <= most):
        return ""
    return f"{_lengths(unit, least, most)}, not {len(value)}"


def _of_pattern(pattern: str) -> str:
    """Return the words for a text that must match a pattern."""
    known = (words for begin, words in _PATTERNS.items() if pattern.startswith(begin))
    return next(known, f"a text of the form {pattern}")


def _lengths(unit: str, least: int, most: int | None) -> str:
    if most is None:
        return f"must have at least {_counted(least, unit)}"
    if least:
        return f"must have {least} to {_counted(most, unit)}"
    return f"must have at most {_counted(most, unit)}"


def _counted(number: int, unit: str) -> str:
    word = _UNITS[unit]
    if word == "entr":
        return f"{number} {'entry' if number == 1 else 'entries'}"
    return f"{number} {word}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _plain(reason: str) -> str:
    """Return the words for a message of msgspec, without value and type."""
    if match := _WRONG_TYPE.match(reason):
        names = [name for name in match[1].split(" | ") if name != "null"] or ["null"]
        words = dict.fromkeys(_WORDS.get(name, "a different type") for name in names)
        return f"must be {' or '.join(words)}"
    if match := _BOUND.match(reason):
        number = match[2].removesuffix(".0")
        words_of = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
        return f"must be {words_of[match[1]]} {number}"
    if match := _LENGTH.match(reason):
        least = match[2] == ">="
        counted = _counted(int(match[3]), match[1])
        return f"must have at {'least' if least else 'most'} {counted}"
    return "is not one of the valid values"
