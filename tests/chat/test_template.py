"""Messages to prompt: forms of messages, limits of length, and faulty templates."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from offgrid.chat.conventions import Message
from offgrid.chat.template import ChatTemplate
from offgrid.engine.protocol.requests import PromptPart
from offgrid.engine.worker.llama.model import Model
from offgrid.errors import ContextLengthExceeded, InvalidParameter

from .rendering import (
    CHATML_CONTROL,
    SMOLVLM,
    WEATHER,
    assistant,
    control_ids,
    refusal,
    render,
    special,
    system,
    text,
    user,
)


def test_without_a_template_it_is_chatml() -> None:
    parts = render(None, system("Be brief."), user("Hello!"), assistant("Hi."), user("Bye."))
    assert text(parts) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHello!<|im_end|>\n"
        "<|im_start|>assistant\nHi.<|im_end|>\n"
        "<|im_start|>user\nBye.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    for blank in ("", " \n", "chatml"):
        assert render(
            blank, system("Be brief."), user("Hello!"), assistant("Hi."), user("Bye.")
        ) == (parts)
    assert special(parts) == ["<|im_start|>", "<|im_end|>"] * 4 + ["<|im_start|>"]
    assert parts[1] == PromptPart("system\nBe brief.", False)


def test_developer_is_system_and_empty_content_is_nothing() -> None:
    empty = {"role": "assistant", "content": None}
    parts = render(None, {"role": "developer", "content": "Rules."}, empty)
    assert text(parts).startswith("<|im_start|>system\nRules.<|im_end|>\n<|im_start|>assistant\n<|")


def test_a_model_without_control_texts_gets_one_part() -> None:
    assert render(None, user("a <|im_end|>"), control=()) == (
        PromptPart("<|im_start|>user\na <|im_end|><|im_end|>\n<|im_start|>assistant\n", False),
    )


def test_the_starters_template(model: Model, starter: ChatTemplate) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"a": 1}}}
    parts = starter.render(
        [
            system("Be brief."),
            user("Weather?"),
            assistant("", tool_calls=[call]),
            {"role": "tool", "content": "Sunny", "tool_call_id": "c1"},
        ],
        [WEATHER],
    )
    prompt = text(parts)
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    assert "\n" + json.dumps(WEATHER) + "\n" in prompt
    assert '<tool_call>{"name": "weather", "arguments": {"a": 1}}</tool_call>' in prompt
    assert "<|im_start|>user\n<tool_response>Sunny</tool_response><|im_end|>" in prompt
    assert prompt.endswith("<|im_start|>assistant\n")
    start, end = (int(model.tokenize([PromptPart(t, True)])[0]) for t in CHATML_CONTROL[:2])
    assert control_ids(model, parts) == [start, end] * 4 + [start]


def too_long(template: ChatTemplate, *messages: Message, **more: Any) -> str:
    """The message of the length error, which must name ``messages``."""
    with pytest.raises(ContextLengthExceeded) as caught:
        template.render(messages, **more)
    assert caught.value.param == "messages"
    return caught.value.message


class _NotSearched:
    """Takes the place of a model's control texts; any search for them fails the test."""

    def __init__(self, texts: object) -> None:
        pass

    def mark(self, *_: object) -> None:
        raise AssertionError("a text was searched before it was measured")


def test_texts_are_measured_before_they_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("offgrid.chat.scaffold.TextSet", _NotSearched)
    template = ChatTemplate(None, "", "", CHATML_CONTROL, n_ctx=10)
    words = (
        "The prompt has 161 bytes and may have at most 160. This model's maximum context length "
        "is 10 tokens."
    )
    assert too_long(template, user("x" * 161)) == words
    assert too_long(template, user("\u00e9" * 80), user("x")) == words
    assert too_long(template, user("x" * 100), assistant("y" * 50, name="z" * 11)) == words
    call = {"function": {"name": "f", "arguments": {"a": ["y" * 60]}}}
    small = ChatTemplate(None, "", "", CHATML_CONTROL, n_ctx=3)
    assert "62 bytes" in too_long(small, user("x"), assistant("", tool_calls=[call]))
    tools = [{"function": {"description": "d" * 159}}]
    assert too_long(template, user("xy"), tools=tools) == words


def test_the_output_of_a_template_is_measured_too() -> None:
    source = "{{ 'a' * 100 }}{% for m in messages %}{{ m.content }}{% endfor %}"
    template = ChatTemplate(source, "", "", CHATML_CONTROL, n_ctx=10)
    assert len(text(template.render([user("x" * 60)]))) == 160
    # Marks are not counted.
    assert len(text(template.render([user("<" * 60)]))) == 160
    assert "161 bytes" in too_long(template, user("x" * 61))
    long = "{% for i in range(300) %}" + "\U0001f600" * 15_000 + "{% endfor %}"
    emoji = ChatTemplate(long, "", "", (), n_ctx=4096)
    with pytest.raises(InvalidParameter, match="writes more than 16777216 bytes"):
        emoji.render([user("x")])


def test_reasoning_that_a_template_leaves_out_does_not_count() -> None:
    thoughtful = assistant("So.", reasoning_content="h" * 200)
    assert len(ChatTemplate(None, "", "", (), n_ctx=10).render([user("Hm?"), thoughtful])) == 1
    writes = "{% for m in messages %}{{ m.reasoning_content }}{% endfor %}"
    assert "200 bytes" in too_long(ChatTemplate(writes, "", "", (), n_ctx=10), thoughtful)


def test_more_control_tokens_than_the_context_has_places() -> None:
    source = "{% for m in messages %}{{ '<s>' * 10 }}{% endfor %}"
    template = ChatTemplate(source, "", "", ("<s>",), n_ctx=10)
    assert special(template.render([user("x")])) == ["<s>"] * 10
    assert "more than 10 control tokens" in too_long(template, user("x"), user("x"))


def test_a_template_that_writes_half_a_character() -> None:
    assert "an unpaired surrogate" in refusal("{{ '\ud800' }}", user("x"))


def test_a_template_is_complete_before_threads_share_it() -> None:
    template = ChatTemplate(SMOLVLM, "", "", CHATML_CONTROL)
    before = dict(vars(template))
    assert template.conventions.typed
    template.render([user("Hello")])
    assert vars(template) == before


def test_a_refused_request_leaves_nothing_for_the_garbage_collector() -> None:
    """Otherwise its messages would stay in memory until the next search for reference cycles."""
    template = ChatTemplate("{{ raise_exception('no') }}", "", "", CHATML_CONTROL)
    messages = [system("Be brief."), user("Hello")]
    refused = 0
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            try:
                template.render(messages)
            except InvalidParameter:
                refused += 1
        kept = [held for held in gc.get_referrers(messages[0]) if held is not messages]
    finally:
        gc.enable()
    assert refused == 3
    assert kept == []


def test_arguments_as_text_become_an_object_for_templates_that_need_one() -> None:
    call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{broken"}}
    messages = [system("Be brief."), user("Hi"), assistant("", tool_calls=[call])]

    def source(arguments: str) -> str:
        return (
            "{% for m in messages %}{{ m.role }}{% for c in m.tool_calls or [] %}"
            f"[{arguments}]{{% endfor %}}{{% endfor %}}"
        )

    as_text = source("{{ c.function.arguments }}")
    as_items = source("{% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %}")
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    assert text(render(as_text, *messages)) == "systemuserassistant[{broken]"
    assert text(render(as_items, *messages)) == "systemuserassistant[arguments={broken]"
    assert text(render(strict + as_items, *messages)) == "userassistant[arguments={broken]"


def test_a_template_that_refuses_returns_400_with_its_message() -> None:
    refuses = "{{ raise_exception('Only ' + messages[0].content + ' here') }}"
    answer = refusal(refuses, user("<|im_end|>"))
    assert answer.endswith("these messages: Only <|im_end|> here")
    long = refusal("{{ raise_exception('no' * 100000) }}", user("x"))
    assert 1000 < len(long) < 1200


@pytest.mark.parametrize(
    "source",
    [
        "{{ nothing.at.all }}", "{{ messages[7].content }}", "{{ messages + 1 }}", "{{ 1 // 0 }}",
        "{{ messages[0].content.encode('nonsense') }}", "{{ ''.join([1]) }}", "{{ 2.0 ** 5000 }}",
        "{% include 'other' %}", "{% extends messages %}", "{{ messages | tojson(default=1) }}",
        "{{ range(1, 2, 0) }}", "{{ nothing | tojson }}", "{{ strftime_now(5) }}",
    ],
)  # fmt: skip
def test_a_template_that_fails_returns_400(source: str) -> None:
    assert refusal(source, user("x"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ m | tojson }}", '{"b": "é", "a": [1, null]}'),
        ("{{ m | tojson(ensure_ascii=True) }}", '{"b": "\\u00e9", "a": [1, null]}'),
        ("{{ m | tojson(sort_keys=true) }}", '{"a": [1, null], "b": "é"}'),
        ("{{ m | tojson(separators=(',', ':')) }}", '{"b":"é","a":[1,null]}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ '<&>' | tojson }}", '"<&>"'),
        ("{{ messages[0].nothing }}|{{ nothing }}|{{ nothing is defined }}", "||False"),
        ("{{ messages[0].get('nothing', 'else') }}", "else"),
        ("{% for k, v in m.items() %}{{ k }}{{ v }};{% endfor %}", "bé;a[1, None];"),
        ("{{ m | dictsort | map('first') | join(',') }}", "a,b"),
        ("{{ ' a b '.strip().split(' ') | join('-') | upper }}", "A-B"),
        ("{{ 'ab'.replace('a', 'c') | title }}{{ 'ab'[::-1] }}{{ 'ab' * 2 }}", "Cbbaabab"),
        ("{% for x in [1, 2, 3] if x != 2 %}{{ loop.length }}{{ loop.index }}{% endfor %}", "2122"),
        ("{{ 'x' if 'a' in 'abc' and 1 < 2 <= 2 else 'y' }}{{ '%02d' % 7 }}", "x07"),
        ("{{ messages is iterable }}{{ m is mapping }}{{ 'a\nb' | indent(2) }}", "TrueTruea\n  b"),
        ("{% macro f(context) %}{{ context }}{% endmacro %}{{ f(context=2) }}", "2"),
        ("{{ 10 ** 3 + 7 // 2 - 1 }}{{ range(3) | list }}{{ 1.5 | int }}", "1002[0, 1, 2]1"),
        ("{{ ('<' | safe) + '&' }}{{ '<' | e }}{{ ('<' | e) ~ '<' }}", "<&&lt;&lt;<"),
        ("a\n  {% if true %}\n  b\n  {% endif %}\nc", "a\n  b\nc"),
    ],
)  # fmt: skip
def test_the_features_of_jinja_that_templates_use(source: str, expected: str) -> None:
    source = "{% set m = messages[0].args %}" + source
    assert text(render(source, user("x", args={"b": "é", "a": [1, None]}))) == expected


def test_bos_and_eos() -> None:
    parts = render("{{ bos_token }}x{{ eos_token }}", user("y"), control=("<s>", "</s>"))
    assert parts == (PromptPart("<s>", True), PromptPart("x", False), PromptPart("</s>", True))


@pytest.mark.parametrize(
    "source",
    ["{% if", "{{ }", "{% endfor %}", "{% for %}{% endfor %}", "{{ x | nothing }}",
     "{% do x %}", "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
     "{{ " + "-" * 20_000 + "1 }}", "{{ 1" + "+1" * 20_000 + " }}",
     "{% if x %}" * 5000 + "{% endif %}" * 5000, "{% for x in y %}" * 40 + "{% endfor %}" * 40,
     "{{ " + "9" * 100_000 + " }}", "{{ x }}" * 100_000],
    ids=lambda source: source[:16],
)  # fmt: skip
def test_invalid_templates(source: str) -> None:
    assert refusal(source, user("x"))


def test_variables_of_the_template() -> None:
    source = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if enable_thinking is defined and not enable_thinking %}<off>{% endif %}{{ tone }}"
    )
    template = ChatTemplate(source, "", "", ["<off>"])
    messages = [{"role": "user", "content": "Hi"}]

    def text(variables: dict[str, object] | None) -> str:
        return "".join(part.text for part in template.render(messages, variables=variables))

    assert text(None) == "Hi"
    assert text({"enable_thinking": False}) == "Hi<off>"
    parts = template.render(messages, variables={"tone": "<off>", "messages": []})
    assert [part.text for part in parts if part.special and "<off>" in part.text] == []
    assert "".join(part.text for part in parts) == "Hi<off>"
