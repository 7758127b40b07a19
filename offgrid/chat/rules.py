"""Expressions and rules of grammars in llguidance's Lark dialect.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md: ``<[17]>`` is the token with
that id, and a ``[lazy]`` rule ends as soon as it can. Other texts are as long as possible, and the
matcher never goes back: one text must not begin with another and a part of what may follow it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from offgrid.chat.schemas import Counter, Json, alternatives
from offgrid.grammar.checked import CheckedSchema
from offgrid.grammar.messages import unusable
from offgrid.grammar.options import MAX_ANSWER
from offgrid.grammar.regular import Unwritable
from offgrid.grammar.simplify import MAX_LOOKING_AHEAD
from offgrid.grammar.texts import ANY_TEXT

_TEXT = f"TEXT: /{ANY_TEXT}/"
MAX_SEEN = 100_000
"""Schemas that are looked at to take those of one grammar apart."""
_SLASH = re.compile(r"(\\.)|/", re.DOTALL)


class Rules:
    """The rules of one grammar.

    Args:
        control: ids of the markers that are control tokens of the model; text cannot match those.
    """

    def __init__(self, control: Mapping[str, int]) -> None:
        self._control = control
        ordered = sorted(control, key=len, reverse=True)
        self._split = re.compile("(" + ("|".join(map(re.escape, ordered)) or "(?!)") + ")")
        self._schemas: dict[CheckedSchema, int] = {}
        self._names: dict[tuple[str, str, str], str] = {}
        self._counts: dict[str, int] = {}
        self._lines: list[str] = []
        self._rewritten: set[str] = set()
        self._size = 0
        """Bytes of the schemas."""
        self._seen = Counter()

    @property
    def lines(self) -> list[str]:
        """The definitions of the rules."""
        return [*self._lines, _TEXT]

    @property
    def schemas(self) -> tuple[CheckedSchema, ...]:
        """The schemas that rules refer to, in the order of their numbers."""
        return tuple(self._schemas)

    def schema(self, schema: CheckedSchema) -> str:
        """Return the name of a schema's rule.

        Raises:
            InvalidParameter: all schemas together are too long for a grammar. They may be much
                longer than the request, as each holds all that it refers to.
        """
        if schema not in self._schemas:
            self._size += len(schema.text)
            if self._size > MAX_ANSWER:
                raise unusable(
                    "answer", schema.param, f"it has more than {MAX_ANSWER} bytes, the maximum"
                )
            self._schemas[schema] = len(self._schemas)
        return f"schema_{self._schemas[schema]}"

    def alternatives(self, schema: Any, root: Json, param: str) -> list[Json] | None:
        """Return the alternatives of a schema; see :func:`~offgrid.chat.schemas.alternatives`.

        Raises:
            InvalidParameter: too many schemas have been looked at for this grammar.
        """
        if self._seen.number > MAX_SEEN:
            raise unusable(
                "json_schema", param, "too many references and alternatives lead to one another"
            )
        return alternatives(schema, root, self._seen)

    def count_rewritten(self, pattern: str) -> None:
        """Count a pattern that is written anew, which may take a tenth of a second.

        Raises:
            Unwritable: there are too many of them.
        """
        self._rewritten.add(pattern)
        if len(self._rewritten) > MAX_LOOKING_AHEAD:
            raise Unwritable(
                f"with an anchor in its middle is the {MAX_LOOKING_AHEAD + 1}st of the request"
            )

    def name(self, prefix: str) -> str:
        """Return the name of a new rule, for :meth:`define`."""
        number = self._counts[prefix] = self._counts.get(prefix, -1) + 1
        return f"{prefix}_{number}"

    def define(self, name: str, expression: str) -> None:
        """Define a rule."""
        self._lines.append(f"{name}: {expression}")

    def rule(self, prefix: str, expression: str, attribute: str = "") -> str:
        """Return the name of a rule with this expression; a text has a name in capitals."""
        key = (prefix, attribute, expression)
        if key not in self._names:
            self._names[key] = name = self.name(prefix)
            self.define(name + attribute, expression)
        return self._names[key]

    # --- fixed texts ------------------------------------------------------------------------------

    def is_control(self, text: str) -> bool:
        """Whether a text begins with a control token."""
        return self._split.match(text) is not None

    def has_control(self, text: str) -> bool:
        """Whether a control token stands in a text."""
        return self._split.search(text) is not None

    def exact(self, text: str) -> str:
        """Return an expression for a fixed text, in which control tokens are such."""
        pieces = (piece for piece in self._split.split(text) if piece)
        return " ".join(
            f"<[{self._control[piece]}]>" if piece in self._control else json.dumps(piece)
            for piece in pieces
        )

    def literal(self, text: str) -> str:
        """Return an expression for a fixed text; line ends around it may be missing."""
        body = text.strip("\n")
        if not body:
            return '"\\n"?' if text else ""
        left, right = text.startswith("\n"), text.endswith("\n")
        return " ".join(filter(None, ('"\\n"?' * left, self.exact(body), '"\\n"?' * right)))

    # --- text up to a marker ----------------------------------------------------------------------

    def until(self, end: str, body: str = "TEXT") -> str:
        """Return an expression for text up to and with a fixed text.

        Args:
            end: the fixed text.
            body: an expression for the text before it, of which all parts are texts.
        """
        before, found, _ = self._split.split(end, maxsplit=1) if self.has_control(end) else (
            end, "", "")  # fmt: skip
        if not found:
            return self.rule("text", f"{body} {json.dumps(end)}", "[lazy]")
        text = self.rule("TEXT", f"{body} {json.dumps(before)}") if before else body
        return f"{text} {self.exact(end[len(before) :])}"

    def found(self, marker: str) -> str:
        """Return an expression for text up to and with a marker, which may have other spaces."""
        if self.has_control(marker):
            return self.until(marker)
        pattern = r"\s*".join(map(re.escape, marker.split()))
        return self.rule("opened", f"TEXT {regex(pattern)}", "[lazy]")


def regex(pattern: str) -> str:
    """Return a regular expression as Lark writes it."""
    escaped = _SLASH.sub(lambda match: match[1] or "\\/", pattern)
    return "/" + escaped.replace("\n", "\\n").replace("\r", "\\r") + "/"
