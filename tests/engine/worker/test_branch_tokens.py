"""Tokens of branches: their order and what is read of the rows, without a model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.protocol.events import BranchLogprobs
from offgrid.engine.worker.branch_rows import logprobs
from offgrid.engine.worker.branching import END, Branching, BranchTokens, Trie
from offgrid.errors import SamplingError

Tokens = tuple[int, ...]

# --- the trie, without a model ------------------------------------------------------------------

TOKEN = st.integers(1, 3)
CHOICE = st.lists(TOKEN, max_size=4).map(tuple)
BRANCH = st.builds(
    lambda stem, choices: [(*stem, *choice) for choice in choices],
    st.lists(TOKEN, min_size=1, max_size=4).map(tuple),
    st.lists(CHOICE, min_size=2, max_size=5),
)


def likely(before: Tokens, token: int) -> float:
    """A made-up logprob of a token, or of the end, after others."""
    return -float(hash((before, token)) % 1000) / 100 - 0.01


def trie_of(branches: Sequence[Sequence[Tokens]], stem: int = 0, **options: Any) -> Trie:
    """The trie of branches with these tokens, of which the first ``stem`` are kept apart."""
    tokens = [
        BranchTokens(choices[0][:stem], [choice[stem:] for choice in choices])
        for choices in branches
    ]
    return Trie(tokens, **options)


def made(branches: Sequence[Sequence[Tokens]], stem: int = 0, **options: Any) -> Branching:
    return Branching(trie_of(branches, stem, **options))


def expected(choices: Sequence[Tokens], ends: bool) -> list[float]:
    """The sums of all choices of a branch, without the part that all have in common."""
    common = next(
        n for n in range(min(map(len, choices)), -1, -1) if len({c[:n] for c in choices}) == 1
    )
    found = []
    for choice in choices:
        parts = [likely(choice[:n], choice[n]) for n in range(common, len(choice))]
        if ends:
            parts.append(likely(choice, END))
        found.append(math.fsum(parts) - math.log(choices.count(choice)))
    return found


def walk(branching: Branching, forks: bool = False) -> tuple[list[BranchLogprobs], int]:
    """Compute all tokens one by one; return what was found, and how many were computed."""
    slot: list[int] = []
    saved: set[Tokens] = set()
    found: list[BranchLogprobs] = []
    computed = 0
    while True:
        assert [*branching.tokens[: len(slot)]] == slot
        for index in range(len(slot), len(branching.tokens)):
            computed += 1
            slot.append(branching.tokens[index])
            before = tuple(slot)
            branching.read(index, lambda tokens, b=before: [likely(b, token) for token in tokens])
        if branching.needs_state:
            saved.add(tuple(slot))
            branching.states[len(slot)] = tuple(slot)
        keep, now = branching.advance()
        found += now
        if keep is None:
            return found, computed
        if forks and keep < len(slot):
            assert branching.states[keep] == tuple(slot[:keep])
        del slot[keep:]


@given(
    branches=st.lists(BRANCH, min_size=1, max_size=4),
    stem=st.integers(0, 1),
    ends=st.booleans(),
    forks=st.booleans(),
)
def test_every_choice_gets_its_sum_and_every_node_is_computed_once(
    branches: list[list[Tokens]], stem: int, ends: bool, forks: bool
) -> None:
    branching = made(branches, stem, ends=ends, forks=forks)
    found, computed = walk(branching, forks)
    assert sorted(one.branch for one in found) == [*range(len(branches))]
    for one in found:
        assert one.logprobs == pytest.approx(expected(branches[one.branch], ends), abs=1e-9)
    paths = {choice if ends else choice[:-1] for choices in branches for choice in choices}
    nodes = {path[:n] for path in paths for n in range(1, len(path) + 1)}
    trie = branching.trie
    assert computed == len(nodes) == trie.prompt_tokens + trie.choice_tokens
    assert trie.done == trie.choice_tokens


class Walker:
    """A separate slot, and the way through the trie of the sequence in it."""

    def __init__(self, trie: Trie) -> None:
        self.branching = Branching(trie)
        self.slot: list[int] = []

    def compute(self, most: int) -> None:
        """Compute up to ``most`` tokens, and read their rows."""
        for index in range(len(self.slot), len(self.branching.tokens))[:most]:
            self.slot.append(self.branching.tokens[index])
            before = tuple(self.slot)
            self.branching.read(index, lambda tokens, b=before: [likely(b, t) for t in tokens])

    def advance(self) -> tuple[bool, tuple[BranchLogprobs, ...]]:
        """Go on after all tokens; return whether there is more to do, and what was found."""
        keep, found = self.branching.advance()
        if keep is not None:
            assert self.slot[:keep] == [*self.branching.tokens[:keep]]
            del self.slot[keep:]
        return keep is not None, found


@given(
    branches=st.lists(BRANCH, min_size=1, max_size=6),
    stem=st.integers(0, 1),
    ends=st.booleans(),
    turns=st.lists(st.tuples(st.sampled_from("begin go go stop".split()), st.integers(0, 9))),
)
def test_several_slots_find_the_same(
    branches: list[list[Tokens]], stem: int, ends: bool, turns: list[tuple[str, int]]
) -> None:
    """Whenever another slot begins to help, or one is taken away in the middle of a path."""
    trie = trie_of(branches, stem, ends=ends)
    walkers = [Walker(trie)]
    found: list[BranchLogprobs] = []
    for turn, number in itertools.chain(turns, itertools.repeat(("go", 9))):
        if not walkers:
            break
        walker = walkers[number % len(walkers)]
        if turn == "begin" and trie.waiting:
            walkers.append(Walker(trie))
        elif turn == "stop" and trie.active > 1:
            walker.branching.stop()
            walkers.remove(walker)
        else:
            walker.compute(number)
            if len(walker.slot) == len(walker.branching.tokens):
                more, now = walker.advance()
                found += now
                if not more:
                    walkers.remove(walker)
    assert not trie.waiting
    assert sorted(one.branch for one in found) == [*range(len(branches))]
    for one in found:
        assert one.logprobs == pytest.approx(expected(branches[one.branch], ends), abs=1e-9)
    assert trie.done == trie.choice_tokens


def test_a_choice_that_begins_another_one_is_told_apart_by_its_end() -> None:
    (found,), computed = walk(made([[(1, 2), (1, 2, 3)]]))
    assert computed == 3
    assert found.logprobs == pytest.approx(
        [likely((1, 2), END), likely((1, 2), 3) + likely((1, 2, 3), END)]
    )


def test_choices_of_the_same_tokens_share_the_probability() -> None:
    (found,), _ = walk(made([[(1, 2), (1, 2), (1, 3)]]))
    alone, _ = walk(made([[(1, 2), (1, 3)]]))
    assert found.logprobs[0] == found.logprobs[1] == alone[0].logprobs[0] - math.log(2)
    assert found.logprobs[2] == alone[0].logprobs[1]


# --- rows -----------------------------------------------------------------------------------------


@given(st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=40), st.integers(1, 3))
def test_rows_are_read_in_float64(values: list[float], n_ends: int) -> None:
    row = np.array(values, dtype=np.float32)
    ends = frozenset(range(n_ends))
    found = logprobs(row, [0, len(values) - 1, END], ends)
    total = math.log(math.fsum(math.exp(float(value)) for value in row))
    assert found[:2] == pytest.approx([float(row[0]) - total, float(row[-1]) - total], abs=1e-12)
    both = math.log(math.fsum(math.exp(float(row[end])) for end in ends))
    assert found[2] == pytest.approx(both - total, abs=1e-12)


@pytest.mark.parametrize("bad", [[1.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_unusable_rows(bad: list[float]) -> None:
    with pytest.raises(SamplingError):
        logprobs(np.array(bad, dtype=np.float32), [0], frozenset())


def test_an_impossible_token_is_no_error() -> None:
    row = np.array([0.0, -math.inf, 0.0], dtype=np.float32)
    found = logprobs(row, [1, 0, END], frozenset({1}))
    assert found == [-math.inf, pytest.approx(-math.log(2)), -math.inf]


def test_the_order_of_a_request_changes_nothing() -> None:
    """The order of branches and choices in a request changes no result."""
    a, b = [(1, 2, 3), (1, 2), (1, 4)], [(2, 2), (2, 3)]
    found = {one.branch: one.logprobs for one in walk(made([a, b]))[0]}
    turned = {one.branch: one.logprobs for one in walk(made([b[::-1], a[::-1]]))[0]}
    assert found[0] == turned[1][::-1]
    assert found[1] == turned[0][::-1]


def test_a_model_without_end_tokens_is_asked_without_ends() -> None:
    found, _ = walk(made([[(1, 2, 9), (1, 3, 9)]], ends=False))
    assert found[0].logprobs == pytest.approx(
        [likely((1,), 2) + likely((1, 2), 9), likely((1,), 3) + likely((1, 3), 9)]
    )
