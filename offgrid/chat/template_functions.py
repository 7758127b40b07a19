"""Functions that chat templates expect, in addition to Jinja's or in their place."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from markupsafe import escape as markup_escape

_MAX_INDENT = 64
_MAX_DATE = 256
"""Characters of the format of a date. strftime tries again with twice the memory for long ones."""


class Generation(Extension):
    """``{% generation %}``: marks the model's own answers for training. It has no effect here."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def escape(value: Any) -> str:
    """Escape a text for HTML. Jinja's own filter would also escape text appended to the result."""
    return str(markup_escape(value))


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write a value as JSON, with the arguments of Hugging Face's filter. Jinja's own filter would
    escape it for HTML."""
    if indent is not None and (len(indent) if isinstance(indent, str) else indent) > _MAX_INDENT:
        raise SecurityError("the indent of tojson is too large")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message: Any) -> None:
    """Refuse the messages."""
    raise TemplateError(str(message))


def strftime_now(format: str) -> str:
    """Return the time of day or the date."""
    if len(format) > _MAX_DATE:
        raise SecurityError("the format of a date is too long")
    return datetime.now().strftime(format)
