"""Parses enough of llguidance's Lark dialect to find which rules use which.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import re

from offgrid.grammar.rules import Node

_MAX_DEPTH = 32
_TOKEN = re.compile(r"""
    (?P<skip> [ \t]+ | (?:\#|//)[^\n]* )
  | (?P<line> (?:\r?\n)+ )
  | (?P<text> "(?:\\.|[^"\\\n])*"i? | /(?:\\.|[^/\\\n])+/[imslux]* | <[^<>\s]+> | @[\w-]+ )
  | (?P<name> !?[_?]?[A-Za-z][A-Za-z0-9_-]* )
  | (?P<number> \d+ )
  | (?P<sign> -> | \.\. | [:|()\[\]{}.,~&=*+?] )
  | (?P<directive> %\w+[^\n]* )
""", re.VERBOSE)  # fmt: skip


class _Unread(Exception):
    """Syntax that this parser does not support."""


def lark_rules(source: str) -> dict[str, Node] | None:
    """Return the rules by name; None if the source uses syntax that is not supported here."""
    try:
        return _Reader(source).rules()
    except _Unread:
        return None


class _Reader:
    def __init__(self, source: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(source):
            match = _TOKEN.match(source, at)
            if match is None or match.lastgroup is None:
                raise _Unread
            if match.lastgroup != "skip":
                self._tokens.append((match.lastgroup, match[0]))
            at = match.end()
        self._tokens.append(("line", "\n"))
        self._at = 0

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while self._at < len(self._tokens):
            kind, text = self._next()
            if kind == "line" or (kind == "directive" and not text.startswith("%override")):
                continue
            if kind != "name":
                raise _Unread
            bounded = self._skip_to_colon()
            body = self._alternatives(0)
            if self._next()[0] != "line":
                raise _Unread
            name = text.lstrip("!?")
            if _is_rule(name) and not bounded:
                found[name] = body
        return found

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, *signs: str) -> bool:
        found = self._peek()[1] in signs
        self._at += found
        return found

    def _skip_to_colon(self) -> bool:
        """Skip priority and attributes; return whether ``max_tokens`` bounds the rule's length."""
        bounded = False
        while not self._take(":"):
            kind, text = self._next()
            if kind in ("line", "end") or text in ("{", "("):  # Templates contain other rules.
                raise _Unread
            bounded = bounded or text == "max_tokens"
        return bounded

    def _alternatives(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise _Unread
        parts = [self._sequence(depth)]
        while self._before_bar():
            parts.append(self._sequence(depth))
        return Node("alt", parts=parts)

    def _before_bar(self) -> bool:
        """Skip a bar, which may stand on the next line; return whether there was one."""
        before = self._at
        if self._peek()[0] == "line":
            self._at += 1
        if self._take("|"):
            return True
        self._at = before
        return False

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while True:
            kind, text = self._peek()
            if self._take("->"):
                self._next()
            elif kind in ("line", "end") or text in ("|", ")", "]"):
                return Node("seq", parts=parts)
            elif not self._take("&"):
                parts.append(self._repeated(self._item(depth)))

    def _item(self, depth: int) -> Node:
        kind, text = self._next()
        if text in ("(", "["):
            inner = self._alternatives(depth + 1)
            if not self._take(")" if text == "(" else "]"):
                raise _Unread
            return inner if text == "(" else Node("repeat", "?", [inner])
        if kind == "text":
            if self._take(".."):
                self._next()
            return Node("regex")
        if kind != "name":
            raise _Unread
        return Node("ref", text) if _is_rule(text) else Node("regex")

    def _repeated(self, node: Node) -> Node:
        depth = 0
        while self._peek()[1] in ("*", "+", "?", "~", "{"):
            depth += 1
            if depth > _MAX_DEPTH:
                raise _Unread
            sign = self._next()[1]
            if sign in "~{":
                kind, low = self._peek()
                if kind != "number" and low != ",":
                    raise _Unread
                while self._peek()[0] == "number" or self._peek()[1] in (",", "..", "}"):
                    if self._next()[1] == "}":
                        break
                # Not int(): Python refuses to convert thousands of digits.
                sign = "{0,}" if low == "," or not low.strip("0") else "+"
            node = Node("repeat", sign, [node])
        return node


def _is_rule(name: str) -> bool:
    return name.lstrip("_").islower()
