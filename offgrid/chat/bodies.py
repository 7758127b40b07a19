"""Incremental reading of one call's body: finds where it ends, and what name and arguments it has.

Every body reads its text once, in time proportional to the text, and its result does not depend on
how the text is split. A body that has failed, or is not complete at the end of an answer, is no
call.
"""

from __future__ import annotations

import ast
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from offgrid.chat.arguments import parse_value, read_json, types_of, without_nested_tags
from offgrid.chat.formats import GEMMA_QUOTE, CallFormat, Parameters
from offgrid.chat.jsonscan import ObjectScanner

_MAX_PYTHON = 64 * 1024
"""Characters. Python's own parser holds the interpreter's lock for all of the text."""
_MAX_DEPTH = 64
_MAX_KEY = 256
_NAME = re.compile(r"[\w.-]{1,64}")
_NAME_KEYS = ("name", "function", "tool_name")
_ARGUMENT_KEYS = ("arguments", "parameters")
_OBJECT_KEYS = {*_NAME_KEYS, *_ARGUMENT_KEYS, "id", "type", "tool_call_id", "call_id", "index"}


class Body(ABC):
    """Reads one body.

    Attributes:
        done: whether the body is complete.
        failed: whether the text so far cannot begin a body.
    """

    def __init__(self) -> None:
        self.done = False
        self.failed = False

    @abstractmethod
    def scan(self, text: str) -> int:
        """Read ``text``; return how many of its characters belong to the body.

        All of them unless the body is complete or has failed.
        """

    @abstractmethod
    def result(self) -> tuple[str, str] | None:
        """Return name ("" where the head has it) and JSON arguments; None if it is no call."""


class ObjectBody(Body):
    """A JSON object: of a whole call, of a call under its name as the key, or of the arguments."""

    def __init__(self, kind: str, arguments_key: str) -> None:
        super().__init__()
        self._kind = kind
        self._preferred = arguments_key
        self.scanner = ObjectScanner(_OBJECT_KEYS if kind == "object" else None, lenient=True)
        self._raw: list[str] = []

    def scan(self, text: str) -> int:
        end = self.scanner.scan(text)
        self._raw.append(text[:end])
        self.done, self.failed = self.scanner.done, self.scanner.failed
        return end

    def result(self) -> tuple[str, str] | None:
        text = "".join(self._raw)
        if self._kind == "json":
            return "", self._plain(text)
        members = self.scanner.members
        if self._kind == "keyed":
            if len(members) != 1:
                return None
            ((name, (start, end)),) = members.items()
            return self._call(name, text[start:end])
        keys = [key for key in _ARGUMENT_KEYS if key in members]
        name = self._name(text)
        if len(keys) > 1 or not name:
            return None
        start, end = members[keys[0]] if keys else (0, 0)
        return self._call(name, text[start:end])

    def _call(self, name: str, arguments: str) -> tuple[str, str] | None:
        """Return the call; null and "" are no arguments, and a string may hold the object."""
        if arguments[:1] == '"':
            arguments = json.loads(arguments, strict=False).strip()
            try:
                value = read_json(arguments or "{}")
            except ValueError:
                return None
            return (name, arguments or "{}") if isinstance(value, dict) else None
        if arguments in ("", "null"):
            return name, "{}"
        return (name, self._plain(arguments)) if arguments[0] == "{" else None

    def _plain(self, arguments: str) -> str:
        """Return the arguments as valid JSON; only raw line ends within strings are replaced."""
        if not self.scanner.raw_controls:
            return arguments
        return json.dumps(json.loads(arguments, strict=False), ensure_ascii=False)

    def _name(self, text: str) -> str:
        for key in _NAME_KEYS:
            if key in self.scanner.members:
                start, end = self.scanner.members[key]
                name = json.loads(text[start:end], strict=False)
                if isinstance(name, str):
                    return name
        return ""

    # --- arguments that are passed on while they arrive ------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether the value of the arguments has begun."""
        if self._kind == "json":
            return True
        scanner, key = self.scanner, self._preferred
        if self._kind == "keyed":
            return scanner.key is not None or bool(scanner.members)
        return scanner.key == key or key in scanner.members

    def arguments_after(self, count: int) -> str:
        """Return the arguments received so far without the first ``count`` characters."""
        start, end = self._span
        return "".join(self._raw)[start + count : end]

    @property
    def _span(self) -> tuple[int, int]:
        """Offsets of the arguments within the object, as far as received."""
        if self._kind == "json":
            return 0, self.scanner.position
        so_far = (self.scanner.value_start, self.scanner.position)
        if self._kind == "keyed":
            return next(iter(self.scanner.members.values()), so_far)
        return self.scanner.members.get(self._preferred, so_far)

    def name_before_arguments(self) -> str:
        """Return the name if it came before arguments that are an object, otherwise ""."""
        text = "".join(self._raw)
        start, _ = self._span
        if text[start : start + 1] != "{":
            return ""
        if self._kind == "keyed":
            return self.scanner.key or next(iter(self.scanner.members), "")
        return self._name(text) if any(k in self.scanner.members for k in _NAME_KEYS) else ""


class ParametersBody(Body):
    """Arguments one by one. The body ends before the text that ends the call."""

    def __init__(self, form: Parameters, end: str, schema: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._form = form
        self._end = end.split()[0]
        self._before = form.before.split()[0]
        self._rest_before = form.before.split()[1:]
        between, _, tail = form.between.partition("{kind}")
        self._between, self._kind_end = between.strip(), tail.strip()
        self._lead = form.between[len(form.between.rstrip()) :]
        self._trail = form.after[: len(form.after) - len(form.after.lstrip())]
        self._schema = schema
        self._values: dict[str, tuple[str, str]] = {}
        self._key = self._kind = ""
        self._text = ""  # not consumed yet
        self._from = 0  # where to continue the search in _text
        self._state = self._next

    def scan(self, text: str) -> int:
        known = len(self._text)
        self._text += text
        total = 0
        while not (self.done or self.failed):
            taken = self._state()
            if taken < 0:
                return len(text)
            total += taken
            self._text = self._text[taken:]
        return max(0, min(len(text), total - known))

    def result(self) -> tuple[str, str] | None:
        properties = types_of(self._schema)
        arguments: dict[str, Any] = {}
        for key, (kind, text) in self._values.items():
            if self._form.nested:
                nested = without_nested_tags(text, self._form.nested)
                if nested is not None:
                    arguments[key] = nested
                    continue
            if self._form.kinds and kind == self._form.kinds[0]:
                arguments[key] = text
            else:
                arguments[key] = parse_value(text, None if kind else properties.get(key))
        return "", json.dumps(arguments, ensure_ascii=False)

    def _next(self) -> int:
        """The next argument, or the end of the call."""
        rest = self._text.lstrip()
        space = len(self._text) - len(rest)
        if rest.startswith(self._end):
            self.done = True
            return space
        if rest.startswith(self._before) and len(rest) >= len(self._end):
            taken = space + len(self._before)
            for atom in self._rest_before:
                rest = self._text[taken:]
                short = rest.lstrip()
                if atom.startswith(short) and short != atom:
                    return -1
                if not short.startswith(atom):
                    self.failed = True
                    return 0
                taken += len(rest) - len(short) + len(atom)
            self._state, self._from = self._read_key, 0
            return taken
        if not rest or self._end.startswith(rest) or self._before.startswith(rest):
            return -1
        if rest.startswith(self._before) and self._end.startswith(rest):
            return -1
        if rest.startswith(self._before):  # The end is longer than what has arrived.
            if self._end.startswith(rest[: len(self._end)]):
                return -1
            self._state, self._from = self._read_key, 0
            return space + len(self._before)
        self.failed = True
        return 0

    def _read_key(self) -> int:
        index = self._text.find(self._between)
        if index < 0:
            self.failed = len(self._text) > _MAX_KEY
            return 0 if self.failed else -1
        self._key = self._text[:index].strip()
        self.failed = not self._key or len(self._key) > _MAX_KEY or self._key in self._values
        self._kind = ""
        self._state, self._from = (self._read_kind if self._kind_end else self._read_value), 0
        return index + len(self._between)

    def _read_kind(self) -> int:
        index = self._text.find(self._kind_end)
        if index < 0:
            self.failed = len(self._text) > _MAX_KEY
            return 0 if self.failed else -1
        self._kind = self._text[:index].strip()
        self._state, self._from = self._read_value, 0
        return index + len(self._kind_end)

    def _read_value(self) -> int:
        """Read up to the text after a value, if another argument or the end of the call follows."""
        after = self._form.after.strip().replace("{key}", self._key)
        while True:
            index = self._text.find(after, self._from)
            if index < 0:
                self._from = max(0, len(self._text) - len(after) + 1)
                return -1
            rest = self._text[index + len(after) :].lstrip()
            if rest.startswith((self._before, self._end)):
                break
            if not rest or self._before.startswith(rest) or self._end.startswith(rest):
                self._from = index
                return -1
            self._from = index + 1
        value = self._text[:index].removeprefix(self._lead).removesuffix(self._trail)
        self._values[self._key] = (self._kind, value)
        self._state = self._next
        return index + len(after)


class PythonBody(Body):
    """``name(key=value, ...)`` with literals of Python or JSON."""

    def __init__(self) -> None:
        super().__init__()
        self._raw: list[str] = []
        self._quote = ""
        self._escaped = False
        self._stack: list[str] = []

    def scan(self, text: str) -> int:
        for index, char in enumerate(text):
            # A line end in a string is an error in Python, and models write it.
            self._raw.append("\\n" if char == "\n" and self._quote else char)
            self._take(char)
            self.failed = self.failed or len(self._raw) > _MAX_PYTHON
            if self.done or self.failed:
                return index + self.done
        return len(text)

    def _take(self, char: str) -> None:
        if self._quote:
            if self._escaped or char == "\\":
                self._escaped = not self._escaped
            elif char == self._quote:
                self._quote = ""
        elif not self._stack:
            self.failed = not (char == "(" or char.isalnum() or char in "_.-")
            if char == "(":
                self._stack.append(")")
        elif char in "\"'":
            self._quote = char
        elif char in "([{":
            self._stack.append({"(": ")", "[": "]", "{": "}"}[char])
            self.failed = len(self._stack) > _MAX_DEPTH
        elif char in ")]}":
            self.failed = self._stack.pop() != char
            self.done = not self._stack and not self.failed

    def result(self) -> tuple[str, str] | None:
        name, _, rest = "".join(self._raw).partition("(")
        if not _NAME.fullmatch(name):
            return None
        source = "_(" + rest
        try:
            call = ast.parse(source, mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                return None
            arguments = {word.arg: _literal(word.value) for word in call.keywords if word.arg}
            return name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, which may have JSON's names."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    if isinstance(node, ast.Name) and node.id in _LITERALS:
        return _LITERALS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (int, float)):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict) and all(node.keys):
        return {
            str(_literal(key)): _literal(value)
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
    raise ValueError("not a literal")


_LITERALS: dict[str, Any] = {"true": True, "false": False, "null": None}


class GemmaBody(Body):
    """``{key:value,...}`` with strings between :data:`GEMMA_QUOTE`."""

    def __init__(self) -> None:
        super().__init__()
        self._raw: list[str] = []
        self._held = ""
        self._quoted = False
        self._depth = 0

    def scan(self, text: str) -> int:
        known = len(self._held)
        text = self._held + text
        self._held = ""
        index = 0
        while index < len(text) and not (self.done or self.failed):
            if text.startswith(GEMMA_QUOTE, index):
                self._quoted = not self._quoted
                self.failed = not self._depth
                index += len(GEMMA_QUOTE)
            elif GEMMA_QUOTE.startswith(text[index:]):
                self._held = text[index:]
                break
            else:
                if not self._quoted:
                    self._structure(text[index])
                index += not self.failed
        self._raw.append(text[:index])
        return max(0, index + len(self._held) - known)

    def _structure(self, char: str) -> None:
        if char in "{[":
            self._depth += 1
            self.failed = self._depth > _MAX_DEPTH or (self._depth == 1 and char != "{")
        elif char in "}]":
            self._depth -= 1
            self.done = not self._depth
        elif not self._depth and not char.isspace():
            self.failed = True

    def result(self) -> tuple[str, str] | None:
        try:
            value, rest = _gemma_value("".join(self._raw).strip())
        except (ValueError, IndexError):
            return None
        if rest or not isinstance(value, dict):
            return None
        return "", json.dumps(value, ensure_ascii=False)


def _gemma_value(text: str) -> tuple[Any, str]:
    """Return the value at the beginning of ``text``, and the text after it."""
    text = text.lstrip()
    if text.startswith(GEMMA_QUOTE):
        value, found, rest = text[len(GEMMA_QUOTE) :].partition(GEMMA_QUOTE)
        if not found:
            raise ValueError("an open string")
        return value, rest
    if text[0] in "{[":
        return _gemma_container(text)
    match = re.match(r"[^,\]}]*", text)
    assert match is not None
    return parse_value(match[0].strip(), None), text[match.end() :]


def _gemma_container(text: str) -> tuple[Any, str]:
    is_object = text[0] == "{"
    closing = "}" if is_object else "]"
    members: dict[str, Any] = {}
    items: list[Any] = []
    text = text[1:].lstrip()
    while not text.startswith(closing):
        if is_object:
            key, text = _gemma_key(text)
            members[key], text = _gemma_value(text)
        else:
            item, text = _gemma_value(text)
            items.append(item)
        text = text.lstrip()
        if text.startswith(","):
            text = text[1:].lstrip()
        elif not text.startswith(closing):
            raise ValueError("neither a comma nor an end")
    return (members if is_object else items), text[1:]


def _gemma_key(text: str) -> tuple[str, str]:
    if text.startswith(GEMMA_QUOTE):
        key, text = _gemma_value(text)
        return str(key), text.lstrip().removeprefix(":")
    key, found, rest = text.partition(":")
    if not found:
        raise ValueError("a key without a value")
    return key.strip().strip('"'), rest


def body_of(form: CallFormat, schema: Mapping[str, Any] | None) -> Body:
    """Return a new body of this format; ``schema`` is that of the arguments."""
    if form.body == "parameters":
        assert form.parameters is not None
        return ParametersBody(form.parameters, form.call_end, schema)
    if form.body == "python":
        return PythonBody()
    if form.body == "gemma":
        return GemmaBody()
    key = "parameters" if '"parameters"' in form.object_begin else "arguments"
    return ObjectBody(form.body, key)
