"""The sampling parameters of requests, made from the table of :mod:`offgrid.sampling.params`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from offgrid.api.fields.messages import invalid, shown
from offgrid.errors import InvalidParameter
from offgrid.sampling.params import MAX_BIAS, RANGES, SEED_MAX, Range, SamplingParams

MAX_TOKEN_ID = (1 << 31) - 1
_MAX_ID_DIGITS = 20
"""Includes leading zeros. Python refuses to convert thousands of digits."""
DRY_BREAKERS = ("\n", ":", '"', "*")
"""llama.cpp's defaults."""
MAX_BIASES = 1024
MAX_BIAS_TEXT = 100
"""Maximum length of a text in ``logit_bias``, in characters."""
SEED_RANGE = (-(1 << 63), SEED_MAX)
RANDOM_SEED = -1
"""Clients of llama.cpp send this to get a random seed."""
ALIASES = {"repeat_penalty": "repetition_penalty"}
"""Alias -> name of the field."""

Breakers = Annotated[list[Annotated[str, Meta(min_length=1, max_length=40)]], Meta(max_length=64)]


def _typed(name: str, limits: Range) -> tuple[str, Any, Any]:
    if limits.kind is bool:
        return name, bool, limits.api_default
    kind = Annotated[limits.kind, Meta(ge=limits.api_least, le=limits.api_most)]  # type: ignore[name-defined]
    return name, kind, limits.api_default


SamplingFields = msgspec.defstruct(
    "SamplingFields",
    [
        *(_typed(name, limits) for name, limits in RANGES.items()),
        ("logit_bias", dict[str, Any] | list[Any], msgspec.field(default_factory=dict)),
        ("seed", int | None, None),
        (
            "dry_sequence_breakers",
            Breakers,
            msgspec.field(default_factory=lambda: list(DRY_BREAKERS)),
        ),
    ],
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    module=__name__,
)
"""The fields as clients send them. Defaults are those of the API document."""
NAMES = frozenset(SamplingFields.__struct_fields__)


class Sampling(msgspec.Struct, frozen=True):
    """The checked sampling parameters of a request.

    ``text_bias`` and ``dry_breakers`` are separate from ``params``, since only the worker knows the
    vocabulary and can convert them into tokens.

    Attributes:
        params: all other sampling parameters.
        text_bias: text -> the bias of each of its tokens.
        dry_breakers: texts that end a repetition (sequence breakers).
        given: names of the parameters that the request sets.
    """

    params: SamplingParams
    text_bias: dict[str, float]
    dry_breakers: tuple[str, ...]
    given: frozenset[str] = frozenset()

    def with_defaults(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """Return the parameters with a model's own values of those that the request does not set.

        Args:
            defaults: values by name, as in :class:`SamplingParams`.
        """
        absent = {name: value for name, value in defaults.items() if name not in self.given}
        return dataclasses.replace(self.params, **absent) if absent else self.params


def take_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Remove this module's fields from a request's fields; return them as the client named them."""
    names = [name for name in fields if name in NAMES or name in ALIASES]
    return {name: fields.pop(name) for name in names}


def parse_sampling(given: dict[str, Any]) -> Sampling:
    """Check the fields that :func:`take_fields` returned.

    Raises:
        InvalidParameter: ``param`` names the field as the client does.
    """
    fields = dict(given)
    for alias, name in ALIASES.items():
        if alias in fields and fields.setdefault(name, fields[alias]) != fields.pop(alias):
            raise InvalidParameter(
                f"{alias} and {name} are the same parameter and have different values; give only "
                "one.",
                alias,
            )
    try:
        typed: Any = msgspec.convert(fields, SamplingFields)
    except msgspec.ValidationError as ex:
        error = invalid(str(ex), fields, SamplingFields)
        for alias, name in ALIASES.items():
            if alias in given and error.param == name:
                words = error.message.replace(name, alias, 1)
                raise InvalidParameter(words, alias, code=error.code) from None
        raise error from None
    if typed.seed is not None and not SEED_RANGE[0] <= typed.seed <= SEED_RANGE[1]:
        raise InvalidParameter("seed must fit into 64 bits.", "seed")
    ids, texts = _logit_bias(typed.logit_bias)
    numbers: dict[str, Any] = {
        name: limits.of_api(getattr(typed, name)) for name, limits in RANGES.items()
    }
    params = SamplingParams(
        **numbers,
        logit_bias=ids or None,
        seed=None if typed.seed == RANDOM_SEED else typed.seed,
    )
    return Sampling(params, texts, tuple(typed.dry_sequence_breakers), frozenset(fields))


def _logit_bias(raw: dict[str, Any] | list[Any]) -> tuple[dict[int, float], dict[str, float]]:
    """Return the biases by token id and by text; ``false`` bans.

    In an object, a key of digits is a token id, and any other key is a text. In a list of pairs, as
    llama.cpp's server accepts it, the type tells ids and texts apart.
    """
    if len(raw) > MAX_BIASES:
        raise InvalidParameter(f"logit_bias takes at most {MAX_BIASES} entries.", "logit_bias")
    ids: dict[int, float] = {}
    texts: dict[str, float] = {}
    for key, value in raw.items() if isinstance(raw, dict) else map(_pair, raw):
        if value is None:
            continue
        name = f"logit_bias.{key}" if len(str(key)) <= MAX_BIAS_TEXT else "logit_bias"
        if value is False:
            bias = -math.inf
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidParameter(f"{name} must be a number or false, not {shown(value)}.", name)
        elif not -MAX_BIAS <= value <= MAX_BIAS:
            raise InvalidParameter(
                f"{name} must be between {-MAX_BIAS:g} and {MAX_BIAS:g}, not {shown(value)}.", name
            )
        else:
            bias = float(value)
        if isinstance(key, int) or (isinstance(raw, dict) and re.fullmatch(r"[0-9]+", key)):
            # Python refuses to convert thousands of digits, or takes long.
            if len(str(key)) > _MAX_ID_DIGITS or int(key) > MAX_TOKEN_ID:
                raise InvalidParameter(
                    f"{name}: a token id must be between 0 and {MAX_TOKEN_ID}.", name
                )
            ids[int(key)] = bias
        elif 1 <= len(key) <= MAX_BIAS_TEXT:
            texts[key] = bias
        else:
            raise InvalidParameter(
                f"logit_bias: a text must have 1 to {MAX_BIAS_TEXT} characters, not {len(key)}.",
                "logit_bias",
            )
    return ids, texts


def _pair(item: Any) -> tuple[int | str, Any]:
    if isinstance(item, list) and len(item) == 2:
        key, value = item
        if isinstance(key, str) or (type(key) is int and 0 <= key < 1 << 31):
            return key, value
    raise InvalidParameter(
        "logit_bias: a list must contain pairs: [token id or text, bias].", "logit_bias"
    )


DEFAULT = parse_sampling({})
"""The sampling parameters of a request that sets none of them."""
