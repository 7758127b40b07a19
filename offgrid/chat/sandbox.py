"""A Jinja environment for the untrusted templates that come with model files.

Jinja's immutable sandbox keeps a template from reaching Python's internals, but not from running
for ever or exhausting memory. Therefore renderings have a budget of steps (loop iterations, calls,
filters, operators), of characters that these steps may read and create, and of processor time. The
budget of steps and characters grows with what the template is given. The work of a single operation
is estimated before it runs, because nothing can stop it afterwards, and other threads wait for it.
Constant folding at compile time is disabled, because it would bypass the budget.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, MappingView
from datetime import datetime
from types import BuiltinFunctionType
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from markupsafe import escape

from offgrid.chat.budget import ITEM, MAX_STEP, Budget, TemplateLimit, budget_for

MAX_SOURCE = 64 * 1024
"""Characters of a template. Real templates have at most a third of this size."""
MAX_PYTHON = 192 * 1024
"""Characters of the Python program that Jinja makes of a template. Python's compiler is a single
call into C, which blocks other threads: a program of this size takes it at most a tenth of a
second. The programs of real templates have at most a third of this size."""
_AT_ONCE = 16
"""Characters that a search from the end, or a set of characters, compares in the time of one step's
character."""
MAX_OUTPUT = 16 * 1024 * 1024
"""Bytes of the result of one rendering, as UTF-8. With its images it must fit a frame."""
_MAX_NUMBER = 1_000_000
_MAX_DIGITS = 300
"""Decimal places of ``round``: it computes a power of ten, and no float has more."""
_MAX_BITS = 64
_VISIT = 128
"""Characters charged for each item when the item itself is read."""
_MAX_INDENT = 64
_TURN = "_offgrid_turn"
_DEEP = "_offgrid_deep"
_FLAT = "_offgrid_flat"
_KEY = "_offgrid_key"
_INTERNAL = frozenset({"_loop_vars", "_block_vars"})
"""Keywords that Jinja adds to every call inside a loop or block, with all variables set there. It
removes them again before the function runs."""

# Filters that are useful only for web pages, and slow on long texts.
_UNWANTED_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
# Filters that do not read the items of their input.
_FLAT_FILTERS = frozenset(
    "attr batch count d default first items last length list map reject rejectattr reverse select "
    "selectattr slice".split()
)
# Functions whose result can be as long as one argument times the others.
_PRODUCTS = frozenset(["expandtabs", "indent", "join", "replace", "tojson"])
# Functions that may compare every character of a text with all of an argument.
_SEARCHES = frozenset("lstrip rfind rindex rpartition rsplit rstrip strip trim".split())
# Methods of lists that compare every item with an argument.
_ITEM_SEARCHES = frozenset(["count", "index"])
# How many characters these filters create from one, at most.
_ESCAPES = {"e": 6, "escape": 6, "forceescape": 6, "tojson": 12, "urlencode": 12}
_ESCAPE_SPEED = 6
"""Number of characters of an escaped text that are written in the time of one other character."""
_COMPARISONS = frozenset(
    "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lt ne".split()
)
# Charge per character for functions that take longer per character than others.
_SLOW = {
    "capitalize": 3, "casefold": 3, "lower": 3, "swapcase": 3, "title": 16, "translate": 8,
    "upper": 3, "wordcount": 16,
}  # fmt: skip
# The line ends of str.splitlines.
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
# Widths and precisions of four digits and more, and widths given by an argument. No character is
# tried from more than one beginning. A name that contains a percent sign could hide a width.
_WIDE_PERCENT = re.compile(r"%(\([^)%]*\))?[^a-zA-Z%]*(\*|\d{4})|%\([^)%]*%")
_WIDE_BRACES = re.compile(r"\{[^{}:]*:[^{}]*(\{|\d{4})")
_MAX_WIDTH = 1000


class _Current(threading.local):
    """The budget of the rendering that runs in this thread."""

    budget = Budget(0, 0, 0.0)


class _Generation(Extension):
    """``{% generation %}``: marks the model's own answers for training. It has no effect here."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Given(list[Any]):
    """A list of the request, which a template must not change."""


def _given(value: Any) -> Any:
    """Return a copy of a value of the request in which all lists are protected."""
    if isinstance(value, dict):
        return {key: _given(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return _Given(map(_given, value))
    return value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that chat templates expect, as Hugging Face's tokenizers provide it."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        self._current = _Current()
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            optimized=False,
            finalize=self._deep,
        )
        self.filters["tojson"] = _tojson
        # Without autoescape, the only effect of Jinja's Markup is to escape text appended to it.
        self.filters["safe"] = str
        for name in ("e", "escape", "forceescape"):
            self.filters[name] = _escape
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        del self.globals["lipsum"]
        for name in _UNWANTED_FILTERS:
            del self.filters[name]
        filters: dict[str, Any] = self.filters
        for name in filters:
            filters[name] = self._bounded(name, filters[name], deep=name not in _FLAT_FILTERS)
        tests: dict[str, Any] = self.tests
        for name in _COMPARISONS:
            tests[name] = self._bounded(name, tests[name], deep=True)
        self.filters.update(
            {_TURN: self._turn, _DEEP: self._deep, _FLAT: self._flat, _KEY: self._key}
        )

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute: it may change only lists of its own."""
        if attr in ("append", "pop") and type(obj) is list:
            return True
        return super().is_safe_attribute(obj, attr, value)

    def from_string(self, source: Any, *args: Any, **kwargs: Any) -> Any:
        """Compile a template."""
        if len(source) > MAX_SOURCE:
            raise TemplateLimit(f"the chat template has more than {MAX_SOURCE} characters")
        return super().from_string(source, *args, **kwargs)

    def _compile(self, source: str, filename: str) -> Any:
        """Compile the Python program of a template."""
        if len(source) > MAX_PYTHON:
            raise TemplateLimit(f"the program of the chat template exceeds {MAX_PYTHON} characters")
        return super()._compile(source, filename)

    @property
    def _budget(self) -> Budget:
        return self._current.budget

    def render_bounded(
        self, source: Any, variables: dict[str, Any], budget: Budget | None = None
    ) -> str:
        """Render a template of this environment within the limits.

        Args:
            source: a template of this environment.
            variables: its variables.
            budget: the work that it may do; None for what :func:`budget_for` gives it.

        Raises:
            TemplateError: the template's own error, or a limit.
        """
        self._current.budget = current = budget_for(variables) if budget is None else budget
        current.start()
        try:
            return self._joined(source.generate(**_given(variables)))
        finally:
            current.stop()

    def _joined(self, written: Iterable[str]) -> str:
        """Return the pieces that a template writes as one text."""
        pieces, size = [], 0
        for piece in written:
            self._budget.take()
            try:
                size += len(piece) if piece.isascii() else len(piece.encode("utf-8"))
            except UnicodeEncodeError:
                raise TemplateError("the chat template writes an unpaired surrogate") from None
            if size > MAX_OUTPUT:
                raise TemplateLimit(f"the chat template writes more than {MAX_OUTPUT} bytes")
            pieces.append(piece)
        return "".join(pieces)

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Raise the exception unchanged; leave only syntax errors to Jinja, which adds details.

        For other errors Jinja creates frames of the template's lines, for debugging. They form
        reference cycles that keep the whole request alive until the garbage collector runs.
        """
        if isinstance(sys.exc_info()[1], TemplateSyntaxError):
            super().handle_exception(source)
        raise

    # --- charging the budget ------------------------------------------------------------------

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Insert charging filters where Jinja has no hook: loops, comparisons, ``~``, slices."""
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(nodes.For)):
            # In the body rather than around the iterable: ``loop(...)`` passes its own iterable.
            written = sum(len(data.data) for data in loop.find_all(nodes.TemplateData))
            turn = _filtered(nodes.Const(written, lineno=loop.lineno), _TURN)
            loop.body.insert(0, nodes.ExprStmt(turn, lineno=loop.lineno))
            if loop.test is not None:
                loop.test = _filtered(loop.test, _TURN)
        for compare in list(tree.find_all(nodes.Compare)):
            compare.expr = _filtered(compare.expr, _DEEP)
            for operand in compare.ops:
                operand.expr = _filtered(operand.expr, _DEEP)
        for concat in list(tree.find_all(nodes.Concat)):
            concat.nodes = [_filtered(node, _DEEP) for node in concat.nodes]
        for item in list(tree.find_all(nodes.Getitem)):
            if isinstance(item.arg, nodes.Slice):
                item.node = _filtered(item.node, _FLAT)
            elif not isinstance(item.arg, nodes.Const):
                item.arg = _filtered(item.arg, _KEY)
        for pair in list(tree.find_all(nodes.Pair)):
            if not isinstance(pair.key, nodes.Const):
                pair.key = _filtered(pair.key, _KEY)
        tree.set_environment(self)
        return tree

    # Filters that take the context are never computed at compile time.
    @pass_context
    def _turn(self, _: Any, value: Any) -> Any:
        self._budget.take(value if type(value) is int else 0)
        return value

    @pass_context
    def _deep(self, _: Any, value: Any) -> Any:
        self._budget.take(self._sizes([value]))
        return value

    @pass_context
    def _key(self, _: Any, value: Any) -> Any:
        """Charge a key of an object: hashing a tuple visits its items as often as they occur."""
        if isinstance(value, tuple):
            self._budget.take(self._sizes([value]))
        return value

    @pass_context
    def _flat(self, _: Any, value: Any) -> Any:
        self._budget.take(_flat_size(value))
        return value

    def _bounded(self, name: str, function: Callable[..., Any], deep: bool) -> Callable[..., Any]:
        """Wrap a filter or test so that it charges the budget."""

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            # The first argument that Jinja passes (a context or environment) is not charged.
            skip = 1 if hasattr(function, "jinja_pass_arg") else 0
            if deep:
                args = tuple(list(x) if isinstance(x, Iterator) else x for x in args)
            values = [*args[skip:], *kwargs.values()]
            _check_numbers(values)
            if name == "sum":
                start = kwargs.get("start", args[skip + 2] if len(args) > skip + 2 else 0)
                if not isinstance(start, (int, float)):
                    raise SecurityError("sum needs numbers")
            if name == "round":
                _check_digits(values[1:])
            if name == "format":
                self._budget.take(self._format_size(values[0], values[1:], _WIDE_PERCENT))
            elif deep:
                speed = _ESCAPE_SPEED if name in _ESCAPES else 1
                self._budget.take(self._product(name, values), speed)
            else:
                self._budget.take()
            return self._checked(function(*args, **kwargs))

        return bounded

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call an object for a template."""
        values = list(args)
        named = [value for name, value in kwargs.items() if name not in _INTERNAL]
        _check_numbers([*values, *named])
        owner = getattr(function, "__self__", None)
        if isinstance(owner, (str, bytes)):
            _check_codec(function.__name__, [*values, *named])
            values = [list(x) if isinstance(x, Iterator) else x for x in values]
            size = self._product(function.__name__, [owner, *values, *named])
            self._budget.take(size)
        elif owner is not None or isinstance(function, (BuiltinFunctionType, type)):
            # Methods of a list may compare its items with the arguments, a type may copy them.
            size = self._sizes([*values, *named])
            if isinstance(owner, list) and function.__name__ in _ITEM_SEARCHES:
                size *= 1 + len(owner) // _AT_ONCE
            self._budget.take(size)
        else:
            self._budget.take()
        return self._checked(super().call(context, function, *values, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return ``str.format`` or ``str.format_map`` for a template."""
        function = super().wrap_str_format(value)
        if function is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            values = [*args, *kwargs.values()]
            self._budget.take(self._format_size(value.__self__, values, _WIDE_BRACES))
            return function(*args, **kwargs)

        return bounded

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right`` for a template."""
        numbers = [x for x in (left, right) if isinstance(x, (int, float))]
        for number in numbers:
            if isinstance(number, int) and number.bit_length() > _MAX_BITS:
                raise SecurityError(f"a number is too large for {operator}")
        if operator == "**" and all(isinstance(x, int) for x in (left, right)):
            if left.bit_length() * abs(right) > 2 * _MAX_BITS:
                raise SecurityError("the result of ** is too large")
        elif operator == "%" and isinstance(left, (str, bytes)):
            self._budget.take(self._format_size(left, [right], _WIDE_PERCENT))
        elif operator == "*" and len(numbers) == 1:
            self._budget.take(_flat_size(left) * int(abs(numbers[0])) + _flat_size(right))
            self._budget.take(_flat_size(right) * int(abs(numbers[0])))
        else:
            self._budget.take(_flat_size(left) + _flat_size(right))
        return super().call_binop(context, operator, left, right)

    # --- sizes --------------------------------------------------------------------------------

    def _sizes(self, values: list[Any]) -> int:
        return sum(_size(value, min(self._budget.text, MAX_STEP)) for value in values)

    def _product(self, name: str, values: list[Any]) -> int:
        """Estimate the characters that a filter or a string's method reads and creates at most."""
        numbers = sum(abs(x) for x in values[1:] if isinstance(x, int))
        first = self._sizes(values[:1]) * _ESCAPES.get(name, _SLOW.get(name, 1))
        if name in ("split", "rsplit", "splitlines"):
            first += ITEM * _pieces(name, values)
        others = self._sizes(values[1:]) + int(numbers)
        if name in _SEARCHES:
            first *= 1 + others // _AT_ONCE
        return first * max(1, others) if name in _PRODUCTS else first + others

    def _format_size(self, format: Any, values: list[Any], wide: re.Pattern[str]) -> int:
        text = format.decode("latin-1") if isinstance(format, bytes) else str(format)
        if wide.search(text):
            raise SecurityError("a width or precision of a format is too large")
        places = text.count("%" if wide is _WIDE_PERCENT else "{")
        return len(text) + places * (self._sizes(values) + 2 * _MAX_WIDTH)

    def _checked(self, result: Any) -> Any:
        if isinstance(result, int) and result.bit_length() > _MAX_BITS:
            raise SecurityError("a number is too large")
        self._budget.take(_flat_size(result))
        return result


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _flat_size(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, (list, tuple, dict)):
        return ITEM * len(value)
    return 0


def _size(value: Any, limit: int) -> int:
    """Count the characters of a value and all its items, each as often as it occurs.

    A few lists that contain each other many times become an enormous text when they are written or
    compared. Counting stops beyond ``limit``.
    """
    total = 0
    stack: list[Any] = [value]
    while stack and total <= limit:
        item = stack.pop()
        if isinstance(item, (str, bytes)):
            total += len(item)
        elif isinstance(item, (list, tuple, dict, MappingView)):
            total += _VISIT * len(item)
            if total <= limit:
                stack += cast(Iterable[Any], item)
                if isinstance(item, dict):
                    stack += item.values()
        elif isinstance(item, Namespace):
            raise SecurityError("a namespace cannot be converted to text")
    return total


def _pieces(name: str, values: list[Any]) -> int:
    """Return the largest number of pieces that a string (or bytes) can be split into."""
    text, separator = values[0], values[1] if len(values) > 1 else None
    if name == "splitlines":
        ends = _LINE_ENDS if isinstance(text, str) else (b"\n", b"\r")
        return 1 + sum(int(text.count(end)) for end in ends)
    if isinstance(separator, type(text)) and separator:
        return 1 + int(text.count(separator))
    return 1 + len(text) // 2


def _check_codec(name: str, values: list[Any]) -> None:
    """Refuse encodings other than UTF-8: some take time quadratic in the length of the text."""
    if name in ("encode", "decode"):
        for value in values[:1]:
            if str(value).lower() not in ("utf-8", "utf8"):
                raise SecurityError(f"{name} supports only UTF-8")


def _check_digits(values: list[Any]) -> None:
    if any(isinstance(value, int) and abs(value) > _MAX_DIGITS for value in values):
        raise SecurityError("the number of decimal places is too large")


def _check_numbers(values: list[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > _MAX_NUMBER:
            raise SecurityError("a number is too large here")


def _escape(value: Any) -> str:
    return str(escape(value))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML. The arguments are those of Hugging Face's filter.
    if indent is not None and (len(indent) if isinstance(indent, str) else indent) > _MAX_INDENT:
        raise SecurityError("the indent of tojson is too large")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: Any) -> None:
    raise TemplateError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
