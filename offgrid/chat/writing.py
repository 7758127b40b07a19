"""Writes calls in a model's own form: for histories that the template omits, and for examples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from offgrid.chat.arguments import json_type
from offgrid.chat.formats import GEMMA_QUOTE, CallFormat

_GEMMA_KEY = re.compile(r'[^\s:,{}\[\]<>"|]{1,256}')
Call = tuple[str, Mapping[str, Any]]
"""The name of a function, and the arguments."""


def write_calls(form: CallFormat, calls: Sequence[Call]) -> str:
    """Return the text of some calls, as a model with this format writes them."""
    opened, closed = ("[", "]") if form.array else ("", "")
    written = form.separator.join(_call(form, call, n) for n, call in enumerate(calls))
    return f"{form.begin}{opened}{written}{closed}{form.end}"


def _call(form: CallFormat, call: Call, n: int) -> str:
    name, arguments = call
    body = _body(form, name, arguments, n)
    head = ""
    if form.body in ("json", "parameters", "gemma"):
        head = fill(form.head, name, n) + form.name_end
    return f"{form.call_begin}{head}{body}{form.call_end}"


def fill(text: str, name: str, n: int) -> str:
    """Return a head with its fields filled in; ``n`` is the index of the call."""
    return text.replace("{name}", name).replace("{n}", str(n)).replace("{id}", f"call{n:05d}")


def _body(form: CallFormat, name: str, arguments: Mapping[str, Any], n: int) -> str:
    if form.body == "object":
        return f"{fill(form.object_begin, name, n)}{_json(arguments)}}}"
    if form.body == "keyed":
        return _json({name: arguments})
    if form.body == "python":
        members = (f"{key}={_json(value)}" for key, value in arguments.items())
        return f"{name}({', '.join(members)})"
    if form.body == "gemma":
        return gemma_value(arguments)
    if form.body == "json":
        return _json(arguments)
    inner = form.parameters
    assert inner is not None
    pieces = []
    for key, value in arguments.items():
        text = isinstance(value, str)
        kind = (inner.kinds[not text] or type_name(json_type(value))) if inner.kinds else ""
        between = inner.between.replace("{kind}", kind)
        shown = _nested(value, inner.nested) if inner.nested else value
        written = shown if isinstance(shown, str) else _json(shown)
        pieces.append(f"{inner.before}{key}{between}{written}{inner.after.replace('{key}', key)}")
    return "".join(pieces)


def type_name(kind: str) -> str:
    """Return the name of a JSON type in a format that names it."""
    return "number" if kind == "integer" else kind


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def gemma_key(key: str) -> str:
    """Return a key as Gemma 4 writes it, in quotes if its end could not be told otherwise."""
    return key if _GEMMA_KEY.fullmatch(key) else f"{GEMMA_QUOTE}{key}{GEMMA_QUOTE}"


def gemma_value(value: Any) -> str:
    """Return a value as Gemma 4 writes it."""
    if isinstance(value, str):
        return f"{GEMMA_QUOTE}{value}{GEMMA_QUOTE}"
    if isinstance(value, Mapping):
        members = (f"{gemma_key(key)}:{gemma_value(item)}" for key, item in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(gemma_value, value))}]"
    return _json(value)


def _nested(value: Any, prefix: str) -> Any:
    """Return objects and lists as tags, unless they are empty; other values as they are."""
    if not value:
        return value
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [("item", item) for item in value]
    else:
        return value
    pieces = []
    for key, item in pairs:
        inner = _nested(item, prefix)
        text = inner if isinstance(inner, str) else _json(inner)
        pieces.append(f"{prefix}<{key}>{text}{prefix}</{key}>")
    return "".join(pieces)
