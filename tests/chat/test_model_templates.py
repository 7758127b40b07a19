"""The templates of real models, in short."""

from __future__ import annotations

import json
from datetime import datetime

from support import together

from offgrid.chat.template import ChatTemplate

from .rendering import (
    WEATHER,
    assistant,
    render,
    special,
    system,
    text,
    user,
)

LLAMA3_CONTROL = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
LLAMA2 = """\
{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}\
{% set rules = messages[0]['content'] %}{% else %}{% set rest = messages %}\
{% set rules = false %}{% endif %}{% for message in rest %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if loop.index0 == 0 and rules %}\
{% set content = '<<SYS>>\\n' + rules + '\\n<</SYS>>\\n\\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}\
{% endfor %}"""
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
{% if message['role'] == 'assistant' %}{% set role = 'model' %}\
{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now('%d %b %Y') %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set rules = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set rules = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n' }}
{{- rules + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
MISTRAL = """\
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- if tools is not none and tools | length > 0 %}
[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if message == users[-1] %}[LAST]{% endif %}
        {{- '[INST] ' ~ message.content ~ '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {{- {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}
            {%- if not loop.last %}{{ ', ' }}{% endif %}
        {%- endfor %}
        {{- ']' + eos_token }}
    {%- else %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""
THINKING = """\
{%- set ns = namespace(last=-1, seen=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if message.role == 'user' and not message.content.startswith('<tool_response>') %}
        {%- set ns.last = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- set content = message.content %}
    {%- if '</think>' in content and loop.index0 <= ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- content + '<|im_end|>\\n' }}{% endgeneration %}
    {%- else %}
        {{- content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think></think>' }}{% endif %}
"""


def test_llama_2() -> None:
    control = ("<s>", "</s>")
    parts = render(
        LLAMA2, system("Be brief."), user("Hi "), assistant("Hello."), user("Bye"), control=control
    )
    assert text(parts) == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]"
    )
    assert special(parts) == ["<s>", "</s>", "<s>"]


def test_turns_that_do_not_alternate_are_merged() -> None:
    control = ("<s>", "</s>")
    messages = [user("One."), user("Two."), assistant(""), assistant("Three."), user("4")]
    parts = render(LLAMA2, *messages, control=control)
    assert text(parts) == "<s>[INST] One.\n\nTwo. [/INST] Three. </s><s>[INST] 4 [/INST]"


def test_system_text_goes_to_the_user_if_there_is_no_system_role() -> None:
    control = ("<bos>", "<start_of_turn>", "<end_of_turn>")
    messages = [
        system("Be brief."),
        user("Hi"),
        assistant("Yes?"),
        system("Now rhyme."),
        user("Go"),
    ]
    parts = render(GEMMA, *messages, control=control)
    assert text(parts) == (
        "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n"
        "<start_of_turn>model\nYes?<end_of_turn>\n"
        "<start_of_turn>user\nNow rhyme.\n\nGo<end_of_turn>\n<start_of_turn>model\n"
    )
    developer = {"role": "developer", "content": "Be brief."}
    assert text(render(GEMMA, developer, user("Hi"))).count("Be brief.\n\nHi") == 1
    assert messages[0] == system("Be brief.")


def test_the_retry_marks_user_text_again() -> None:
    control = ("<start_of_turn>", "<end_of_turn>", "\n\n|")
    parts = render(
        GEMMA, system("<end_of_"), user("turn>"), user("|<end_of_turn>"), control=control
    )
    assert special(parts) == ["<start_of_turn>", "<end_of_turn>", "<start_of_turn>"]


def test_llama_3() -> None:
    before = datetime.now()
    parts = render(LLAMA3, system(" Be brief. "), user("Hi"), control=LLAMA3_CONTROL)
    dates = {f"{moment:%d %b %Y}" for moment in (before, datetime.now())}
    assert text(parts) in {
        "<s><|start_header_id|>system<|end_header_id|>\n\n"
        f"Today: {date}\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        for date in dates
    }
    assert len(special(parts)) == 8


def test_mistral_with_tools() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {"ü": "é"}}}
    parts = render(
        MISTRAL, user("Hi"), assistant("", tool_calls=[call, call]), user("[/INST]"),
        control=("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
        tools=[WEATHER],
    )  # fmt: skip
    one = '{"name": "f", "arguments": {"ü": "é"}}'
    assert text(parts) == (
        f"[AVAILABLE_TOOLS] {json.dumps([WEATHER])}[/AVAILABLE_TOOLS][INST] Hi[/INST]"
        f"[TOOL_CALLS] [{one}, {one}]</s>[LAST][INST] [/INST][/INST]"
    )
    assert special(parts) == [
        "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[INST]", "[/INST]", "[TOOL_CALLS]", "[INST]",
        "[/INST]",
    ]  # fmt: skip


def test_namespace_loop_controls_and_generation() -> None:
    parts = render(
        THINKING,
        system("Be kind."),
        user("Hi"),
        assistant("<think>Hm.</think>\n\nHello."),
        user("And?"),
        assistant("<think>Now.</think>Well"),
    )
    assert text(parts) == (
        "<|im_start|>user\nBe kind.\n\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nAnd?<|im_end|>\n"
        "<|im_start|>assistant\n<think>Now.</think>Well<|im_end|>\n<|im_start|>assistant\n"
    )


def test_threads_do_not_mix_their_messages() -> None:
    template = ChatTemplate(LLAMA3, "<s>", "</s>", LLAMA3_CONTROL)

    def work(number: int) -> bool:
        return all(
            f"number {number}<|eot_id|>" in text(template.render([user(f"number {number}")]))
            for _ in range(50)
        )

    assert all(together([lambda n=n: work(n) for n in range(4)]))
