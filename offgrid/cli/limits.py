"""How many processors Linux lets this process use: the limits of its control group and its own.

See "cgroup v2" (``Documentation/admin-guide/cgroup-v2.rst``) and "cgroup v1" in the kernel's
documents. Other systems have no such limits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")


def processors() -> tuple[int, int, float | None]:
    """Return physical and logical processors that this process may use, and how many of them it
    may keep busy; the latter None if all."""
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    if hasattr(os, "sched_getaffinity"):
        logical = min(logical, len(os.sched_getaffinity(0)))
    quotas = [quota for folder in _groups("cpu") if (quota := _quota(folder)) is not None]
    return min(physical, logical), logical, min(quotas, default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of the groups above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _ROOT / controller if controllers else _ROOT
        folder = root / path.lstrip("/")
        # In a container, the path may be the host's: then the group's files are at the root.
        yield from (place for place in (folder, *folder.parents) if place.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    """Return the processors' worth of time that a group may use."""
    text = _read(folder / "cpu.max").split()
    if len(text) == 2 and text[0] != "max":
        return int(text[0]) / int(text[1])
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.lstrip("-").isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
