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
from collections.abc import Collection, Mapping
from typing import Any

from offgrid.chat.arguments import (
    parse_value,
    python_source,
    read_json,
    types_of,
    unquoted,
    value_of_tags,
    write_json,
)
from offgrid.chat.formats import GEMMA_QUOTE, CallFormat, Parameters
from offgrid.chat.jsonscan import ObjectScanner
from offgrid.chat.literals import FAILED, MORE, Literal, any_of, begins

_MAX_PYTHON = 64 * 1024
"""Characters. Python's own parser holds the interpreter's lock for all of the text."""
_MAX_DEPTH = 64
_MAX_KEY = 256
_KEY = re.compile(r'[^\s/<>"](?:[^<>"\n]*[^\s<>"])?')
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_RAW = str.maketrans({"\n": "\\n", "\r": "\\r", "\t": "\\t"})
_TEXT = frozenset(("string",))
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
        """Read ``text``; return how many of its characters have been read.

        Unless the body is complete or has failed, the caller presents the others again, with the
        text that follows them.
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
        self._base = 0  # offset of the last piece
        self._last = ""

    def scan(self, text: str) -> int:
        self._base = self.scanner.position
        end = self.scanner.scan(text)
        self._last = text[:end]
        self._raw.append(self._last)
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
        if set(members) <= {"type", "id", "function"} and "function" in members:
            start, end = members["function"]
            if text[start] == "{":
                return _nested_call(text[start:end])
        keys = [key for key in _ARGUMENT_KEYS if key in members]
        name = self._name(text)
        if len(keys) > 1 or not name:
            return None
        start, end = members[keys[0]] if keys else (0, 0)
        return self._call(name, text[start:end])

    def _call(self, name: str, arguments: str) -> tuple[str, str] | None:
        """Return the call; null and "" are no arguments, and a string may hold the object."""
        if arguments[:1] == '"':
            try:
                value = read_json(json.loads(arguments, strict=False).strip() or "{}")
                return (name, write_json(value)) if isinstance(value, dict) else None
            except ValueError:
                return None
        if arguments in ("", "null"):
            return name, "{}"
        return (name, self._plain(arguments)) if arguments[0] == "{" else None

    def _plain(self, arguments: str) -> str:
        """Return the arguments as valid JSON; only raw line ends within strings are replaced."""
        if not self.scanner.raw_controls:
            return arguments
        return _STRING.sub(lambda match: match[0].translate(_RAW), arguments)

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

    def last_arguments(self) -> str:
        """Return the part of the arguments that the last scan has read."""
        start, end = self._span
        return self._last[max(0, start - self._base) : max(0, end - self._base)]

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


def _nested_call(text: str) -> tuple[str, str] | None:
    """Return the call of an object ``function``: the form of the API, which models copy."""
    inner = ObjectBody("object", _ARGUMENT_KEYS[0])
    inner.scan(text)
    return inner.result() if inner.done else None


class ParametersBody(Body):
    """Arguments one by one. The body ends before the text that ends the call."""

    def __init__(self, form: Parameters, end: str, schema: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._form = form
        # A model may omit the beginning of the end.
        self._ends = [Literal((atom,)) for atom in end.split()]
        self._before = Literal(form.before)
        between, _, tail = form.between.partition("{kind}")
        self._between, self._kind_end = Literal(between), tail.strip()
        self._lead = form.between[len(form.between.rstrip()) :]
        self._trail = form.after[: len(form.after) - len(form.after.lstrip())]
        self._schema = schema
        self._values: dict[str, tuple[str, str]] = {}
        self._key = self._kind = ""
        self._after = ""
        self._marks: frozenset[str] = frozenset()
        self._depth = 0
        self._value: list[str] = []
        self._state = self._next

    def scan(self, text: str) -> int:
        total = 0
        while not (self.done or self.failed):
            taken = self._state(text, total)
            if taken == FAILED:
                self.failed = True
            elif taken == MORE:
                break
            else:
                total = taken
        return total

    def result(self) -> tuple[str, str] | None:
        properties = types_of(self._schema)
        arguments: dict[str, Any] = {}
        for key, (kind, text) in self._values.items():
            types = properties.get(key)
            if self._form.nested:
                arguments[key] = value_of_tags(text, self._form.nested, self._schema, key)
            elif self._form.kinds and kind == self._form.kinds[0]:
                arguments[key] = text
            elif (quoted := unquoted(text, self._form.quotes)) is not None:
                arguments[key] = parse_value(quoted, types or _TEXT)
            else:
                arguments[key] = parse_value(text, None if kind else types)
        try:
            return "", write_json(arguments)
        except ValueError:
            return None

    # Each state reads from ``start`` on; it returns the index after what it has read, or MORE
    # (and has read nothing), or FAILED.

    def _next(self, text: str, start: int) -> int:
        """The next argument, or the end of the call."""
        ended, index = self._follows(text, start)
        if index >= 0 and ended:
            self.done = True
            return start
        self._state = self._read_key if index >= 0 else self._next
        return index

    def _follows(self, text: str, start: int) -> tuple[bool, int]:
        """Look for the end of the call or the text before a key.

        Returns:
            Whether it is the end, and the index after it, MORE or FAILED.
        """
        undecided = False
        for end in self._ends:
            index = end.match(text, start)
            if index >= 0:
                return True, index
            undecided = undecided or index == MORE
        index = MORE if undecided else self._before.match(text, start)
        if index >= 0 and self._before.atoms[-1][-1] == "<":
            # A key that is a tag must not be mistaken for the end of another tag.
            if index == len(text):
                return False, MORE
            index = FAILED if text[index] == "/" else index
        return False, index

    def _read_key(self, text: str, start: int) -> int:
        first = self._between.atoms[0]
        index = text.find(first, start, start + _MAX_KEY + len(first))
        if index < 0:
            return MORE if len(text) - start < _MAX_KEY + len(first) else FAILED
        key = text[start:index].strip()
        if not _KEY.fullmatch(key) or key in self._values:
            return FAILED
        index = self._between.match(text, index)
        if index >= 0:
            self._key, self._kind, self._value = key, "", []
            self._after = self._form.after.strip().replace("{key}", key)
            tags = (f"{self._form.nested}<{key}>",) if self._form.nested else ()
            self._marks, self._depth = frozenset((self._after, *tags)), 0
            self._state = self._read_kind if self._kind_end else self._read_value
        return index

    def _read_kind(self, text: str, start: int) -> int:
        index = text.find(self._kind_end, start, start + _MAX_KEY + len(self._kind_end))
        if index < 0:
            return MORE if len(text) - start < _MAX_KEY + len(self._kind_end) else FAILED
        self._kind = text[start:index].strip()
        self._state = self._read_value
        return index + len(self._kind_end)

    def _read_value(self, text: str, start: int) -> int:
        """Read up to the text after a value, if another argument or the end of the call follows."""
        if start == len(text):
            return MORE
        match = any_of(self._marks).search(text, start)
        if match is None:
            self._value.append(text[start:])
            return len(text)
        if match.start() > start:
            self._value.append(text[start : match.start()])
        if match["marker"] is None:
            return match.start() if match.start() > start else MORE
        inner = match[0] != self._after
        if inner or self._depth:  # a tag within the value that has the argument's name
            self._depth += 1 if inner else -1
            self._value.append(match[0])
            return match.end()
        _, index = self._follows(text, match.end())
        if index == MORE:
            return match.start() if match.start() > start else MORE
        if index == FAILED or self._within_quotes():
            self._value.append(text[match.start()])
            return match.start() + 1
        value = "".join(self._value).removeprefix(self._lead).removesuffix(self._trail)
        self._values[self._key] = (self._kind, value)
        self._state = self._next
        return match.end()

    def _within_quotes(self) -> bool:
        """Return whether the value so far begins with a quote that has not been closed."""
        if not self._form.quotes:
            return False
        opened, closed = self._form.quotes
        # The pieces at both ends are enough, as none is empty.
        first = "".join(self._value[: len(opened) + 1]).lstrip()
        last = "".join(self._value[-len(closed) - 1 :]).rstrip()
        return first.startswith(opened) and not last.endswith(closed)


class PythonBody(Body):
    """``name(key=value, ...)`` with literals of Python or JSON.

    Args:
        names: the functions that may be called.
    """

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names
        self._length = 0
        self._quote = ""
        self._spaces: str | None = None
        """White space after a quote that may end the string; None outside of it."""
        self._escaped = False
        self._stack: list[str] = []
        self._piece: list[str] = []  # of the name, a key or a value
        self._name = self._key = ""
        self._arguments: list[tuple[str, str]] = []

    def scan(self, text: str) -> int:
        for index, char in enumerate(text):
            self._take(char)
            self._length += 1
            self.failed = self.failed or self._length > _MAX_PYTHON
            if self.done or self.failed:
                return index + self.done
        return len(text)

    def _take(self, char: str) -> None:
        if self._quote:
            if self._spaces is not None and char.isspace():
                self._spaces += char
                return
            if not self._ends_string(char):
                self._in_string(char)
                return
        if not self._stack:
            self._in_name(char)
        elif len(self._stack) == 1 and char in ",=)":
            self._end_piece(char)
        else:
            self._piece.append(char)
            if char in "\"'":
                self._quote = char
            elif char in "([{":
                self._stack.append({"(": ")", "[": "]", "{": "}"}[char])
                self.failed = len(self._stack) > _MAX_DEPTH
            elif char in ")]}":
                self.failed = self._stack.pop() != char

    def _in_string(self, char: str) -> None:
        if char == self._quote and not self._escaped:
            self._spaces = ""
            return
        if char in "\n\r" and not self._escaped:
            char = char.translate(_RAW)  # an error in Python that models write
        self._piece.append(char)
        self._escaped = char == "\\" and not self._escaped

    def _ends_string(self, char: str) -> bool:
        """Whether a quote before ``char``, and before white space, has ended the string.

        A quote that nothing follows which may follow a string is part of the text: some templates,
        and so their models, write texts without escapes.
        """
        if self._spaces is None:
            return False
        spaces, self._spaces = self._spaces, None
        if char in ",)]}:":
            self._piece += [self._quote, spaces]
            self._quote = ""
            return True
        self._piece.append(f"\\{self._quote}{spaces.translate(_RAW)}")
        return False

    def _in_name(self, char: str) -> None:
        if char == "(":
            self._name = self._take_piece()
            self._stack.append(")")
            self.failed = self._name not in self._names
        else:
            self._piece.append(char)
            self.failed = not (char.isalnum() or char in "_.-") or len(self._piece) > _MAX_KEY

    def _end_piece(self, char: str) -> None:
        """End a key or a value: the parts of the outermost parentheses."""
        piece = self._take_piece()
        if char == "=":
            self.failed = bool(self._key) or not _PYTHON_KEY.fullmatch(piece)
            self._key = piece
            return
        if self._key:
            self._arguments.append((self._key, piece))
        else:
            # Nothing may stand without a key; a comma may end the arguments.
            self.failed = bool(piece) or (char == "," and not self._arguments)
        self._key = ""
        self.done = char == ")" and not self.failed

    def _take_piece(self) -> str:
        piece = "".join(self._piece).strip()
        self._piece.clear()
        return piece

    def result(self) -> tuple[str, str] | None:
        try:
            arguments = {key: _python_value(text) for key, text in self._arguments}
            return self._name, write_json(arguments)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None


_PYTHON_KEY = re.compile(r"[^\W\d][\w.-]{0,127}")


def _python_value(text: str) -> Any:
    try:
        return read_json(text)
    except ValueError:
        pass
    return _literal(ast.parse(python_source(text), mode="eval").body)


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

    def __init__(self, schema: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._schema = schema
        self._raw: list[str] = []
        self._quoted = False
        self._depth = 0

    def scan(self, text: str) -> int:
        index = 0
        while index < len(text) and not (self.done or self.failed):
            end = begins(text, index, GEMMA_QUOTE)
            if end == MORE:
                break
            if end >= 0:
                self._quoted = not self._quoted
                self.failed = not self._depth
            elif not self._quoted:
                self._structure(text[index])
            if not self.failed:
                index = max(end, index + 1)
        self._raw.append(text[:index])
        return index

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
            value = _Gemma("".join(self._raw), types_of(self._schema)).value()
            return ("", write_json(value)) if isinstance(value, dict) else None
        except ValueError:
            return None


class _Gemma:
    """Reads one value. Its depth is that of brackets, which :class:`GemmaBody` has bounded."""

    _TOKEN = re.compile(
        r'\s*(?:<\|"\|>(?P<text>.*?)<\|"\|>|(?P<json>"[^"\\]*(?:\\.[^"\\]*)*"(?=\s*[:,\]}]))'
        r"|(?P<mark>[{}\[\],:])|(?P<bare>[^,:\[\]{}][^,\]}]*))", re.DOTALL,
    )  # fmt: skip
    _KEY = re.compile(r"\s*([^\s:,{}\[\]<\"'][^:,{}\[\]<]*)(?=:)")

    def __init__(self, text: str, types: Mapping[str, frozenset[str] | None]) -> None:
        self._text = text
        self._types = types
        self._at = 0

    def value(self, types: frozenset[str] | None = None, outermost: bool = True) -> Any:
        match = self._token()
        if match["mark"] in ("{", "["):
            return self._object(outermost) if match["mark"] == "{" else self._list()
        if match["mark"]:
            raise ValueError("a value is missing")
        if match["text"] is not None:
            return match["text"]
        if match["json"] is not None:
            return read_json(match["json"])
        return parse_value(match["bare"].strip(), types)

    def _token(self) -> re.Match[str]:
        match = self._TOKEN.match(self._text, self._at)
        if match is None:
            raise ValueError("incomplete")
        self._at = match.end()
        return match

    def _ends(self, closing: str, first: bool) -> bool:
        """Read the end of an object or list, or the comma before the next member."""
        start = self._at
        mark = self._token()["mark"]
        if mark == closing:
            return True
        if first:
            self._at = start
        elif mark != ",":
            raise ValueError("neither a comma nor an end")
        return False

    def _object(self, outermost: bool) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not self._ends("}", not members):
            match = self._KEY.match(self._text, self._at)
            if match is not None:
                key, self._at = match[1].strip(), match.end()
            else:
                token = self._token()
                key = token["text"] if token["json"] is None else json.loads(token["json"])
            if not isinstance(key, str) or self._token()["mark"] != ":" or key in members:
                raise ValueError("not a key")
            members[key] = self.value(self._types.get(key) if outermost else None, False)
        return members

    def _list(self) -> list[Any]:
        items: list[Any] = []
        while not self._ends("]", not items):
            items.append(self.value(None, False))
        return items


def body_of(
    form: CallFormat, schema: Mapping[str, Any] | None, names: Collection[str] = ()
) -> Body:
    """Return a new body of this format.

    Args:
        form: the format.
        schema: the schema of the arguments, if the head has named the function.
        names: the functions that may be called.
    """
    if form.body == "parameters":
        assert form.parameters is not None
        next_text = form.end or form.separator or form.call_begin
        return ParametersBody(form.parameters, form.call_end or next_text, schema)
    if form.body == "python":
        return PythonBody(names)
    if form.body == "gemma":
        return GemmaBody(schema)
    key = "parameters" if '"parameters"' in form.object_begin else "arguments"
    return ObjectBody(form.body, key)
