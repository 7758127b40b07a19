"""Ollama's API."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.foreign import NOTES
from full_requests.shared.generation import SAMPLING, STAY
from full_requests.shared.messages import IMAGE_DATA
from full_requests.shared.structured import OBJECT, TOOL
from offgrid.api.ollama.context import to_context

_CALL = {"id": "c1", "function": {"index": 0, "name": "look", "arguments": {"a": True}}}
_MESSAGES: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Look!"},
    {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [_CALL]},
    {"role": "tool", "content": "7", "tool_name": "look", "tool_call_id": "c1"},
]
_SAMPLES: Json = {
    **{name: value for name, value in NOTES.items() if name != "options"},
    **STAY,
    "stream": True,
    "options": {
        **{name: SAMPLING[name] for name in ("temperature", "top_p", "top_k", "min_p", "seed")},
        "num_predict": 24, "stop": ["###"], "repeat_penalty": 1.1, "num_ctx": 512, "tfs_z": 1,
    },
    "think": False,
    "truncate": True,
    "shift": True,
    "logprobs": True,
    "top_logprobs": 2,
}  # fmt: skip
_FORMATS: list[Json] = [{"format": OBJECT}, {"format": "json"}, {"format": ""}]


def ollama_requests(starter: str, seeing: str) -> list[Full]:
    """The endpoints that generate and embed, and those about models."""
    model = {"model": starter}
    return [
        Full(
            "/api/chat",
            {**model, "messages": _MESSAGES},
            {**_SAMPLES, "tools": [TOOL], "system": "Be brief."},
            (_FORMATS,),
        ),
        Full(
            "/api/chat",
            {
                "model": seeing,
                "messages": [{"role": "user", "content": "Look!", "images": [IMAGE_DATA]}],
            },
        ),
        Full(
            "/api/generate",
            {**model, "prompt": "Once"},
            _SAMPLES,
            (
                _FORMATS,
                [
                    {"system": "Be brief.", "context": to_context([("user", "Hello!")])},
                    {"raw": True},
                    {"suffix": " end."},
                ],
            ),
        ),
        Full("/api/generate", {"model": seeing, "prompt": "Look!"}, {"images": [IMAGE_DATA]}),
        Full(
            "/api/embed",
            {**model, "input": ["Once", "upon"]},
            {**NOTES, **STAY, "dimensions": 8, "truncate": True},
        ),
        Full("/api/embeddings", {**model, "prompt": "Once"}, {**NOTES, **STAY}),
        Full(
            "/api/show",
            model,
            {
                **NOTES,
                "name": starter,
                "verbose": True,
                "system": "Be brief.",
                "template": "x",
            },
        ),
        Full(
            "/api/pull",
            model,
            {
                **NOTES,
                "name": starter,
                "stream": True,
                "insecure": True,
                "username": "me",
                "password": "x",
            },
        ),
    ]
