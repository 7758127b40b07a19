"""A chat's messages to prompt parts, through the template that the model file carries.

Control tokens such as ``<|im_end|>`` may only come from the template itself, never from what a
user wrote. So every string of the request is marked before rendering: a sentinel that occurs
nowhere in the request goes behind the first character of every control text in it. After
rendering, an unmarked control text is scaffold, and the sentinels are taken out again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from offgrid.chat.sandbox import Sandbox
from offgrid.engine.protocol import Part
from offgrid.errors import InvalidParameter

CHATML = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""For models whose file holds no template."""

_SENTINEL = "\ufdd0"
"""A Unicode noncharacter: valid in text, without meaning in any."""

Message = dict[str, Any]


class ChatTemplate:
    """The compiled template of one model. May be used by several threads at once.

    Args:
        source: Jinja text, ``None`` for ChatML.
        bos: text of the token that begins a sequence.
        eos: text of the token that ends one.
        control_texts: texts that only the template may write.

    Raises:
        InvalidParameter: the template is not valid Jinja.
    """

    def __init__(
        self, source: str | None, bos: str, eos: str, control_texts: Sequence[str]
    ) -> None:
        self._variables = {"bos_token": bos, "eos_token": eos}
        self._sandbox = Sandbox()
        # Longest first: of two control texts where one begins the other, the longer is meant.
        texts = sorted((t for t in control_texts if t), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, texts))) if texts else None
        try:
            self._template = self._sandbox.from_string(CHATML if source is None else source)
        except (TemplateError, RecursionError) as ex:
            raise _failure(ex) from ex

    def render(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None
    ) -> tuple[Part, ...]:
        """Return the prompt that asks for the next answer.

        Args:
            messages: with ``role`` and ``content`` and what else the API allows; developer
                messages are system messages to every template.
            tools: function descriptions, for templates that know tools.

        Raises:
            InvalidParameter: the template refuses the messages (its own words) or fails.
        """
        messages = [dict(m, role="system") if m["role"] == "developer" else m for m in messages]
        try:
            return self._render(messages, tools)
        except (TemplateError, TypeError, ValueError, RecursionError, LookupError) as first:
            simpler = _simplify(messages)
            if simpler == messages:
                raise _failure(first) from first
            try:
                return self._render(simpler, tools)
            except (TemplateError, TypeError, ValueError, RecursionError, LookupError):
                raise _failure(first) from first

    def _render(
        self, messages: Sequence[Message], tools: list[dict[str, Any]] | None
    ) -> tuple[Part, ...]:
        sentinel = _SENTINEL
        while _contains([messages, tools], sentinel):
            sentinel += _SENTINEL
        text = self._sandbox.render_bounded(
            self._template,
            {
                **self._variables,
                "messages": self._mark(messages, sentinel),
                "tools": self._mark(tools, sentinel) if tools else None,
                "add_generation_prompt": True,
            },
        )
        return self._split(text, sentinel)

    def _mark(self, value: Any, sentinel: str) -> Any:
        """Return a copy whose strings hold no control text."""
        if isinstance(value, str):
            if self._control is None:
                return value
            return self._control.sub(lambda m: m[0][0] + sentinel + m[0][1:], value)
        if isinstance(value, dict):
            return {key: self._mark(item, sentinel) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._mark(item, sentinel) for item in value]
        return value

    def _split(self, text: str, sentinel: str) -> tuple[Part, ...]:
        parts = []
        end = 0
        for match in self._control.finditer(text) if self._control is not None else ():
            if match.start() > end:
                parts.append(Part(text[end : match.start()].replace(sentinel, ""), False))
            parts.append(Part(match[0], True))
            end = match.end()
        if end < len(text):
            parts.append(Part(text[end:].replace(sentinel, ""), False))
        return tuple(parts)


def _contains(value: Any, text: str) -> bool:
    if isinstance(value, str):
        return text in value
    if isinstance(value, dict):
        return any(_contains(item, text) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_contains(item, text) for item in value)
    return False


def _simplify(messages: Sequence[Message]) -> list[Message]:
    """What strict templates want: no system role, and turns that alternate.

    System text goes in front of the user message that follows it, neighbours of one role become one
    message. Nothing is lost.
    """
    turns: list[Message] = []
    for message in messages:
        role = "user" if message["role"] == "system" else message["role"]
        last = turns[-1] if turns else None
        plain = role in ("user", "assistant") and not message.get("tool_calls")
        if last is not None and plain and last["role"] == role and not last.get("tool_calls"):
            joined = f"{last.get('content') or ''}\n\n{message.get('content') or ''}"
            turns[-1] = {**last, "content": joined}
        else:
            turns.append({**message, "role": role})
    return turns


def _failure(error: BaseException) -> InvalidParameter:
    return InvalidParameter(
        f"The model's chat template does not accept these messages: {error}", "messages"
    )
