"""A Jinja environment for the untrusted templates that come with model files.

Jinja's immutable sandbox keeps a template from reaching Python's internals, but not from running
for ever or exhausting memory. Therefore renderings have a budget of steps (loop iterations, calls,
filters, operators), of characters that these steps may read and create, and of processor time. The
budget of steps and characters grows with what the template is given. The work of a single operation
is estimated before it runs (:mod:`offgrid.chat.estimates`), because nothing can stop it afterwards,
and other threads wait for it. Estimates may be wrong, so only the operations that templates of real
models use run here; a template that uses others is rendered in another process
(:mod:`offgrid.chat.renderer`). Constant folding at compile time is disabled, because it would
bypass the budget.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinFunctionType
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from offgrid.chat.budget import MAX_STEP, Budget, TemplateLimit, budget_for
from offgrid.chat.estimates import (
    AT_ONCE,
    ESCAPES,
    WIDE_BRACES,
    WIDE_PERCENT,
    check_codec,
    check_digits,
    check_numbers,
    deep_size,
    deep_sizes,
    flat_size,
    format_size,
    operation_size,
)
from offgrid.chat.template_functions import (
    Generation,
    escape,
    raise_exception,
    strftime_now,
    tojson,
)

MAX_SOURCE = 64 * 1024
"""Characters of a template. Real templates have at most a third of this size."""
MAX_PYTHON = 192 * 1024
"""Characters of the Python program that Jinja makes of a template. Python's compiler is a single
call into C, which blocks other threads: a program of this size takes it at most a tenth of a
second. The programs of real templates have at most a third of this size."""
MAX_OUTPUT = 16 * 1024 * 1024
"""Bytes of the result of one rendering, as UTF-8. With its images it must fit a frame."""
_MAX_BITS = 64
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
# Methods of lists that compare every item with an argument.
_ITEM_SEARCHES = frozenset(["count", "index"])
_ESCAPE_SPEED = 6
"""Number of characters of an escaped text that are written in the time of one other character."""
_COMPARISONS = frozenset(
    "!= < <= == > >= eq equalto ge greaterthan gt in le lessthan lt ne".split()
)


# The operations that templates of real models use. Their estimates are tested one by one.
_COMMON_FILTERS = frozenset(
    "abs capitalize count d default dictsort e escape first float forceescape indent int items "
    "join last length list lower map max min reject rejectattr replace reverse round safe select "
    "selectattr sort string tojson trim unique upper".split()
)
_COMMON_METHODS = frozenset(
    "append capitalize copy count endswith find format get index insert isalnum isalpha isascii "
    "isdigit islower isnumeric isspace isupper items join keys lower lstrip pop removeprefix "
    "removesuffix replace rfind rindex rsplit rstrip split splitlines startswith strip title upper "
    "values".split()
)
_SHORT_PRODUCT = 65_536
"""Characters or items that a product of a text or list with a number may have here."""


class Uninterruptible(TemplateError):
    """A template wants to use an operation that only the process of the renderer may run."""


class _Current(threading.local):
    """The budget of the rendering that runs in this thread."""

    budget = Budget(0, 0, 0.0)


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

    def __init__(self, *, interruptible: bool = True) -> None:
        """``interruptible``: allow only common operations, because the process must not end."""
        self._current = _Current()
        self._interruptible = interruptible
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, Generation],
            optimized=False,
            finalize=self._deep,
        )
        self.filters["tojson"] = tojson
        # Without autoescape, the only effect of Jinja's Markup is to escape text appended to it.
        self.filters["safe"] = str
        for name in ("e", "escape", "forceescape"):
            self.filters[name] = escape
        self.globals["raise_exception"] = raise_exception
        self.globals["strftime_now"] = strftime_now
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

    @property
    def _limit(self) -> int:
        """Characters up to which estimates count."""
        return min(self._budget.text, MAX_STEP)

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
        self._budget.take(deep_size(value, self._limit))
        return value

    @pass_context
    def _key(self, _: Any, value: Any) -> Any:
        """Charge a key of an object: hashing a tuple visits its items as often as they occur."""
        if isinstance(value, tuple):
            self._budget.take(deep_size(value, self._limit))
        return value

    @pass_context
    def _flat(self, _: Any, value: Any) -> Any:
        self._budget.take(flat_size(value))
        return value

    def _bounded(self, name: str, function: Callable[..., Any], deep: bool) -> Callable[..., Any]:
        """Wrap a filter or test so that it charges the budget."""

        common = _COMMON_FILTERS | _COMPARISONS

        @functools.wraps(function)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            # The first argument that Jinja passes (a context or environment) is not charged.
            if self._interruptible and name not in common:
                raise Uninterruptible(f"the filter or test {name} is not common")
            skip = 1 if hasattr(function, "jinja_pass_arg") else 0
            if deep:
                args = tuple(list(x) if isinstance(x, Iterator) else x for x in args)
            values = [*args[skip:], *kwargs.values()]
            check_numbers(values)
            if name == "sum":
                start = kwargs.get("start", args[skip + 2] if len(args) > skip + 2 else 0)
                if not isinstance(start, (int, float)):
                    raise SecurityError("sum needs numbers")
            if name == "round":
                check_digits(values[1:])
            if name == "format":
                self._budget.take(format_size(values[0], values[1:], WIDE_PERCENT, self._limit))
            elif deep:
                speed = _ESCAPE_SPEED if name in ESCAPES else 1
                self._budget.take(operation_size(name, values, self._limit), speed)
            else:
                self._budget.take()
            return self._checked(function(*args, **kwargs))

        return bounded

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call an object for a template."""
        values = list(args)
        named = [value for name, value in kwargs.items() if name not in _INTERNAL]
        check_numbers([*values, *named])
        owner = getattr(function, "__self__", None)
        if self._interruptible and isinstance(function, BuiltinFunctionType):
            self._check_common(owner, function)
        if isinstance(owner, (str, bytes)):
            if function.__name__ == "translate":
                raise SecurityError("translate is not supported: its result can have any length")
            check_codec(function.__name__, [*values, *named])
            values = [list(x) if isinstance(x, Iterator) else x for x in values]
            size = operation_size(function.__name__, [owner, *values, *named], self._limit)
            self._budget.take(size)
        elif owner is not None or isinstance(function, (BuiltinFunctionType, type)):
            # Methods of a list may compare its items with the arguments, a type may copy them.
            size = deep_sizes([*values, *named], self._limit)
            if isinstance(owner, list) and function.__name__ in _ITEM_SEARCHES:
                size *= 1 + len(owner) // AT_ONCE
            self._budget.take(size)
        else:
            self._budget.take()
        return self._checked(super().call(context, function, *values, **kwargs))

    def _check_common(self, owner: Any, function: Any) -> None:
        is_text = isinstance(owner, (str, list, dict, tuple))
        if not is_text or function.__name__ not in _COMMON_METHODS:
            raise Uninterruptible(f"the method {function.__name__} is not common")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return ``str.format`` or ``str.format_map`` for a template."""
        function = super().wrap_str_format(value)
        if function is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            values = [*args, *kwargs.values()]
            self._budget.take(format_size(value.__self__, values, WIDE_BRACES, self._limit))
            return function(*args, **kwargs)

        return bounded

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute ``left operator right`` for a template."""
        numbers = [x for x in (left, right) if isinstance(x, (int, float))]
        if self._interruptible and operator in ("*", "%", "**") and len(numbers) < 2:
            size = flat_size(left) + flat_size(right)
            if operator != "*" or size * int(abs(sum(numbers))) > _SHORT_PRODUCT:
                raise Uninterruptible(f"the operator {operator} is not common here")
        for number in numbers:
            if isinstance(number, int) and number.bit_length() > _MAX_BITS:
                raise SecurityError(f"a number is too large for {operator}")
        if operator == "**" and all(isinstance(x, int) for x in (left, right)):
            if left.bit_length() * abs(right) > 2 * _MAX_BITS:
                raise SecurityError("the result of ** is too large")
        elif operator == "%" and isinstance(left, (str, bytes)):
            self._budget.take(format_size(left, [right], WIDE_PERCENT, self._limit))
        elif operator == "*" and len(numbers) == 1:
            self._budget.take(flat_size(left) * int(abs(numbers[0])) + flat_size(right))
            self._budget.take(flat_size(right) * int(abs(numbers[0])))
        else:
            self._budget.take(flat_size(left) + flat_size(right))
        return super().call_binop(context, operator, left, right)

    def _checked(self, result: Any) -> Any:
        if isinstance(result, int) and result.bit_length() > _MAX_BITS:
            raise SecurityError("a number is too large")
        self._budget.take(flat_size(result))
        return result


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
