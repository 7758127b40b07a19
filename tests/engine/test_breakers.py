"""DRY's breakers: from a text to token sequences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from offgrid.engine.breakers import expand_breaker
from offgrid.engine.llama.model import Model
from offgrid.engine.protocol import Load

PIECES = [b"a", b"b", b"c", b"ab", b"xab", b"abcab", b"ca", b"abc", b"\n"]


def tokenize(data: bytes) -> list[int]:
    """A token for each letter."""
    return [PIECES.index(data[i : i + 1]) for i in range(len(data))]


def test_tokens_that_hold_it_and_tokens_that_begin_it() -> None:
    found = expand_breaker("abc", PIECES, tokenize)
    whole = {(5,), (7,)}
    begun = {(0, 1, 2), (3, 2), (4, 2), (6, 1, 2)}
    assert found == whole | begun


def test_one_letter() -> None:
    assert expand_breaker("\n", PIECES, tokenize) == {(8,)}
    assert expand_breaker("?", PIECES, tokenize) == frozenset()


def test_a_tail_has_at_most_twenty_tokens() -> None:
    (sequence,) = expand_breaker("a" + "b" * 39, [b"a", b"b", b"c"], lambda data: [1] * len(data))
    assert sequence == (0, *[1] * 20)


@pytest.fixture(scope="module")
def model(starter_path: Path) -> Iterator[Model]:
    model = Model(Load(str(starter_path), parallel=1, ctx_size=256, threads=1))
    yield model
    model.close()


def test_of_a_real_vocabulary(model: Model) -> None:
    sequences = model.breakers(["\n", ":"])
    assert sequences == sorted(set(sequences))
    assert {model.piece(sequence[0]) for sequence in sequences} >= {b"\n", b":"}
    for sequence in sequences:
        text = b"".join(map(model.piece, sequence))
        assert b"\n" in text or b":" in text
    assert model.breakers([":"]) == [s for s in sequences if b":" in model.piece(s[0])]
