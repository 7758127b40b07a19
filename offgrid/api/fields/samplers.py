"""llama-server's ``samplers``: which parameters act. Their order is fixed here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from offgrid.api.fields.orders import LLAMA_CPP
from offgrid.errors import InvalidParameter

_OFF: dict[str, dict[str, Any]] = {
    "penalties": {
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    },
    "dry": {"dry_multiplier": 0.0},
    "top_n_sigma": {"top_n_sigma": 0.0},
    "top_k": {"top_k": 0},
    "typical_p": {"typical_p": 1.0},
    "top_p": {"top_p": 1.0},
    "min_p": {"min_p": 0.0},
    "xtc": {"xtc_probability": 0.0},
    "temperature": {"temperature": 1.0, "dynatemp_range": 0.0},
}  # fmt: skip
"""Sampler -> the values with which it changes nothing."""
_CODES = {
    "e": "penalties", "d": "dry", "s": "top_n_sigma", "k": "top_k", "y": "typical_p",
    "p": "top_p", "m": "min_p", "x": "xtc", "t": "temperature", "i": "infill", "f": "tfs_z",
}  # fmt: skip
"""llama.cpp's letters."""
INFILL = "infill"
"""A sampler for code. It keeps the tokens of which the model is sure, usually one."""


class Chosen(NamedTuple):
    """The samplers that a request names.

    Attributes:
        names: as the request has them.
        off: parameters of the others, with the values that turn them off.
        exact: whether the request gets exactly what it names. It does not if it names another
            order than this server's, or llama.cpp's sampler ``infill``: the most likely token is
            taken instead.
    """

    names: tuple[str, ...]
    off: Mapping[str, Any]
    exact: bool


def chosen(value: str | list[str]) -> Chosen | None:
    """Return what a request's ``samplers`` ask for; None for all of them.

    Args:
        value: names, in a list or with semicolons between them, or llama.cpp's letters.

    Raises:
        InvalidParameter: a name is unknown, or the order is neither this server's nor llama.cpp's.
    """
    names = _names(value)
    if not names:
        return None
    unknown = [name for name in names if name not in LLAMA_CPP.names and name != INFILL]
    if unknown:
        known = ", ".join([*_OFF, INFILL])
        raise InvalidParameter(
            f"samplers: {unknown[0][:40]} is unknown; the samplers are {known}.", "samplers"
        )
    rest = [name for name in names if name != INFILL]
    if not LLAMA_CPP.is_part(rest):
        raise InvalidParameter(
            "samplers: the order of the sampling parameters is fixed; name them in llama.cpp's "
            "usual order.",
            "samplers",
        )
    here = {LLAMA_CPP.names[name] for name in rest}
    off: dict[str, Any] = {}
    for sampler, values in _OFF.items():
        if sampler not in here:
            off |= values
    if INFILL in names:
        off["temperature"] = 0.0
    return Chosen(tuple(names), off, INFILL not in names and LLAMA_CPP.is_own_part(rest))


def _names(value: str | list[str]) -> list[str]:
    if isinstance(value, list):
        return value
    names = [name for name in re.split(r"[\s,;]+", value) if name]
    if len(names) == 1 and names[0] not in LLAMA_CPP.names and set(names[0]) <= _CODES.keys():
        return [_CODES[letter] for letter in names[0]]
    return names
