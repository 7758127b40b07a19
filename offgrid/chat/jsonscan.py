"""Incremental scanning of a JSON object: finds where it ends, or where it stops being valid.

A parser of whole texts cannot tell "not finished yet" from "broken". This scanner can, after every
character, in time proportional to the text (RFC 8259; strings may not hold raw control characters).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

MAX_DEPTH = 128
"""Nesting depth of objects and lists."""

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SPACE = " \t\n\r"
_HEX = "0123456789abcdefABCDEF"
_LITERALS = {"t": "rue", "f": "alse", "n": "ull"}
_DIGITS = "0123456789"
# State of a number -> characters that may follow, and the state after them.
_NUMBER: dict[str, tuple[tuple[str, str], ...]] = {
    "-": (("0", "0"), ("123456789", "int")),
    "0": ((".", "."), ("eE", "e")),
    "int": ((_DIGITS, "int"), (".", "."), ("eE", "e")),
    ".": ((_DIGITS, "fraction"),),
    "fraction": ((_DIGITS, "fraction"), ("eE", "e")),
    "e": (("+-", "sign"), (_DIGITS, "exponent")),
    "sign": ((_DIGITS, "exponent"),),
    "exponent": ((_DIGITS, "exponent"),),
}
_WHOLE_NUMBER = ("0", "int", "fraction", "exponent")


class ObjectScanner:
    """Follows one JSON object from its ``{`` to its ``}``.

    Args:
        keys: the keys that the object may have, each once; None for any. A wrong key counts as an
            error at the first character of its value.
        lenient: whether strings may hold raw line ends and tabs, which models write now and then.

    Attributes:
        done: the object is complete.
        failed: the characters so far cannot begin a JSON object.
        position: number of characters scanned; with ``failed``, the offset of the wrong character.
        members: the complete members of the outermost object: key -> (start, end) offsets of the
            value.
        key: the member whose value has begun and is not complete, None otherwise.
        value_start: offset of that value.
        raw_controls: whether a string holds a raw line end or tab.
    """

    def __init__(self, keys: Collection[str] | None = None, *, lenient: bool = False) -> None:
        self._keys = keys
        self._lenient = lenient
        self.raw_controls = False
        self.done = False
        self.failed = False
        self.position = 0
        self.members: dict[str, tuple[int, int]] = {}
        self.key: str | None = None
        self.value_start = 0
        self._stack: list[str] = []
        self._expect = "start"
        self._token = ""  # "string", "literal", a state of _NUMBER, or nothing
        self._is_key = False
        self._rest = ""  # of a literal, or of an escape: "\\" or one "h" per missing hex digit
        self._key_text: list[str] = []

    def scan(self, text: str, start: int = 0) -> int:
        """Scan ``text`` from ``start`` on; return the index after the last character scanned.

        That is the end of the text unless the object is complete or has failed.
        """
        index = start
        while index < len(text) and not (self.done or self.failed):
            if self._token == "string" and not self._rest:
                end = self._plain_end(text, index)
                self.position += end - index
                index = end
                if index == len(text):
                    break
            taken = self._take(text[index])
            if not self.failed:
                self.position += taken
                index += taken
        return index

    def _plain_end(self, text: str, index: int) -> int:
        """Skip the plain characters of a string without examining each."""
        match = _PLAIN.match(text, index)
        assert match is not None
        if self._is_key and len(self._stack) == 1:
            self._key_text.append(match[0])
        return match.end()

    def _take(self, char: str) -> bool:
        """Scan one character; return False if it only ended a number and must be scanned again."""
        if self._token == "string":
            self._in_string(char)
        elif self._token == "literal":
            self.failed = char != self._rest[0]
            self._rest = self._rest[1:]
            if not self._rest:
                self._end_value()
        elif self._token:
            return self._in_number(char)
        elif char not in _SPACE or self._expect == "start":
            self._structure(char)
        return True

    def _in_string(self, char: str) -> None:
        if self._is_key and len(self._stack) == 1 and (self._rest or char != '"'):
            self._key_text.append(char)
        if self._rest == "\\":
            self.failed = char not in '"\\/bfnrtu'
            self._rest = "hhhh" if char == "u" else ""
        elif self._rest:
            self.failed = char not in _HEX
            self._rest = self._rest[1:]
        elif char == "\\":
            self._rest = "\\"
        elif char in "\t\n\r" and self._lenient and not self._is_key:
            self.raw_controls = True
        elif char != '"':
            self.failed = True  # a raw control character
        elif self._is_key:
            self._token, self._expect = "", "colon"
        else:
            self._end_value(1)

    def _in_number(self, char: str) -> bool:
        for chars, state in _NUMBER[self._token]:
            if char in chars:
                self._token = state
                return True
        if self._token in _WHOLE_NUMBER:
            self._end_value(0)
            return False
        self.failed = True
        return True

    def _structure(self, char: str) -> None:
        expect = self._expect
        if expect == "start":
            self.failed = char != "{"
            self._open(char)
        elif char == '"' and expect in ("key", "key or end"):
            self._token, self._is_key, self._key_text = "string", True, []
        elif expect == "colon" and char == ":":
            self._expect = "value"
        elif expect in ("value", "value or end") and char not in "]}":
            self._begin_value(char)
        elif expect == "comma or end" and char == ",":
            self._expect = "key" if self._stack[-1] == "{" else "value"
        elif expect.endswith("or end") and self._stack[-1] + char in ("{}", "[]"):
            self._stack.pop()
            if self._stack:
                self._end_value()
            else:
                self.done = True
        else:
            self.failed = True

    def _begin_value(self, char: str) -> None:
        if len(self._stack) == 1:
            self.key = str(json.loads(f'"{"".join(self._key_text)}"'))
            self.value_start = self.position
            if self._keys is not None and (self.key not in self._keys or self.key in self.members):
                self.failed = True
                return
        if char in "{[":
            self._open(char)
        elif char == '"':
            self._token, self._is_key = "string", False
        elif char in _LITERALS:
            self._token, self._rest = "literal", _LITERALS[char]
        elif char in "-0":
            self._token = char
        elif char in "123456789":
            self._token = "int"
        else:
            self.failed = True

    def _open(self, char: str) -> None:
        self._stack.append(char)
        self._expect = "key or end" if char == "{" else "value or end"
        self.failed = self.failed or len(self._stack) > MAX_DEPTH

    def _end_value(self, taken: int = 1) -> None:
        """End a value with this character, or with ``taken`` 0 before it."""
        self._token = ""
        self._expect = "comma or end"
        if len(self._stack) == 1 and self.key is not None:
            self.members[self.key] = (self.value_start, self.position + taken)
            self.key = None
