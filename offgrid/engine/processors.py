"""How many processors this process may use: the limits of its control group and its own.

Only Linux has such limits. See "cgroup v2" (``Documentation/admin-guide/cgroup-v2.rst``) and
"cgroup v1" in the kernel's documents.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")
_INTELS_FAST_CPUS = Path("/sys/devices/cpu_core/cpus")
_FAST = 0.9
"""A core with at least this part of the fastest core's capacity is a fast one."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Numbers of threads that suit the processors of this process.

    Attributes:
        start: one for each physical core.
        most: one for each logical processor.
        fast: one for each fast core, if the machine also has slow ones; else 0.
    """

    start: int
    most: int
    fast: int = 0


def cores() -> Cores:
    """Return how many threads may compute at the same time; a control group's limit counts."""
    physical, logical, quota = processors()
    if quota is None:
        return Cores(physical, logical, min(_fast_cores(), physical))
    return Cores(max(1, min(physical, int(quota))), max(1, min(logical, math.ceil(quota))))


def _fast_cores() -> int:
    """Return the number of fast cores that this process may use; 0 if all are the same."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if listed := _read(_INTELS_FAST_CPUS):
        fast = _numbers(listed) & allowed
    else:  # ARM
        found = {cpu: _number(_CPUS / f"cpu{cpu}" / "cpu_capacity") or 0 for cpu in allowed}
        most = max(found.values(), default=0)
        fast = {cpu for cpu, capacity in found.items() if most and capacity >= _FAST * most}
    if fast == allowed:
        return 0
    siblings = (_read(_CPUS / f"cpu{cpu}" / "topology/thread_siblings_list") for cpu in fast)
    return len(set(siblings))


def _numbers(listed: str) -> set[int]:
    """Return the numbers of a list such as ``0-3,8``."""
    spans = [span.partition("-") for span in listed.split(",")]
    return {
        number for first, _, last in spans for number in range(int(first), int(last or first) + 1)
    }


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
