"""Converts llama.cpp's grammar notation (GBNF) to llguidance's Lark dialect.

llguidance reads text in lexemes, each as long as possible, while GBNF has only characters. To
preserve the meaning, every regular part of a grammar (a part that no recursive rule takes part in)
becomes one lexeme as large as possible. Thus a grammar without recursion is exact. Where lexemes
meet in a recursive rule, the longest match is taken: no text outside the grammar is accepted, but
an answer that needs a shorter match is not found.

The notation: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

import re

from offgrid.grammar.rules import Node, TooTangled, endless_rule, in_order, references

MAX_DEPTH = 32
"""Depth of nested groups, and number of repetition suffixes of one item."""
MAX_WEIGHT = 100_000
"""Characters of a grammar with all counted repetitions expanded."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_COUNT = re.compile(r"\{[ \t]*(\d{1,9})[ \t]*(,)?[ \t]*(\d{1,9})?[ \t]*\}")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "[": "[", "]": "]"}
_HEX = {"x": 2, "u": 4, "U": 8}


class GbnfError(ValueError):
    """The text is not a valid grammar; the message gives the place."""


def gbnf_to_lark(source: str) -> str:
    """Return the grammar in llguidance's dialect.

    Raises:
        GbnfError: the grammar is invalid; the message names the line or the rule.
    """
    rules = _Parser(source).rules()
    if "root" not in rules:
        raise GbnfError("there is no rule named root")
    for name, node in rules.items():
        for used in references(node):
            if used not in rules:
                raise GbnfError(f"rule {name} uses {used}, which is not defined")
    try:
        endless = endless_rule(rules, "root")
    except TooTangled as ex:
        raise GbnfError(str(ex)) from None
    if endless is not None:
        raise GbnfError(f"rule {endless} never ends, because it requires itself")
    return _Writer(rules).write()


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._source):
            name = self._match(_NAME)
            if not name:
                raise self._error("expected the name of a rule")
            self._skip(_SPACE)
            if not self._source.startswith("::=", self._at):
                raise self._error(f"expected ::= after {name}")
            self._at += 3
            self._skip(_SPACE_AND_LINES)
            if name in found:
                raise self._error(f"rule {name} is defined twice")
            found[name] = self._alternatives(0)
            self._end_of_rule()
        return found

    def _error(self, what: str) -> GbnfError:
        line = self._source.count("\n", 0, self._at) + 1
        rest = self._source[self._at : self._at + 20]
        return GbnfError(f"line {line}: {what}, at {rest!r}")

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._source, self._at)
        self._at = match.end() if match else self._at
        return match[0] if match else ""

    _skip = _match

    def _end_of_rule(self) -> None:
        end = self._peek()
        if end and end not in "\r\n":
            raise self._error("expected the end of the rule")
        self._skip(_SPACE_AND_LINES)

    def _alternatives(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._error(f"groups are nested more than {MAX_DEPTH} deep")
        alternatives = [self._sequence(depth)]
        while self._before_bar():
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            alternatives.append(self._sequence(depth))
        return alternatives[0] if len(alternatives) == 1 else Node("alt", parts=alternatives)

    def _before_bar(self) -> bool:
        """Return whether an alternative follows, possibly on the next line."""
        match = _SPACE_AND_LINES.match(self._source, self._at)
        assert match is not None
        if self._source.startswith("|", match.end()):
            self._at = match.end()
        return self._peek() == "|"

    def _sequence(self, depth: int) -> Node:
        space = _SPACE_AND_LINES if depth else _SPACE
        parts: list[Node] = []
        self._skip(space)
        while (next := self._peek()) and next not in "|)\r\n":
            parts.append(self._repeated(self._item(next, depth)))
            self._skip(space)
        return parts[0] if len(parts) == 1 else Node("seq", parts=parts)

    def _item(self, next: str, depth: int) -> Node:
        if next == '"':
            return Node("regex", self._literal())
        if next == "[":
            return Node("regex", self._class())
        if next == ".":
            self._at += 1
            return Node("regex", "(?s:.)")
        if next == "(":
            self._at += 1
            inner = self._alternatives(depth + 1)
            self._skip(_SPACE_AND_LINES)
            if self._peek() != ")":
                raise self._error("expected )")
            self._at += 1
            return inner
        name = self._match(_NAME)
        if not name:
            raise self._error("expected a text, a class, a group or the name of a rule")
        return Node("ref", name)

    def _repeated(self, node: Node) -> Node:
        depth = 0
        while (suffix := self._peek()) and suffix in "*+?{":
            depth += 1
            if depth > MAX_DEPTH:
                raise self._error(f"more than {MAX_DEPTH} repetitions of repetitions")
            if suffix != "{":
                self._at += 1
                node = Node("repeat", suffix, [node])
                continue
            match = _COUNT.match(self._source, self._at)
            if not match or (match[3] and not match[2]):
                raise self._error("expected {m}, {m,} or {m,n}")
            low, high = int(match[1]), int(match[3] or match[1])
            if high < low:
                raise self._error(f"{{{low},{high}}} is in descending order")
            self._at = match.end()
            text = f"{{{low},{match[3] or ''}}}" if match[2] else f"{{{low}}}"
            node = Node("repeat", text, [node], max(1, low, high))
        return node

    def _literal(self) -> str:
        self._at += 1
        text = ""
        while self._peek() != '"':
            text += _escaped(self._character())
        self._at += 1
        return text

    def _class(self) -> str:
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        text = ""
        while self._peek() != "]":
            first = last = self._character()
            if self._peek() == "-" and self._source[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._character()
            if last < first:
                raise self._error("a range of characters is in descending order")
            text += f"{_escaped(first)}-{_escaped(last)}"
        self._at += 1
        if not text:
            raise self._error("an empty class")
        return f"[{'^' * negated}{text}]"

    def _character(self) -> str:
        character = self._peek()
        if character in ("", "\n"):
            raise self._error("a text or class is not closed")
        self._at += 1
        if character != "\\":
            return character
        kind = self._peek()
        self._at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self._source[self._at : self._at + _HEX.get(kind, 0)]
        if kind not in _HEX or not re.fullmatch(rf"[0-9A-Fa-f]{{{_HEX[kind]}}}", digits):
            raise self._error(f"unknown escape \\{kind}")
        self._at += len(digits)
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise self._error(f"\\{kind}{digits} is no character")
        return chr(code)


def _escaped(character: str) -> str:
    """Return a character for a regular expression between slashes."""
    plain = character.isascii() and character.isalnum()
    return character if plain else f"\\x{{{ord(character):X}}}"


class _Writer:
    """Writes rules as Lark: ``r1`` for rules, ``T1`` for lexemes."""

    def __init__(self, rules: dict[str, Node]) -> None:
        self._rules = rules
        self._uses = {name: set(references(node)) for name, node in rules.items()}
        self._regular = self._find_regular()
        self._number = {name: number for number, name in enumerate(rules)}
        self._lines: list[str] = []
        self._check_weight()

    def write(self) -> str:
        self._lines = [f"start: {self._ref('root')}"]
        for name, node in self._rules.items():
            if name in self._regular:
                self._lines.append(f"{self._ref(name)}: {self._lexeme(node)}")
            else:
                self._lines.append(f"{self._ref(name)}: {self._rule(node)}")
        return "\n".join(self._lines) + "\n"

    def _find_regular(self) -> set[str]:
        """Return the rules that cannot reach recursion, by repeatedly removing leaves."""
        regular: set[str] = set()
        users: dict[str, list[str]] = {name: [] for name in self._rules}
        for name, used in self._uses.items():
            for other in used:
                users[other].append(name)
        left = {name: len(used) for name, used in self._uses.items()}
        leaves = [name for name, count in left.items() if count == 0]
        while leaves:
            name = leaves.pop()
            regular.add(name)
            for user in users[name]:
                left[user] -= 1
                if left[user] == 0:
                    leaves.append(user)
        return regular

    def _check_weight(self) -> None:
        """Refuse nested repetitions that expand too far: llguidance would try to store them."""
        weights: dict[str, int] = {}

        def weight(node: Node) -> int:
            if node.kind == "regex":
                return max(1, len(node.text))
            if node.kind == "ref":
                return weights.get(node.text, 1)
            return node.count * sum(weight(part) for part in node.parts)

        for name in in_order(self._rules, list(self._rules)):
            weights[name] = weight(self._rules[name])
            if weights[name] > MAX_WEIGHT:
                raise GbnfError(f"the repetitions of rule {name} are too many")

    def _ref(self, name: str) -> str:
        return f"{'T' if name in self._regular else 'r'}{self._number[name]}"

    def _is_regular(self, node: Node) -> bool:
        return set(references(node)) <= self._regular

    def _lexeme(self, node: Node) -> str:
        """Return the body of a lexeme for a regular node."""
        if node.kind == "regex":
            return f"/{node.text}/" if node.text else '""'
        if node.kind == "ref":
            return self._ref(node.text)
        parts = [self._lexeme(part) for part in node.parts]
        if node.kind == "repeat":
            return f"({parts[0]}){node.text}"
        joined = (" | " if node.kind == "alt" else " ").join(parts)
        return f"({joined})" if parts else '""'

    def _rule(self, node: Node) -> str:
        """Return a node of a recursive rule; its regular parts become separate lexemes."""
        if self._is_regular(node):
            return node.text and self._ref(node.text) if node.kind == "ref" else self._new(node)
        if node.kind == "ref":
            return self._ref(node.text)
        if node.kind == "repeat":
            return f"({self._rule(node.parts[0])}){node.text}"
        if node.kind == "alt":
            regular = [part for part in node.parts if self._is_regular(part)]
            others = [self._rule(part) for part in node.parts if not self._is_regular(part)]
            if regular:
                others.insert(0, self._rule(Node("alt", parts=regular)))
            return f"({' | '.join(others)})"
        words: list[str] = []
        run: list[Node] = []
        for part in [*node.parts, None]:
            if part is not None and self._is_regular(part):
                run.append(part)
                continue
            if run:
                words.append(self._rule(run[0] if len(run) == 1 else Node("seq", parts=run)))
                run = []
            if part is not None:
                words.append(self._rule(part))
        return f"({' '.join(words)})"

    def _new(self, node: Node) -> str:
        number = len(self._number)
        name = f"T{number}"
        self._number[f"\0{number}"] = number
        self._lines.append(f"{name}: {self._lexeme(node)}")
        return name
