"""Memory of zeros is given back, and what it contains stays the same."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import TIMEOUT
from tiny_models import make

from offgrid.engine.memory import resident
from offgrid.engine.worker.llama import untouched
from offgrid.engine.worker.llama.untouched import Ranges, added, give_back_zeros, writable

MIB = 1 << 20
GROWTH = """
import os, sys
from offgrid.engine.memory import resident
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.model import Model

before = resident(os.getpid())
model = Model(Load(sys.argv[1], ctx_size=4096, parallel=64, threads=1))
print(resident(os.getpid()) - before)
model.close()
"""
"""Prints by how many bytes a process grows that loads a model with a large cache."""
ranges = st.lists(st.integers(0, 40), max_size=8, unique=True).map(
    lambda ends: [*zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False)]
)


@given(before=ranges, now=ranges)
def test_what_was_mapped_before_is_not_touched(before: Ranges, now: Ranges) -> None:
    found = {n for first, after in added(before, now) for n in range(first, after)}
    was = {n for first, after in before for n in range(first, after)}
    assert found == {n for first, after in now for n in range(first, after)} - was


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_zeros_are_given_back_and_stay_zeros() -> None:
    before = writable()
    size = 24 * MIB
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    content = np.frombuffer(memory, dtype=np.uint8)
    content[: 20 * MIB] = 0  # the pages after them are never touched
    places = [5 * MIB + 7, 5 * MIB + 100_000, 11 * MIB]
    content[places] = 9
    own = untouched.added(before, writable())
    assert sum(after - first for first, after in own) >= size
    held = resident_pages()
    given = give_back_zeros(before)
    assert 18 * MIB < given < 20 * MIB
    assert resident_pages() < held - 17 * MIB
    assert give_back_zeros(before) == 0, "nothing is left"
    assert np.flatnonzero(content).tolist() == places
    content[3 * MIB] = 5
    assert np.flatnonzero(content).tolist() == [3 * MIB, *places]


def resident_pages() -> int:
    return resident(os.getpid())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_slots_take_memory_as_they_fill(tmp_path: Path) -> None:
    """llama.cpp has no way to say so, hence this looks at the whole process: a new one, as a worker
    is, since this one has memory of earlier tests."""
    path = make("llama", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(path)],
        capture_output=True, text=True, check=True, cwd=tmp_path, timeout=TIMEOUT,
    )  # fmt: skip
    cache = 64 * 4096 * 2 * 64 * 2  # two layers, keys and values of 32 elements each
    assert cache == 64 * MIB
    assert MIB < int(done.stdout) < cache // 2


def test_other_systems_keep_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert writable() == []
    assert give_back_zeros([]) == 0
