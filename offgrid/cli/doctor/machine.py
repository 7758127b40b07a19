"""Checks of the machine: memory, threads, processor, GPU, other machines, clock."""

from __future__ import annotations

import os
import re
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from offgrid.cli.doctor.check import Check
from offgrid.config import Settings
from offgrid.engine import processors
from offgrid.engine.build import Build
from offgrid.engine.client.fit import Fit
from offgrid.engine.memory import bounds, free_memory
from offgrid.store.disk import mib

_LITTLE_MEMORY = 512 << 20
_DAY = 86400
REBUILD = (
    "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"
)
"""Compiles llama.cpp for this machine."""
_FLAGS = {
    "avx": "AVX", "avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16", "amx_int8": "AMX_INT8",
    "asimddp": "DOTPROD", "i8mm": "MATMUL_INT8",
}  # fmt: skip
"""Flags of ``/proc/cpuinfo`` -> names of llama.cpp for the instruction sets that matter most."""
_GPU_FILES = {
    "/dev/nvidia0": ("an NVIDIA GPU", "CUDA"), "/dev/kfd": ("an AMD GPU", "HIP"),
}  # fmt: skip


def check_memory(fit: Fit | None, model: str | None) -> Check:
    """Compare free memory with what a model needs.

    Args:
        fit: how the model would be loaded now; None if there is no model.
        model: its id.
    """
    machine, *groups = bounds()
    text = f"{mib(free_memory())} of {mib(machine.total)} free"
    if groups:
        allowed = min(group.total for group in groups)
        text += f"; the control group of this process allows {mib(allowed)}"
    if fit is not None and not fit.fits:
        text += f", and {model} {fit}"
        fix = "close other programs, or serve a smaller model or one with fewer bits"
        return Check("memory", "warning", text, fix)
    if free_memory() < _LITTLE_MEMORY:
        return Check("memory", "warning", text, "close other programs")
    return Check("memory", "ok", text if fit is None else f"{text}; {model} {fit}")


def check_threads(settings: Settings) -> Check:
    """Compare the threads of a worker with the processors that it may use."""
    physical, logical, quota = processors.processors()
    threads, has = settings.threads, f"{physical} physical cores, {logical} logical"
    if threads == 0:
        text = f"found by measuring, from 1 to {processors.cores().most}; {has}"
        return Check("threads", "ok", text)
    text = f"{threads} for each model; {has}"
    if quota is not None and threads > quota:
        text += f"; the control group allows the time of {quota:g}"
        fix = f"set threads (--threads) to {max(1, int(quota))} or auto"
        return Check("threads", "warning", text, fix)
    if threads > logical:
        fix = f"set threads (--threads) to {physical} or auto: more threads only wait"
        return Check("threads", "warning", text, fix)
    return Check("threads", "ok", text)


def check_processor(build: Build) -> Check:
    """Compare the processor's instruction sets with those that llama.cpp was built for."""
    used = ", ".join(build.features) or "none"
    missing = [name for name in _own_features() if name not in build.features]
    text = f"llama.cpp uses {used}; the sampler uses {build.sampler}"
    if missing:
        text += f". This processor also has {', '.join(missing)}"
        fix = f"compile llama.cpp for this machine: {REBUILD}"
        return Check("processor", "warning", text, fix)
    return Check("processor", "ok", text)


def check_gpu(settings: Settings, build: Build) -> Check:
    """Say which GPUs llama.cpp can use, and whether there is one that it cannot."""
    if build.gpu:
        gpus = [device for device in build.devices if device.kind == "gpu"]
        names = ", ".join(f"{gpu.description} ({mib(gpu.free)} free)" for gpu in gpus)
        layers = "all" if settings.gpu_layers < 0 else str(settings.gpu_layers)
        if gpus and settings.gpu_layers == 0:
            fix = "put the model on it: set gpu_layers (-ngl) to all"
            return Check("gpu", "warning", f"{names}, not used", fix)
        return Check("gpu", "ok", f"{names or 'none found'}; layers on it: {layers}")
    seen = _gpu()
    text = "llama.cpp was built without support for GPUs"
    if seen is None and settings.gpu_layers == 0:
        return Check("gpu", "ok", f"{text}, and none was found")
    name, backend = seen or ("no known GPU", "CUDA")
    fix = f"CMAKE_ARGS=-DGGML_{backend}=on {REBUILD}"
    if settings.gpu_layers != 0:
        text += ", so gpu_layers has no effect"
    return Check("gpu", "warning", f"{text}; {name} was found", fix)


def check_clock(now: float | None = None) -> Check:
    """Compare the clock with the time at which this package was installed."""
    now = time.time() if now is None else now
    installed = os.stat(__file__).st_mtime
    shown = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    if now < installed - _DAY:
        text = f"{shown}, which is before OffGrid was installed"
        fix = "set the date (timedatectl set-time, or date -s): times in answers and logs are wrong"
        return Check("clock", "warning", text, fix)
    return Check("clock", "ok", shown)


def _own_features() -> list[str]:
    """Return the instruction sets of this processor, as far as the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    flags = set(found[1].split()) if found is not None else set()
    return [name for flag, name in _FLAGS.items() if flag in flags]


def _gpu() -> tuple[str, str] | None:
    """Return a GPU of this machine, and the option of ggml for it."""
    for path, known in _GPU_FILES.items():
        if os.path.exists(path):
            return known
    if sys.platform == "darwin" and os.uname().machine == "arm64":
        return "an Apple GPU", "METAL"
    return None
