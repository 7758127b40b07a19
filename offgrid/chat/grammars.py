"""Grammars that make every tool call complete and valid, in llguidance's Lark dialect.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md: ``<[17]>`` is the token with
that id, and a ``[lazy]`` rule ends as soon as it can. The rules ``schema_0`` ... are not defined
here; they stand for the schemas that accompany the grammar.

A forced call has the model's own form. Where that form has its arguments one by one, each argument
follows its own schema; text stands as it is, and its ``pattern`` and length are not enforced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from offgrid.chat.arguments import property_schemas, required_of, types_of
from offgrid.chat.formats import GEMMA_QUOTE, CallFormat, Channels, ReasoningFormat
from offgrid.chat.parser import AnswerForm
from offgrid.chat.writing import fill
from offgrid.grammar.checked import CheckedSchema

_ANY_ARGUMENTS = CheckedSchema({"type": "object"}, "tools", arguments=True)
_TEXT = "TEXT: /(?s:.*)/"
_FIELDS = re.compile(r"(\{n\}|\{id\})")
_FIELD_RULES = {"{n}": "/[0-9]{1,2}/", "{id}": "/[a-z0-9]{9}/"}
_KEY = "/[A-Za-z0-9_.-]{1,64}/"
_SCALARS = frozenset(("integer", "number", "boolean", "null"))
_GEMMA_RULES = (
    'gemma_value: gemma_text | /-?[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?/ | "true" | "false"'
    ' | "null" | gemma_object | "[" (gemma_value ("," gemma_value)*)? "]"',
    'gemma_object: "{" (gemma_member ("," gemma_member)*)? "}"',
    f'gemma_member: {_KEY} ":" gemma_value',
)


@dataclass(frozen=True)
class Function:
    """A function that the model may call.

    Attributes:
        parameters: the schema that the arguments must follow, None for any object.
        strict: whether its definition asks for strict mode, so that calls must be valid.
        schema: the schema in its definition, by which arguments are read; None if there is none.
    """

    name: str
    parameters: CheckedSchema | None = None
    strict: bool = False
    schema: Mapping[str, Any] | None = field(default=None, compare=False)


def call_grammar(
    form: AnswerForm,
    functions: Sequence[Function],
    *,
    required: bool,
    parallel: bool,
    thinking: bool = False,
    control: Mapping[str, int] | None = None,
    answer: CheckedSchema | None = None,
    content_begin: str = "",
) -> tuple[str, tuple[CheckedSchema, ...]]:
    """Return the grammar of an answer, and the schemas that its rules ``schema_0`` ... refer to.

    Args:
        form: how the model writes answers.
        functions: the functions that the model may call.
        required: whether the answer must consist of calls; otherwise it is any text with calls.
        parallel: whether the answer may contain more than one call.
        thinking: whether the prompt has already opened reasoning.
        control: ids of the markers that are control tokens of the model; text cannot match those.
        answer: schema of an answer without calls, None for any text.
        content_begin: what the model may write before content.
    """
    writer = _Writer(form, control or {})
    calls = writer.calls(functions, parallel) if functions else []
    thought = writer.thought(thinking, required or answer is not None)
    more: list[str] = []
    if required:
        start = "calls"
    elif answer is not None:
        start = writer.answer(answer, bool(functions), content_begin)
    else:
        start, more = writer.mixed(parallel)
    rules = [f"start: {thought} {start}", *calls, *more, *writer.rules, _TEXT]
    return "\n".join([*rules, ""]), writer.schemas


class _Writer:
    """Writes rules for one model's form of answers.

    Attributes:
        rules: rules that the returned expressions need.
    """

    def __init__(self, form: AnswerForm, control: Mapping[str, int]) -> None:
        self._form = form
        self._calls = form.calls[0] if form.calls else CallFormat("json")
        self._control = control
        ordered = sorted(control, key=len, reverse=True)
        self._split = re.compile("(" + ("|".join(map(re.escape, ordered)) or "(?!)") + ")")
        self._places: dict[CheckedSchema, int] = {}
        self.rules: list[str] = []

    @property
    def schemas(self) -> tuple[CheckedSchema, ...]:
        """The schemas that rules refer to, in the order of their numbers."""
        return tuple(self._places)

    def schema(self, schema: CheckedSchema) -> str:
        """Return the name of a schema's rule."""
        return f"schema_{self._places.setdefault(schema, len(self._places))}"

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
        left, right = len(text) - len(text.lstrip("\n")), len(text) - len(text.rstrip("\n"))
        if not body:
            return '"\\n"?' if text else ""
        return " ".join(
            filter(None, ('"\\n"?' * bool(left), self.exact(body), '"\\n"?' * bool(right)))
        )

    # --- calls --------------------------------------------------------------------------------

    def calls(self, functions: Sequence[Function], parallel: bool) -> list[str]:
        """Return rule ``calls``, beginning with the marker, and rule ``behind``, without it."""
        form, channels = self._calls, self._form.channels
        rules = [f"function_{i}: {self._function(f)}" for i, f in enumerate(functions)]
        rules.append("function: " + " | ".join(f"function_{i}" for i in range(len(functions))))
        several = parallel and not form.one_by_one
        if channels is not None:
            more = f"({self.exact(channels.begin)} function)*" if several else ""
            more = "" if channels.reasoning_end else more
            return [*rules, f"calls: function {more}"]
        end = self.literal(form.call_end)
        one = f"function {end}"
        opened, closed = ("[", "]") if form.array else ("", "")
        next_call = self.literal(form.separator + form.call_begin)
        if form.array:
            next_call = f'"," " "? "\\n"? {self.literal(form.call_begin)}'
        more = f"({next_call} {one})*" if several else ""
        whole = form.begin + opened + form.call_begin
        if form.bare:
            return [*rules, "calls: behind", f"behind: {one}"]
        marker = whole.split()[0]
        if marker not in self._control and self._split.match(marker):
            marker = self._split.match(marker)[0]  # type: ignore[index]
        rest = whole[whole.index(marker) + len(marker) :]
        last = self.literal(closed + form.end)
        behind = f"{self.literal(rest)} {one} {more} {last}"
        self._marker = marker
        return [*rules, f"calls: {self.exact(marker)} behind", f"behind: {behind}"]

    def _function(self, function: Function) -> str:
        """Return the expression for a call of one function, from its head to its body."""
        form, channels = self._calls, self._form.channels
        if channels is not None:
            heads = " | ".join(
                self.exact(text.replace("{name}", function.name)) for text in channels.call_begins
            )
            body = self._arguments(function)
            if channels.call is None:
                begin = self.literal(
                    form.begin + form.call_begin + fill(form.head, function.name, 0)
                )
                end = self.literal(form.call_end + form.end)
                body = f"{begin} {self.literal(form.name_end)} {self._body(function)} {end}"
            return f"({heads}) {body}"
        if form.body == "object":
            head = self._fielded(form.object_begin.replace("{name}", function.name))
            return f'{head} {self._arguments(function)} "}}"'
        if form.body == "keyed":
            return (
                f'{json.dumps(f"{{{json.dumps(function.name)}: ")} {self._arguments(function)} "}}"'
            )
        if form.body == "python":
            return self._python(function)
        head = self._fielded(form.head.replace("{name}", function.name))
        return f"{head} {self.literal(form.name_end)} {self._body(function)}"

    def _fielded(self, text: str) -> str:
        """Return an expression for a text with numbers and ids in it."""
        pieces = (piece for piece in _FIELDS.split(text) if piece)
        return " ".join(_FIELD_RULES.get(piece) or self.exact(piece) for piece in pieces)

    def _arguments(self, function: Function) -> str:
        return self.schema(function.parameters or _ANY_ARGUMENTS)

    def _body(self, function: Function) -> str:
        if self._calls.body == "parameters":
            return self._parameters(function)
        if self._calls.body == "gemma":
            return self._gemma(function)
        return self._arguments(function)

    def _properties(self, function: Function) -> list[tuple[str, Any, bool, Any]] | None:
        """Return key, schema, whether it is required and types of each argument; None for any."""
        if function.parameters is None:
            return None
        schema = function.parameters.schema
        properties = property_schemas(schema)
        if properties is None:
            return None if function.schema is None or function.schema.get("properties") else []
        required, types = required_of(schema), types_of(schema)
        return [(key, value, key in required, types.get(key)) for key, value in properties.items()]

    def _value(self, schema: Any, function: Function) -> str:
        """Return the rule of one argument's schema."""
        assert function.parameters is not None
        root, param = function.parameters.schema, function.parameters.param
        own: dict[str, Any] = dict(schema) if isinstance(schema, Mapping) else {}
        if '"$ref"' in json.dumps(own):
            own.update({key: root[key] for key in ("$defs", "definitions") if key in root})
        return self.schema(CheckedSchema(own, param))

    def _parameters(self, function: Function) -> str:
        inner = self._calls.parameters
        assert inner is not None
        properties = self._properties(function)
        end = self._text_until(inner.after)
        if properties is None:
            kind = inner.between.replace("{kind}", inner.kinds[0] if inner.kinds else "")
            after = end if "{key}" not in inner.after else self._text_until(inner.after)
            return f"({self.literal(inner.before)} {_KEY} {self.literal(kind)} {after})*"
        pieces = []
        for key, schema, required, types in properties:
            text = types is None or "string" in types
            kind = ""
            if inner.kinds:
                kind = inner.kinds[0] if text else inner.kinds[1] or _json_kind(types)
            between = self.literal(inner.between.replace("{kind}", kind))
            after = inner.after.replace("{key}", key)
            values = schema.get("enum") if isinstance(schema, Mapping) else None
            if text and types == {"string"} and isinstance(values, list) and values:
                choices = " | ".join(json.dumps(value) for value in values)
                value = f"({choices}) {self.literal(after)}"
            elif text:
                value = self._text_until(after)
            else:
                value = f"{self._value(schema, function)} {self.literal(after)}"
            piece = f"{self.literal(inner.before)} {json.dumps(key)} {between} {value}"
            pieces.append(piece if required else f"({piece})?")
        return " ".join(pieces)

    def _text_until(self, end: str) -> str:
        """Return an expression for any text up to and with its end."""
        body = end.strip("\n")
        tail = '"\\n"?' if end.endswith("\n") else ""
        first = self._split.match(body)
        if first is not None:
            return f"TEXT {self.exact(body)} {tail}"
        name = f"text_{len(self.rules)}"
        rule = f"{name}[lazy]: TEXT {self.exact(body)}"
        known = next((r for r in self.rules if r.partition(":")[2] == rule.partition(":")[2]), None)
        if known is not None:
            name = known.partition("[")[0]
        else:
            self.rules.append(rule)
        return f"{name} {tail}"

    def _python(self, function: Function) -> str:
        head = json.dumps(f"{function.name}(")
        members = self._members(function, "=", '", "', self._python_value)
        if members is None:
            value = self.schema(CheckedSchema({}, "tools"))
            members = f'({_KEY} "=" {value} (", " {_KEY} "=" {value})*)?'
        return f'{head} {members} ")"'

    def _python_value(self, schema: Any, types: Any, function: Function) -> str:
        return self._value(schema, function)

    def _gemma(self, function: Function) -> str:
        if _GEMMA_RULES[0] not in self.rules:
            quote = self.exact(GEMMA_QUOTE)
            self.rules += [f"gemma_text: {quote} {self._text_until(GEMMA_QUOTE)}", *_GEMMA_RULES]
        members = self._members(function, ":", '","', self._gemma_value)
        return "gemma_object" if members is None else f'"{{" {members} "}}"'

    def _gemma_value(self, schema: Any, types: Any, function: Function) -> str:
        if types is not None and types <= _SCALARS:
            return self._value(schema, function)
        values = schema.get("enum") if isinstance(schema, Mapping) else None
        if types == {"string"} and isinstance(values, list) and values:
            choices = " | ".join(json.dumps(value) for value in values)
            return f"{self.exact(GEMMA_QUOTE)} ({choices}) {self.exact(GEMMA_QUOTE)}"
        if types == {"string"}:
            return "gemma_text"
        return "gemma_object" if types == {"object"} else "gemma_value"

    def _members(self, function: Function, colon: str, comma: str, value: Any) -> str | None:
        """Return the arguments between commas, required ones first; None for any arguments."""
        properties = self._properties(function)
        if properties is None:
            return None
        written = [
            (required, f"{json.dumps(key + colon)} {value(schema, types, function)}")
            for key, schema, required, types in properties
        ]
        needed = f" {comma} ".join(text for required, text in written if required)
        optional = [text for required, text in written if not required]
        if needed:
            return " ".join([needed, *(f"({comma} {text})?" for text in optional)])
        tails = [
            " ".join([text, *(f"({comma} {other})?" for other in optional[n + 1 :])])
            for n, text in enumerate(optional)
        ]
        return f"({' | '.join(tails)})?" if tails else ""

    # --- reasoning, and text with calls ----------------------------------------------------------

    def thought(self, thinking: bool, whole: bool) -> str:
        """Return an expression for reasoning, which may come first.

        Args:
            thinking: whether the prompt has opened it.
            whole: whether what follows must have a certain form.
        """
        channels, reasoning = self._form.channels, self._form.reasoning
        if channels is not None:
            if not channels.reasoning_begin:
                return ""
            end = self._text_until(channels.reasoning_end)
            return f"({self.exact(channels.reasoning_begin)} {end})?"
        if reasoning is None:
            return ""
        self.rules += self._thought_rules(reasoning, whole)
        space = "SPACE?" if whole else ""
        begin = reasoning.begin.strip()
        if thinking:
            return f"thought {space}"
        if whole or begin in self._control:
            return f"({self.literal(reasoning.begin)} thought {space})?"
        self.rules.clear()
        return ""  # Without a control token, reasoning is text like any other.

    def _thought_rules(self, reasoning: ReasoningFormat, whole: bool) -> list[str]:
        end = self.exact(reasoning.end.strip())
        after = f" {self.exact(reasoning.after)}" if reasoning.after else ""
        if self._split.match(reasoning.end.strip()):
            rules = [f"thought: TEXT {end}{after}"]
        elif after:
            rules = [f"thought_end[lazy]: TEXT {end}", f"thought: thought_end{after}"]
        else:
            rules = [f"thought[lazy]: TEXT {end}"]
        return [*rules, "SPACE: /\\n{1,2}/"] if whole else rules

    def answer(self, schema: CheckedSchema, calls: bool, begin: str) -> str:
        """Return an expression for an answer that follows a schema, or for calls."""
        channels = self._form.channels
        begin = begin if channels is None else channels.content_begin
        head = ""
        if begin and self._split.match(begin.strip()):
            head = self.exact(begin) if channels is not None else f"({self.exact(begin)})?"
        content = f"{head} {self.schema(schema)}"
        return f"(calls | {content})" if calls else content

    def mixed(self, parallel: bool) -> tuple[str, list[str]]:
        """Return an expression for text that may contain calls, and the rules it needs."""
        form, channels = self._calls, self._form.channels
        if channels is not None:
            return f"(calls | {self._channel_content(channels)})", []
        if form.bare:
            # Only the beginning of an answer can be a call, so other text must not look like one.
            text = '/(?s:.*)/ & ~/\\{"name": "(?s:.*)/'
            marker = form.begin
            tagged = f"{self.exact(marker)}? calls" if marker in self._control else "calls"
            return f"({tagged} | OTHER)", [f"OTHER: {text}"]
        if self._marker in self._control:
            rules = [f"tagged: TEXT {self.exact(self._marker)} behind"]
        else:
            rules = ["tagged: opened behind", f"opened[lazy]: TEXT {self.exact(self._marker)}"]
        return f"tagged{'*' if parallel else '?'} TEXT", rules

    def _channel_content(self, channels: Channels) -> str:
        return f"{self.exact(channels.content_begin)} TEXT"


def _json_kind(types: frozenset[str] | None) -> str:
    """Return the name of a JSON type for a format that names it."""
    kind = next(iter(sorted(types or ("object",))))
    return "number" if kind == "integer" else kind
