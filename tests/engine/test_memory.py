"""Free memory and kills for lack of memory, with the files of simulated machines."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from offgrid.engine.memory import GIB, MIB, bounds, free_memory, oom_kills, resident, written

GROUP_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
GROUP_2 = "memory.max", "memory.current", "inactive_file"


class Machine:
    """A machine of 16 GiB, 12 of them free, and its files of ``/proc`` and of cgroups."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc = folder / "proc"
        self.mount = folder / "a mount"
        (self.proc / "self").mkdir(parents=True)
        figures = SimpleNamespace(total=16 * GIB, available=12 * GIB)
        monkeypatch.setattr("psutil.virtual_memory", lambda: figures)

    def put_into(self, path: str, version: int, root: str = "/") -> None:
        """Put this process into a cgroup, of a hierarchy of which ``root`` is mounted."""
        place = str(self.mount).replace(" ", "\\040")
        kind, tags = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,memory")
        (self.proc / "self" / "mountinfo").write_text(
            "22 1 8:1 / / rw - ext4 /dev/sda rw\n"
            "31 22 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
            f"32 22 0:29 {root} {place} rw,relatime shared:5 - {kind} {kind} {tags}\n"
        )
        line = f"0::{path}" if version == 2 else f"4:memory:{path}"
        (self.proc / "self" / "cgroup").write_text(f"8:cpu:/elsewhere\n{line}\n")

    def group(self, path: str, version: int, limit: int | str, used: int, cached: int = 0) -> None:
        """Make a cgroup, ``path`` below the mount."""
        folder = self.mount / path
        folder.mkdir(parents=True, exist_ok=True)
        limit_file, usage_file, cached_name = GROUP_2 if version == 2 else GROUP_1
        (folder / limit_file).write_text(f"{limit}\n")
        (folder / usage_file).write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cached_name} {cached}\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_a_machine_without_cgroups(machine: Machine) -> None:
    """A twentieth of it stays free for the system."""
    assert free_memory(machine.proc) == 12 * GIB - 16 * GIB // 20


@pytest.mark.parametrize("version", [1, 2])
def test_the_smallest_of_nested_limits_counts(machine: Machine, version: int) -> None:
    machine.put_into("/outer/inner", version)
    unlimited = "max" if version == 2 else (1 << 63) - 4096
    machine.group("outer/inner", version, unlimited, 1 * GIB)
    machine.group("outer", version, 6 * GIB, 3 * GIB, cached=1 * GIB)
    # What is copied from files can be dropped: 2 of 6 GiB are used.
    assert free_memory(machine.proc) == 4 * GIB - 6 * GIB // 50
    machine.group("outer/inner", version, 5 * GIB, 3 * GIB)
    assert free_memory(machine.proc) == 2 * GIB - 5 * GIB // 50
    assert [bound.total // GIB for bound in bounds(machine.proc)] == [16, 5, 6]


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_own_cgroup_as_the_root(machine: Machine, version: int) -> None:
    machine.put_into("/docker/abc", version, root="/docker/abc")
    machine.group("", version, 2 * GIB, 1 * GIB)
    assert free_memory(machine.proc) == 1 * GIB - 64 * MIB


def test_a_limit_that_slows_down_counts_too(machine: Machine) -> None:
    machine.put_into("/unit", 2)
    machine.group("unit", 2, 6 * GIB, 1 * GIB)
    (machine.mount / "unit" / "memory.high").write_text(f"{4 * GIB}\n")
    assert free_memory(machine.proc) == 3 * GIB - 4 * GIB // 50


def test_nothing_is_free_in_a_full_cgroup(machine: Machine) -> None:
    machine.put_into("/unit", 2)
    machine.group("unit", 2, 1 * GIB, 2 * GIB)
    assert free_memory(machine.proc) == 0


def test_a_limit_above_the_memory_of_the_machine_changes_nothing(machine: Machine) -> None:
    machine.put_into("/unit", 2)
    machine.group("unit", 2, 64 * GIB, 1 * GIB)
    assert len(bounds(machine.proc)) == 1


def test_unreadable_and_strange_files_are_passed_over(machine: Machine) -> None:
    machine.put_into("/../x", 2)
    (machine.proc / "self" / "mountinfo").write_text("\n - cgroup2\nx y - cgroup2 a b\n")
    machine.group("x", 2, "lots", 1)
    assert len(bounds(machine.proc)) == 1
    assert oom_kills(machine.proc) == (0,)


@pytest.mark.parametrize(("version", "file"), [(1, "memory.oom_control"), (2, "memory.events")])
def test_kills_are_counted_in_the_cgroup_and_on_the_machine(
    machine: Machine, version: int, file: str
) -> None:
    machine.put_into("/unit", version)
    machine.group("unit", version, 1 * GIB, 0)
    (machine.proc / "vmstat").write_text("pgfault 7\noom_kill 3\n")
    (machine.mount / "unit" / file).write_text("low 0\noom 4\noom_kill 2\n")
    assert oom_kills(machine.proc) == (3, 2)


def test_this_machine() -> None:
    assert free_memory() >= 0
    assert resident(os.getpid()) > MIB
    assert resident(1 << 30) == 0


def test_sizes_are_written_for_people() -> None:
    assert [written(size) for size in (0, 1, 300 * MIB, 5 * GIB)] == [
        "0 MiB", "1 MiB", "300 MiB", "5.0 GiB",
    ]  # fmt: skip
