"""Decisions."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.foreign import NOTES
from full_requests.shared.generation import INERT, STAY
from full_requests.shared.messages import IMAGE_URL

_EVIDENCE: list[Json] = [
    {"type": "message", "role": "developer", "content": "Be brief."},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "7"},
    {"role": "user", "content": [
        {"type": "input_text", "text": "Hello!", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "input_json", "data": {"a": None}}]},
]  # fmt: skip
_MARKED = {"prompt_cache_breakpoint": {"mode": "explicit"}}
_QUESTIONS: list[Json] = [
    {"type": "predicate", "name": "kind", "instructions": "It is kind."},
    {"type": "choice", "name": "which", "instructions": [
        {"type": "input_text", "text": "Which?", **_MARKED},
        {"type": "input_json", "data": [{"a": 1}], **_MARKED}],
     "choices": [{"value": "a", "description": "The first."}, {"value": True}]},
    {"type": "score", "name": "how", "instructions": "How kind?", "levels": [
        {"label": "a", "description": "Not at all."}, {"label": "b"}]},
]  # fmt: skip


def decision_requests(starter: str) -> list[Full]:
    """The endpoint with questions of all types."""
    return [
        Full(
            "/v1/decisions",
            {"model": starter, "input": _EVIDENCE, "questions": _QUESTIONS},
            {
                **INERT,
                **NOTES,
                **STAY,
                "cache_prompt": False,
                "service_tier": "default",
                "priority": 1,
                "cache_salt": "salt",
            },
        )
    ]


def image_decision_requests(seeing: str) -> list[Full]:
    """The endpoint with a question about an image."""
    return [
        Full(
            "/v1/decisions",
            {
                "model": seeing,
                "input": [{"role": "user", "content": [{"type": "input_text", "text": "Look!"}]}],
                "questions": [
                    {
                        "type": "predicate",
                        "instructions": [
                            {"type": "input_text", "text": "It is red."},
                            {
                                "type": "input_image",
                                "image_url": IMAGE_URL,
                                "detail": "low",
                                **_MARKED,
                            },
                        ],
                    }
                ],
            },
        )
    ]
