"""Short chat templates in the forms of model families, with an answer that such a model writes.

They are written for the tests: each describes tools, writes calls, results and reasoning in its
family's form, and marks turns in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass

TOOLS = "{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
ARGUMENTS = "{{ f.arguments | tojson }}"
PLAIN_VALUE = "{{ v if v is string else v | tojson }}"


@dataclass(frozen=True)
class Example:
    """One family's template.

    Attributes:
        template: Jinja text.
        control: texts of the model's control tokens.
        answer: reasoning, content and a call of ``get(city="Oslo", days=13)`` as the model writes
            them; the text ``{thought}`` stands for reasoning and ``{content}`` for content.
        family: the name of the family.
        opens: whether the prompt opens reasoning, so that the answer begins within it.
    """

    family: str
    template: str
    control: tuple[str, ...]
    answer: str
    opens: bool = False


def _calls(call: str, begin: str = "", end: str = "", between: str = "") -> str:
    """The Jinja text for all calls of message ``m``; in ``call``, ``f`` is the function."""
    comma = f"{{% if not loop.first %}}{between}{{% endif %}}" if between else ""
    return (
        f"{{% if m.tool_calls %}}{begin}{{% for c in m.tool_calls %}}{{% set f = c.function %}}"
        f"{comma}{call}{{% endfor %}}{end}{{% endif %}}"
    )


def _each(before: str, between: str, after: str) -> str:
    """The Jinja text for the arguments one by one."""
    return (
        f"{{% for k, v in f.arguments.items() %}}{before}{{{{ k }}}}{between}{PLAIN_VALUE}{after}"
        "{% endfor %}"
    )


def _chat(start: str, end: str, calls: str, result: str, ask: str, reason: str = "") -> str:
    """A template: ``start`` and ``end`` of a turn, and what stands in it."""
    thought = f"{{% if m.reasoning_content %}}{reason}{{% endif %}}" if reason else ""
    return (
        f"{{% if tools %}}{{% set m = {{'role': 'system'}} %}}{start}{TOOLS}{end}{{% endif %}}"
        "{% for m in messages %}{% if m.role == 'tool' %}"
        f"{result}{{% else %}}{start}{thought}{{{{ m.content or '' }}}}{calls}{end}{{% endif %}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{ask}{{% endif %}}"
    )


IM = ("<|im_start|>{{ m.role }}\n", "<|im_end|>\n")
IM_RESULT = "<|im_start|>tool\n{{ m.content }}<|im_end|>\n"
IM_ASK = "<|im_start|>assistant\n"
IM_CONTROL = ("<|im_start|>", "<|im_end|>")
THINK = "<think>\n{{ m.reasoning_content }}\n</think>\n\n"
ARGS = '{"city": "Oslo", "days": 13}'

EXAMPLES = (
    Example(
        "hermes",
        _chat(
            *IM, _calls(
                '\n<tool_call>\n{"name": "{{ f.name }}", "arguments": ' + ARGUMENTS
                + "}\n</tool_call>"
            ), IM_RESULT, IM_ASK, THINK,
        ),
        (*IM_CONTROL, "<think>", "</think>", "<tool_call>", "</tool_call>"),
        '<think>\n{thought}\n</think>\n\n{content}\n<tool_call>\n{"name": "get", "arguments": '
        + ARGS + "}\n</tool_call>",
    ),
    Example(
        "qwen-xml",
        _chat(
            *IM, _calls(
                "\n<tool_call>\n<function={{ f.name }}>\n"
                + _each("<parameter=", ">\n", "\n</parameter>\n") + "</function>\n</tool_call>"
            ), IM_RESULT, IM_ASK + "<think>\n", THINK,
        ),
        (*IM_CONTROL, "<think>", "</think>", "<tool_call>", "</tool_call>"),
        "{thought}\n</think>\n\n{content}\n\n<tool_call>\n<function=get>\n<parameter=city>\nOslo\n"
        "</parameter>\n<parameter=days>\n13\n</parameter>\n</function>\n</tool_call>",
        opens=True,
    ),
    Example(
        "glm",
        _chat(
            "<|{{ m.role }}|>\n", "", _calls(
                "\n<tool_call>{{ f.name }}\n"
                + _each("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n") + "</tool_call>"
            ), "<|observation|>\n<tool_response>\n{{ m.content }}\n</tool_response>",
            "<|assistant|>", "<think>{{ m.reasoning_content }}</think>\n",
        ),
        ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<think>", "</think>",
         "<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        "\n<think>{thought}</think>\n{content}\n<tool_call>get\n<arg_key>city</arg_key>\n"
        "<arg_value>Oslo</arg_value>\n<arg_key>days</arg_key>\n<arg_value>13</arg_value>\n"
        "</tool_call>",
    ),
    Example(
        "deepseek-v3.1",
        _chat(
            "{% if m.role == 'user' %}<｜User｜>{% elif m.role == 'assistant' %}<｜Assistant｜>"
            "{% if not m.reasoning_content %}</think>{% endif %}{% endif %}",
            "{% if m.role == 'assistant' %}<｜end▁of▁sentence｜>{% endif %}",
            _calls(
                "<｜tool▁call▁begin｜>{{ f.name }}<｜tool▁sep｜>" + ARGUMENTS
                + "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
            ),
            "<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>", "<｜Assistant｜><think>",
            "<think>{{ m.reasoning_content }}</think>",
        ),
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>", "</think>",
         "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
         "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁output▁begin｜>",
         "<｜tool▁output▁end｜>"),
        "{thought}</think>{content}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>"
        + ARGS + "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        opens=True,
    ),
    Example(
        "kimi-k2",
        _chat(
            "<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>", "<|im_end|>", _calls(
                "<|tool_call_begin|>functions.{{ f.name }}:{{ loop.index0 }}"
                "<|tool_call_argument_begin|>" + ARGUMENTS + "<|tool_call_end|>",
                "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
            ),
            "<|im_system|>tool<|im_middle|>## Return\n{{ m.content }}<|im_end|>",
            "<|im_assistant|>assistant<|im_middle|>", "<think>{{ m.reasoning_content }}</think>",
        ),
        ("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>",
         "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>",
         "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
        "<think>{thought}</think>{content}<|tool_calls_section_begin|><|tool_call_begin|>"
        "functions.get:0<|tool_call_argument_begin|>" + ARGS
        + "<|tool_call_end|><|tool_calls_section_end|>",
    ),
    Example(
        "mistral-named",
        _chat(
            "{% if m.role == 'user' %}[INST]{% elif m.role == 'system' %}[SYSTEM_PROMPT]"
            "{% endif %}",
            "{% if m.role == 'user' %}[/INST]{% elif m.role == 'system' %}[/SYSTEM_PROMPT]"
            "{% else %}</s>{% endif %}",
            _calls("[TOOL_CALLS]{{ f.name }}[ARGS]" + ARGUMENTS),
            "[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]", "",
            "[THINK]{{ m.reasoning_content }}[/THINK]",
        ),
        ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "</s>", "[TOOL_CALLS]",
         "[ARGS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[THINK]", "[/THINK]"),
        "[THINK]{thought}[/THINK]{content}[TOOL_CALLS]get[ARGS]" + ARGS,
    ),
    Example(
        "mistral",
        _chat(
            "{% if m.role == 'user' %}[INST]{% elif m.role == 'system' %}[AVAILABLE_TOOLS]"
            "{% endif %}",
            "{% if m.role == 'user' %}[/INST]{% elif m.role == 'system' %}[/AVAILABLE_TOOLS]"
            "{% else %}</s>{% endif %}",
            _calls(
                '{"name": "{{ f.name }}", "arguments": ' + ARGUMENTS + ', "id": "{{ c.id }}"}',
                "[TOOL_CALLS][", "]", ", ",
            ),
            "[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]", "",
        ),
        ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "</s>", "[TOOL_CALLS]",
         "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        '{content}[TOOL_CALLS][{"name": "get", "arguments": ' + ARGS + ', "id": "call12345"}]',
    ),
    Example(
        "gemma4",
        _chat(
            "<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n", "<turn|>\n", _calls(
                "<|tool_call>call:{{ f.name }}{{ '{' }}"
                "{% for k, v in f.arguments.items() %}{% if not loop.first %},{% endif %}{{ k }}:"
                "{% if v is string %}<|\"|>{{ v }}<|\"|>{% else %}{{ v | tojson }}{% endif %}"
                "{% endfor %}}<tool_call|>"
            ),
            "<|tool_response>response:{{ m.content }}<tool_response|>", "<|turn>model\n",
            "<|channel>thought\n{{ m.reasoning_content }}<channel|>",
        ),
        ("<|turn>", "<turn|>", "<|tool_call>", "<tool_call|>", "<|tool_response>",
         "<tool_response|>", "<|channel>", "<channel|>", '<|"|>'),
        '<|channel>thought\n{thought}<channel|>{content}<|tool_call>call:get{city:<|"|>Oslo<|"|>,'
        "days:13}<tool_call|>",
    ),
    Example(
        "harmony",
        "{% if tools %}<|start|>developer<|message|>" + TOOLS + "<|end|>{% endif %}"
        "{% for m in messages %}{% if m.role == 'tool' %}<|start|>functions to=assistant<|channel|>"
        "commentary<|message|>{{ m.content }}<|end|>{% elif m.role == 'assistant' %}"
        "{% if m.reasoning_content %}<|start|>assistant<|channel|>analysis<|message|>"
        "{{ m.reasoning_content }}<|end|>{% endif %}{% for c in m.tool_calls or [] %}"
        "{% set f = c.function %}<|start|>assistant to=functions.{{ f.name }}<|channel|>commentary "
        "json<|message|>" + ARGUMENTS + "<|call|>{% endfor %}{% if m.content %}<|start|>assistant"
        "<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}{% else %}<|start|>"
        "{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>",
         "<|constrain|>"),
        "<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final"
        "<|message|>{content}<|end|><|start|>assistant to=functions.get<|channel|>commentary json"
        "<|message|>" + ARGS,
    ),
    Example(
        "lfm2",
        _chat(
            *IM, _calls(
                "{{ f.name }}({% for k, v in f.arguments.items() %}{% if not loop.first %}, "
                "{% endif %}{{ k }}={{ v | tojson }}{% endfor %})",
                "<|tool_call_start|>[", "]<|tool_call_end|>", ", ",
            ), IM_RESULT, IM_ASK, THINK,
        ),
        (*IM_CONTROL, "<|tool_call_start|>", "<|tool_call_end|>", "<think>", "</think>"),
        "<think>\n{thought}\n</think>\n\n{content}<|tool_call_start|>[get(city=\"Oslo\", days=13)]"
        "<|tool_call_end|>",
    ),
    Example(
        "minimax-m2",
        _chat(
            "]~b]{{ 'ai' if m.role == 'assistant' else m.role }}\n", "[e~[\n", _calls(
                '<invoke name="{{ f.name }}">\n'
                + _each('<parameter name="', '">', "</parameter>\n") + "</invoke>\n",
                "\n<minimax:tool_call>\n", "</minimax:tool_call>",
            ), "]~b]tool\n<response>{{ m.content }}</response>[e~[\n", "]~b]ai\n<think>\n", THINK,
        ),
        ("]~b]", "[e~[", "<think>", "</think>", "<minimax:tool_call>", "</minimax:tool_call>"),
        '{thought}\n</think>\n\n{content}\n<minimax:tool_call>\n<invoke name="get">\n<parameter '
        'name="city">Oslo</parameter>\n<parameter name="days">13</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
        opens=True,
    ),
    Example(
        "command",
        _chat(
            "<|START_OF_TURN_TOKEN|><|{{ 'CHATBOT' if m.role == 'assistant' else m.role | upper }}"
            "_TOKEN|>{% if m.role == 'assistant' and m.content %}<|START_RESPONSE|>{% endif %}",
            "{% if m.role == 'assistant' and m.content %}<|END_RESPONSE|>{% endif %}"
            "<|END_OF_TURN_TOKEN|>",
            _calls(
                '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ f.name }}", "parameters": '
                + ARGUMENTS + "}", "<|START_ACTION|>[\n", "\n]<|END_ACTION|>", ",\n",
            ),
            "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>{{ m.content }}"
            "<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>",
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            "<|START_THINKING|>{{ m.reasoning_content }}<|END_THINKING|>",
        ),
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
         "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_ACTION|>",
         "<|END_ACTION|>", "<|START_THINKING|>", "<|END_THINKING|>", "<|START_TOOL_RESULT|>",
         "<|END_TOOL_RESULT|>"),
        "<|START_THINKING|>{thought}<|END_THINKING|><|START_RESPONSE|>{content}<|END_RESPONSE|>"
        '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "get", "parameters": ' + ARGS
        + "}\n]<|END_ACTION|>",
    ),
    Example(
        "phi",
        _chat(
            "<|start_of_role|>{{ m.role }}<|end_of_role|>", "<|end_of_text|>\n", _calls(
                '{"name": "{{ f.name }}", "arguments": ' + ARGUMENTS + "}",
                "<|tool_call|>[", "]<|/tool_call|>", ", ",
            ),
            "<|start_of_role|>tool_response<|end_of_role|>{{ m.content }}<|end_of_text|>\n",
            "<|start_of_role|>assistant<|end_of_role|>", "<think>{{ m.reasoning_content }}</think>",
        ),
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|tool_call|>",
         "<|/tool_call|>"),
        '<think>{thought}</think>{content}<|tool_call|>[{"name": "get", "arguments": ' + ARGS
        + "}]<|/tool_call|>",
    ),
    Example(
        "llama",
        "{% if tools %}<|start_header_id|>system<|end_header_id|>\n\n" + TOOLS + "<|eot_id|>"
        "{% endif %}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call') }}"
        "{% endif %}{% set f = m.tool_calls[0].function %}"
        '{"name": "{{ f.name }}", "parameters": ' + ARGUMENTS + "}{% else %}{{ m.content }}"
        "{% endif %}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>"
        "assistant<|end_header_id|>\n\n{% endif %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
        '{"name": "get", "parameters": ' + ARGS + "}",
    ),
)  # fmt: skip
"""What each family writes; a family without reasoning or content has none in its answer."""
