"""Text completions."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.foreign import FOREIGN, SAME, SWITCHES
from full_requests.shared.generation import GENERATION, REPETITION, STREAM
from full_requests.shared.structured import GRAMMARS

COMPLETIONS = "/v1/completions"
COMPLETION_SAMPLES: Json = {
    **GENERATION,
    **SAME,
    **{name: value for name, value in FOREIGN.items() if name not in ("best_of", "echo", "n")},
    **SWITCHES,
    "max_completion_tokens": 24,
}
_ALTERNATIVES: tuple[list[Json], ...] = (
    REPETITION,
    STREAM,
    [{"suffix": " end."}, {"logprobs": 2, "echo": True, "best_of": 2}],
    GRAMMARS,
)


def completion_requests(starter: str) -> list[Full]:
    """The endpoint with all its fields."""
    required = {"model": starter, "prompt": "Once"}
    return [Full(COMPLETIONS, required, COMPLETION_SAMPLES, _ALTERNATIVES)]
