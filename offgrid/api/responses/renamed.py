"""Errors of the chat request that is made from a request to ``/v1/responses``, with the field names
of the latter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from offgrid.api.fields.translated import labelled, with_first
from offgrid.api.responses.tools import Tools
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, RequestError

_PART = re.compile(r"messages\[(\d+)\]\.content\[(\d+)\](\.image_url)?")
_LIMIT = re.compile(r"\bmax_completion_tokens\b")
"""An error about another field may name it."""
_NAMES = [
    (re.compile(r"^tool_choice\.allowed_tools\b"), "tool_choice"),
    (re.compile(r"^tool_choice(.*)\.function\b"), r"tool_choice\1"),
    (re.compile(r"^response_format(\.json_schema)?\b"), "text.format"),
    (re.compile(r"^messages\b.*"), "input"),
    (re.compile(r"^max_completion_tokens\b"), "max_output_tokens"),
]


def of_item(
    error: InvalidParameter, items: Sequence[Json], begins: Sequence[int], places: Sequence[int]
) -> InvalidParameter | None:
    """Return an error about a part of a chat message with the path of the part in ``input``."""
    match = _PART.match(error.param or "")
    if match is None:
        return None
    index = begins[int(match[1])]
    place = index - (len(items) - len(places))
    if index < 0 or place < 0:
        return None
    field = "content" if items[index]["type"] == "message" else "output"
    param = f"input[{places[place]}].{field}[{match[2]}]"
    if match[3]:
        param += ".image_url"
    message = error.message.replace(match[0], param)
    return InvalidParameter(message, param, code=error.code)


def renamed(error: RequestError, tools: Tools) -> RequestError:
    """Return an error of the chat request with the field names of the original request."""
    error = with_first(tools.renamed(error), _name)
    old = error.param or ""
    new = _name(old)
    # A name of one word may be an ordinary word of the message.
    message = error.message.replace(old, new) if "." in old or "_" in old else error.message
    message = _LIMIT.sub("max_output_tokens", message)
    if (new, message) == (old, error.message):
        return error
    return type(error)(message, new, code=error.code)


def _name(path: str) -> str:
    """Return the field of the original request for a field of the chat request."""
    for pattern, name in _NAMES:
        path = pattern.sub(name, path)
    return path


def as_sent(error: RequestError, labels: Mapping[str, str]) -> RequestError:
    """Return an error with the field's name as the client sent it.

    Args:
        error: names the field as ``/v1/responses`` does.
        labels: name there -> name that the client sent.
    """
    if error.param != "reasoning.effort":
        return labelled(error, labels)
    label = labels.get("reasoning_effort", "reasoning_effort")
    message = error.message.replace("reasoning.effort", label, 1)
    return type(error)(message, label, code=error.code)
