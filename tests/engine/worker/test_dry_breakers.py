"""DRY's breakers: converting a text to token sequences."""

from __future__ import annotations

import itertools

import pytest
import reference_breakers
from hypothesis import example, given
from hypothesis import strategies as st

from offgrid.engine.worker.dry_breakers import (
    MAX_SAME_HEAD,
    MAX_SEQUENCES,
    PieceIndex,
    expand_breakers,
)
from offgrid.engine.worker.llama.model import Model
from offgrid.errors import InvalidParameter

LOAD = {"ctx_size": 256, "parallel": 1}

PIECES = [b"a", b"b", b"c", b"ab", b"xab", b"abcab", b"ca", b"abc", b"\n"]


def tokenize(data: bytes) -> list[int]:
    """A token for each letter."""
    return [PIECES.index(data[i : i + 1]) for i in range(len(data))]


def expand(*texts: str, pieces: list[bytes] = PIECES) -> set[tuple[int, ...]]:
    found = expand_breakers(texts, PieceIndex(pieces), tokenize)
    assert found == sorted(set(found))
    return set(found)


def test_tokens_that_contain_a_breaker_and_tokens_that_begin_it() -> None:
    whole = {(5,), (7,)}
    begun = {(0, 1, 2), (3, 2), (4, 2), (6, 1, 2)}
    assert expand("abc") == whole | begun


def test_a_breaker_of_one_letter() -> None:
    assert expand("\n") == {(8,)}
    assert expand("?") == set()


def test_several_breakers() -> None:
    assert expand("\n", "abc", "\n") == expand("\n") | expand("abc")
    assert expand() == set()


def test_a_tail_has_at_most_twenty_tokens() -> None:
    index = PieceIndex([b"a", b"b", b"c"])
    (sequence,) = expand_breakers(["a" + "b" * 39], index, lambda data: [1] * len(data))
    assert sequence == (0, *[1] * 20)


BYTES = st.binary(max_size=14) | st.text("ab", max_size=14).map(str.encode)
TEXT = st.text("ab\0é", min_size=1, max_size=14) | st.text(min_size=1, max_size=14)


@given(
    pieces=st.lists(BYTES | TEXT.map(str.encode), min_size=1, max_size=40),
    texts=st.lists(TEXT, min_size=1, max_size=3),
    cut=st.integers(0, 14),
)
@example(pieces=[b"\0", b"", b"\0\0"], texts=["\0\0\0"], cut=0)
@example(pieces=[b"aab", b"aaaaaaaaab", b"baaaaaaaaab"], texts=["aaaaaaaaabaa"], cut=10)
def test_the_index_gives_the_same_as_a_search_of_every_token(
    pieces: list[bytes], texts: list[str], cut: int
) -> None:
    # Pieces that end with the beginning of a breaker, and pieces that contain a whole one.
    pieces = [*pieces, *(b"ab" + text.encode()[:cut] for text in texts), texts[0].encode()]
    expected = set()
    for text in texts:
        expected |= reference_breakers.expand_breaker(text, pieces, list)
    assert expand_breakers(texts, PieceIndex(pieces), list) == sorted(expected)


def many_pieces(count: int) -> list[bytes]:
    """Distinct pieces of three letters."""
    letters = b"abcdefghijklmnopqrstuvwxyz0123456789"
    return [bytes(three) for three in itertools.islice(itertools.product(letters, repeat=3), count)]


def test_few_tokens_of_a_large_vocabulary_are_examined() -> None:
    """64 breakers of 40 letters: comparing every piece with each of them took minutes."""
    index = PieceIndex(many_pieces(36**3) + [b"%d#" % number for number in range(100)])
    texts = [f"#{number:02}".ljust(40, "z") for number in range(64)]
    found = expand_breakers(texts, index, lambda data: [int(data[:2])])
    assert len(found) == 64 * 100
    # Pieces that end with the first letter, once for each breaker.
    assert index.looked_at == 64 * 100


def test_too_many_sequences_are_refused_before_any_is_made() -> None:
    """Texts begin with letters that end many tokens; the rest of each text is not examined."""
    index = PieceIndex(many_pieces(36**3))
    texts = [f"{letter}{number}".ljust(40, "z") for letter in "ab" for number in range(32)]
    calls: list[bytes] = []

    def tokenize(data: bytes) -> list[int]:
        calls.append(data)
        return [0]

    with pytest.raises(InvalidParameter, match=str(MAX_SEQUENCES)) as caught:
        expand_breakers(texts, index, tokenize)
    assert caught.value.param == "dry_sequence_breakers"
    assert calls == []
    assert index.looked_at <= 2 * MAX_SEQUENCES


def test_a_letter_that_most_tokens_contain_is_refused_early() -> None:
    index = PieceIndex([b"a"] * (4 * MAX_SEQUENCES))
    with pytest.raises(InvalidParameter, match="'a' match more than"):
        expand_breakers(["a"], index, list)
    assert index.looked_at == MAX_SEQUENCES + 1


def test_too_many_sequences_of_one_token_are_refused() -> None:
    """All of them are compared at every occurrence of the token, for every sampled token."""
    index = PieceIndex([b"a"])
    texts = [f"a{number}" for number in range(MAX_SAME_HEAD + 1)]
    assert len(expand_breakers(texts[1:], index, list)) == MAX_SAME_HEAD
    with pytest.raises(InvalidParameter, match="begin with the same token") as caught:
        expand_breakers(texts, index, list)
    assert caught.value.param == "dry_sequence_breakers"


def test_breakers_of_a_real_vocabulary(model: Model) -> None:
    sequences = model.breakers(["\n", ":"])
    assert list(sequences) == sorted(set(sequences))
    assert {model.piece(sequence[0]) for sequence in sequences} >= {b"\n", b":"}
    for sequence in sequences:
        text = b"".join(map(model.piece, sequence))
        assert b"\n" in text or b":" in text
    assert list(model.breakers([":"])) == [s for s in sequences if b":" in model.piece(s[0])]


def test_breakers_of_a_real_vocabulary_equal_those_without_an_index(model: Model) -> None:
    pieces = [model.piece(token) for token in range(model.n_vocab)]

    def tokenize(tail: bytes) -> list[int]:
        ids: list[int] = model.tokenize_plain(tail.decode("utf-8", "replace")).tolist()
        return ids

    for text in ("the end", "\n\n", "User:", "é", " "):
        expected = reference_breakers.expand_breaker(text, pieces, tokenize)
        assert list(model.breakers([text])) == sorted(expected)
    assert model.breakers(["\n", ":"]) is model.breakers([":", "\n"]), "found once"


def test_pieces_of_a_vocabulary_are_read_at_once(model: Model) -> None:
    """The grammar's matcher gets them with control tokens by their names."""
    control = set(model.control_ids)
    assert model.vocab_pieces() == [
        model.name(token).encode() if token in control else model.piece(token)
        for token in range(model.n_vocab)
    ]
