"""What a sampler is told, checked once and then frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from offgrid.errors import InvalidParameter

SEED_MAX = (1 << 64) - 1
MAX_TOP_LOGPROBS = 1024


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. The defaults leave the model's distribution as it is.

    The order in which the parameters act and their exact definitions stand in
    ``csrc/og_sampler.h``.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: keep the smallest set of most likely tokens with this mass, 0 to 1; 1 is off.
        top_k: keep this many most likely tokens; 0 is off.
        min_p: drop tokens less likely than this fraction of the most likely one's, 0 to 1.
        frequency_penalty: subtracted once for every time a token was generated, -2 to 2.
        presence_penalty: subtracted from every token that was generated, -2 to 2.
        repetition_penalty: divides (multiplies, if negative) the logits of tokens in the last
            ``repeat_last_n`` of prompt and answer; above 0, 1 is off.
        repeat_last_n: that window in tokens; 0 is off, -1 everything.
        logit_bias: token id -> number added to its logit, -100 to 100; ``-inf`` or ``False`` bans.
        seed: 64 bits (a negative number stands for its two's complement); None draws a random one.

    Raises:
        InvalidParameter: a value of a wrong type or out of range; ``param`` names the field.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = 64
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 1e6)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("repetition_penalty", self.repetition_penalty, 1e-3, 1e3)
        _check_integer("top_k", self.top_k, 0, (1 << 31) - 1)
        _check_integer("repeat_last_n", self.repeat_last_n, -1, (1 << 31) - 1)
        if self.seed is not None:
            _check_integer("seed", self.seed, -(1 << 63), SEED_MAX)
        for token, value in (self.logit_bias or {}).items():
            _check_integer("logit_bias", token, 0, (1 << 31) - 1)
            if value is not False and value != -math.inf:
                _check_number("logit_bias", value, -100.0, 100.0)


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameter(f"{name} must be a number, not {type(value).__name__}.", name)
    # NaN compares false with everything and is caught here too.
    if not low <= value <= high:
        raise InvalidParameter(f"{name} must be between {low:g} and {high:g}, not {value}.", name)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParameter(f"{name} must be a whole number, not {type(value).__name__}.", name)
    if not low <= value <= high:
        raise InvalidParameter(f"{name} must be between {low} and {high}, not {value}.", name)
