"""Grammars that make every tool call complete and valid, in llguidance's Lark dialect.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md: ``<[17]>`` is the token with
that id, and a ``[lazy]`` rule ends as soon as it can. The rules ``schema_0`` ... are not defined
here; they stand for the schemas that accompany the grammar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offgrid.chat.formats import ThoughtFormat, ToolFormat
from offgrid.grammar.checked import CheckedSchema

_ANY_ARGUMENTS = CheckedSchema({"type": "object"}, "tools", arguments=True)
_TEXT = "TEXT: /(?s:.*)/"


@dataclass(frozen=True)
class Function:
    """A function that the model may call.

    Attributes:
        parameters: the schema that the arguments must follow, None for any object.
        strict: whether its definition asks for strict mode, so that calls must be valid.
    """

    name: str
    parameters: CheckedSchema | None = None
    strict: bool = False


def call_grammar(
    tools: ToolFormat,
    functions: Sequence[Function],
    *,
    required: bool,
    parallel: bool,
    thoughts: ThoughtFormat | None = None,
    thinking: bool = False,
    control: Mapping[str, int] | None = None,
    answer: CheckedSchema | None = None,
) -> tuple[str, tuple[CheckedSchema, ...]]:
    """Return the grammar of an answer, and the schemas that its rules ``schema_0`` ... refer to.

    Args:
        tools: how tool calls are written.
        functions: the functions that the model may call.
        required: whether the answer must consist of calls; otherwise it is any text with calls.
        parallel: whether the answer may contain more than one call.
        thoughts: the markers of reasoning, which may come first.
        thinking: whether the prompt has already opened reasoning.
        control: ids of the markers that are control tokens of the model; text cannot match those.
        answer: schema of an answer without calls, None for any text.
    """
    writer = _Writer(tools, control or {})
    rules = [f"function_{i}: {writer.function(function)}" for i, function in enumerate(functions)]
    if functions:
        anyone = " | ".join(f"function_{i}" for i in range(len(functions)))
        rules.append(f"function: {anyone}")
        rules += writer.calls(parallel and not tools.one_by_one)
    whole = required or answer is not None
    thought, more = writer.thought(thoughts, thinking, whole)
    rules += more
    if required:
        lines = [f"start: {thought} calls", *rules, _TEXT]
    elif answer is not None:
        schema = writer.schema(answer)
        start = f"(calls | {schema})" if functions else schema
        lines = [f"start: {thought} {start}", *rules, _TEXT]
    else:
        start, more = writer.mixed(parallel)
        lines = [f"start: {thought} {start}", *rules, *more]
    return "\n".join([*lines, ""]), writer.schemas


class _Writer:
    """Writes rules for one format with one model's control tokens."""

    def __init__(self, tools: ToolFormat, control: Mapping[str, int]) -> None:
        self._tools = tools
        self._control = control
        self._places: dict[CheckedSchema, int] = {}

    @property
    def schemas(self) -> tuple[CheckedSchema, ...]:
        """The schemas that rules refer to, in the order of their numbers."""
        return tuple(self._places)

    def schema(self, schema: CheckedSchema) -> str:
        """Return the name of a schema's rule."""
        return f"schema_{self._places.setdefault(schema, len(self._places))}"

    def marker(self, text: str) -> str:
        """Return a marker as a terminal: a control token if the model has it, otherwise text."""
        return f"<[{self._control[text]}]>" if text in self._control else json.dumps(text)

    def function(self, function: Function) -> str:
        """Return the expression for a call of one function, without the markers around calls."""
        tools = self._tools
        arguments = self.schema(function.parameters or _ANY_ARGUMENTS)
        if tools.head_end:
            return f'"{function.name}" {self.marker(tools.head_end)} {arguments}'
        head = json.dumps(f'{{"name": "{function.name}", "{tools.arguments}": ')
        return f'{head} {arguments} "}}"'

    def calls(self, several: bool) -> list[str]:
        """Return rule ``calls``, beginning with the marker, and rule ``behind``, without it."""
        tools = self._tools
        begin, end = self.marker(tools.begin), self.marker(tools.end) if tools.end else ""
        if tools.array:
            items = 'function ("," " "? function)*' if several else "function"
            behind = f'" "? "[" {items} "]" {f"({end})?" if end else ""}'
            return [f"calls: {begin} behind", f"behind: {behind}"]
        behind = f'"\\n"? function "\\n"? {end}' if end else "function"
        if tools.begin_optional:
            return ["calls: behind", f"behind: {behind}"]
        more = f'("\\n"? {begin} behind)*' if several else ""
        return [f"calls: {begin} behind {more}", f"behind: {behind}"]

    def thought(
        self, thoughts: ThoughtFormat | None, thinking: bool, required: bool
    ) -> tuple[str, list[str]]:
        """Return an expression for reasoning, which may come first, and the rules it needs."""
        if thoughts is None:
            return "", []
        if thoughts.end in self._control:
            rules = [f"thought: TEXT {self.marker(thoughts.end)}"]
        else:
            rules = [f"thought[lazy]: TEXT {self.marker(thoughts.end)}"]
        space = "SPACE?" if required else ""
        rules += ["SPACE: /\\n{1,2}/"] if required else []
        if thinking:
            return f"thought {space}", rules
        if required or thoughts.begin in self._control:
            return f"({self.marker(thoughts.begin)} thought {space})?", rules
        return "", []  # Without a control token, reasoning is text like any other.

    def mixed(self, parallel: bool) -> tuple[str, list[str]]:
        """Return an expression for text that may contain calls, and the rules it needs."""
        tools = self._tools
        if tools.begin_optional:
            # Only the beginning of an answer can be a call, so other text must not look like one.
            text = '/(?s:.*)/ & ~/\\{"name": "(?s:.*)/'
            tagged = (
                f"{self.marker(tools.begin)}? calls" if tools.begin in self._control else "calls"
            )
            return f"({tagged} | OTHER)", [f"OTHER: {text}", _TEXT]
        if tools.begin in self._control:
            rules = [f"tagged: TEXT {self.marker(tools.begin)} behind"]
        else:
            rules = ["tagged: opened behind", f"opened[lazy]: TEXT {self.marker(tools.begin)}"]
        return f"tagged{'*' if parallel else '?'} TEXT", [*rules, _TEXT]
