"""What a sampler is told, checked once and then frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from offgrid.errors import InvalidParameter

SEED_MAX = (1 << 64) - 1
MAX_TOP_LOGPROBS = 1024
MAX_BREAKER_LENGTH = 20
"""Tokens of one DRY breaker behind its first one, as in llama.cpp."""
_INT32_MAX = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. The defaults leave the model's distribution as it is.

    The order in which the parameters act, their exact definitions and their sources stand in
    ``csrc/og_sampler.h`` and ``csrc/og_dry.h``.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token, and nothing below acts.
        top_p: keep the smallest set of most likely tokens with this mass, 0 to 1; 1 is off.
        top_k: keep this many most likely tokens; 0 is off.
        min_p: drop tokens less likely than this fraction of the most likely one's, 0 to 1.
        p_less: drop tokens less likely than the sum of the squares of all probabilities.
        frequency_penalty: subtracted once for every time a token was generated, -2 to 2.
        presence_penalty: subtracted from every token that was generated, -2 to 2.
        repetition_penalty: divides (multiplies, if negative) the logits of tokens in the last
            ``repeat_last_n`` of prompt and answer; above 0, 1 is off.
        repeat_last_n: that window in tokens; 0 is off, -1 everything.
        logit_bias: token id -> number added to its logit, -100 to 100; ``-inf`` or ``False`` bans.
        seed: 64 bits (a negative number stands for its two's complement); None draws a random one.
        top_n_sigma: keep logits within this many standard deviations of the largest; 0 is off.
        typical_p: keep the tokens whose information is nearest to the entropy, up to this mass;
            1 is off.
        xtc_probability: how often, 0 to 1, all tokens with a mass of ``xtc_threshold`` or more are
            dropped but the least likely of them; 0 is off.
        xtc_threshold: that mass; above 0.5 is off.
        dynatemp_range: the temperature moves by up to this much either way with the entropy of the
            row; 0 is off.
        dynatemp_exponent: how the entropy, as a share of the largest possible, is bent for that.
        mirostat: 0 off; 1 or 2 take the place of all truncation above.
        mirostat_tau: the surprise in bits that mirostat steers to.
        mirostat_eta: how fast it steers.
        adaptive_target: prefer tokens whose probability is near this, 0 to 1, so that those drawn
            come near it on average; below 0 is off. It has no effect with mirostat.
        adaptive_decay: how much of that average is kept at every token, 0 to 0.99.
        dry_multiplier: strength of the penalty for a token that continues a repetition; 0 is off.
        dry_base: the penalty grows by this factor for every repeated token more.
        dry_allowed_length: repetitions up to this length cost nothing more than the multiplier.
        dry_penalty_last_n: tokens of prompt and answer that are searched; 0 is off, -1 everything.
        dry_breakers: token sequences that end a repetition.
        min_tokens: tokens that end the answer are not drawn before this many.
        min_keep: every truncation leaves at least this many tokens.

    Raises:
        InvalidParameter: a value of a wrong type or out of range; ``param`` names the field.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    p_less: bool = False
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = 64
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_breakers: Sequence[Sequence[int]] = ()
    min_tokens: int = 0
    min_keep: int = 0

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 1e6)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("repetition_penalty", self.repetition_penalty, 1e-3, 1e3)
        _check_integer("top_k", self.top_k, 0, _INT32_MAX)
        _check_integer("repeat_last_n", self.repeat_last_n, -1, _INT32_MAX)
        if self.seed is not None:
            _check_integer("seed", self.seed, -(1 << 63), SEED_MAX)
        # Copies of what others could still change.
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", MappingProxyType(dict(self.logit_bias)))
        try:
            breakers = tuple(tuple(breaker) for breaker in self.dry_breakers)
        except TypeError:
            raise InvalidParameter(
                "dry_breakers must be token sequences.", "dry_breakers"
            ) from None
        object.__setattr__(self, "dry_breakers", breakers)
        for token, value in (self.logit_bias or {}).items():
            _check_integer("logit_bias", token, 0, _INT32_MAX)
            if value is not False and value != -math.inf:
                _check_number("logit_bias", value, -100.0, 100.0)
        _check_number("top_n_sigma", self.top_n_sigma, 0.0, 1e6)
        _check_number("typical_p", self.typical_p, 0.0, 1.0)
        _check_number("xtc_probability", self.xtc_probability, 0.0, 1.0)
        _check_number("xtc_threshold", self.xtc_threshold, 0.0, 1.0)
        _check_number("dynatemp_range", self.dynatemp_range, 0.0, 1e6)
        _check_number("dynatemp_exponent", self.dynatemp_exponent, 0.0, 100.0)
        _check_integer("mirostat", self.mirostat, 0, 2)
        _check_number("mirostat_tau", self.mirostat_tau, 0.0, 100.0)
        _check_number("mirostat_eta", self.mirostat_eta, 0.0, 10.0)
        _check_number("adaptive_target", self.adaptive_target, -1.0, 1.0)
        _check_number("adaptive_decay", self.adaptive_decay, 0.0, 0.99)
        if not isinstance(self.p_less, bool):
            raise InvalidParameter(
                f"p_less must be true or false, not {type(self.p_less).__name__}.", "p_less"
            )
        _check_number("dry_multiplier", self.dry_multiplier, 0.0, 100.0)
        _check_number("dry_base", self.dry_base, 1.0, 100.0)
        _check_integer("dry_allowed_length", self.dry_allowed_length, 0, _INT32_MAX)
        _check_integer("dry_penalty_last_n", self.dry_penalty_last_n, -1, _INT32_MAX)
        for breaker in self.dry_breakers:
            if not 1 <= len(breaker) <= MAX_BREAKER_LENGTH + 1:
                raise InvalidParameter(
                    f"A breaker has 1 to {MAX_BREAKER_LENGTH + 1} tokens, not {len(breaker)}.",
                    "dry_breakers",
                )
            for token in breaker:
                _check_integer("dry_breakers", token, 0, _INT32_MAX)
        _check_integer("min_tokens", self.min_tokens, 0, _INT32_MAX)
        _check_integer("min_keep", self.min_keep, 0, _INT32_MAX)


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
