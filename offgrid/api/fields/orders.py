"""Orders in which clients ask for the sampling parameters, in the names of other servers.

The order is fixed here (``csrc/og_sampler.h``). A value that asks for this order asks for nothing.
Clients also send the order that is usual with the server for which they are made, although their
user has chosen none: these orders have no effect. All other orders are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_OWN = ("penalties", "dry", "temperature", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p",
        "xtc")  # fmt: skip
"""The order of this server."""
_OFF = ""
"""In place of the name of a sampler that this server does not have, so that it is off."""


class Orders(NamedTuple):
    """The orders that one field can ask for.

    Attributes:
        names: what the field calls a sampler -> its name here, or :data:`_OFF`.
        usual: the order that clients send by default.
        needed: samplers that every order must name: without one, it may not be applied at all.
    """

    names: Mapping[Any, str]
    usual: tuple[str, ...]
    needed: frozenset[str]

    def is_own(self, value: Any) -> bool:
        """Whether a value asks for the order of this server, or for none in particular."""
        return value in ("", []) or self._follows(value, _OWN)

    def is_usual(self, value: Any) -> bool:
        """Whether a value is the order that clients send by default, or a part of it."""
        return self._follows(value, self.usual)

    def is_part(self, names: Sequence[str]) -> bool:
        """Whether some samplers stand in the order of this server or in the usual one, even if
        others that are needed are not named."""
        return self.is_own_part(names) or _is_part(self._here(names), self.usual)

    def is_own_part(self, names: Sequence[str]) -> bool:
        """The same for the order of this server alone."""
        return _is_part(self._here(names), _OWN)

    def _here(self, names: Sequence[str]) -> list[str]:
        return [self.names[name] for name in names if self.names[name] != _OFF]

    def _follows(self, value: Any, order: Sequence[str]) -> bool:
        if isinstance(value, str):
            value = [name for name in re.split(r"[\s,;]+", value) if name]
        if not isinstance(value, list) or not all(
            isinstance(name, (str, int)) and name in self.names for name in value
        ):
            return False
        names = dict.fromkeys(self.names[name] for name in value)
        names.pop(_OFF, None)
        return self.needed <= names.keys() and _is_part(names, order)


def _is_part(names: Iterable[str], order: Sequence[str]) -> bool:
    """Whether names stand in an order that may have more of them."""
    places = [order.index(name) if name in order else -1 for name in names]
    return -1 not in places and places == sorted(places)


_ALWAYS = frozenset({"temperature", "top_k", "typical_p", "top_p", "min_p"})
_SAME = {name: name for name in _OWN}

LLAMA_CPP = Orders(
    {**_SAME, "typ_p": "typical_p", "typical": "typical_p", "temp": "temperature", "tfs_z": _OFF,
     "adaptive_p": _OFF},
    ("penalties", "dry", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc",
     "temperature"),
    _ALWAYS,
)  # fmt: skip
"""``samplers``: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md"""
WEB_UI = Orders(
    {**{name: name for name in _OWN if name != "top_n_sigma"}, "dynamic_temperature": "temperature",
     **dict.fromkeys(("repetition_penalty", "presence_penalty", "frequency_penalty"), "penalties"),
     # The place of top_n_sigma says nothing: no temperature changes what it keeps.
     **dict.fromkeys(("top_n_sigma", "quadratic_sampling", "epsilon_cutoff", "eta_cutoff", "tfs",
                      "top_a", "mirostat", "encoder_repetition_penalty", "no_repeat_ngram"), _OFF)},
    ("penalties", "dry", "temperature", "top_k", "top_p", "typical_p", "min_p", "xtc"),
    _ALWAYS,
)  # fmt: skip
"""``sampler_priority`` of text-generation-webui, which SillyTavern sends."""
KOBOLD_CPP = Orders(
    {0: "top_k", 1: _OFF, 2: "top_p", 3: _OFF, 4: "typical_p", 5: "temperature", 6: "penalties"},
    ("penalties", "top_k", "typical_p", "top_p", "temperature"),
    _ALWAYS - {"min_p"},
)
"""``sampler_order`` of KoboldCpp: numbers of samplers."""
