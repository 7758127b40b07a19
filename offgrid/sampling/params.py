"""The sampling parameters: one table for the library, the pipe to the worker, the API and the docs.

To add a parameter, write

1. its row in :class:`SamplingParams`: default, range, and the API's range where that differs;
2. its field in ``csrc/og_config.h`` (a default other than 0 also in ``og_config_init``), and its
   effect, for example in ``csrc/og_truncate.c``;
3. the same field in ``_core.pxd``;
4. its definition in ``tests/lib/reference.py``;
5. its row in ``docs/API.md``;
6. if it is a step of sampling, where the steps are shown: ``api/lab/steps.py`` and ``shapes.py``,
   ``web/pages/lab/settings.js``, the texts in ``web/strings``, and ``docs/LAB.md``; and for
   programs, its type in ``inprocess/options.py``.

All code between a request and the sampler reads the table, and ``_config.pyx`` copies each
parameter to the field of the same name. ``tests/sampling/test_params.py`` and
``tests/api/test_reference_page.py`` compare the other places with it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from offgrid.errors import InvalidParameter

SEED_MAX = (1 << 64) - 1
MAX_TOP_LOGPROBS = 1024
MAX_BREAKER_LENGTH = 20
"""Most tokens of a DRY breaker after its first token, as in llama.cpp."""
MAX_BIAS = 100.0
_INT32_MAX = (1 << 31) - 1
_LONG_NUMBER = 10**20
"""From this number on, an error message does not write the digits. Every range is smaller."""
_API_MOST = 1 << 30
"""The largest whole number that the API accepts, unless a row says otherwise."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a parameter can have, in the library and in an API request.

    Attributes:
        kind: ``float``, ``int``, or ``bool``, whose values are 0 and 1.
        least, most: the smallest and the largest value in the library, both allowed.
        default: the library's default.
        api_least, api_most: the smallest and the largest value in the API. An API value below
            ``least`` (-1, by which some clients turn a parameter off) means ``least``.
        api_default: the API's default.
    """

    kind: type[float] | type[int] | type[bool]
    least: float
    most: float
    default: float
    api_least: float
    api_most: float
    api_default: float

    def of_api(self, value: float) -> float:
        """Return the library's value for an API value, which must be in range."""
        return self.kind(max(self.least, value))

    def check(self, name: str, value: object) -> None:
        """Check a value of the parameter called ``name``.

        Raises:
            InvalidParameter: the type is wrong or the value is out of range.
        """
        self._check(name, value, self.least, self.most)

    def check_api(self, name: str, value: object) -> None:
        """Check a value as :meth:`check` does, against the range in an API request."""
        self._check(name, value, self.api_least, self.api_most)

    def _check(self, name: str, value: object, least: float, most: float) -> None:
        if self.kind is bool:
            _check_switch(name, value)
        elif self.kind is int:
            _check_integer(name, value, int(least), int(most))
        else:
            _check_number(name, value, least, most)


def _number(
    default: float,
    least: float,
    most: float,
    *,
    api: tuple[float, float] | None = None,
    api_default: float | None = None,
) -> Any:
    api_default = default if api_default is None else api_default
    limits = Range(float, least, most, default, *(api or (least, most)), api_default)
    return field(default=default, metadata={"range": limits})


def _integer(
    default: int, least: int, most: int = _INT32_MAX, *, api: tuple[int, int] | None = None
) -> Any:
    limits = Range(int, least, most, default, *(api or (least, min(most, _API_MOST))), default)
    return field(default=default, metadata={"range": limits})


def _switch(default: bool) -> Any:
    return field(default=default, metadata={"range": Range(bool, 0, 1, default, 0, 1, default)})


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are sampled. The defaults leave the model's distribution unchanged.

    ``csrc/og_sampler.h`` and ``csrc/og_dry.h`` give the order in which the parameters act, their
    exact definitions and their sources. Values are checked at construction, so also when an object
    arrives through the pipe to the worker.

    Raises:
        InvalidParameter: a value has a wrong type or is out of range; ``param`` names the field.
    """

    temperature: float = _number(1.0, 0, 1e6, api=(0, 2), api_default=0.7)
    """Divides the logits. 0 samples the most likely token: bias and penalties still act, while
    truncation and everything after it do not."""
    top_p: float = _number(1.0, 0, 1, api_default=0.95)
    """Keeps the smallest set of most likely tokens whose probabilities add up to this; 1 is off."""
    top_k: int = _integer(0, 0, api=(-1, _API_MOST))
    """Keeps this many of the most likely tokens; 0 is off."""
    min_p: float = _number(0.0, 0, 1)
    """Drops tokens whose probability is below this fraction of the largest probability."""
    p_less: bool = _switch(False)
    """Drops tokens whose probability is below the sum of the squares of all probabilities."""
    frequency_penalty: float = _number(0.0, -2, 2)
    """Subtracted from a token's logit once for each time the token was generated."""
    presence_penalty: float = _number(0.0, -2, 2)
    """Subtracted once from the logit of every token that was generated."""
    repetition_penalty: float = _number(1.0, 1e-3, 1e3, api=(0.01, 100))
    """Divides the logits (multiplies them, if negative) of tokens that occur in the last
    ``repeat_last_n`` tokens of prompt and answer; 1 is off."""
    repeat_last_n: int = _integer(64, -1)
    """Tokens in the window of ``repetition_penalty``; 0 is off, -1 is everything."""
    logit_bias: Mapping[int, float] | None = None
    """Token id -> number added to its logit, -100 to 100; ``-inf`` or ``False`` bans the token."""
    seed: int | None = None
    """64 bits (a negative number means its two's complement); None draws a random seed."""
    top_n_sigma: float = _number(0.0, 0, 1e6, api=(-1, 1000))
    """Keeps logits within this many standard deviations of the largest; 0 is off."""
    typical_p: float = _number(1.0, 0, 1)
    """Keeps the tokens whose information is nearest to the entropy until their probabilities add up
    to this; 1 is off."""
    xtc_probability: float = _number(0.0, 0, 1)
    """Probability that a step drops all tokens with a probability of ``xtc_threshold`` or more,
    except the least likely of them; 0 is off."""
    xtc_threshold: float = _number(0.1, 0, 1)
    """Probability from which ``xtc_probability`` can drop a token; above 0.5 is off."""
    dynatemp_range: float = _number(0.0, 0, 1e6, api=(0, 2))
    """Moves the temperature by up to this much either way with the entropy of the row; 0 is off."""
    dynatemp_exponent: float = _number(1.0, 0, 100)
    """Exponent of the entropy (as a share of the largest possible) for ``dynatemp_range``."""
    mirostat: int = _integer(0, 0, 2)
    """Mirostat version 1 or 2, which replaces all truncation above; 0 is off."""
    mirostat_tau: float = _number(5.0, 0, 100)
    """Target surprise of mirostat, in bits."""
    mirostat_eta: float = _number(0.1, 0, 10)
    """Learning rate of mirostat."""
    adaptive_target: float = _number(-1.0, -1, 1)
    """Prefers tokens whose probability is near this, so that the average probability of the sampled
    tokens approaches it; below 0 is off. It has no effect with mirostat."""
    adaptive_decay: float = _number(0.9, 0, 0.99)
    """Share of that average that is kept at each new token."""
    dry_multiplier: float = _number(0.0, 0, 100)
    """Strength of the penalty for a token that continues a repetition; 0 is off."""
    dry_base: float = _number(1.75, 1, 100)
    """Factor by which the penalty grows for every further repeated token."""
    dry_allowed_length: int = _integer(2, 0)
    """Repetitions up to this length cost no more than the multiplier."""
    dry_penalty_last_n: int = _integer(-1, -1)
    """Tokens of prompt and answer that are searched; 0 is off, -1 is everything."""
    dry_breakers: Sequence[Sequence[int]] = ()
    """Sequence breakers: token sequences that end a repetition."""
    min_tokens: int = _integer(0, 0)
    """End tokens are not sampled before this many tokens are generated."""
    min_keep: int = _integer(0, 0)
    """Every truncation keeps at least this many tokens."""

    def __post_init__(self) -> None:
        for name, limits in RANGES.items():
            limits.check(name, getattr(self, name))
        if self.seed is not None:
            _check_integer("seed", self.seed, -(1 << 63), SEED_MAX)
        # Copy the containers, which the caller could still change.
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        object.__setattr__(self, "dry_breakers", _breakers(self.dry_breakers))


RANGES: Mapping[str, Range] = MappingProxyType(
    {f.name: f.metadata["range"] for f in dataclasses.fields(SamplingParams) if f.metadata}
)
"""The range of every parameter that is a single number."""


def _biases(given: Mapping[int, float]) -> Mapping[int, float]:
    biases: dict[int, float] = {}
    for token, value in given.items():
        _check_integer("logit_bias", token, 0, _INT32_MAX)
        if value is False or value == -math.inf:
            biases[token] = -math.inf
        else:
            _check_number("logit_bias", value, -MAX_BIAS, MAX_BIAS)
            biases[token] = value
    return MappingProxyType(biases)


def _breakers(given: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    try:
        breakers = tuple(tuple(breaker) for breaker in given)
    except TypeError:
        raise InvalidParameter("dry_breakers must be token sequences.", "dry_breakers") from None
    for breaker in breakers:
        if not 1 <= len(breaker) <= MAX_BREAKER_LENGTH + 1:
            raise InvalidParameter(
                f"dry_breakers: each has 1 to {MAX_BREAKER_LENGTH + 1} tokens, not {len(breaker)}.",
                "dry_breakers",
            )
        for token in breaker:
            _check_integer("dry_breakers", token, 0, _INT32_MAX)
    return breakers


def shown(number: float) -> str:
    """Return a number as an error message writes it: a very long one is described.

    Python refuses to convert integers of thousands of digits into text.
    """
    if isinstance(number, int) and abs(number) >= _LONG_NUMBER:
        return "a number of more than 20 digits"
    return str(number)


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidParameter(f"{name} must be true or false, not {type(value).__name__}.", name)


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidParameter(f"{name} must be a number, not {type(value).__name__}.", name)
    # NaN compares false with everything, so this check catches it too.
    if not low <= value <= high:
        raise InvalidParameter(
            f"{name} must be between {low:g} and {high:g}, not {shown(value)}.", name
        )


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidParameter(f"{name} must be a whole number, not {type(value).__name__}.", name)
    if not low <= value <= high:
        raise InvalidParameter(
            f"{name} must be between {low} and {high}, not {shown(value)}.", name
        )
