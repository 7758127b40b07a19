"""Parses enough of llguidance's Lark dialect to find which rules use which.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import re

from offgrid.grammar.lark_tokens import LarkTokens, Unread
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


def lark_rules(source: str) -> dict[str, Node] | None:
    """Return the rules by name; None if the source uses syntax that is not supported here."""
    try:
        return _Reader(source).rules()
    except Unread:
        return None


class _Reader:
    def __init__(self, source: str) -> None:
        self._tokens = LarkTokens(source, _TOKEN)

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while self._tokens.left:
            kind, text = self._tokens.next()
            if kind == "line" or (kind == "directive" and not text.startswith("%override")):
                continue
            if kind != "name":
                raise Unread
            bounded = self._skip_to_colon()
            body = self._alternatives(0)
            if self._tokens.next()[0] != "line":
                raise Unread
            name = text.lstrip("!?")
            if _is_rule(name) and not bounded:
                found[name] = body
        return found

    def _skip_to_colon(self) -> bool:
        """Skip priority and attributes; return whether ``max_tokens`` bounds the rule's length."""
        bounded = False
        while not self._tokens.take(":"):
            kind, text = self._tokens.next()
            if kind in ("line", "end") or text in ("{", "("):  # Templates contain other rules.
                raise Unread
            bounded = bounded or text == "max_tokens"
        return bounded

    def _alternatives(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise Unread
        parts = [self._sequence(depth)]
        while self._before_bar():
            parts.append(self._sequence(depth))
        return Node("alt", parts=parts)

    def _before_bar(self) -> bool:
        """Skip a bar, which may stand on the next line; return whether there was one."""
        before = self._tokens.at
        if self._tokens.peek()[0] == "line":
            self._tokens.next()
        if self._tokens.take("|"):
            return True
        self._tokens.at = before
        return False

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while True:
            kind, text = self._tokens.peek()
            if self._tokens.take("->"):
                self._tokens.next()
            elif kind in ("line", "end") or text in ("|", ")", "]"):
                return Node("seq", parts=parts)
            elif not self._tokens.take("&"):
                parts.append(self._repeated(self._item(depth)))

    def _item(self, depth: int) -> Node:
        kind, text = self._tokens.next()
        if text in ("(", "["):
            inner = self._alternatives(depth + 1)
            if not self._tokens.take(")" if text == "(" else "]"):
                raise Unread
            return inner if text == "(" else Node("repeat", "?", [inner])
        if kind == "text":
            if self._tokens.take(".."):
                self._tokens.next()
            return Node("regex")
        if kind != "name":
            raise Unread
        return Node("ref", text) if _is_rule(text) else Node("regex")

    def _repeated(self, node: Node) -> Node:
        depth = 0
        while self._tokens.peek()[1] in ("*", "+", "?", "~", "{"):
            depth += 1
            if depth > _MAX_DEPTH:
                raise Unread
            sign = self._tokens.next()[1]
            if sign in "~{":
                kind, low = self._tokens.peek()
                if kind != "number" and low != ",":
                    raise Unread
                self._skip_count()
                # Not int(): Python refuses to convert thousands of digits.
                sign = "{0,}" if low == "," or not low.strip("0") else "+"
            node = Node("repeat", sign, [node])
        return node

    def _skip_count(self) -> None:
        """Skip the numbers of a repetition, and its closing brace."""
        kind, text = self._tokens.peek()
        while kind == "number" or text in (",", "..", "}"):
            self._tokens.next()
            if text == "}":
                break
            kind, text = self._tokens.peek()


def _is_rule(name: str) -> bool:
    return name.lstrip("_").islower()
