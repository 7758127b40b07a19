"""How one model writes a conversation: its chat template, its tool calls and its reasoning.

Everything that depends on a model's template is determined here, once per model: how a conversation
becomes a prompt, which grammar the answer must follow, and how the answer is parsed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offgrid.chat.answer_parser import AnswerForm, AnswerParser
from offgrid.chat.conventions import Message
from offgrid.chat.formats import GENERIC, HERMES, CallFormat
from offgrid.chat.grammars import Function, call_grammar
from offgrid.chat.probe import as_variables, recognise
from offgrid.chat.reasoning import reasoning_places
from offgrid.chat.template import ChatTemplate
from offgrid.chat.writing import write_calls
from offgrid.engine.protocol.requests import PromptPart
from offgrid.grammar.checked import CheckedSchema

_DESCRIPTION = """\
# Tools
You can call these functions:
<tools>
{tools}
</tools>
To call one, answer with {example}"""
_HERMES_EXAMPLE = '<tool_call>{"name": ..., "arguments": {...}}</tool_call>'
_SHORT_ID = 9
_TAIL, _TAIL_PARTS = 1024, 8
"""Characters of a part, and parts, at the end of a prompt that are checked for an opening reasoning
marker."""


@dataclass(frozen=True)
class Prompt:
    """The parts of a prompt; ``thinking`` says whether the prompt ends inside reasoning."""

    parts: tuple[PromptPart, ...]
    thinking: bool


class Dialect:
    """Prompts, grammars and parsers for one model. Thread-safe.

    Args:
        template: Jinja text from the model's file, ``None`` for ChatML.
        bos: text of the token that begins a sequence.
        eos: text of the token that ends a sequence.
        control: control tokens of the model, text -> id.
        n_ctx: tokens of the model's context, None for no limit.

    Attributes:
        form: how the model writes answers.
        reasoning_places: where reasoning stands in them; None for a model without reasoning.

    Raises:
        InvalidParameter: the template is not valid Jinja.
    """

    def __init__(
        self,
        template: str | None,
        bos: str,
        eos: str,
        control: Mapping[str, int],
        n_ctx: int | None = None,
    ) -> None:
        self._template = ChatTemplate(template, bos, eos, tuple(control), n_ctx)
        self._known = known = recognise(self._template.probe, control)
        wrappers = frozenset(text for text in known.wrappers if text in control)
        self.form = AnswerForm(
            known.calls, known.reasoning, known.wrappers, wrappers, known.channels
        )
        self.reasoning_places = reasoning_places(self.form, known.closing)
        self._control = _used(self.form, known.content_begin, control)

    @property
    def family(self) -> str:
        """The name of the model's format of calls, ``generic`` if OffGrid has to explain one."""
        return self._known.family

    @property
    def reasoning_markers(self) -> tuple[str, str] | None:
        """The markers before and after reasoning; None for a model without any."""
        if self.form.channels is not None and self.form.channels.reasoning_begin:
            return self.form.channels.reasoning_begin, self.form.channels.reasoning_end
        reasoning = self.form.reasoning
        return None if reasoning is None else (reasoning.begin.strip(), reasoning.end.strip())

    @property
    def reasons(self) -> bool:
        """Whether answers may contain more than content: reasoning, or messages in channels."""
        return self.form.reasoning is not None or self.form.channels is not None

    @property
    def template(self) -> ChatTemplate:
        """The model's template."""
        return self._template

    @property
    def visible(self) -> tuple[str, ...]:
        """Texts of the control tokens that the engine must keep in the text of an answer."""
        return tuple(self._control)

    def prompt(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None = None,
        *,
        ask: bool = True,
        resume: bool = False,
        variables: Message | None = None,
    ) -> Prompt:
        """Return the prompt of a conversation.

        Args:
            messages: see :meth:`~offgrid.chat.template.ChatTemplate.render`.
            tools: the functions that the model may call, as the API describes them.
            ask: whether to write the beginning of an answer after the last message.
            resume: whether the answer continues the last message.
            variables: further variables for the template.

        Raises:
            InvalidParameter: the template does not accept the messages.
            ContextLengthExceeded: the messages are too long for the context.
        """
        known = self._known
        messages = self._adapt(messages)
        if tools and not known.described:
            messages = _describe(messages, tools, self._example())
            tools = None
        if known.tool_variable != "tools":
            variables = {**as_variables(known.tool_variable, tools or []), **(variables or {})}
            tools = None
        parts = self._template.render(messages, tools, ask=ask, resume=resume, variables=variables)
        # The end is enough: the marker that opens reasoning has a few characters and some space. It
        # may consist of several control tokens, each of which is a part.
        tail = "".join(part.text[-_TAIL:] for part in parts[-_TAIL_PARTS:]).rstrip()
        reasoning = self.form.reasoning
        return Prompt(parts, reasoning is not None and tail.endswith(reasoning.begin.strip()))

    def parser(
        self,
        functions: Mapping[str, Mapping[str, Any] | None] | Collection[str],
        *,
        thinking: bool = False,
        constrained: bool = False,
        max_calls: int = 0,
    ) -> AnswerParser:
        """Return a parser for one answer; see :class:`~offgrid.chat.answer_parser.AnswerParser`."""
        return AnswerParser(
            self.form,
            functions,
            thinking=thinking,
            constrained=constrained,
            max_calls=max_calls,
        )

    def grammar(
        self,
        functions: Sequence[Function],
        *,
        required: bool,
        parallel: bool,
        thinking: bool,
        answer: CheckedSchema | None = None,
    ) -> tuple[str, tuple[CheckedSchema, ...]]:
        """Return the grammar of an answer; see :func:`~offgrid.chat.grammars.call_grammar`."""
        return call_grammar(
            self.form,
            functions,
            required=required,
            parallel=parallel,
            thinking=thinking,
            control=self._control,
            answer=answer,
            content_begin=self._known.content_begin,
            no_content=self._known.no_content,
        )

    def _example(self) -> str:
        form = self.form.calls[0]
        if form == HERMES:
            return _HERMES_EXAMPLE
        return write_calls(form, [("name", {"argument": "value"})])

    def _adapt(self, messages: Sequence[Message]) -> list[Message]:
        """Bring earlier tool calls and results into the form that the template requires."""
        known, form = self._known, self.form.calls[0]
        adapted = [dict(message) for message in messages]
        if not known.writes_calls:
            written = GENERIC if form == HERMES and not known.described else form
            adapted = [_with_calls_as_text(message, written) for message in adapted]
        else:
            if form.short_ids:
                adapted = [_with_short_ids(message) for message in adapted]
            if form.one_by_one:
                adapted = _one_by_one(adapted)
        if not known.writes_results:
            adapted = [_result_as_text(message) for message in adapted]
        return adapted


def _used(form: AnswerForm, content_begin: str, control: Mapping[str, int]) -> dict[str, int]:
    """Return the control tokens that stand in the texts of a form."""
    texts = [text for calls in form.calls for text in calls.texts]
    texts += [*form.wrappers, content_begin]
    if form.reasoning is not None:
        texts += [form.reasoning.begin, form.reasoning.end, form.reasoning.after]
    if form.channels is not None:
        texts += form.channels.texts
    joined = "\0".join(texts)
    return {text: id for text, id in control.items() if text and text in joined}


def _describe(
    messages: Sequence[Message], tools: list[dict[str, Any]], example: str
) -> list[Message]:
    """Describe the functions in the system message, for templates that do not."""
    described = [dict(message) for message in messages]
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = _DESCRIPTION.format(tools=listed, example=example)
    if described[0]["role"] in ("system", "developer"):
        described[0]["content"] = f"{described[0]['content']}\n\n{text}"
    else:
        described.insert(0, {"role": "system", "content": text})
    return described


def _with_calls_as_text(message: Message, form: CallFormat) -> Message:
    """Write calls into the content, in the model's own form, for templates that omit them."""
    if not message.get("tool_calls"):
        return message
    functions = [call["function"] for call in message["tool_calls"]]
    text = write_calls(form, [(function["name"], function["arguments"]) for function in functions])
    plain = {key: value for key, value in message.items() if key != "tool_calls"}
    plain["content"] = f"{message['content']}\n{text}" if message["content"] else text
    return plain


def _result_as_text(message: Message) -> Message:
    """Write a result as a message of the user, for templates that omit results."""
    if message["role"] != "tool":
        return message
    content = message["content"]
    if not isinstance(content, list):
        return {"role": "user", "content": f"<tool_response>{content}</tool_response>"}
    # A list has images; they stay where they are.
    return {"role": "user", "content": ["<tool_response>", *content, "</tool_response>"]}


def _with_short_ids(message: Message) -> Message:
    if message.get("tool_call_id") is not None:
        message["tool_call_id"] = _short_id(message["tool_call_id"])
    if message.get("tool_calls"):
        message["tool_calls"] = [
            {**call, "id": _short_id(call["id"] or "")} for call in message["tool_calls"]
        ]
    return message


def _short_id(id: str) -> str:
    """Return an id of nine letters and digits; an id that has this form already is kept."""
    if len(id) == _SHORT_ID and id.isascii() and id.isalnum():
        return id
    return hashlib.sha256(id.encode()).hexdigest()[:_SHORT_ID]


def _one_by_one(messages: list[Message]) -> list[Message]:
    """Put each call into a separate message, followed by its result."""
    split: list[Message] = []
    waiting: dict[Any, Message] = {}
    for message in messages:
        if message["role"] == "tool" and waiting:
            id = message.get("tool_call_id")
            split += [waiting.pop(id if id in waiting else next(iter(waiting))), message]
            continue
        split += waiting.values()
        calls = message.get("tool_calls") or []
        single = [{**message, "tool_calls": [call]} for call in calls]
        for other in single[1:]:
            other["content"] = ""
            other.pop("reasoning_content", None)
        waiting = {}
        for n, (call, one) in enumerate(zip(calls, single, strict=True)):
            # Calls without an id, or with that of another, are told apart by their index.
            waiting[n if not call["id"] or call["id"] in waiting else call["id"]] = one
        if not calls:
            split.append(message)
    return [*split, *waiting.values()]
