"""Event streams are to the byte those that ``tests/golden/make_transcripts.py`` recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transcripts import BROKEN, CASES, FOLDER, mask, transcript

from offgrid.server import Server


def recorded(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_bytes().decode()


@pytest.mark.parametrize("name", CASES)
def test_whole_streams(server: Server, name: str) -> None:
    assert transcript(server, name) == recorded(name)


@pytest.mark.parametrize("name", BROKEN)
def test_streams_that_fail_in_the_middle(make_server: Callable[..., Server], name: str) -> None:
    assert transcript(make_server(), name) == recorded(name)


def test_nothing_recorded_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == CASES.keys() | BROKEN.keys()


def test_masks_hide_nothing_else() -> None:
    data = b'data: {"id":"cmpl-0a1b","created":17,"text":"17 a","logprob":-1.5e-05}\n\n'
    assert mask(data) == (
        'data: {"id":"cmpl-<hex>","created":<time>,"text":"17 a","logprob":<float>}\n\n'
    )
