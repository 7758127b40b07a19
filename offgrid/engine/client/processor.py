"""Which weights llama.cpp stores a second time, in the layout that this processor's kernels read.

The kernels that it was compiled with decide, but the server must not load llama.cpp to ask it. It
is assumed to have been compiled for this processor, which is what the installation does.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

Repacked = Mapping[str, int]
"""Type of tensors -> of which number the rows of a matrix must be a multiple to be repacked
(``ggml_repack_get_optimal_repack_type``)."""

_AVX2: Repacked = {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}
_AVX512: Repacked = {**_AVX2, "Q2_K": 8}
_DOT_PRODUCT: Repacked = {
    "Q4_0": 4, "Q8_0": 4, "IQ4_NL": 4, "MXFP4": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8,
}  # fmt: skip
_NONE: Repacked = MappingProxyType({})


@functools.cache
def repacked_types(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = "") -> Repacked:
    """Return which types of tensors are repacked on this processor.

    Args:
        cpuinfo: the file in which Linux lists the processor's features.
        machine: the kind of processor; "" for this machine's.
    """
    machine = (machine or platform.machine()).lower()
    features = _features(cpuinfo)
    if machine in ("x86_64", "amd64"):
        # NOTE: with AMX the worker turns repacking off: see its module ``weights``.
        if "amx_int8" in features:
            return _NONE
        if features and "avx2" not in features:
            return _NONE
        return _AVX512 if "avx512f" in features else _AVX2
    if machine in ("aarch64", "arm64"):
        return _DOT_PRODUCT if "asimddp" in features or not features else _NONE
    return _NONE


def _features(cpuinfo: Path) -> frozenset[str]:
    """Return the features of the first processor; empty where there is no such file."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(values.split())
    return frozenset()
