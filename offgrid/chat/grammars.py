"""Grammars that make every function call whole and valid, in llguidance's Lark dialect.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md: ``%json`` puts a JSON schema in
place, ``<[17]>`` is the token of that id, and a ``[lazy]`` rule ends as soon as it can.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offgrid.chat.formats import ThoughtFormat, ToolFormat
from offgrid.grammar.options import ANSWER_OPTIONS, ARGUMENT_OPTIONS
from offgrid.grammar.schema import adapted

_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_ARGUMENTS: dict[str, Any] = {"type": "object"}
_TEXT = "TEXT: /(?s:.*)/"


@dataclass(frozen=True)
class Function:
    """A function that may be called.

    Attributes:
        parameters: JSON schema of its arguments, None for none.
        strict: whether they have to follow it in any case.
    """

    name: str
    parameters: dict[str, Any] | None = None
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
    answer: dict[str, Any] | None = None,
) -> str:
    """Return the grammar of an answer.

    Args:
        tools: how calls are written.
        functions: those that may be called.
        required: whether the answer is calls alone, each with arguments that follow the schema;
            otherwise it is any text, with calls in it that follow the schema if they are strict.
        parallel: whether there may be more than one call.
        thoughts: how the model marks thoughts, which may come first.
        thinking: whether the prompt has opened one.
        control: ids of the markers that are control tokens of the model; text cannot match those.
        answer: JSON schema of an answer that is no call, None for any text.
    """
    writer = _Writer(tools, control or {})
    rules = [
        f"function_{i}: {writer.function(function, required)}"
        for i, function in enumerate(functions)
    ]
    if functions:
        anyone = " | ".join(f"function_{i}" for i in range(len(functions)))
        rules.append(f"function: {anyone}")
        rules += writer.calls(parallel and not tools.one_by_one)
    whole = required or answer is not None
    thought, more = writer.thought(thoughts, thinking, whole)
    rules += more
    if required:
        return "\n".join([f"start: {thought} calls", *rules, _TEXT, ""])
    if answer is not None:
        schema = json.dumps({**adapted(answer), "x-guidance": ANSWER_OPTIONS})
        start = "(calls | answer)" if functions else "answer"
        return "\n".join(
            [f"start: {thought} {start}", f"answer: %json {schema}", *rules, _TEXT, ""]
        )
    start, more = writer.mixed(parallel)
    return "\n".join([f"start: {thought} {start}", *rules, *more, ""])


class _Writer:
    """Rules of one format with one model's control tokens."""

    def __init__(self, tools: ToolFormat, control: Mapping[str, int]) -> None:
        self._tools = tools
        self._control = control

    def marker(self, text: str) -> str:
        """A marker as a terminal: a token of its own or plain text."""
        return f"<[{self._control[text]}]>" if text in self._control else json.dumps(text)

    def function(self, function: Function, required: bool) -> str:
        """A call of one function, without what stands around calls."""
        tools = self._tools
        schema = _NO_ARGUMENTS if function.parameters is None else function.parameters
        if not (required or function.strict):
            schema = _ANY_ARGUMENTS
        schema = {"type": "object", **adapted(schema), "x-guidance": ARGUMENT_OPTIONS}
        arguments = f"%json {json.dumps(schema)}"
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
