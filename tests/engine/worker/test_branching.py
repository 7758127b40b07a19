"""Branches: the order of their tokens, what is read, and what real models compute with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from branch_paths import whole
from engine_runs import Counting, Run
from fixed_logits import FixedLogits, row_after
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import make
from variants import few

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta, Failed
from offgrid.engine.protocol.requests import Branch, GenerationRequest, PromptPart
from offgrid.engine.worker.branch_rows import logprobs
from offgrid.engine.worker.branching import END
from offgrid.engine.worker.figures import figures_of
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prompts import read_branches
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.errors import ContextLengthExceeded
from offgrid.sampling import SamplingParams

Tokens = tuple[int, ...]
LOAD = {"ctx_size": 512}

# --- the engine -----------------------------------------------------------------------------------

INPUT = "Once upon a time there was an otter. " * 8
ANSWERS = (" yes", " no", " maybe", " yes indeed", " no way")


def asking(n: int, prompt: str = INPUT, **fields: Any) -> GenerationRequest:
    """A request with ``n`` questions after a prompt."""
    branches = tuple(
        Branch((PromptPart(f"\nQuestion {i}: is it so?\nAnswer:", True),), ANSWERS, f"q[{i}]")
        for i in range(n)
    )
    return GenerationRequest(parts=(PromptPart(prompt, True),), branches=branches, **fields)


def results(run: Run, id: int) -> dict[int, tuple[float, ...]]:
    """The logprobs of each branch of a request."""
    deltas = [event for event in run.events if isinstance(event, Delta) and event.id == id]
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    return {one.branch: one.logprobs for delta in deltas for one in delta.branches}


def even(logprobs: Sequence[float]) -> np.ndarray:
    """Probabilities that add up to 1."""
    weights = np.exp(np.array(logprobs) - max(logprobs))
    return weights / weights.sum()


def trie_tokens(model: Any, request: GenerationRequest) -> tuple[int, int]:
    """The tokens of a request's prompt, and of all its branches without those that they share."""
    prompt = len(model.tokenize(request.parts))
    branches = read_branches(model, request, prompt)
    paths = {path for tokens in branches for path in whole(tokens)}
    return prompt, len({path[:n] for path in paths for n in range(1, len(path) + 1)})


@pytest.fixture
def fixed(loaded: Model) -> FixedLogits:
    return FixedLogits(loaded)


def check(model: Any, request: GenerationRequest, found: dict[int, tuple[float, ...]]) -> None:
    """Compare with sums over rows that are computed one by one, without a trie."""
    prompt = model.tokenize(request.parts).tolist()
    branches = read_branches(model, request, len(prompt))
    assert found.keys() == {*range(len(branches))}
    for index, branch in enumerate(branches):
        sums = []
        for choice in whole(branch):
            tokens = [*prompt, *choice]
            total = 0.0
            for place in range(len(prompt), len(tokens) + 1):
                row = row_after(tokens[:place], model.n_vocab).astype(np.float64)
                row -= math.log(np.exp(row - row.max()).sum()) + row.max()
                ends = [row[end] for end in model.eog_ids]
                last = place == len(tokens)
                total += math.log(np.exp(ends).sum()) if last else row[tokens[place]]
            sums.append(total)
        assert even(found[index]) == pytest.approx(even(sums), abs=1e-12)


def test_the_probabilities_are_those_of_a_computation_without_a_trie(fixed: FixedLogits) -> None:
    run = Run(fixed)
    request = asking(5)
    id = run.send(request)
    run.finish()
    check(fixed, request, results(run, id))


def test_the_prompt_is_computed_once_and_each_branch_adds_its_tokens(
    model: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scheduler, "lendable", lambda self: None)
    run = Run(model)
    request = asking(20)
    prompt, branches = trie_tokens(model, request)
    id = run.send(request)
    run.finish()
    assert sum(model.decoded) == prompt + branches
    last = run.last(id)
    assert isinstance(last, Delta)
    assert last.cached_tokens == 0
    # The slot holds the prompt afterwards: other questions about it compute only themselves.
    model.decoded.clear()
    again = run.send(asking(3))
    run.finish()
    assert sum(model.decoded) == trie_tokens(model, asking(3))[1]
    last = run.last(again)
    assert isinstance(last, Delta)
    assert last.cached_tokens == prompt
    chat = run.submit(INPUT + "It swam.", max_tokens=1)
    run.finish()
    last = run.last(chat)
    assert isinstance(last, Delta)
    assert last.cached_tokens >= prompt - 2


def test_idle_slots_compute_other_paths_at_the_same_time(
    loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far fewer decodes, the same results, and hardly more tokens: the beginning that all questions
    have in common is computed in each slot."""
    request = asking(20)
    prompt, branches = trie_tokens(loaded, request)
    counted, found = [], []
    for helped in (True, False):
        model = Counting(FixedLogits(loaded))
        if not helped:
            monkeypatch.setattr(Scheduler, "lendable", lambda self: None)
        run = Run(model)
        id = run.send(request)
        run.finish()
        counted.append(model.decoded)
        found.append(results(run, id))
    check(loaded, request, found[0])
    assert found[0] == found[1]
    assert len(counted[0]) < len(counted[1]) / 2
    assert sum(counted[1]) == prompt + branches
    assert prompt + branches < sum(counted[0]) < prompt + branches * 1.2


def test_helpers_use_what_a_step_may_prefill_beside_a_stream(
    loaded: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    for helped in (True, False):
        if not helped:
            monkeypatch.setattr(Scheduler, "lendable", lambda self: None)
        run = Run(FixedLogits(loaded))
        stream = run.submit("Once upon a time", max_tokens=400, ignore_eos=True)
        run.engine.step()
        id, before, generated = run.send(asking(30)), run.engine.steps, run.engine.generated
        while not any(isinstance(e, Delta) and e.id == id and e.finish_reason for e in run.events):
            run.engine.step()
        steps.append(run.engine.steps - before)
        assert run.engine.generated - generated == steps[-1]  # the stream's
        run.engine.cancel(stream)
        run.finish()
    assert steps[0] < steps[1]


def test_a_newcomer_gets_the_slot_of_a_helper_at_once(fixed: FixedLogits) -> None:
    run = Run(fixed)
    id = run.send(asking(30))
    scheduler = run.engine.scheduler
    while len(scheduler.running) < fixed.n_parallel:
        run.engine.step()
    assert {sequence.request_id for sequence in scheduler.running} == {id}
    others = [run.submit(f"{n} tales", max_tokens=9, ignore_eos=True) for n in range(3)]
    run.engine.step()
    assert [s.request_id for s in scheduler.running] == [id, *others]
    run.finish()
    check(fixed, asking(30), results(run, id))


def test_nothing_that_a_slot_holds_is_lost_for_a_helper(fixed: FixedLogits) -> None:
    """Unless it is saved, as the content of any slot that is needed."""
    run = Run(fixed)
    for n in range(3):
        run.submit(f"{n} " + INPUT, max_tokens=1)
    run.finish()
    held = {slot: len(tokens) for slot, tokens in run.engine.scheduler.idle if len(tokens)}
    assert len(held) == 3
    run.send(asking(20, prompt=f"9 {INPUT}"))
    run.finish()
    after = {slot: len(tokens) for slot, tokens in run.engine.scheduler.idle}
    assert after.items() >= held.items()


@pytest.mark.parametrize("steps", [3, 4, 6, 8])
def test_a_request_that_leaves_takes_its_helpers_along(fixed: FixedLogits, steps: int) -> None:
    run = Run(fixed)
    id = run.send(asking(30))
    for _ in range(steps):
        run.engine.step()
    assert len(run.engine.scheduler.running) > 1
    run.engine.cancel(id)
    run.engine.step()
    assert not run.engine.scheduler.running
    after = run.send(asking(6))
    run.finish()
    check(fixed, asking(6), results(run, after))


@pytest.mark.slow
def test_a_hundred_questions_about_two_thousand_tokens(starter_path: Path) -> None:
    """They cost one prefill and their own tokens."""
    model = Model(Load(str(starter_path), ctx_size=2048, parallel=1, batch_size=512, threads=1))
    counting = Counting(model)
    run = Run(counting)
    tokens = model.tokenize_plain("The otter swam to the rock and slept. " * 300)[:2000]
    request = GenerationRequest(
        tokens=tuple(tokens.tolist()),
        branches=tuple(
            Branch((PromptPart(f"\nRock {n}?\nAnswer:", True),), (" yes", " no"))
            for n in range(100)
        ),
    )
    id = run.send(request)
    run.finish()
    assert len(results(run, id)) == 100
    branches = read_branches(model, request, 2000)
    paths = {path for tokens in branches for path in whole(tokens)}
    own = len({path[:n] for path in paths for n in range(1, len(path) + 1)})
    assert sum(counting.decoded) == 2000 + own
    assert own < 100 * 15
    model.close()


def test_questions_about_one_input_share_its_prefill(model: Counting) -> None:
    """A request that comes while the input of another one is computed waits for that, and never
    for the tokens of branches, which do not stay."""
    run = Run(model)
    ids = [run.send(asking(4)) for _ in range(3)]
    run.finish()
    prompt, branches = trie_tokens(model, asking(4))
    assert sum(model.decoded) <= prompt + 3 * (branches + 1)
    first, *others = (results(run, id) for id in ids)
    for other in others:
        for index, sums in first.items():
            assert even(other[index]) == pytest.approx(even(sums), abs=1e-3)


def test_streams_get_a_token_in_every_step_meanwhile(fixed: FixedLogits) -> None:
    run = Run(fixed)
    stream = run.submit("Once upon a time", max_tokens=400, ignore_eos=True)
    run.engine.step()
    id = run.send(asking(8))
    before = run.engine.generated
    steps = 0
    while not any(isinstance(e, Delta) and e.id == id and e.finish_reason for e in run.events):
        run.engine.step()
        steps += 1
    assert run.engine.generated - before == steps > 8
    check(fixed, asking(8), results(run, id))
    run.engine.cancel(stream)
    run.finish()


def test_a_preempted_request_goes_on_where_it_was(loaded: Model) -> None:
    fixed = FixedLogits(loaded, room=260)
    run = Run(fixed)
    ids = [run.send(asking(4, prompt=f"{n} {INPUT}")) for n in range(3)]
    run.finish()
    assert run.engine.scheduler.preempted
    for n, id in enumerate(ids):
        check(fixed, asking(4, prompt=f"{n} {INPUT}"), results(run, id))


@pytest.mark.parametrize("steps", [1, 3, 6, 9, 14])
def test_a_cancelled_request_leaves_its_slot(run: Run, steps: int) -> None:
    id = run.send(asking(6))
    for _ in range(steps):
        run.engine.step()
    run.engine.cancel(id)
    run.engine.step()
    assert not run.engine.scheduler.running
    assert not any(isinstance(event, Failed) for event in run.events)
    after = run.send(asking(6))
    run.finish()
    assert len(results(run, after)) == 6


def test_the_figures_count_the_tokens_of_choices(fixed: FixedLogits) -> None:
    run = Run(fixed)
    run.send(asking(6))
    choice_tokens, seen = 0, []
    while run.engine.step():
        for slot in figures_of(run.engine).slots:
            if slot.running:
                seen.append((slot.generated, slot.left))
        for sequence in run.engine.scheduler.running:
            assert sequence.branching is not None
            choice_tokens = sequence.branching.trie.choice_tokens
    assert len(seen) > 3
    assert {done + left for done, left in seen} == {choice_tokens}
    (slot,) = [one for one in figures_of(run.engine).slots if one.held]
    assert slot.held == len(fixed.tokenize(asking(6).parts))


work = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "stream", "cancel"]),
        st.integers(0, 3),
        st.integers(0, 12),
    ),
    min_size=2,
    max_size=10,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(orders=work, room=st.sampled_from([300, 1 << 20]), together=st.booleans())
def test_questions_and_streams_do_not_disturb_each_other(
    loaded: Model, orders: list[tuple[str, int, int]], room: int, together: bool
) -> None:
    """Streams with banned strings, drafts and limits for lines, questions about the same inputs,
    and clients that leave: what is answered is what is answered alone."""
    run = Run(FixedLogits(loaded, room=room))
    sent: dict[int, GenerationRequest] = {}
    left: set[int] = set()
    for kind, number, steps in orders:
        prompt = f"{number % 2} {INPUT}"
        if kind == "cancel":
            left |= {number + 1} & sent.keys()
            run.engine.cancel(number + 1)
        elif kind == "ask":
            request = asking(1 + number, prompt=prompt, partition="" if together else str(number))
            sent[run.send(request)] = request
        else:
            request = GenerationRequest(
                parts=(PromptPart(prompt, True),), sampling=SamplingParams(seed=number),
                max_tokens=25, banned_strings=("e", "th", " a"), n_indent=number, n=1 + number // 2,
                ignore_eos=True,
            )  # fmt: skip
            sent[run.send(request)] = request
        for _ in range(steps):
            run.engine.step()
    run.finish()
    assert not any(isinstance(event, Failed) for event in run.events)
    for id, request in sent.items():
        if id in left:
            continue
        if request.branches:
            check(run.engine.model, request, results(run, id))
            continue
        alone = Run(FixedLogits(loaded))
        alone.send(request)
        alone.finish()
        for choice in range(request.n):
            assert run.text(id, choice) == alone.text(1, choice)


def test_partitions_and_requests_without_a_cache_share_nothing(model: Counting) -> None:
    run = Run(model)
    whole = sum(trie_tokens(model, asking(1)))
    for fields in ({}, {"partition": "a"}, {"cache_salt": "b"}, {"cache_prompt": False}):
        model.decoded.clear()
        run.send(asking(1, **fields))
        run.finish()
        assert sum(model.decoded) == whole


def test_a_branch_must_fit_into_the_context(run: Run, model: Counting) -> None:
    long = Branch((PromptPart("otter " * 600, True),), (" a", " b"), "questions[1]")
    request = GenerationRequest(
        parts=(PromptPart("Once", True),), branches=(*asking(1).branches, long)
    )
    with pytest.raises(ContextLengthExceeded) as refused:
        run.send(request)
    assert refused.value.param == "questions[1]"


def test_a_choice_is_tokenised_with_the_text_before_it(loaded: Model) -> None:
    """The border between a question and its answer may lie inside a token."""
    branch = Branch(
        (PromptPart("<|im_start|>", True), PromptPart("The otter s", False)), ("wam", "at")
    )
    request = GenerationRequest(parts=(PromptPart("x", True),), branches=(branch,))
    (tokens,) = read_branches(loaded, request, 1)
    expected = [
        loaded.tokenize_bare((PromptPart("<|im_start|>", True), PromptPart(text, False))).tolist()
        for text in ("The otter swam", "The otter sat")
    ]
    assert [[*path] for path in whole(tokens)] == expected


def test_a_choice_cannot_write_control_tokens(loaded: Model) -> None:
    branch = Branch((PromptPart("a", True),), ("<|im_end|>", "b"))
    request = GenerationRequest(parts=(PromptPart("x", True),), branches=(branch,))
    (tokens,) = read_branches(loaded, request, 1)
    assert not {token for path in whole(tokens) for token in path} & {*loaded.control_ids}


# --- models that cannot cut -----------------------------------------------------------------------


@pytest.fixture(scope="module", params=few(1, ["mamba", "jamba", "gemma3"]))
def rigid(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    """A model whose sequences cannot be cut anywhere."""
    path = make(request.param, tmp_path_factory.mktemp("models"))
    model = Model(Load(str(path), ctx_size=512, parallel=2, batch_size=64, threads=1))
    yield model
    model.close()


def alone(model: Model, tokens: Sequence[int], start: int) -> float:
    """The logprob of tokens from ``start`` on and of an end, each row computed from nothing."""
    total = 0.0
    for place in range(start, len(tokens) + 1):
        model.forget(0)
        for begin in range(0, place, 64):
            chunk = np.array(tokens[begin : min(place, begin + 64)], dtype=np.int32)
            model.batch.clear()
            index = model.batch.add(0, begin, chunk, 1)
            model.decode()
        address = model.logits(index)
        row = _row(address, model.n_vocab)
        wanted = END if place == len(tokens) else int(tokens[place])
        total += logprobs(row, [wanted], model.eog_ids)[0]
    model.forget(0)
    return total


def _row(address: int, n_vocab: int) -> np.ndarray:
    import ctypes

    return np.ctypeslib.as_array((ctypes.c_float * n_vocab).from_address(address)).copy()


def test_models_that_cannot_cut_give_the_same_and_compute_no_more(rigid: Model) -> None:
    counting = Counting(rigid)
    run = Run(counting)
    request = asking(3)
    id = run.send(request)
    run.finish()
    prompt, branches = trie_tokens(rigid, request)
    assert sum(counting.decoded) == prompt + branches
    found = results(run, id)
    tokens = rigid.tokenize(request.parts).tolist()
    for index, branch in enumerate(read_branches(rigid, request, prompt)):
        sums = [alone(rigid, [*tokens, *choice], len(tokens)) for choice in whole(branch)]
        assert even(found[index]) == pytest.approx(even(sums), abs=1e-3)


def test_a_state_that_cannot_be_copied_is_computed_again(
    rigid: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(rigid)
    before = run.send(asking(2))
    run.finish()
    monkeypatch.setattr(Model, "save_checkpoint", lambda *_: None)
    monkeypatch.setattr(Model, "cut", _cuts_nothing(Model.cut))
    rigid.forget(0)
    rigid.forget(1)
    again = Run(rigid)
    after = again.send(asking(2))
    again.finish()
    first, second = results(run, before), results(again, after)
    for index, sums in first.items():
        assert even(second[index]) == pytest.approx(even(sums), abs=1e-3)


def _cuts_nothing(cut: Callable[..., bool]) -> Callable[..., bool]:
    def refuse(model: Model, slot: int, keep: int) -> bool:
        return False

    return refuse
