"""What a worker can tell about the installed llama.cpp, for ``offgrid doctor`` and ``version``."""

from __future__ import annotations

import msgspec


class Device(msgspec.Struct, frozen=True):
    """A device that llama.cpp can compute on. Sizes are in bytes; 0 if unknown."""

    name: str
    description: str
    kind: str
    """``cpu``, ``gpu`` or ``accelerator``."""
    free: int = 0
    total: int = 0


class Build(msgspec.Struct, frozen=True):
    """How llama.cpp and the sampler were built."""

    binding: str
    """Version of llama-cpp-python."""
    ggml: str
    """Version of ggml, llama.cpp's library of kernels; empty if unknown."""
    features: tuple[str, ...]
    """Instruction sets and options of llama.cpp's CPU kernels, such as ``AVX2``."""
    gpu: bool
    """Whether layers can be put on a GPU."""
    rpc: bool
    """Whether llama.cpp can compute on other machines."""
    mmap: bool
    mlock: bool
    sampler: str
    """Instruction set of the sampler's kernels on this machine, such as ``avx2``."""
    threads: int
    """Threads with which a worker begins if no setting fixes the number."""
    devices: tuple[Device, ...] = ()
