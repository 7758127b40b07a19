"""Program of a process that writes a :class:`~offgrid.engine.build.Build` as JSON, and ends.

Started by :mod:`offgrid.engine.client.about`, never by hand.
"""

from __future__ import annotations

import os

import msgspec

from offgrid.engine import processors
from offgrid.engine.build import Build
from offgrid.engine.worker.llama import build
from offgrid.sampling import Sampler, SamplingParams


def main() -> None:
    """Write to standard output. What libraries print there goes to standard error."""
    output = os.dup(1)
    os.dup2(2, 1)
    binding, ggml = build.versions()
    gpu, rpc, mmap, mlock = build.supports()
    about = Build(
        binding=binding,
        ggml=ggml,
        features=build.features(),
        gpu=gpu,
        rpc=rpc,
        mmap=mmap,
        mlock=mlock,
        sampler=Sampler(2, SamplingParams()).isa,
        threads=processors.cores().start,
        devices=build.devices(),
    )
    with os.fdopen(output, "wb") as file:
        file.write(msgspec.json.encode(about))
