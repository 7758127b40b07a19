"""Converts msgspec's validation errors into errors of the API."""

from __future__ import annotations

import re

from offgrid.errors import InvalidParameter

ROLES = ("system", "developer", "user", "assistant", "tool")
_CONTENT_TYPE = re.compile(r"\.content\[\d+\]\.type$")
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_NAMED = re.compile(r"Object (missing required|contains unknown) field `([^`]+)`")


def invalid(message: str) -> InvalidParameter:
    """Convert msgspec's message into our error; the path in the message becomes ``param``."""
    match = _PATH.search(message)
    path = match[1] if match else ""
    reason = message[: match.start()] if match else message
    if path.endswith("[...]"):  # msgspec does not say which entry of a map it is
        path = path.removesuffix("[...]")
        reason = f"in one of its entries, {reason[:1].lower()}{reason[1:]}"
    named = _NAMED.match(reason)
    if named:
        path = f"{path}.{named[2]}" if path else named[2]
        if named[1] == "missing required":
            return InvalidParameter(
                f"Missing required field: {path}.", path, code="missing_required_parameter"
            )
        return InvalidParameter(f"Unknown field: {path}.", path, code="unknown_parameter")
    if path.endswith(".role"):
        reason = f"{reason}; the roles are {', '.join(ROLES)}"
    if _CONTENT_TYPE.search(path):
        return InvalidParameter(
            f"{path}: only text and image_url parts are supported by this server.",
            path,
            code="unsupported_parameter",
        )
    return InvalidParameter(f"Invalid value for {path}: {reason}.", path or None)
