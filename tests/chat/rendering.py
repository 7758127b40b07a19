"""Messages, and what a template writes for them."""

from __future__ import annotations

from typing import Any

import pytest

from offgrid.chat.conventions import Message
from offgrid.chat.template import ChatTemplate
from offgrid.engine.protocol.requests import PromptPart
from offgrid.engine.worker.llama.model import Model
from offgrid.errors import InvalidParameter

CHATML_CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""A template that needs lists of parts."""


def user(content: str, **fields: Any) -> Message:
    return {"role": "user", "content": content, **fields}


def assistant(content: str, **fields: Any) -> Message:
    return {"role": "assistant", "content": content, **fields}


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def text(parts: tuple[PromptPart, ...]) -> str:
    return "".join(part.text for part in parts)


def special(parts: tuple[PromptPart, ...]) -> list[str]:
    return [part.text for part in parts if part.special]


def render(
    source: str | None,
    *messages: Message,
    control: tuple[str, ...] = CHATML_CONTROL,
    tools: list[dict[str, Any]] | None = None,
) -> tuple[PromptPart, ...]:
    return ChatTemplate(source, "<s>", "</s>", control).render(messages, tools)


def refusal(source: str, *messages: Message, **more: Any) -> str:
    """The message of a template's error, which must name ``messages``."""
    with pytest.raises(InvalidParameter) as caught:
        render(source, *messages, **more)
    assert (caught.value.status, caught.value.param) == (400, "messages")
    return caught.value.message


def control_ids(model: Model, parts: tuple[PromptPart, ...]) -> list[int]:
    """The control tokens of a prompt."""
    return [int(i) for i in model.tokenize(parts) if int(i) in model.control_ids]
