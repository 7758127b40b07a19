"""Templates as in model files: the format that each implies, and the rendered prompts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from offgrid.chat.dialect import Dialect
from offgrid.chat.formats import (
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_NAMED,
    PHI,
    THOUGHTS,
    ToolFormat,
    recognise_thoughts,
    recognise_tools,
)
from offgrid.engine.protocol import PromptPart
from offgrid.errors import InvalidParameter

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds <|im_end|>",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CONTROL = {"<|im_start|>": 1, "<|im_end|>": 2, "<tool_call>": 3, "</think>": 4}
# Shortened to the relevant parts of the real templates.
QWEN = """
{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>
within <tool_call></tool_call> XML tags<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<|im_start|>user
<tool_response>{{ m.content }}</tool_response><|im_end|>
{%- else %}<|im_start|>{{ m.role }}
{{ m.content.split('</think>')[-1] }}
{%- for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if thinks %}<think>
{% endif %}{% endif %}"""
MISTRAL_V3 = """
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}
{%- if m.tool_calls %}[TOOL_CALLS] [
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('length 9!') }}{% endif %}
{{- {'name': call.function.name, 'id': call.id} | tojson }}{% endfor %}]
{%- elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.tool_call_id }}
{%- else %}{{ m.content }}{% endif %}
{%- endfor %}"""
LLAMA_31 = """
{%- if tools %}{"name": function name, "parameters": {}}{{ tools | tojson }}{% endif %}
{%- for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>
{%- if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('only one') }}{% endif %}
{{- m.tool_calls[0].function.name }}
{%- else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}"""


@pytest.mark.parametrize(
    ("template", "tools"),
    [
        (None, None),
        ("{{ messages }}", None),
        ("{{ toolset }}<tool_call>", None),
        (QWEN, HERMES),
        (MISTRAL_V3, MISTRAL),
        ("{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]", MISTRAL_NAMED),
        ("{{ tools }}<|tool_call|>", PHI),
        (LLAMA_31, LLAMA),
        ("{{ tools }}<tool_call><function=", None),
        ("{{ tools }}<tool_call><arg_key>", None),
        ("{{ tools }}", None),
    ],
)
def test_the_template_determines_the_format(template: str | None, tools: ToolFormat | None) -> None:
    assert recognise_tools(template) is tools


def test_the_template_determines_the_reasoning_markers() -> None:
    assert recognise_thoughts(None) is recognise_thoughts("{{ messages }}") is None
    assert recognise_thoughts(QWEN) is THOUGHTS[0]
    assert recognise_thoughts("[THINK]x[/THINK]") is THOUGHTS[1]


def text(parts: tuple[PromptPart, ...]) -> str:
    return "".join(part.text for part in parts)


def call(name: str, arguments: Any, id: str | None = "call_1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calls(*made: dict[str, Any], content: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


def result(content: str, id: str | None = "call_1") -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": id}


def dialect(template: str | None) -> Dialect:
    return Dialect(template, "<s>", "</s>", CONTROL)


def test_a_template_with_tool_support_gets_the_tools() -> None:
    prompt = dialect(QWEN).prompt([user("3 <tool_call>"), calls(call("add", {"a": 3}))], [TOOL])
    assert json.dumps(TOOL) in text(prompt.parts)
    assert '{"name": "add", "arguments": {"a": 3}}' in text(prompt.parts)
    special = [part.text for part in prompt.parts if part.special]
    # Markers in the user's text and in the description are text; the template's are tokens.
    assert special.count("<tool_call>") == 2
    assert special.count("<|im_end|>") == 3
    assert dialect(QWEN).visible == ("<tool_call>", "</think>")


def test_a_template_without_tool_support_gets_the_tools_as_text() -> None:
    history = [user("3?"), calls(call("add", {"a": 3}), content="I add."), result("5 <|im_end|>")]
    roles = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    for template in (None, roles):
        parts = dialect(template).prompt(history, [TOOL]).parts
        assert text(parts).startswith("<|im_start|>system\n# Tools\nYou can call")
        assert json.dumps(TOOL) in text(parts)
        assert 'I add.\n<tool_call>{"name": "add", "arguments": {"a": 3}}</tool_call>' in text(
            parts
        )
        assert "user\n<tool_response>5 <|im_end|></tool_response>" in text(parts)
        special = [part.text for part in parts if part.special]
        assert "<tool_call>" not in special
        assert special.count("<|im_end|>") == 4
    system = [{"role": "developer", "content": "Be brief."}, user("Hi")]
    assert "system\nBe brief.\n\n# Tools" in text(dialect(None).prompt(system, [TOOL]).parts)
    assert "# Tools" not in text(dialect(None).prompt(history).parts)


def test_mistral_requires_short_ids() -> None:
    history = [calls(call("add", {}), call("add", {}, "abcdefgh9")), result("5"), result("6", None)]
    parts = dialect(MISTRAL_V3).prompt(history, [TOOL]).parts
    first, second = (json.loads(item)["id"] for item in
                     text(parts).split("[TOOL_CALLS] [")[1].split("]")[0].replace("}{", "}\n{")
                     .splitlines())  # fmt: skip
    assert second == "abcdefgh9"
    assert len(first) == 9
    assert f"[TOOL_RESULTS]{first}" in text(parts)


def test_llama_requires_one_call_per_message() -> None:
    history = [
        user("Hi"),
        calls(call("one", {}, "a"), call("two", {}, "b"), call("three", {}, "c")),
        result("2", "b"),
        result("1", "a"),
        user("And?"),
    ]
    parts = dialect(LLAMA_31).prompt(history, [TOOL]).parts
    turns = text(parts).split("<|start_header_id|>")[1:]
    order = [turn.split("<|end_header_id|>")[1].removesuffix("<|eot_id|>") for turn in turns]
    assert order == ["Hi", "two", "2", "one", "1", "three", "And?"]
    without_ids = [calls(call("one", {}, None), call("two", {}, None)), result("1", None)]
    assert text(dialect(LLAMA_31).prompt(without_ids).parts).count("<|eot_id|>") == 3


def test_reasoning_opened_by_the_prompt_is_noticed() -> None:
    thinks = "{% set thinks = true %}" + QWEN
    assert dialect(thinks).prompt([user("Hi")]).thinking
    assert not dialect(QWEN).prompt([user("Hi")]).thinking
    assert not dialect(None).prompt([user("<think>")], ask=False).thinking
    assert not dialect(thinks).prompt([user("Hi")], ask=False).thinking


def test_an_answer_that_is_continued() -> None:
    history = [user("Hi"), {"role": "assistant", "content": "Well <|im_end|>  "}]
    for template in (None, QWEN):
        parts = dialect(template).prompt(history, resume=True).parts
        assert text(parts).endswith("<|im_start|>assistant\nWell <|im_end|>  ")
        assert [part.text for part in parts if part.special] == [
            "<|im_start|>", "<|im_end|>", "<|im_start|>",
        ]  # fmt: skip
    with pytest.raises(InvalidParameter, match="cannot be continued"):
        dialect("{{ messages[0].content }}").prompt(history, resume=True)
    everything = "".join(map(chr, (*range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF, 0x1FFFE)))
    with pytest.raises(InvalidParameter, match="noncharacters"):
        dialect(None).prompt([user(everything), history[1]], resume=True)
