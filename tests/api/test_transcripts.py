"""Event streams equal the recordings of ``tests/golden/make_transcripts.py`` byte for byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transcripts import FOLDER, GROUPS, Group, mask, transcript
from variants import few

from offgrid.server import Server

SHARED = [(group, name) for group in GROUPS if group.flags is None for name in group.cases]
OWN = [group for group in GROUPS if group.flags is not None]


def recorded(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_bytes().decode()


@pytest.mark.parametrize(("group", "name"), SHARED, ids=[name for _, name in SHARED])
def test_streams(server: Server, group: Group, name: str) -> None:
    assert transcript(server, group, name) == recorded(name)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("group", few(2, OWN), ids=lambda group: next(iter(group.cases)))
def test_streams_of_other_servers(
    make_server: Callable[..., Server], starter_path: Path, tmp_path: Path, group: Group
) -> None:
    """One server serves all streams of a group."""
    group.write_model(starter_path, tmp_path)
    server = make_server(**(group.flags or {}))
    assert {name: transcript(server, group, name) for name in group.cases} == {
        name: recorded(name) for name in group.cases
    }


def test_every_recording_belongs_to_a_case() -> None:
    names = [name for group in GROUPS for name in group.cases]
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(names)
    assert len(set(names)) == len(names)


def test_masks_hide_nothing_else() -> None:
    data = b'data: {"id":"cmpl-0a1b","created":17,"text":"17 a","logprob":-1.5e-05}\n\n'
    assert mask(data) == (
        'data: {"id":"cmpl-<hex>","created":<time>,"text":"17 a","logprob":<float>}\n\n'
    )
