"""A Jinja environment for templates that nobody has read: they come with model files.

Jinja's immutable sandbox keeps a template from reaching Python's internals, but not from working
for ever. So every turn of a loop and every call takes from a budget, and what can make something
huge out of something small (``*``, ``**``, large widths) is bounded.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_STEPS = 1_000_000
"""Turns of loops and calls in one rendering; a few tenths of a second."""
MAX_OUTPUT = 16 * 1024 * 1024
"""Characters of one rendering."""
_MAX_NUMBER = 1_000_000
_BOUND = "_offgrid_bound"


class TemplateLimit(TemplateError):
    """The template does more than any chat needs."""


class _Budget(threading.local):
    left = 0

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TemplateLimit(f"the chat template takes more than {MAX_STEPS} steps")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that chat templates expect (as Hugging Face's tokenizers give it)."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self._budget = _Budget()
        self.filters["tojson"] = _tojson
        self.filters[_BOUND] = self._bound
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def render_bounded(self, source: Any, variables: dict[str, Any]) -> str:
        """Render a template of this environment within the limits.

        Raises:
            TemplateError: the template's own error, or a limit.
        """
        self._budget.left = MAX_STEPS
        pieces, size = [], 0
        for piece in source.generate(**variables):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise TemplateLimit(f"the chat template writes more than {MAX_OUTPUT} characters")
            pieces.append(piece)
        return "".join(pieces)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _BOUND, [], [], None, None, lineno=loop.lineno)
        return tree

    def _bound(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._budget.take()
            yield value

    def call(self, *args: Any, **kwargs: Any) -> Any:
        self._budget.take()
        for value in (*args[2:], *kwargs.values()):
            if isinstance(value, int) and abs(value) > _MAX_NUMBER:
                raise SecurityError(f"the number {value} is too large here")
        return super().call(*args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not (_is_number(left) and _is_number(right)):
            size = max(len(x) if hasattr(x, "__len__") else 1 for x in (left, right))
            times = max((abs(x) for x in (left, right) if _is_number(x)), default=1)
            if size * times > _MAX_NUMBER:
                raise SecurityError(f"the result of {operator} is too large")
        return super().call_binop(context, operator, left, right)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    # Not Jinja's own filter: that one escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
