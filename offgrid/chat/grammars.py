"""Grammars that make every tool call complete and valid, in llguidance's Lark dialect.

A forced call has the model's own form. The rules ``schema_0`` ... are not defined here; they stand
for the schemas that accompany the grammar. :mod:`offgrid.chat.argument_rules` says what is enforced
of arguments that are not written as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from offgrid.chat.answer_parser import AnswerForm
from offgrid.chat.argument_rules import arguments_rule
from offgrid.chat.formats import CallFormat
from offgrid.chat.rules import Rules, regex
from offgrid.chat.writing import fill
from offgrid.grammar.checked import CheckedSchema
from offgrid.grammar.texts import ANY_TEXT

_ANY_ARGUMENTS = CheckedSchema({"type": "object"}, "tools", arguments=True)
_FIELDS = re.compile(r"(\{n\}|\{id\}|\{any\})")
_FIELD_RULES = {
    "{n}": "/[0-9]{1,2}/", "{id}": "/[a-z0-9]{9}/", "{any}": "/[A-Za-z0-9_-]{1,64}/",
}  # fmt: skip
_JSON_PARTS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s"{}\[\]:,]+')
_BLANK = r" {1,2}|\n( {0,16}|\t{0,4})"
"""White space in the JSON around the arguments: what models write, and not more than they need."""
SPACE_AFTER = r" |\n{1,3}"
"""White space around calls and after reasoning: line ends, or a space before the first call."""
_ID_AFTER = ', "id": "{any}"'
_LINE = '"\\n"?'
_KEYS = "name|function|tool_name|arguments|parameters|id|type|tool_call_id|call_id|index"
"""The keys with which an object that is read as a call may begin."""


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
    no_content: str = "",
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
        no_content: what it may write in place of content, before calls.
    """
    writer = _Writer(form, functions, parallel, Rules(control or {}))
    writer.apart = bool(answer) and not required
    writer.no_content = no_content
    thought = writer.thought(thinking, required or answer is not None, lead=required)
    if required:
        start = writer.calls()
    elif answer is not None:
        start = writer.answer(answer, content_begin)
    else:
        start = writer.mixed()
    rules = writer.rules
    return "\n".join([f"start: {thought} {start}", *rules.lines, ""]), rules.schemas


class _Writer:
    """Writes the rules of one model's answers.

    Attributes:
        apart: whether an answer that follows a schema may stand in place of a call.
        no_content: text that may stand in place of content, before calls.
    """

    def __init__(
        self, form: AnswerForm, functions: Sequence[Function], parallel: bool, rules: Rules
    ) -> None:
        self._form = form
        self._format = form.calls[0] if form.calls else CallFormat("json")
        self._functions = functions
        self._several = parallel and not self._format.one_by_one
        self.rules = rules
        self.apart = False
        self.no_content = ""

    # --- calls --------------------------------------------------------------------------------

    def calls(self) -> str:
        """Return the expression of an answer that consists of calls."""
        form, channels = self._format, self._form.channels
        if channels is not None:
            # A model of a format with reasoning ends its answer with a call, unless calls are in
            # the text of messages.
            several = self._several and (not channels.reasoning_end or channels.call is None)
            next_call = channels.reasoning_end or channels.begin
            more = f"({self.rules.exact(next_call)} {self._any_function})*" if several else ""
            return f"{self._any_function} {more}"
        if form.bare:
            return f"{self._bare_begin} {self._one} {self._lines}"
        space = '" "?' if (form.begin or form.call_begin).startswith(" ") else ""
        calls = f"{self.rules.exact(self._marker)} {self._after_marker(False)} {self._lines}"
        empty = f"({self.rules.exact(self.no_content)})?" if self.no_content else ""
        return f"{space} {empty} {calls}"

    @property
    def _lines(self) -> str:
        """White space around calls: the models write line ends, or a space before the first."""
        return self.rules.rule("SPACE", regex(SPACE_AFTER)) + "?"

    @property
    def _marker(self) -> str:
        """The text that begins calls, without white space around it."""
        return (self._format.begin or self._format.call_begin).strip()

    def _after_marker(self, text_follows: bool) -> str:
        """Return an expression for the calls after :attr:`_marker`."""
        form = self._format
        opened, closed = ("[", "]") if form.array else ("", "")
        whole = (form.begin + opened + form.call_begin).lstrip()
        first = self.rules.literal(whole[len(self._marker) :])
        last = f"{self.rules.literal(closed)} {self.rules.literal(form.end)}".strip()
        if form.array:
            next_call = f'"," {self._blank} {self.rules.literal(form.call_begin)}'
            first, last = f'" "? {first} {self._blank}', f"{self._blank} {last}"
        else:
            next_call = self.rules.literal(form.separator + form.call_begin)
        more = f"({next_call} {self._one})*" if self._several else ""
        if form.call_end.strip() and last and not text_follows:
            last = f"({last})?"  # Some models omit it, and each call has its own end.
        return self.rules.rule("calls", f"{first} {self._one} {more} {last}")

    @property
    def _one(self) -> str:
        """One call, after the text that begins it."""
        end = self.rules.literal(self._format.call_end)
        return self.rules.rule("call", f"{self._any_function} {end}")

    @property
    def _any_function(self) -> str:
        names = (self.rules.rule("function", self._function(f)) for f in self._functions)
        return self.rules.rule("any_function", " | ".join(names))

    def _function(self, function: Function) -> str:
        """Return the expression for a call of one function, from its head to its body."""
        form, channels, rules = self._format, self._form.channels, self.rules
        if channels is not None:
            heads = " | ".join(
                rules.exact(text.replace("{name}", function.name)) for text in channels.call_begins
            )
            body = self._arguments(function)
            end = rules.literal(channels.call_end)
            if channels.call is None:
                begin = form.begin + form.call_begin + fill(form.head, function.name, 0)
                end = rules.literal(form.call_end + form.end)
                body = f"{rules.exact(begin)} {rules.literal(form.name_end)} {body} {end}"
                return f"({heads}) {body}"
            return f"({heads}) {body} ({end})?" if end else f"({heads}) {body}"
        if form.body == "object":
            head = form.object_begin.replace("{name}", function.name)
            id = f"({self._json(_ID_AFTER)})?" if form.array else ""
            return f'{self._json(head)} {self._arguments(function)} {id} {self._blank} "}}"'
        if form.body == "keyed":
            head = "{" + json.dumps(function.name) + ": "
            return f'{self._json(head)} {self._arguments(function)} {self._blank} "}}"'
        if form.body == "python":
            return f"{json.dumps(function.name + '(')} {self._arguments(function)}"
        head = self._fielded(form.head.replace("{name}", function.name))
        return f"{head} {rules.literal(form.name_end)} {self._arguments(function)}"

    def _fielded(self, text: str) -> str:
        """Return an expression for a text with numbers and ids in it."""
        pieces = [piece for piece in _FIELDS.split(text) if piece]
        return " ".join(_FIELD_RULES.get(piece) or self.rules.exact(piece) for piece in pieces)

    def _json(self, text: str) -> str:
        """Return an expression for a part of a JSON object, whose white space is free.

        The longest text wins. So beside an answer with a schema, the parts are those of the schema,
        and beside other texts, it is a single one.
        """
        if self._format.bare and not self.apart:
            pieces = _JSON_PARTS.findall(text)
            spaced = (
                re.escape(part) + (f"({_BLANK})?" if part in "{[:," else "") for part in pieces
            )
            return self.rules.rule("HEAD", regex("".join(spaced)))
        written = []
        for part in _JSON_PARTS.findall(text):
            written.append(self._fielded(part))
            if part in "{[:,":
                written.append(self._blank)
        return " ".join(written)

    @property
    def _blank(self) -> str:
        return self.rules.rule("BLANK", regex(_BLANK)) + "?"

    def _arguments(self, function: Function) -> str:
        if self._format.body in ("parameters", "python", "gemma"):
            return arguments_rule(self.rules, self._format, function.parameters)
        return self.rules.schema(function.parameters or _ANY_ARGUMENTS)

    # --- reasoning --------------------------------------------------------------------------------

    def thought(self, thinking: bool, whole: bool, *, lead: bool = False) -> str:
        """Return an expression for reasoning, which may come first.

        Args:
            thinking: whether the prompt has opened it.
            whole: whether what follows must have a certain form.
            lead: whether line ends may come first, as the models write them that begin with a
                call. Without them, a model whose reasoning is off would have to reason.
        """
        channels, reasoning, rules = self._form.channels, self._form.reasoning, self.rules
        if channels is not None:
            if not channels.reasoning_begin:
                return ""
            begin = rules.exact(channels.reasoning_begin)
            return f"({begin} {rules.until(channels.reasoning_end, self._message)})*"
        lines = self._lines if lead else ""
        if reasoning is None:
            return lines
        begin = reasoning.begin.strip()
        if not (thinking or whole or rules.is_control(begin)):
            return ""  # Without a control token, reasoning is text like any other.
        spaced = whole or self._format.bare
        space = self._lines if spaced else ""
        after = rules.exact(reasoning.after)
        thought = f"{rules.until(reasoning.end.strip())} {after} {space}"
        if thinking:
            return thought
        # An answer without reasoning may begin with the end of reasoning.
        none = f"{rules.exact(reasoning.end.strip())} {after} {space}"
        begun = f"({rules.literal(reasoning.begin)} {thought} | {none})"
        return f"{lines} {begun}?" if lead else f"({_LINE} {begun})?"

    # --- answers that need not be calls -----------------------------------------------------------

    def answer(self, schema: CheckedSchema, begin: str) -> str:
        """Return an expression for an answer that follows a schema, or for calls."""
        channels, rules = self._form.channels, self.rules
        head = ""
        if channels is not None:
            head = rules.exact(channels.content_begin)
        elif begin and rules.is_control(begin.strip()):
            head = f"({rules.exact(begin)})?"
        content = f"{head} {rules.schema(schema)}"
        return f"({self.calls()} | {content})" if self._functions else content

    def mixed(self) -> str:
        """Return an expression for text that may contain calls."""
        channels, rules, form = self._form.channels, self.rules, self._format
        if channels is not None:
            begins = (channels.content_begin, channels.preamble_begin)
            content = f"({' | '.join(rules.exact(begin) for begin in begins if begin)})"
            more = rules.until(channels.reasoning_end or channels.begin, self._message)
            return f"(({content} {more})* {self.calls()} | {content} {self._last_message})"
        if form.bare:
            return self._bare()
        words = self._words()
        tagged = rules.rule("tagged", " | ".join(f"{words} {text}" for text in self._openers()))
        return f"{tagged}{'*' if self._several else '?'} {words} TEXT"

    @property
    def _message(self) -> str:
        """Text of a message in a channel, without the markers at which the parser leaves it.

        Text matches a marker that is no control token. llama.cpp loads most markers of gpt-oss as
        such tokens, whatever the file says.
        """
        markers = self._text_markers(*self._form.headers)
        if not markers:
            return "TEXT"
        return self.rules.rule(
            "MESSAGE", f"{regex(ANY_TEXT)} & ~{regex(f'{ANY_TEXT}({markers}){ANY_TEXT}')}"
        )

    @property
    def _last_message(self) -> str:
        """Text of the message that ends an answer; its end may be written as text."""
        message, ends = self._message, self._text_markers()
        return self.rules.rule("LAST", f"{message} {regex(f'({ends})?')}") if ends else message

    def _text_markers(self, *others: str) -> str:
        """Return a regular expression for those ends of messages and other texts that are text."""
        channels = self._form.channels
        texts = others if channels is None else (*others, *channels.ends)
        own = {text for text in texts if not self.rules.has_control(text)}
        return "|".join(map(re.escape, sorted(own)))

    def _words(self) -> str:
        """Return the rule of content that ends with a marker that is no text, or is empty."""
        rules, reasoning = self.rules, self._form.reasoning
        pieces = [f"{rules.until(text)}" for text in self._form.wrappers if rules.has_control(text)]
        if reasoning is not None and reasoning.repeated and rules.is_control(reasoning.begin):
            after = rules.exact(reasoning.after)
            end = rules.until(reasoning.end.strip())
            pieces.append(f"TEXT {rules.exact(reasoning.begin)} {end} {after}")
        return f"{rules.rule('words', ' | '.join(pieces))}*" if pieces else ""

    def _openers(self) -> list[str]:
        """Return expressions for text that ends with calls."""
        form, rules = self._format, self.rules
        found = []
        short = form.short_begin.strip()
        if not (short and form.call_begin.endswith(short) and not rules.has_control(self._marker)):
            found.append(f"{rules.found(self._marker)} {self._after_marker(True)}")
        # Calls are also read without the marker of their section, or the first part of it.
        if form.begin.strip() and form.call_begin.strip() and not rules.is_control(form.call_begin):
            call_begin = form.call_begin.strip()
            rest = rules.literal(form.call_begin.lstrip()[len(call_begin) :])
            found.append(f"{rules.found(call_begin)} {rest} {self._one}")
        if short:
            found.append(f"{rules.found(short)} {self._one}")
        return found

    def _bare(self) -> str:
        """Return an expression for calls without a marker, or text in which none is read."""
        form, rules = self._format, self.rules
        # Any name: a long list of them would make a text that is too hard to follow.
        calls = rf'\[?[ \t\n]*\{{[ \t\n]*"({_KEYS})"|\[[A-Za-z0-9_.-]+\('
        excluded = [rf"(?s:(.*\n)?[ \t]*({calls}).*)"]
        if form.begin and not rules.has_control(form.begin):
            excluded.append(f"{ANY_TEXT}{re.escape(form.begin)}{ANY_TEXT}")
        body = " & ".join([regex(ANY_TEXT), *(f"~{regex(text)}" for text in excluded)])
        return f"({self._bare_begin} {self._one} | {rules.rule('OTHER', body)})"

    @property
    def _bare_begin(self) -> str:
        """The marker that a call may have in a format that does not need it."""
        return f"({self.rules.exact(self._format.begin)})?" if self._format.begin else ""
