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

from offgrid.chat.formats import HERMES, ToolFormat, recognise_thoughts, recognise_tools
from offgrid.chat.grammars import Function, call_grammar
from offgrid.chat.parser import AnswerParser
from offgrid.chat.template import ChatTemplate, Message
from offgrid.engine.protocol import PromptPart
from offgrid.grammar.checked import CheckedSchema

_DESCRIPTION = """\
# Tools
You can call these functions:
<tools>
{tools}
</tools>
To call one, answer with <tool_call>{{"name": ..., "arguments": {{...}}}}</tool_call>"""
_SHORT_ID = 9
_TAIL = 1024
"""Characters at the end of a prompt that are checked for an opening reasoning marker."""


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
        known = recognise_tools(template)
        self._native = known is not None
        self.tools: ToolFormat = known or HERMES
        self.thoughts = recognise_thoughts(template)
        thought = () if self.thoughts is None else (self.thoughts.begin, self.thoughts.end)
        self._control = {
            text: control[text] for text in (*self.tools.markers, *thought) if text in control
        }

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
        if self._native:
            messages = self._adapt(messages)
        else:
            messages = _flatten(messages, tools)
            tools = None
        parts = self._template.render(messages, tools, ask=ask, resume=resume, variables=variables)
        # The end is enough: the marker that opens reasoning has a few characters and some space.
        tail = "".join(part.text[-_TAIL:] for part in parts[-2:]).rstrip()
        return Prompt(parts, self.thoughts is not None and tail.endswith(self.thoughts.begin))

    def parser(
        self,
        names: Collection[str],
        *,
        thinking: bool = False,
        constrained: bool = False,
        max_calls: int = 0,
    ) -> AnswerParser:
        """Return a parser for one answer; see :class:`~offgrid.chat.parser.AnswerParser`."""
        return AnswerParser(
            self.tools if names else None,
            names,
            self.thoughts,
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
            self.tools,
            functions,
            required=required,
            parallel=parallel,
            thoughts=self.thoughts,
            thinking=thinking,
            control=self._control,
            answer=answer,
        )

    def _adapt(self, messages: Sequence[Message]) -> list[Message]:
        """Bring earlier tool calls into the form that the template requires."""
        adapted = [dict(message) for message in messages]
        if self.tools.short_ids:
            adapted = [_with_short_ids(message) for message in adapted]
        return _one_by_one(adapted) if self.tools.one_by_one else adapted


def _flatten(messages: Sequence[Message], tools: list[dict[str, Any]] | None) -> list[Message]:
    """Write functions, calls and results as text, for templates that do not support tools."""
    flat: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            content = message["content"]
            inner = content if isinstance(content, list) else [content]  # a list if it has images
            tagged: Any = ["<tool_response>", *inner, "</tool_response>"]
            flat.append(
                {"role": "user", "content": tagged if inner is content else "".join(tagged)}
            )
        elif message.get("tool_calls"):
            calls = [_call_text(call["function"]) for call in message["tool_calls"]]
            text = "\n".join([message["content"], *calls] if message["content"] else calls)
            plain = {key: value for key, value in message.items() if key != "tool_calls"}
            flat.append({**plain, "content": text})
        else:
            flat.append(dict(message))
    if tools:
        text = _DESCRIPTION.format(
            tools="\n".join(json.dumps(t, ensure_ascii=False) for t in tools)
        )
        if flat[0]["role"] in ("system", "developer"):
            flat[0]["content"] = f"{flat[0]['content']}\n\n{text}"
        else:
            flat.insert(0, {"role": "system", "content": text})
    return flat


def _call_text(function: Mapping[str, Any]) -> str:
    call = {"name": function["name"], "arguments": function["arguments"]}
    return f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"


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
        # Calls without ids are told apart by their index.
        waiting = {
            call["id"] or n: m for n, (call, m) in enumerate(zip(calls, single, strict=True))
        }
        if not calls:
            split.append(message)
    return [*split, *waiting.values()]
