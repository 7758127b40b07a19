"""Grammars that make every function call whole and valid, in llguidance's Lark dialect.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md: ``<[17]>`` is the token of
that id, and a ``[lazy]`` rule ends as soon as it can. Rules ``schema_0`` ... are not written here:
they stand for the schemas that go with a grammar.
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
    """A function that may be called.

    Attributes:
        parameters: the schema that its arguments have to follow, None for any object.
        strict: whether it asks for that itself, so that calls are guaranteed to be valid.
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
    """Return the grammar of an answer, and the schemas to which its rules ``schema_0`` ... refer.

    Args:
        tools: how calls are written.
        functions: those that may be called.
        required: whether the answer is calls alone; otherwise it is any text, with calls in it.
        parallel: whether there may be more than one call.
        thoughts: how the model marks thoughts, which may come first.
        thinking: whether the prompt has opened one.
        control: ids of the markers that are control tokens of the model; text cannot match those.
        answer: schema of an answer that is no call, None for any text.
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
    """Rules of one format with one model's control tokens."""

    def __init__(self, tools: ToolFormat, control: Mapping[str, int]) -> None:
        self._tools = tools
        self._control = control
        self._places: dict[CheckedSchema, int] = {}

    @property
    def schemas(self) -> tuple[CheckedSchema, ...]:
        """Those that rules refer to, in the order of their numbers."""
        return tuple(self._places)

    def schema(self, schema: CheckedSchema) -> str:
        """A schema as the name of its rule."""
        return f"schema_{self._places.setdefault(schema, len(self._places))}"

    def marker(self, text: str) -> str:
        """A marker as a terminal: a token of its own or plain text."""
        return f"<[{self._control[text]}]>" if text in self._control else json.dumps(text)

    def function(self, function: Function) -> str:
        """A call of one function, without what stands around calls."""
        tools = self._tools
        arguments = self.schema(function.parameters or _ANY_ARGUMENTS)
        if tools.head_end:
            return f'"{function.name}" {self.marker(tools.head_end)} {arguments}'
        head = json.dumps(f'{{"name": "{function.name}", "{tools.arguments}": ')
        return f'{head} {arguments} "}}"'

    def calls(self, several: bool) -> list[str]:
        """Rule ``calls``, from the marker on, and rule ``behind``, the same without the marker."""
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
        """What may come first: an expression, and the rules that it needs."""
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
        return "", []  # it is text like any other

    def mixed(self, parallel: bool) -> tuple[str, list[str]]:
        """Any text with calls in it: the expression, and the rules that it needs."""
        tools = self._tools
        if tools.begin_optional:
            # Only the beginning of an answer can be a call, and text must not look like one.
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
