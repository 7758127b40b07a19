"""Chat completions, and the tokens of their prompts."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.foreign import FOREIGN, SAME, SWITCHES
from full_requests.shared.generation import GENERATION, REPETITION, STREAM
from full_requests.shared.messages import LOOK, MESSAGES, TO_CONTINUE
from full_requests.shared.structured import GRAMMARS, TOOL

CHAT = "/v1/chat/completions"
CHAT_SAMPLES: Json = {
    **GENERATION,
    **SAME,
    **{name: value for name, value in FOREIGN.items() if name != "n"},
    **SWITCHES,
    "max_completion_tokens": 24,
    "logprobs": True,
    "top_logprobs": 2,
    "reasoning_effort": "low",
    "chat_template_kwargs": {"polite": True, "controls": {"length": ["short"]}},
    "documents": [{"title": "Otters", "text": "Otters swim."}],
    "prediction": {
        "type": "content",
        "content": [
            {"type": "text", "text": "Otters ", "prompt_cache_breakpoint": {"mode": "explicit"}},
            {"type": "text", "text": "swim."},
        ],
    },
}
_CHOICES: list[Json] = [
    {"tool_choice": "auto"},
    {"tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"tool_choice": {"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "look"}}]}}},
]  # fmt: skip
CHAT_ALTERNATIVES: tuple[list[Json], ...] = (
    REPETITION,
    STREAM,
    [
        {"add_generation_prompt": True},
        {"continue_final_message": True, "messages": TO_CONTINUE, "add_generation_prompt": False},
    ],
    # Tools can be combined with response_format, and with no other grammar.
    [
        *(
            {"tools": [TOOL], "parallel_tool_calls": False, **choice, **format}
            for choice, format in zip(_CHOICES, GRAMMARS, strict=False)
        ),
        *GRAMMARS[3:],
    ],
)


def chat_requests(starter: str, seeing: str) -> list[Full]:
    """Each endpoint with messages of all roles, and with an image."""
    conversation = {"model": starter, "messages": MESSAGES}
    look = {"model": seeing, "messages": [{"role": "user", "content": LOOK}]}
    return [
        Full(CHAT, conversation, CHAT_SAMPLES, CHAT_ALTERNATIVES),
        Full(f"{CHAT}/input_tokens", conversation, CHAT_SAMPLES, CHAT_ALTERNATIVES),
        Full(CHAT, look),
        Full(f"{CHAT}/input_tokens", look),
    ]
