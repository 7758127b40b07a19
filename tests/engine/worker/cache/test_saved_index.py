"""The index of saved prefixes, compared with a naive one; and what is worth a copy."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.engine.worker.cache.index import Index, SavedPrefix
from offgrid.engine.worker.cache.worth import MIN_GAIN, MIN_LENGTH, Worth
from offgrid.engine.worker.prefix import MIN_REUSE, REWRITTEN

ENDS = st.lists(st.integers(0, 1), max_size=12)
SYSTEM = [7] * (MIN_REUSE - 3)
TOKENS = st.tuples(st.sampled_from([SYSTEM, SYSTEM[:5]]), ENDS).map(
    lambda parts: np.array([*parts[0], *parts[1]], dtype=np.int32)
)
LONG = TOKENS.filter(lambda tokens: len(tokens) >= MIN_REUSE)
SAVED = st.lists(st.tuples(LONG, st.integers(0, 40), st.integers(1, 3)), max_size=8)


def shared(a: np.ndarray, b: np.ndarray) -> int:
    pairs = zip(a.tolist(), b.tolist(), strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))


def index_of(saved: list[tuple[np.ndarray, int, int]], can_cut: bool) -> Index:
    index = Index(can_cut)
    for tokens, n_prompt, size in saved:
        index.add(SavedPrefix(tokens, min(n_prompt, len(tokens)), size))
    return index


@settings(max_examples=50)
@given(SAVED, TOKENS, st.booleans(), st.integers(0, 40))
def test_the_longest_prefix(
    saved: list[tuple[np.ndarray, int, int]], prompt: np.ndarray, can_cut: bool, image: int
) -> None:
    """``image``: no prefix ends between this index and three tokens later."""

    def before_image(length: int) -> int:
        return image if image < length < image + 3 else length

    found, length = index_of(saved, can_cut).longest(prompt, before_image)
    usable = {}
    for number, (tokens, _, size) in enumerate(saved):
        common = before_image(shared(tokens, prompt))
        if common >= MIN_REUSE and (can_cut or common == len(tokens)):
            usable[number] = (common, -size)
    assert (found is None) == (not usable)
    if found is not None:
        assert (length, -found.size) == max(usable.values())
        assert shared(found.tokens, prompt) >= length


@settings(max_examples=50)
@given(LONG, TOKENS, st.integers(1, 40), st.booleans())
def test_a_prefix_with_a_mark_is_used_as_a_whole_or_up_to_it(
    tokens: np.ndarray, prompt: np.ndarray, mark: int, can_cut: bool
) -> None:
    index, mark = Index(can_cut), min(mark, len(tokens))
    index.add(SavedPrefix(tokens, len(tokens), 2, mark=mark, mark_size=1))
    common = shared(tokens, prompt)
    usable = common if can_cut or common == len(tokens) else mark if mark <= common else 0
    found, length = index.longest(prompt)
    assert length == (usable if usable >= MIN_REUSE else 0)
    assert (found is None) == (length == 0)
    if common >= MIN_REUSE:
        assert index.covered(prompt) == usable


@settings(max_examples=50)
@given(SAVED, LONG, st.booleans())
def test_what_is_covered(
    saved: list[tuple[np.ndarray, int, int]], tokens: np.ndarray, can_cut: bool
) -> None:
    index = index_of(saved, can_cut)
    lengths = [(shared(other, tokens), len(other)) for other, *_ in saved]
    alike = [n for n, whole in lengths if n >= MIN_REUSE and (can_cut or n == whole)]
    assert index.covered(tokens) == max(alike, default=0)
    assert index.covered(tokens, on_disk=True) == 0


@settings(max_examples=50)
@given(SAVED, LONG, st.booleans())
def test_earlier_turns_are_superseded(
    saved: list[tuple[np.ndarray, int, int]], tokens: np.ndarray, can_cut: bool
) -> None:
    index = index_of(saved, can_cut)
    prefix = SavedPrefix(tokens, len(tokens), 1)
    index.add(prefix)
    gone = index.superseded(prefix)
    assert prefix not in gone
    for other in index:
        n = shared(other.tokens, tokens)
        same = n == len(other.tokens) == len(tokens)
        earlier = can_cut and n >= other.n_prompt - REWRITTEN and n + REWRITTEN >= MIN_REUSE
        if other is not prefix and n >= MIN_REUSE:
            assert (other in gone) == (same or earlier)


@given(st.lists(st.tuples(st.sampled_from(["add", "use", "remove"]), st.integers(0, 5))))
def test_the_order_of_use(actions: list[tuple[str, int]]) -> None:
    index, order = Index(can_cut=True), []
    prefixes = [SavedPrefix(np.full(20, n, dtype=np.int32), 20, 1) for n in range(6)]
    for action, number in actions:
        prefix = prefixes[number]
        if action == "add" and prefix not in index:
            index.add(prefix)
            order.append(prefix)
        elif action == "use":
            index.use(prefix)
            if prefix in order:
                order.remove(prefix)
                order.append(prefix)
        elif action == "remove":
            index.remove(prefix)
            order = [one for one in order if one is not prefix]
        assert [*index] == order
        assert len(index) == len(order)
        found, _ = index.longest(prefix.tokens)
        assert found is (prefix if prefix in order else None)


def test_copies_are_worth_it_if_computing_takes_longer() -> None:
    worth = Worth()
    large = 100 << 20
    assert worth.saving(MIN_LENGTH, MIN_GAIN, large)  # nothing is known yet
    assert not worth.saving(MIN_LENGTH - 1, MIN_GAIN, 1)
    assert not worth.saving(MIN_LENGTH, MIN_GAIN - 1, 1)
    assert not worth.restoring(MIN_GAIN - 1, 1, from_disk=False)
    for _ in range(50):
        worth.copied("read", large, seconds=1.0)
        worth.copied("read", 100, seconds=1.0)  # says nothing
        worth.copied("load", large, seconds=0.1)
        worth.copied("save", large, seconds=0.1)
        worth.computed(100, seconds=0.1)
        worth.computed(1, seconds=1.0)  # says nothing
    assert worth.restoring(2500, large, from_disk=True)
    assert not worth.restoring(2000, large, from_disk=True)
    assert worth.restoring(250, large, from_disk=False)
    assert not worth.restoring(150, large, from_disk=False)
    assert worth.saving(1000, 500, large)
    assert not worth.saving(1000, 300, large)
