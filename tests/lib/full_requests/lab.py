"""The lab: distributions of the next token."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.foreign import NOTES, SWITCHES
from full_requests.shared.generation import INERT, REPETITION, SAMPLING, STAY
from full_requests.shared.messages import LOOK, MESSAGES, TO_CONTINUE
from full_requests.shared.structured import TOOL

_SAMPLES: Json = {
    **INERT,
    **NOTES,
    **STAY,
    **{name: value for name, value in SAMPLING.items()
       if name not in ("stop", "banned_strings", "post_sampling_probs")},
    "mirostat_mode": 2, "min_length": 1, "nsigma": 3.0, "random_seed": 7, "sampler_seed": 7,
    "typical": 0.99, "ban_eos_token": True, "rep_pen_range": 32, "repetition_penalty_range": 32,
    "continuation": [5, 6, 5],
    "top": 3,
    "samples": 20,
    "samplers": ["penalties", "dry", "temperature", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "service_tier": "default",
    "priority": 1,
}  # fmt: skip
_CHAT_SAMPLES: Json = {
    **SWITCHES,
    "reasoning_effort": "low",
    "chat_template_kwargs": {"polite": True, "controls": {"length": ["short"]}},
    "documents": [{"title": "Otters", "text": "Otters swim."}],
    "tools": [{**TOOL, "function": {**TOOL["function"], "strict": False}}],
}
_CHAT_ALTERNATIVES: tuple[list[Json], ...] = (
    REPETITION,
    [
        {"add_generation_prompt": True},
        {"continue_final_message": True, "messages": TO_CONTINUE, "add_generation_prompt": False},
    ],
)


def lab_requests(starter: str, seeing: str) -> list[Full]:
    """The endpoint after messages, after an image, and after texts and tokens."""
    model = {"model": starter}
    return [
        Full(
            "/v1/lab/distribution",
            {**model, "messages": MESSAGES},
            {**_SAMPLES, **_CHAT_SAMPLES},
            _CHAT_ALTERNATIVES,
        ),
        Full(
            "/v1/lab/distribution",
            {"model": seeing, "messages": [{"role": "user", "content": LOOK}]},
            {"continuation": "A"},
        ),
        Full(
            "/v1/lab/distribution",
            model,
            _SAMPLES,
            ([{"prompt": "Once"}, {"tokens": [5, 6]}], REPETITION),
        ),
    ]
