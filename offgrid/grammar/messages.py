"""Error messages for clients about grammars, from llguidance's messages and our own."""

from __future__ import annotations

import re

from offgrid.errors import ErrorCode, InvalidParameter

_OWN_PLACE = re.compile(r"at \d+\(\d+\): (?:failed to compile JSON schema: |(?=invalid regex))")
"""Positions in the text that this package derives from a schema or a regular expression."""
_NO_WAY_ON = ("NoExtension", "NoExtensionBias")
"""llguidance's names for a state that nothing can follow."""
NO_TOKEN_NEXT = "no token may come next"
"""The message of :func:`first_line` for that state."""


def first_line(message: str) -> str:
    """Return an error message of llguidance without states, backtraces and excerpts."""
    text = message.partition("\n<state>")[0].partition("\n<backtrace>")[0]
    text = _OWN_PLACE.sub("", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or lines[0].startswith("panic"):
        return "it cannot be compiled"
    if lines[0] in _NO_WAY_ON:
        return NO_TOKEN_NEXT
    if lines[0].endswith("regex parse error:"):
        lines[0] += "".join(line.removeprefix("error:") for line in lines if line[:6] == "error:")
    return lines[0][:300]


def plain(message: str) -> str:
    """Return llguidance's message without options that clients cannot set."""
    if message.startswith("Unimplemented keys"):
        return message.replace("Unimplemented keys", "unsupported keywords")
    if message.startswith("oneOf constraints are not supported"):
        return "oneOf with alternatives that may overlap is not supported; use anyOf"
    if message.startswith("Failed to generate regex for"):
        return "minimum or maximum is too large"
    if message.startswith("Unsatisfiable schema: Regex is empty"):
        return "unsatisfiable: no text has its pattern, format and length"
    return message.rstrip(".")


def unusable(kind: str, param: str, reason: str, code: ErrorCode | None = None) -> InvalidParameter:
    """Return the error for an unusable grammar that the request field ``param`` asks for."""
    names = {
        "json_schema": "JSON schema", "lark": "Lark grammar", "gbnf": "GBNF grammar",
        "regex": "regular expression", "choice": "list of choices",
    }  # fmt: skip
    name = names.get(kind, "grammar")
    return InvalidParameter(f"The {name} cannot be used: {reason}.", param, code=code)
