"""A chat template for scripted models that reason and call tools."""

from __future__ import annotations

CONVERSATION = """\
{%- if tools %}<|im_start|>tools {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{%- if message.reasoning_content %} <think>{{ message.reasoning_content }}</think>{% endif %}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": {{ call.function.name | tojson }}, "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
"""
THINKING = "<|im_start|>assistant\n<think>\n"
"""Begins an answer with reasoning."""


def reasoning_template(condition: str, otherwise: str) -> str:
    """Return a template that writes everything that a conversation can have.

    Args:
        condition: of Jinja, for the beginning of an answer.
        otherwise: the beginning if it holds. If not, the answer begins with reasoning.
    """
    begin = f"{{%- if {condition} %}}{otherwise}{{% else %}}{THINKING}{{% endif %}}"
    return f"{CONVERSATION}{{%- if add_generation_prompt %}}{begin}{{%- endif %}}"
