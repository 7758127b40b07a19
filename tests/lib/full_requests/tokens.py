"""Text to tokens, and tokens to text."""

from __future__ import annotations

from full_requests.full import Full
from full_requests.shared.foreign import NOTES, SWITCHES
from full_requests.shared.generation import STAY
from full_requests.shared.messages import MESSAGES, TO_CONTINUE
from full_requests.shared.structured import TOOL


def token_requests(starter: str) -> list[Full]:
    """The tokens of texts and of messages, and the text of tokens."""
    model = {"model": starter}
    return [
        Full(
            "/tokenize",
            {"content": "Once"},
            {
                **NOTES,
                **STAY,
                **model,
                "add_special": True,
                "parse_special": False,
                "with_pieces": True,
            },
        ),
        Full(
            "/tokenize",
            {"prompt": "Once"},
            {
                **NOTES,
                **STAY,
                **model,
                "add_special_tokens": False,
                "return_token_strs": True,
            },
        ),
        Full(
            "/tokenize",
            {"messages": TO_CONTINUE},
            {
                **NOTES,
                **STAY,
                **SWITCHES,
                **model,
                "reasoning_effort": "low",
                "documents": [{"title": "A", "text": "B"}],
                "chat_template_kwargs": {"polite": True},
                "add_special_tokens": False,
                "return_token_strs": True,
                "tools": [TOOL],
            },
            (
                [
                    {"add_generation_prompt": False, "continue_final_message": True},
                    {"add_generation_prompt": True, "messages": MESSAGES},
                ],
            ),
        ),
        Full("/detokenize", {"tokens": [300, 301]}, {**NOTES, **STAY, **model}),
    ]
