"""Where reasoning is cut, compared with a definition that reads the whole text again and again."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.engine.protocol.requests import ReasoningBudget
from offgrid.engine.worker.reasoning import ReasoningLimit, within_character

N_VOCAB = 100
CLOSE, INSIST = (70, 3, 32), (31,)
BEGIN, END = "<think>", "</think>"


def limit(tokens: int, opened: bool = False, **fields: str) -> ReasoningBudget:
    return ReasoningBudget(
        tokens, opened, rf"\s*{re.escape(BEGIN)}", (END,), "CLOSE", **{"insist": "", **fields}
    )


def limited(budget: ReasoningBudget) -> ReasoningLimit:
    return ReasoningLimit(budget, CLOSE, INSIST if budget.insist else (), N_VOCAB)


def cut(pieces: Sequence[bytes], budget: int, opened: bool) -> int | None:
    """The definition: after how many pieces reasoning is ended; None if it never is."""
    begun = 0 if opened else None
    start = 0
    for n in range(len(pieces) + 1):
        text = b"".join(pieces[:n])
        if begun is None:
            found = re.match(rb"\s*<think>", text)
            if found is None:
                continue
            begun, start = n, found.end()
        said = text[start:]
        if END.encode() in said:
            return None
        if n - begun >= budget and not is_within(said):
            return n
    return None


def is_within(said: bytes) -> bool:
    try:
        said.decode()
    except UnicodeDecodeError:
        return True
    return any(said.endswith(END.encode()[:size]) for size in range(1, len(END)))


def allowed(it: ReasoningLimit) -> list[int]:
    """The tokens that the mask allows."""
    if not it.address:
        return []
    words = (ctypes.c_uint32 * ((N_VOCAB + 31) // 32)).from_address(it.address)
    return [token for token in range(N_VOCAB) if words[token // 32] >> (token % 32) & 1]


def force(it: ReasoningLimit, tokens: Sequence[int], piece: bytes = b"") -> None:
    """Take the forced tokens one by one; each must be the only one allowed."""
    for token in tokens:
        assert allowed(it) == [token]
        it.follow(piece)
    assert it.address == 0


TEXTS = st.lists(
    st.sampled_from([BEGIN, END, " ", "\n", "a", "</", "<", "think>", "ä", "雨", "🌧", "héllo 雨"]),
    max_size=12,
).map("".join)


@st.composite
def splits(draw: st.DrawFn) -> list[bytes]:
    """A text in pieces, which may be parts of characters or have no bytes."""
    text = draw(TEXTS).encode()
    places = draw(st.lists(st.integers(0, len(text)), max_size=len(text)))
    edges = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@pytest.mark.slow
@settings(max_examples=300)
@given(splits(), st.integers(0, 6), st.booleans())
def test_it_is_cut_where_the_definition_says(
    pieces: list[bytes], budget: int, opened: bool
) -> None:
    expected = cut(pieces, budget, opened)
    it = limited(limit(budget, opened))
    found = 0 if it.address else None
    for n, piece in enumerate(pieces, 1):
        if found is not None:
            break
        it.follow(piece)
        if it.address:
            found = n
    # It waits for a few tokens only; the definition waits for ever.
    if found is not None and found != expected:
        assert expected is None or expected > found
        assert is_within(b"".join(pieces[:found]))
        assert found > 8
    else:
        assert found == expected


@pytest.mark.parametrize("budget", range(4))
def test_the_forced_tokens_come_one_by_one_and_then_all_are_free(budget: int) -> None:
    it = limited(limit(budget, opened=True))
    for piece in (b"a", b"b", b"c")[:budget]:
        assert allowed(it) == []
        it.follow(piece)
    force(it, CLOSE)
    assert it.used == budget
    for piece in (BEGIN.encode(), b"more", b"text"):  # text of the answer
        it.follow(piece)
        assert it.address == 0


def test_reasoning_that_begins_again_is_ended_at_once() -> None:
    it = limited(limit(2, insist="x", later=re.escape(BEGIN)))
    it.follow(BEGIN.encode())
    it.follow(b"one")
    assert it.address == 0
    it.follow(b"two")
    force(it, CLOSE, b"</th")
    for _ in range(2):
        it.follow(b"some content ")
        it.follow(BEGIN.encode())
        force(it, INSIST)


def test_the_budget_is_that_of_all_reasoning_together() -> None:
    it = limited(limit(3, later=re.escape(BEGIN)))
    for piece in (BEGIN, "a", END, "content", BEGIN):
        it.follow(piece.encode())
        assert it.address == 0
    assert it.used == 2  # the end is counted too
    it.follow(b"b")
    force(it, CLOSE)


def test_no_endless_wait_for_the_end_of_a_character() -> None:
    it = limited(limit(0, opened=False))
    it.follow(BEGIN.encode() + b"\xf0")
    waited = 0
    while not it.address:
        waited += 1
        it.follow(b"\xf0")
    assert waited <= 8


@given(st.text(max_size=3), st.integers(0, 12))
def test_within_a_character(text: str, size: int) -> None:
    data = text.encode()[:size]
    try:
        data.decode()
        whole = True
    except UnicodeDecodeError:
        whole = False
    assert within_character(data) is not whole


@pytest.mark.slow
@settings(max_examples=200)
@given(splits(), splits(), splits(), st.integers(0, 6), st.booleans())
def test_it_goes_back_to_where_it_was(
    kept: list[bytes], taken: list[bytes], after: list[bytes], budget: int, opened: bool
) -> None:
    it, straight = limited(limit(budget, opened)), limited(limit(budget, opened))
    for piece in kept:
        it.follow(piece)
        straight.follow(piece)
    state = it.state
    for piece in taken:
        it.follow(piece)
    it.restore(state)
    for piece in [b"", *after]:
        assert (it.state, allowed(it)) == (straight.state, allowed(straight))
        it.follow(piece)
        straight.follow(piece)
