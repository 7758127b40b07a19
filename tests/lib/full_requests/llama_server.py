"""llama-server's own endpoints."""

from __future__ import annotations

from support import Json

from full_requests.chat import CHAT_ALTERNATIVES, CHAT_SAMPLES
from full_requests.completions import COMPLETION_SAMPLES
from full_requests.full import Full
from full_requests.shared.generation import REPETITION
from full_requests.shared.messages import LOOK, MESSAGES
from full_requests.shared.structured import GRAMMARS

_SAMPLES: Json = {
    **{name: value for name, value in COMPLETION_SAMPLES.items() if name != "n_probs"},
    "best_of": 1,
    "echo": False,
    "n_probs": 2,
    "return_tokens": True,
    "samplers": "penalties;top_k;temperature",
    "t_max_prompt_ms": 500,
    "sse_ping_interval": 5,
}
_ALTERNATIVES: tuple[list[Json], ...] = (
    REPETITION,
    [{"stream": True}, {"stream": False, "response_fields": ["content"]}],
    GRAMMARS,
)


def llama_server_requests(starter: str, seeing: str) -> list[Full]:
    """Completions of prompts of all kinds, fill-in-the-middle, and prompts of chats."""
    model = {"model": starter}
    return [
        *(
            Full(path, {**model, "prompt": prompt}, _SAMPLES, _ALTERNATIVES)
            for path in ("/completion", "/completions")
            for prompt in ("Once", [{"prompt_string": "Once"}, [5, "upon"]])
        ),
        Full(
            "/infill",
            {**model, "input_prefix": "a", "input_suffix": "b"},
            {
                **_SAMPLES,
                "input_extra": [{"text": "c", "filename": "c.py", "time": [1, 2]}],
                "prompt": "  ",
            },
            _ALTERNATIVES,
        ),
        Full(
            "/apply-template",
            {**model, "messages": MESSAGES},
            CHAT_SAMPLES,
            CHAT_ALTERNATIVES,
        ),
        Full(
            "/apply-template",
            {"model": seeing, "messages": [{"role": "user", "content": LOOK}]},
        ),
    ]
