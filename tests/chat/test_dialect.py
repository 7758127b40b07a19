"""Templates as in model files: the format that each implies, and the rendered prompts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from offgrid.chat.answer_parser import CallStart, Content
from offgrid.chat.dialect import Dialect
from offgrid.chat.sandbox import Sandbox
from offgrid.errors import InvalidParameter

from .rendering import text, user

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
{%- if m.tool_calls %}[TOOL_CALLS][
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('length 9!') }}{% endif %}
{{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}
{{- '' if loop.last else ', ' }}{% endfor %}]
{%- elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.tool_call_id }} {{ m.content }}[/TOOL_RESULTS]
{%- else %}{{ m.content }}{% endif %}
{%- endfor %}"""
LLAMA_31 = """
{%- if tools %}{"name": function name, "parameters": {}}{{ tools | tojson }}{% endif %}
{%- for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>

{% if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('only one') }}{% endif %}
{%- set f = m.tool_calls[0].function %}
{{- '{"name": "' + f.name + '", "parameters": ' + f.arguments | tojson + '}' }}
{%- else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}"""


def call(name: str, arguments: Any, id: str | None = "call_1") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict[str, Any], content: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


def result(content: str, id: str | None = "call_1") -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": id}


def dialect(template: str | None, control: dict[str, int] | None = None) -> Dialect:
    return Dialect(template, "<s>", "</s>", CONTROL if control is None else control)


def chatml(call: str, head: str = "{{ tools | tojson if tools }}") -> str:
    """A template that writes the text ``call`` for each call."""
    return (
        head
        + """
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for c in m.tool_calls or [] %}{% set f = c.function %}"""
        + call
        + """
{%- endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
    )


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
                     text(parts).split("[TOOL_CALLS][")[1].split("]")[0].replace("}, {", "}\n{")
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
    written = [json.loads(turn)["name"] if '"name"' in turn else turn.strip() for turn in order]
    assert written == ["Hi", "two", "2", "one", "1", "three", "And?"]
    without_ids = [calls(call("one", {}, None), call("two", {}, None)), result("1", None)]
    assert text(dialect(LLAMA_31).prompt(without_ids).parts).count("<|eot_id|>") == 3


def test_calls_with_the_same_id_and_reasoning_are_written_once() -> None:
    source = LLAMA_31.replace(
        "{% if m.tool_calls %}", "{{ m.reasoning_content }}{% if m.tool_calls %}"
    )
    made = calls(call("one", {}, "a"), call("two", {}, "a"))
    history = [user("Hi"), {**made, "reasoning_content": "Hm."}, result("1", "a"), result("2", "a")]
    written = text(dialect(source).prompt(history, [TOOL]).parts)
    assert [written.count(word) for word in ('"one"', '"two"', "Hm.")] == [1, 1, 1]
    assert written.index('"one"') < written.index("\n\n1") < written.index('"two"')


def test_reasoning_opened_by_the_prompt_is_noticed() -> None:
    thinks = "{% set thinks = true %}" + QWEN
    assert dialect(thinks).prompt([user("Hi")]).thinking
    assert not dialect(QWEN).prompt([user("Hi")]).thinking
    assert not dialect(None).prompt([user("<think>")], ask=False).thinking
    assert not dialect(thinks).prompt([user("Hi")], ask=False).thinking


def test_reasoning_that_only_a_prompt_without_it_closes() -> None:
    """SmolLM3 writes no reasoning into the history and explains the markers in every prompt."""
    source = (
        "{% if enable_thinking is not defined or enable_thinking %}Use <think> and </think>."
        "{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is defined "
        "and not enable_thinking %}<think>\n\n</think>\n{% endif %}"
    )
    assert dialect(source, {}).reasoning_markers == ("<think>", "</think>")


def test_reasoning_opened_by_several_control_tokens_is_noticed() -> None:
    source = (
        "{% for m in messages %}<|open|>{{ m.role }}<|sep|>{% if m.reasoning_content %}"
        "<|open|>think<|sep|>{{ m.reasoning_content }}<|close|>think<|sep|>{% endif %}"
        "{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|open|>assistant<|sep|><|open|>think<|sep|>{% endif %}"
    )
    known = dialect(source, {"<|open|>": 1, "<|sep|>": 2, "<|close|>": 3})
    assert known.reasoning_markers == ("<|open|>think<|sep|>", "<|close|>think<|sep|>")
    assert known.prompt([{"role": "user", "content": "Hi"}]).thinking


@pytest.mark.parametrize("head", ["{name}", "{name}[CALL_ID]{id}"])
def test_a_call_has_the_head_that_the_template_writes(head: str) -> None:
    written = head.replace("{name}", "{{ f.name }}").replace("{id}", "{{ c.id }}")
    source = (
        "{% for t in tools %}{{ t | tojson }}{% endfor %}{% for m in messages %}[{{ m.role }}]"
        "{{ m.content }}{% for c in m.tool_calls or [] %}{% set f = c.function %}"
        f"[TOOL_CALLS]{written}[ARGS]{{{{ f.arguments | tojson }}}}{{% endfor %}}{{% endfor %}}"
    )
    known = dialect(source, {})
    assert (known.family, known.form.calls[0].head) == ("mistral-named", head)


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


# --- formats that a template implies --------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "family"),
    [
        (None, "generic"),
        ("{{ messages[0].content }}", "generic"),
        # A marker in the source alone proves nothing.
        ("{{ toolset }}<tool_call>[TOOL_CALLS]<|tool_call|>{{ messages[0].content }}", "generic"),
        (QWEN, "hermes"),
        (MISTRAL_V3, "mistral"),
        (LLAMA_31, "llama"),
    ],
)
def test_the_template_determines_the_format(template: str | None, family: str) -> None:
    assert dialect(template, {"<|im_start|>": 1, "<|im_end|>": 2}).family == family


def test_a_format_is_recognised_by_the_explanation_if_calls_are_not_written() -> None:
    explains = "{% if tools %}Write <|tool_call|>[...] {{ tools | tojson }}{% endif %}"
    source = explains + "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    known = dialect(source)
    assert known.family == "phi"
    history = [user("3?"), calls(call("add", {"a": 3}), content="I add."), result("5")]
    written = text(known.prompt(history, [TOOL]).parts)
    # The template would have left the call out.
    assert 'I add.\n<|tool_call|>[{"name": "add", "arguments": {"a": 3}}]<|/tool_call|>' in written
    assert "tool: 5" in written


def test_a_format_is_recognised_by_the_vocabulary_if_the_template_says_nothing() -> None:
    markers = {"<|tool_call_start|>": 7, "<|tool_call_end|>": 8}
    source = "{{ tools | tojson if tools }}" + "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert dialect(source, {}).family == "generic"
    known = dialect(source, markers)
    assert known.family == "lfm2"
    assert known.visible == tuple(markers)


def test_tools_that_the_template_reads_under_another_name() -> None:
    source = chatml(
        '<tool_call>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}</tool_call>',
        "{{ xml_tools | tojson if xml_tools }}",
    )
    known = dialect(source)
    assert known.family == "hermes"
    prompt = text(known.prompt([user("Hi")], [TOOL]).parts)
    assert json.dumps(TOOL) in prompt
    assert "You can call" not in prompt


def test_tools_are_explained_in_the_form_of_the_calls_that_the_template_writes() -> None:
    xml = (
        "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}"
        "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
    )
    known = dialect(chatml(xml, ""))
    assert known.family == "qwen-xml"
    prompt = text(known.prompt([user("Hi"), calls(call("add", {"a": 3}))], [TOOL]).parts)
    assert "answer with <tool_call>\n<function=name>\n<parameter=argument>\nvalue" in prompt
    assert "<function=add>\n<parameter=a>\n3\n</parameter>" in prompt


def test_arguments_as_json_text_and_calls_without_content() -> None:
    concatenates = chatml("<function={{ f.name }}>{{ '' + f.arguments }}</function>")
    assert dialect(concatenates).family == "functionary-3.1"
    written = text(dialect(concatenates).prompt([calls(call("add", {"a": 3}))], [TOOL]).parts)
    assert '<function=add>{"a": 3}</function>' in written
    needs_none = """{{ tools | tojson if tools }}{% for m in messages %}{{ m.role }}:
{%- if m.role == 'assistant' and m.content is none %}{% for c in m.tool_calls %}<TOOLCALL>[
{{- {'name': c.function.name, 'arguments': c.function.arguments} | tojson }}]</TOOLCALL>
{%- endfor %}{% else %}{{ m.content }}{% endif %}
{% endfor %}"""
    assert dialect(needs_none).family == "nemotron-v2"
    assert "<TOOLCALL>[" in text(dialect(needs_none).prompt([calls(call("add", {}))]).parts)


# --- formats that are in no table -----------------------------------------------------------------

_JSON = "{{ f.arguments | tojson }}"
_EACH = "{% for k, v in f.arguments.items() %}"


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ('<<call {"fn": "{{ f.name }}", "args": ' + _JSON + "}>>", None),
        ('<do>{"name": "{{ f.name }}", "parameters": ' + _JSON + "}</do>",
         '<do>{"name": "add", "parameters": {"a": "x"}}</do>'),
        ("<|do|>{{ f.name }}<|with|>" + _JSON + "<|done|>", '<|do|>add<|with|>{"a": "x"}<|done|>'),
        ('<run tool="{{ f.name }}">' + _EACH + '<arg id="{{ k }}">{{ v }}</arg>{% endfor %}</run>',
         '<run tool="add"><arg id="a">x</arg></run>'),
        ("@@{{ f.name }}\n" + _EACH + "- {{ k }} := {{ v }};\n{% endfor %}@end",
         "@@add\n- a := x;\n@end"),
    ],
)  # fmt: skip
def test_a_format_of_a_common_shape_is_derived(written: str, answer: str | None) -> None:
    known = dialect(chatml(written), {"<|im_start|>": 1, "<|im_end|>": 2})
    if answer is None:  # Keys that no model uses are not calls.
        assert known.family == "generic"
        return
    assert known.family == "derived"
    parser = known.parser(["add"])
    events = [*parser.feed(f"Sure. {answer}"), *parser.finish()]
    assert events[:2] == [Content("Sure."), CallStart(0, "add")]
    assert json.loads("".join(event.text for event in events[2:])) == {"a": "x"}  # type: ignore[union-attr]


@pytest.mark.parametrize("often", [2, 20, 300])
def test_a_template_that_repeats_a_call_has_some_format(often: int) -> None:
    """With many calls of one name the second one is not found."""
    for written in ("<{{ f.name }}>" + _JSON, '{"name": "{{ f.name }}", "x": ' + _JSON + "}"):
        repeated = f"{{% for n in range({often}) %}}{written}{{% endfor %}}"
        known = dialect(chatml(repeated), {"<|im_start|>": 1, "<|im_end|>": 2})
        assert known.family in ("generic", "derived")


def test_a_template_that_works_hard_is_not_probed_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    renderings: list[int] = []
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("offgrid.chat.budget.time.thread_time", lambda: next(clock))
    render = Sandbox.render_bounded

    def counted(self: Sandbox, *args: Any) -> Any:
        renderings.append(1)
        return render(self, *args)

    monkeypatch.setattr(Sandbox, "render_bounded", counted)
    assert dialect(QWEN, {}).family == "generic"
    assert len(renderings) == 1
