"""Converts a Lark grammar without recursion into a regular expression.

A custom tool's input is written as a JSON string. A regular expression can be enforced inside such
a string, while a grammar describes the text itself. Grammars of tools, such as those for patches,
seldom need recursion: then each rule can be put in the place of its name. Syntax:
https://lark-parser.readthedocs.io/en/stable/grammar.html
"""

from __future__ import annotations

import re
from collections.abc import Callable

from offgrid.grammar.lark_tokens import LarkTokens, Unread

MAX_SOURCE = 16_384
"""Characters of a grammar that is converted."""
MAX_PATTERN = 8_192
"""Characters of a regular expression: rules that use each other may multiply."""
_MAX_DEPTH = 40
_TOKEN = re.compile(r"""
    (?P<skip> [ \t]+ | //[^\n]* | \#[^\n]* )
  | (?P<line> \r?\n )
  | (?P<string> "(?:\\.|[^"\\\n])*"i? )
  | (?P<regex> /(?!/)(?:\\.|[^/\\\n])+/[imslux]* )
  | (?P<name> [?!]?_?[A-Za-z][A-Za-z0-9_]* )
  | (?P<number> \d+ )
  | (?P<sign> -> | \.\. | [:|()\[\]{},.*+?~] )
  | (?P<directive> %\w+[^\n]* )
""", re.VERBOSE)  # fmt: skip
_IMPORT = re.compile(r"%import\s+common\.(\w+)(?:\s*->\s*(\w+))?\s*")
_IMPORTS = re.compile(r"%import\s+common\s*\(([\w\s,]*)\)\s*")
_COMMON = {
    "CR": r"\r", "LF": r"\n", "NEWLINE": r"(?:\r?\n)+", "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+", "DIGIT": "[0-9]", "HEXDIGIT": "[0-9a-fA-F]", "INT": "[0-9]+",
    "SIGNED_INT": "[+\\-]?[0-9]+", "DECIMAL": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)",
    "LCASE_LETTER": "[a-z]", "UCASE_LETTER": "[A-Z]", "LETTER": "[A-Za-z]", "WORD": "[A-Za-z]+",
    "CNAME": "[A-Za-z_][A-Za-z_0-9]*",
}  # fmt: skip
"""Terminals of Lark's own library (https://github.com/lark-parser/lark, ``common.lark``)."""
_SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}/\-]")
_UNFIT = re.compile(r"\(\?(?!:)|\\[1-9bBAzZGkpP]|(?:^|[^\\\[])\^|\$")
"""Assertions, flags, back references: their meaning changes in the middle of an expression."""
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", '"': '"', "\\": "\\", "/": "/", "'": "'"}
_CONTROL = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\f": r"\f"}


class _NotRegular(Unread):
    """The grammar has recursion, or syntax that is not converted."""


def lark_pattern(source: str) -> str | None:
    """Return a regular expression for the texts of a grammar; None if it is not converted."""
    try:
        if len(source) > MAX_SOURCE:
            return None
        return _Reader(source).pattern("start")
    except Unread:
        return None


class _Reader:
    """Reads all rules, and converts each when it is needed."""

    def __init__(self, source: str) -> None:
        self._tokens = LarkTokens(source, _TOKEN)
        self._rules: dict[str, int] = {}
        """Where the body of each rule begins."""
        self._patterns: dict[str, str] = {}
        self._open: set[str] = set()
        self._find_rules()

    def pattern(self, name: str) -> str:
        """Return the regular expression of a rule."""
        if name in self._patterns:
            return self._patterns[name]
        if name not in self._rules or name in self._open or len(self._open) > _MAX_DEPTH:
            raise _NotRegular
        self._open.add(name)
        before, self._tokens.at = self._tokens.at, self._rules[name]
        found = self._alternatives(0)
        if self._tokens.next()[0] != "line":
            raise _NotRegular
        self._tokens.at = before
        self._open.discard(name)
        self._patterns[name] = found
        return found

    def _find_rules(self) -> None:
        while self._tokens.left:
            kind, text = self._tokens.next()
            if kind == "line":
                continue
            if kind == "directive":
                self._directive(text)
                continue
            if kind != "name" or self._tokens.next()[1] != ":":
                raise _NotRegular
            name = text.lstrip("?!")
            if name in self._rules:
                raise _NotRegular
            self._rules[name] = self._tokens.at
            # The body ends where the next line does not begin with another alternative.
            while True:
                kind, _ = self._tokens.next()
                if kind == "line" and not self._bar_follows():
                    break

    def _directive(self, text: str) -> None:
        """Read an import; other directives change what a text means."""
        one, several = _IMPORT.fullmatch(text), _IMPORTS.fullmatch(text)
        if one is not None:
            names = {one[2] or one[1]: one[1]}
        elif several is not None:
            names = {name: name for name in re.split(r"[\s,]+", several[1]) if name}
        else:
            raise _NotRegular
        for name, known in names.items():
            if known not in _COMMON:
                raise _NotRegular
            self._patterns[name] = _COMMON[known]

    def _bar_follows(self) -> bool:
        ahead = 1 if self._tokens.peek()[0] == "line" else 0
        return self._tokens.peek(ahead) == ("sign", "|")

    def _alternatives(self, depth: int) -> str:
        if depth > _MAX_DEPTH:
            raise _NotRegular
        parts = [self._sequence(depth)]
        while True:
            while self._tokens.peek()[0] == "line" and (depth or self._bar_follows()):
                self._tokens.next()
            if not self._tokens.take("|"):
                break
            parts.append(self._sequence(depth))
        return _short(parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})")

    def _sequence(self, depth: int) -> str:
        parts: list[str] = []
        while True:
            kind, text = self._tokens.peek()
            if kind in ("line", "end") or (kind == "sign" and text in ("|", ")", "]")):
                return _short("".join(parts))
            if self._tokens.take("->"):
                self._tokens.next()
                continue
            parts.append(self._repeated(self._item(depth)))

    def _item(self, depth: int) -> str:
        kind, text = self._tokens.next()
        if kind == "sign" and text in ("(", "["):
            inner = self._alternatives(depth + 1)
            if not self._tokens.take(")" if text == "(" else "]"):
                raise _NotRegular
            return f"(?:{inner})" if text == "(" else f"(?:{inner})?"
        if kind == "string":
            return self._string(text)
        if kind == "regex":
            if not text.endswith("/") or _UNFIT.search(text[1:-1]):
                raise _NotRegular
            return f"(?:{text[1:-1]})"
        if kind == "name":
            return f"(?:{self.pattern(text)})"
        raise _NotRegular

    def _string(self, text: str) -> str:
        if self._tokens.take(".."):
            kind, last = self._tokens.next()
            first, end = _literal(text), _literal(last) if kind == "string" else ""
            if len(first) != 1 or len(end) != 1 or first > end:
                raise _NotRegular
            return f"[{_escaped(first)}-{_escaped(end)}]"
        if not text.endswith("i"):
            return f"(?:{''.join(map(_escaped, _literal(text)))})"
        return f"(?:{''.join(map(_either_case, _literal(text[:-1])))})"

    def _repeated(self, item: str) -> str:
        while True:
            if self._tokens.take("~"):
                item = f"(?:{item}){self._count(lambda: self._tokens.take('..'))}"
            elif self._tokens.take("{"):
                item = f"(?:{item}){self._count(lambda: self._tokens.take(','))}"
                if not self._tokens.take("}"):
                    raise _NotRegular
            elif self._tokens.peek()[0] == "sign" and self._tokens.peek()[1] in ("*", "+", "?"):
                item = f"(?:{item}){self._tokens.next()[1]}"
            else:
                return item

    def _count(self, take_separator: Callable[[], bool]) -> str:
        low = self._tokens.next()
        if low[0] != "number":
            raise _NotRegular
        if not take_separator():
            return f"{{{low[1]}}}"
        high = self._tokens.next()[1] if self._tokens.peek()[0] == "number" else ""
        return f"{{{low[1]},{high}}}"


def _short(pattern: str) -> str:
    if len(pattern) > MAX_PATTERN:
        raise _NotRegular
    return pattern


def _literal(text: str) -> str:
    """Return the text of a string in quotation marks."""

    def decode(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise _NotRegular
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.)", decode, text[1:-1])


def _escaped(character: str) -> str:
    return _CONTROL.get(character) or _SPECIAL.sub(r"\\\g<0>", character)


def _either_case(character: str) -> str:
    cases = {character.lower(), character.upper()}
    if len(cases) == 1 or any(len(case) != 1 for case in cases):
        return _escaped(character)
    return f"[{''.join(map(_escaped, sorted(cases)))}]"
