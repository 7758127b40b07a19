"""How much memory a process of this server may still take, and whether the kernel killed one for
lack of it.

A process may be limited by the machine and by each cgroup around it (containers, systemd units),
and the smallest limit counts. Both versions of cgroups are read, where the process sees them
mounted. Systems without ``/proc`` only have the machine's figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB, GIB = 1 << 20, 1 << 30
PROC = Path("/proc")
_UNLIMITED = 1 << 60
"""A cgroup of version 1 without a limit has one of nearly 2**63 bytes."""
_MACHINE_SHARE, _GROUP_SHARE = 20, 50
"""One part in so many stays free: on a machine for other programs, in a cgroup for errors of the
estimate only."""
_LEAST_RESERVE, _MOST_RESERVE = 64 * MIB, GIB


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit of memory: ``total`` bytes, of which ``free`` bytes are not in use. Memory that holds
    copies of files counts as free, because the system drops these when it needs memory."""

    total: int
    free: int
    share: int = _MACHINE_SHARE

    @property
    def reserve(self) -> int:
        """Bytes that stay free: 5 percent of a machine and 2 percent of a cgroup, but at least 64
        MiB and at most 1 GiB."""
        return min(max(self.total // self.share, _LEAST_RESERVE), _MOST_RESERVE)


@dataclass(frozen=True, slots=True)
class Files:
    """Names of a cgroup's files and of values in them, for one version."""

    limits: tuple[str, ...]
    usage: str
    cached: tuple[str, ...]
    events: str


_VERSIONS = {
    "cgroup2": Files(
        ("memory.max", "memory.high"),
        "memory.current",
        ("inactive_file", "active_file"),
        "memory.events",
    ),
    "cgroup": Files(
        ("memory.limit_in_bytes",),
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
        "memory.oom_control",
    ),
}
"""Type of a mounted file system -> its files."""


def free_memory(proc: Path = PROC) -> int:
    """Return how many bytes this process and its children may still take, less a reserve.

    Args:
        proc: where the files that describe this process are.
    """
    return max(0, min(bound.free - bound.reserve for bound in bounds(proc)))


def bounds(proc: Path = PROC) -> list[Bound]:
    """Return all limits of this process: the machine's, then those of its cgroups."""
    machine = psutil.virtual_memory()
    found = [Bound(int(machine.total), int(machine.available))]
    for folder, files in _groups(proc):
        bound = _bound(folder, files)
        if bound is not None and bound.total < machine.total:
            found.append(bound)
    return found


def oom_kills(proc: Path = PROC) -> tuple[int, ...]:
    """Return how many processes the kernel has killed for lack of memory: in this process's cgroup,
    and on the whole machine. Only a comparison with an earlier result has a meaning."""
    counts = [_number(_values(proc / "vmstat"), "oom_kill")]
    own = next(_groups(proc), None)
    if own is not None:
        folder, files = own
        counts.append(_number(_values(folder / files.events), "oom_kill"))
    return tuple(counts)


def resident(pid: int) -> int:
    """Return how many bytes a process holds that the system cannot drop: without pages of files.
    0 after its end."""
    values = _values(PROC / str(pid) / "status")
    if "RssAnon:" in values:
        return 1024 * (_number(values, "RssAnon:") + _number(values, "RssShmem:"))
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def written(size: int) -> str:
    """Return a size for a message: ``4.7 GiB``, or ``120 MiB`` below 1 GiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{-(-size // MIB)} MiB"


# --- cgroups ----------------------------------------------------------------------------------


def _groups(proc: Path) -> Iterator[tuple[Path, Files]]:
    """Yield the folders of the cgroups that may limit this process's memory, its own first."""
    paths = _own_paths(proc)
    for line in _lines(proc / "self" / "mountinfo"):
        # 36 35 0:31 ROOT MOUNT_POINT options [tags ...] - TYPE source super_options
        before, _, after = line.partition(" - ")
        fields, (kind, *rest) = before.split(), after.split() or [""]
        if kind not in paths or len(fields) < 5 or not rest:
            continue
        if kind == "cgroup" and "memory" not in rest[-1].split(","):
            continue
        mount = Path(_unescaped(fields[4]))
        folder = mount / _below(paths[kind], _unescaped(fields[3]))
        for group in (folder, *folder.parents):
            yield group, _VERSIONS[kind]
            if group == mount:
                break


def _own_paths(proc: Path) -> dict[str, str]:
    """Return the type of file system -> the path of this process's cgroup in its hierarchy."""
    paths: dict[str, str] = {}
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if "memory" in controllers.split(","):
            paths["cgroup"] = path
        elif not controllers:
            paths["cgroup2"] = path
    return paths


def _below(path: str, root: str) -> str:
    """Return a cgroup's path below the root of a mount; "" if the mount does not show it, as in a
    container that sees only its own cgroup."""
    root = root.rstrip("/")
    inside = path == root or path.startswith(f"{root}/")
    return path[len(root) :].strip("/") if inside and ".." not in path.split("/") else ""


def _bound(folder: Path, files: Files) -> Bound | None:
    limits = [_first_number(folder / name) for name in files.limits]
    limit = min((one for one in limits if one is not None), default=_UNLIMITED)
    used = _first_number(folder / files.usage)
    if limit >= _UNLIMITED or used is None:
        return None
    stat = _values(folder / "memory.stat")
    cached = sum(_number(stat, name) for name in files.cached)
    return Bound(limit, limit - max(0, used - cached), _GROUP_SHARE)


def _unescaped(text: str) -> str:
    """Return a path of ``mountinfo``, where spaces and some others are octal escapes."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _values(path: Path) -> dict[str, str]:
    """Return the first two words of each line of a file as names and values."""
    return {words[0]: words[1] for line in _lines(path) if len(words := line.split()) > 1}


def _number(values: dict[str, str], name: str) -> int:
    text = values.get(name, "")
    return int(text) if text.isdecimal() else 0


def _first_number(path: Path) -> int | None:
    text = next(iter(_lines(path)), "").strip()
    return int(text) if text.isdecimal() else None
