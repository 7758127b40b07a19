"""What processes and disks of this machine have and use. Reading it may take a while: the kernel
walks through a worker's memory for it, and a network disk may not answer."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Attributes:
        rss: bytes in memory, with files that are mapped and shared.
        pss: the same, with shared pages divided by the number of processes that share them; None
            where the system does not tell.
        cpu: seconds of processor time since its start.
        busy: processors in use since the last look, 1.0 for one.
        threads: number of threads.
    """

    rss: int
    pss: int | None
    cpu: float
    busy: float
    threads: int


@dataclass(frozen=True, slots=True)
class Space:
    """A disk: its bytes, and those that this user may still write."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Temperature:
    """The hottest sensor of the processor.

    Attributes:
        sensor: its name, as the system calls it.
        celsius: degrees.
        high: degrees from which the system calls it high; None if it does not tell.
    """

    sensor: str
    celsius: float
    high: float | None


@dataclass(frozen=True, slots=True)
class Battery:
    """The battery.

    Attributes:
        percent: how full it is.
        plugged: whether the machine is plugged in; None if the system does not tell.
        seconds: how long it lasts; None if the system does not tell.
    """

    percent: float
    plugged: bool | None
    seconds: float | None


class Ticks(NamedTuple):
    """Seconds of all processors since the machine was started, and how many were busy ones."""

    total: float
    busy: float


_NO_TICKS = Ticks(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Machine:
    """A look at the machine.

    Attributes:
        at: when it was, in seconds of ``time.monotonic``.
        server: the process of the server.
        workers: model id -> its worker.
        disks: place (``models``, ``cache``, ``responses``) -> its disk.
        memory: bytes of the machine.
        available: bytes that programs could get.
        cpus: processors of the machine.
        ticks: what the processors have done.
        load: processors that were busy since the last look; None at the first look.
        temperature: None if the machine has no sensor, or the system hides it.
        battery: None if there is none.
    """

    at: float
    server: Process | None
    workers: Mapping[str, Process] = field(default_factory=dict)
    disks: Mapping[str, Space] = field(default_factory=dict)
    memory: int = 0
    available: int = 0
    cpus: int = 1
    ticks: Ticks = _NO_TICKS
    load: float | None = None
    temperature: Temperature | None = None
    battery: Battery | None = None


def look(pids: Mapping[str, int], places: Mapping[str, Path], before: Machine | None) -> Machine:
    """Look at the machine.

    Args:
        pids: model id -> process id of its worker.
        places: name -> a folder or file on the disk; it need not exist.
        before: the look before this one, for the load since then.
    """
    now = time.monotonic()
    passed = 0.0 if before is None else now - before.at
    old = {} if before is None else before.workers
    workers = {name: _process(pid, old.get(name), passed) for name, pid in pids.items()}
    spaces = {name: _space(path) for name, path in places.items()}
    memory = psutil.virtual_memory()
    ticks, cpus = _ticks(), os.cpu_count() or 1
    return Machine(
        now,
        _process(os.getpid(), None if before is None else before.server, passed),
        {name: process for name, process in workers.items() if process is not None},
        {name: space for name, space in spaces.items() if space is not None},
        int(memory.total),
        int(memory.available),
        cpus,
        ticks,
        None if before is None else load(before.ticks, ticks, cpus),
        _temperature(),
        _battery(),
    )


def load(before: Ticks, now: Ticks, cpus: int) -> float | None:
    """Return how many of the processors were busy between two looks; None if that is unknown."""
    passed = now.total - before.total
    if passed <= 0:
        return None
    return cpus * min(1.0, max(0.0, (now.busy - before.busy) / passed))


def _ticks() -> Ticks:
    times = psutil.cpu_times()
    # On Linux, user and nice include the time of virtual machines, and it is given once more.
    twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    total = sum(times) - twice
    return Ticks(total, total - times.idle - getattr(times, "iowait", 0.0))


_FAILURES = (OSError, RuntimeError, ValueError, psutil.Error)
"""What reading a sensor may raise: drivers of rare machines have odd files."""
_OF_PROCESSORS = ("core", "cpu", "k10", "pkg", "soc", "zenpower")
"""Parts of the names of sensors of processors."""
_HOTTEST = 150.0
"""Degrees; sensors that are not connected say odd numbers."""


def _temperature() -> Temperature | None:
    """Return the hottest sensor of the processor, or of the machine if none is known to be the
    processor's."""
    read = getattr(psutil, "sensors_temperatures", None)  # not on Windows and macOS
    found: dict[str, list[Any]] = {}
    if read is not None:
        with contextlib.suppress(*_FAILURES):
            found = read()
    sensors = [
        (
            any(part in f"{chip} {each.label}".lower() for part in _OF_PROCESSORS),
            Temperature(each.label or chip, float(each.current), each.high or each.critical),
        )
        for chip, several in found.items()
        for each in several
        if each.current is not None and 0 < each.current < _HOTTEST
    ]
    hottest = max(sensors, key=lambda one: (one[0], one[1].celsius), default=None)
    return None if hottest is None else hottest[1]


def _battery() -> Battery | None:
    read = getattr(psutil, "sensors_battery", None)
    found = None
    if read is not None:
        with contextlib.suppress(*_FAILURES):
            found = read()
    if found is None:
        return None
    seconds = float(found.secsleft) if found.secsleft is not None and found.secsleft >= 0 else None
    return Battery(float(found.percent), found.power_plugged, seconds)


def _process(pid: int, before: Process | None, passed: float) -> Process | None:
    """Return what a process uses; None if it has ended or may not be looked at."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            rss = int(process.memory_info().rss)
            times = process.cpu_times()
            threads = int(process.num_threads())
    except (psutil.Error, OSError):
        return None
    cpu = float(times.user + times.system)
    busy = max(0.0, cpu - before.cpu) / passed if before is not None and passed else 0.0
    return Process(rss, _pss(pid), cpu, busy, threads)


def _pss(pid: int) -> int | None:
    """Return a process's share of memory in bytes; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return None


def _space(path: Path) -> Space | None:
    """Return the disk of a path, or of the nearest folder above it that exists."""
    for place in (path, *path.parents):
        try:
            usage = shutil.disk_usage(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
        return Space(int(usage.total), int(usage.free))
    return None
