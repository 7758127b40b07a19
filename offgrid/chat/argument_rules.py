"""Grammars of arguments in the formats that do not write them as one JSON object.

What a grammar does not enforce there: bounds of a number where text is allowed too, and composed
schemas that :mod:`offgrid.chat.schemas` cannot take apart, for which any value is allowed.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from offgrid.chat.arguments import json_type, types_of
from offgrid.chat.formats import GEMMA_QUOTE, CallFormat, Parameters
from offgrid.chat.rules import Rules, regex
from offgrid.chat.schemas import Json, Shape, shapes, within
from offgrid.chat.writing import gemma_key, gemma_value, type_name
from offgrid.grammar.checked import CheckedSchema
from offgrid.grammar.document import Path, place
from offgrid.grammar.messages import unusable
from offgrid.grammar.regular import Unwritable
from offgrid.grammar.texts import MORE_PATTERNS, has_inner_anchor, text_patterns

_COMMA = '","'
_KEY = "[A-Za-z0-9_.-]{1,64}"
_CONTAINERS = frozenset(("object", "array"))
_PLAIN_SCALARS = ({"type": "boolean"}, {"type": "null"}, {"type": "number"})
_PYTHON_TEXT = r"'([^'\\\x00-\x1f\x7f]|\\['\"nrtbf\\])*'"
_PYTHON_KEY = re.compile(r"[^\W\d][\w.-]{0,127}")
"""Names of arguments that are read."""
_PYTHON_WORDS = {"boolean": ' | "True" | "False"', "null": ' | "None"'}


def arguments_rule(rules: Rules, form: CallFormat, parameters: CheckedSchema | None) -> str:
    """Return an expression for the arguments of a call, up to the text that ends the call.

    Args:
        rules: receives the rules that the expression needs.
        form: a format whose body is ``parameters``, ``python`` or ``gemma``.
        parameters: the schema that the arguments must follow, None for any arguments.
    """
    kinds: dict[str, type[_Parameters | _Python | _Gemma]] = {
        "parameters": _Parameters, "python": _Python, "gemma": _Gemma,
    }  # fmt: skip
    root = {} if parameters is None else parameters.schema
    param = "tools" if parameters is None else parameters.param
    found = [Shape({}, frozenset(), {})] if parameters is None else shapes(root, root)
    return kinds[form.body](rules, form, root, param).arguments(
        found or [Shape({}, frozenset(), {})]
    )


class _Arguments(ABC):
    """Writes the rules of one function's arguments in one form."""

    def __init__(self, rules: Rules, form: CallFormat, root: Json, param: str) -> None:
        self._rules = rules
        self._form = form
        self._root = root
        self._param = param
        self._known: dict[str, str] = {}
        self._in_json: dict[str, str] = {}
        """JSON of a schema -> the rule of its values in JSON."""
        self._taken: dict[int, tuple[Any, list[Json] | None]] = {}
        """Identity of a schema -> the schema, so that it stays, and its alternatives."""

    def arguments(self, found: Sequence[Shape]) -> str:
        """Return an expression for arguments of one of several shapes."""
        return _any_of([self.object(shape) for shape in self._possible(found)])

    @abstractmethod
    def object(self, shape: Shape) -> str:
        """Return an expression for an object of this shape."""

    def json(self, schema: Json) -> str:
        """Return the rule of a value that is written as JSON."""
        text = json.dumps(schema)
        if text not in self._in_json:
            own = within(schema, self._root)
            path, _ = self._places.get(id(schema), ((), schema))
            checked = CheckedSchema(own, self._param, part=path)
            self._in_json[text] = self._rules.schema(checked)
        return self._in_json[text]

    @cached_property
    def _places(self) -> dict[int, tuple[Path, Json]]:
        """The objects in the schema by their identity, with their paths."""
        found: dict[int, tuple[Path, Json]] = {}
        stack: list[tuple[Path, Any]] = [((), self._root)]
        while stack:
            path, node = stack.pop()
            if isinstance(node, dict):
                found[id(node)] = (path, node)
                stack += [((*path, key), value) for key, value in node.items()]
            elif isinstance(node, list):
                stack += [((*path, index), value) for index, value in enumerate(node)]
        return found

    def alternatives(self, schema: Any) -> list[Json] | None:
        if id(schema) not in self._taken:
            found = self._rules.alternatives(schema, self._root, self._param)
            self._taken[id(schema)] = (schema, found)
        return self._taken[id(schema)][1]

    def never(self, schema: Any) -> bool:
        """Whether no value can follow a schema."""
        return self.alternatives(schema) == []

    def shapes(self, schema: Json) -> list[Shape] | None:
        found = shapes(schema, self._root)
        return None if found is None else self._possible(found)

    def _possible(self, found: Sequence[Shape]) -> list[Shape]:
        """Return the shapes that have what they require; the check of the schema has made sure that
        there is one."""
        return [
            shape for shape in found
            if not any(self.never(shape.properties.get(key, {})) for key in shape.required)
        ] or [*found]  # fmt: skip

    def is_open(self, shape: Shape) -> bool:
        """Whether an object of this shape may have members of any other name."""
        return shape.extra is not None and not self.never(shape.extra)

    def text(self, schema: Json) -> str:
        """Return the text that a string's schema allows.

        Raises:
            InvalidParameter: a pattern cannot be enforced.
        """
        try:
            for pattern in (schema.get("pattern", ""), *schema.get(MORE_PATTERNS, ())):
                if has_inner_anchor(pattern):
                    self._rules.count_rewritten(pattern)
            parts = [regex(pattern) for pattern in text_patterns(schema)]
        except Unwritable as ex:
            where = place(self._path_of_pattern(schema["pattern"]))
            raise unusable("json_schema", self._param, f"{where}a pattern {ex}") from None
        return self._rules.rule("STRING", " & ".join(parts)) if parts else "TEXT"

    def _path_of_pattern(self, pattern: str) -> Path:
        """Return the path of a string with a pattern. The check of the schema may have put the
        pattern into an ``allOf`` of its own."""
        path = next(path for path, node in self._places.values() if node.get("pattern") == pattern)
        return path[:-2] if path[-2:-1] == ("allOf",) else path

    def choice(self, texts: Sequence[str]) -> str:
        """Return the name of a text that is one of some texts."""
        return self._rules.rule("CHOICE", " | ".join(map(json.dumps, texts)))

    def remember(self, kind: str, schema: Any, write: Callable[[], str]) -> str:
        """Return the name of a rule that is written once per schema, so that it may recur."""
        key = kind + json.dumps(schema)
        if key not in self._known:
            self._known[key] = name = self._rules.name("value")
            self._rules.define(name, write())
        return self._known[key]

    def key_but(self, known: Mapping[str, Any]) -> str:
        """Return an expression for a key that is none of the known ones."""
        if not known:
            return self._rules.rule("KEY", regex(_KEY))
        names = "|".join(map(re.escape, known))
        return self._rules.rule("KEY", f"{regex(_KEY)} & ~{regex(f'({names})')}")

    def listed(self, shape: Shape, comma: str, member: Callable[[str, Any], str]) -> str:
        """Return an expression for members in their order, with commas between them."""
        written = [
            (member(key, schema), key in shape.required)
            for key, schema in shape.properties.items()
            if not self.never(schema)
        ]
        rest = ""
        if self.is_open(shape):
            rest = f"({comma} {self.extra(shape)})*"
        # What may follow a member, from the last to the first; and what may come first.
        first: list[str] = [f"{self.extra(shape)} {rest}"] if rest else []
        optional = True
        for text, required in reversed(written):
            tail = f" {rest}" if rest else ""
            first = [f"{text}{tail}"] if required else [f"{text}{tail}", *first]
            optional = optional and not required
            one = f"{comma} {text}{tail}"
            rest = self._rules.rule("tail", one if required else f"({comma} {text})?{tail}")
        whole = _any_of(first)
        return f"({whole})?" if optional and whole else whole

    @abstractmethod
    def extra(self, shape: Shape) -> str:
        """Return an expression for a member of any other name."""

    def items(self, schema: Json, comma: str, item: Callable[[Any], str]) -> str | None:
        """Return an expression for the items of a list; None for items of no particular kind."""
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        first, other = schema.get("prefixItems", []), schema.get("items", {})
        if isinstance(other, list):
            first, other = other, schema.get("additionalItems", {})
        if first:
            if low != len(first) or high not in (None, len(first)) or other not in ({}, False):
                return None
            return f" {comma} ".join(map(item, first))
        if self.never(other) or high == 0:
            return ""
        one = item(other)
        most = "" if high is None else str(high - 1)
        whole = f"{one} ({comma} {one}){{{max(low - 1, 0)},{most}}}"
        return f"({whole})?" if low == 0 else whole


class _Python(_Arguments):
    """``key=value, key=value`` with values of JSON or Python, and the closing bracket."""

    def arguments(self, found: Sequence[Shape]) -> str:
        return f'{super().arguments(found)} ")"'

    def object(self, shape: Shape) -> str:
        known = {
            key: schema
            for key, schema in shape.properties.items()
            if key in shape.required or _PYTHON_KEY.fullmatch(key)
        }
        return self.listed(replace(shape, properties=known), '", "', self._member)

    def _member(self, key: str, schema: Any) -> str:
        return f"{json.dumps(key + '=')} {self._value(schema)}"

    def extra(self, shape: Shape) -> str:
        key = self._rules.rule("NAME", regex("[A-Za-z_][A-Za-z0-9_]{0,63}"))
        if shape.properties:
            names = "|".join(map(re.escape, shape.properties))
            key = self._rules.rule("NAME", f"{key} & ~{regex(f'({names})')}")
        return f'{key} "=" {self._value(shape.extra)}'

    def _value(self, schema: Any) -> str:
        found = self.alternatives(schema)
        if found is None:
            return self.json(schema)
        quoted = self._rules.rule("PYTHON_TEXT", regex(_PYTHON_TEXT))
        more = ""
        for one in found:
            if one == {"type": "string"} or not one:
                more += f" | {quoted}"
            elif one == {"enum": one.get("enum")} and isinstance(one["enum"][0], str):
                more += f" | {self.choice([repr(value) for value in one['enum']])}"
            more += _PYTHON_WORDS.get(one.get("type", ""), "")
            more += "" if one else "".join(_PYTHON_WORDS.values())
        return f"({self.json(schema)}{more})"


class _Gemma(_Arguments):
    """``{key:value,key:value}`` with strings in quotes of their own."""

    def object(self, shape: Shape) -> str:
        return f'"{{" {self.listed(shape, _COMMA, self._member)} "}}"'

    def _member(self, key: str, schema: Any) -> str:
        return f"{self._rules.exact(gemma_key(key) + ':')} {self._value(schema)}"

    def extra(self, shape: Shape) -> str:
        return f'{self.key_but(shape.properties)} ":" {self._value(shape.extra)}'

    def _value(self, schema: Any) -> str:
        return self.remember("", schema, lambda: self._written(schema))

    def _written(self, schema: Any) -> str:
        found = self.alternatives(schema)
        return _any_of([self._one(one) for one in found or [{}]])

    def _one(self, schema: Json) -> str:
        quote = self._rules.exact(GEMMA_QUOTE)
        if "enum" in schema:
            texts = [gemma_value(value) for value in schema["enum"]]
            if not isinstance(schema["enum"][0], str):
                return _any_of([self._rules.exact(text) for text in texts])
            return f"{quote} {self._rules.until(GEMMA_QUOTE, self.choice(schema['enum']))}"
        kind = schema.get("type")
        if kind == "string":
            return f"{quote} {self._rules.until(GEMMA_QUOTE, self.text(schema))}"
        if kind in ("integer", "number", "boolean", "null"):
            return self.json(schema)
        if kind == "object":
            found = self.shapes(schema) or [Shape({}, frozenset(), {})]
            return _any_of([self.object(shape) for shape in found])
        if kind == "array":
            items = self.items(schema, _COMMA, self._value)
            return f'"[" {self.items({}, _COMMA, self._value) if items is None else items} "]"'
        return self.remember("any", {}, self._anything)

    def _anything(self) -> str:
        kinds = ("string", *(s["type"] for s in _PLAIN_SCALARS), "object", "array")
        return _any_of([self._one({"type": kind}) for kind in kinds])


class _Parameters(_Arguments):
    """Arguments one by one, each between texts; strings stand as they are."""

    @property
    def _texts(self) -> Parameters:
        assert self._form.parameters is not None
        return self._form.parameters

    def object(self, shape: Shape) -> str:
        pieces = []
        for key, schema in shape.properties.items():
            if self.never(schema) or (key not in shape.required and not self._writable(key)):
                continue
            text = self.remember("member" + key, schema, partial(self._member, key, schema))
            pieces.append(text if key in shape.required else f"{text}?")
        if self.is_open(shape):
            pieces.append(f"({self.extra(shape)})*")
        return " ".join(pieces)

    def _writable(self, key: str) -> bool:
        """Whether the text after a key can be told from the key."""
        end = self._texts.between.partition("{kind}")[0].strip()
        return bool(key.strip()) and key == key.strip() and not (set(key) & set(end[:1] + "\n"))

    def extra(self, shape: Shape) -> str:
        texts = self._texts
        if "{key}" in texts.after:
            key = self._rules.rule("tag", self.key_but(shape.properties))
            before, _, after = texts.after.partition("{key}")
            # The names of the two tags are read as equal, and the grammar cannot compare them.
            found = self.alternatives(shape.extra)
            value = self._rules.until(before)
            if found is not None and all(one and _kind(one) != "string" for one in found):
                value = f"{self.json(shape.extra)} {self._rules.exact(before)}"
            return (
                f"{self._rules.literal(texts.before)} {key} {self._rules.exact(texts.between)}"
                f" {value} {key} {self._rules.literal(after)}"
            )
        key = self.key_but(shape.properties)
        return f"{self._rules.literal(texts.before)} {key} {self._value(shape.extra, texts.after)}"

    def _member(self, key: str, schema: Any) -> str:
        texts = self._texts
        name = self._rules.exact(texts.before.lstrip("\n") + key)
        return f"{name} {self._value(schema, texts.after.replace('{key}', key))}"

    def _between(self, kind: str) -> str:
        return self._rules.exact(self._texts.between.replace("{kind}", kind))

    def _value(self, schema: Any, after: str) -> str:
        """Return an expression for the text from a key to the end of its value."""
        texts = self._texts
        found = self.alternatives(schema)
        if found is None:
            types = types_of({**self._root, "properties": {"": schema}})[""]
            found = [{}] if types is None or "string" in types else None
        if texts.kinds and found is None:
            end = self._rules.literal(after)
            kinds = [texts.kinds[1]] if texts.kinds[1] else ["object", "array"]
            return _any_of(f"{self._between(kind)} {self.json(schema)} {end}" for kind in kinds)
        if texts.kinds:
            return _any_of(self._with_kind(one, after) for one in found or ())
        if texts.nested and found is not None:
            return f"{self._between('')} {self._nested(schema, after)}"
        if found is None or all(one and _kind(one) != "string" for one in found):
            return f"{self._between('')} {self.json(schema)} {self._rules.literal(after)}"
        strings = [one for one in found if _kind(one) == "string" or not one]
        others = [one for one in found if one not in strings]
        free = any(one == {"type": "string"} or not one for one in strings)
        choices = [self._text(one, after) for one in strings]
        if free:
            lists = any(_kind(one) in _CONTAINERS for one in others)
            body = self._rules.rule("WORDS", regex(r"(?s:\s*[^\s{\[(].*|\s*)"))
            choices = [self._until(after, body) if lists else self._until(after)]
            others = [one for one in others if _kind(one) in _CONTAINERS]
        if others:
            rest = others[0] if len(others) == 1 else {"anyOf": others}
            choices.append(f"{self.json(rest)} {self._rules.literal(after)}")
        return f"{self._between('')} {_any_of(choices)}"

    def _with_kind(self, schema: Json, after: str) -> str:
        """Return an expression for a value whose type is named."""
        text, other = self._texts.kinds or ("", "")
        written = []
        if not schema or _kind(schema) == "string":
            written.append(f"{self._between(text)} {self._text(schema, after)}")
        if not schema and not other:
            kinds = [{"type": "object"}, {"type": "array"}, *_PLAIN_SCALARS]
            return _any_of([*written, *(self._with_kind(dict(kind), after) for kind in kinds)])
        if not written or not schema:
            kind = other or type_name(_kind(schema))
            end = self._rules.literal(after)
            written.append(f"{self._between(kind)} {self.json(schema)} {end}")
        return _any_of(written)

    def _text(self, schema: Json, after: str) -> str:
        """Return an expression for a string as it stands, and the text after it."""
        if "enum" in schema:
            return self._until(after, self.choice(schema["enum"]), whole=True)
        body = self.text(schema)
        return self._until(after, body, whole=body != "TEXT")

    def _until(self, after: str, body: str = "TEXT", whole: bool = False) -> str:
        """Return an expression for a text and its end.

        Args:
            after: the end.
            body: the text.
            whole: whether a line end at the beginning of ``after`` is not part of the text.
        """
        end = after.rstrip("\n") if whole else after.strip("\n")
        tail = '"\\n"?' if after.endswith("\n") else ""
        if not self._texts.quotes or whole:
            return f"{self._rules.until(end, body)} {tail}"
        opened, closed = self._texts.quotes
        quoted = f"{self._rules.exact(opened)} {self._rules.until(closed + end)}"
        plain = self._rules.rule("PLAIN", f"{body} & ~{regex(f'(?s:{re.escape(opened)}.*)')}")
        return f"({self._rules.until(end, plain)} | {quoted}) {tail}"

    # --- values in tags ---------------------------------------------------------------------------

    def _nested(self, schema: Any, after: str) -> str:
        """Return the rule of a value whose members and items stand in tags, and of its end."""
        return self.remember("nested" + after, schema, lambda: self._tags(schema, after))

    def _tags(self, schema: Any, after: str) -> str:
        found = self.alternatives(schema)
        return _any_of([self._tagged(one, after) for one in found or [{}]])

    def _tagged(self, schema: Json, after: str) -> str:
        prefix = self._texts.nested
        end = self._rules.literal(after)
        if not schema or _kind(schema) == "string":
            return self._text(schema, after)
        if schema.get("type") == "object":
            found = self.shapes(schema)
            if found is None or any(shape.extra is not None for shape in found):
                return f"{self.json(schema)} {end}"
            return f"{_any_of([self._tagged_object(shape) for shape in found])} {end}"
        if schema.get("type") == "array":
            opened, closed = f"{prefix}<item>", f"{prefix}</item>"
            items = self.items(
                {**schema, "minItems": max(schema.get("minItems", 0), 1)}, "",
                lambda item: f"{self._rules.exact(opened)} {self._nested(item, closed)}",
            )  # fmt: skip
            if items is None:
                return f"{self.json(schema)} {end}"
            empty = '"[]"' if schema.get("minItems", 0) == 0 else ""
            return f"{_any_of([text for text in (items, empty) if text])} {end}"
        return f"{self.json(schema)} {end}"

    def _tagged_object(self, shape: Shape) -> str:
        prefix = self._texts.nested
        written = []
        for key, schema in shape.properties.items():
            if self.never(schema):
                continue
            opened, closed = f"{prefix}<{key}>", f"{prefix}</{key}>"
            written.append(
                (
                    f"{self._rules.exact(opened)} {self._nested(schema, closed)}",
                    key in shape.required,
                )
            )
        if not written:
            return '"{}"'
        whole = " ".join(text if needed else f"({text})?" for text, needed in written)
        if any(needed for _, needed in written):
            return whole
        # Nothing at all would be read as an empty text.
        firsts = [
            " ".join([text, *(f"({other})?" for other, _ in written[n + 1 :])])
            for n, (text, _) in enumerate(written)
        ]
        return _any_of([*firsts, '"{}"'])


def _kind(schema: Json) -> str:
    """Return the type of a schema's values, "" for any."""
    if "enum" in schema:
        return json_type(schema["enum"][0])
    return str(schema.get("type", ""))


def _any_of(texts: Any) -> str:
    """Return an expression for one of several expressions."""
    found = list(dict.fromkeys(texts))
    return found[0] if len(found) == 1 else f"({' | '.join(found)})"
