"""Checkpoints: when they are taken, which are kept, and what real models compute with them.

``test_scheduler_life.py`` and ``test_conversations.py`` check which checkpoint a sequence begins
with, for memories of all kinds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_runs import Counting, Eager, Run
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import WINDOW, make

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.engine.worker.checkpoints import (
    INTERVAL,
    MIN_SPACING,
    Checkpoints,
    first_needed,
    least_needed,
)
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prefix import REWRITTEN
from offgrid.sampling import SamplingParams

GREEDY = SamplingParams(temperature=0.0, frequency_penalty=2.0)
WORDS = "the otter lived beside a wide river and every morning it looked for a fox".split()
NEAR = 128
"""Tokens between two checkpoints of the real models."""


@dataclass
class Growing:
    slot: int
    computed: int = 0
    n_prompt: int = 0


def ids(n: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + n, dtype=np.int32)


# --- when they are taken ------------------------------------------------------------------------


@given(
    n_prompt=st.integers(1, 3000),
    answer=st.integers(0, 1500),
    most=st.sampled_from([64, 500, 512, 4096]),
    window=st.sampled_from([0, 100, 1024]),
)
def test_there_is_one_in_every_interval_and_one_before_the_end_of_the_prompt(
    n_prompt: int, answer: int, most: int, window: int
) -> None:
    """Spans of a prompt have up to ``most`` tokens, those of an answer one."""
    kept = Checkpoints(1 << 30, window=window)
    sequence = Growing(0, 0, n_prompt)
    taken = [0]
    while sequence.computed < n_prompt + answer:
        count = 1
        if sequence.computed < n_prompt:
            stop = kept.next_stop(sequence) or n_prompt
            count = min(most, n_prompt - sequence.computed, stop - sequence.computed)
        sequence.computed += count
        if kept.due(sequence):
            taken.append(sequence.computed)
            kept.add(0, ids(sequence.computed), b"x")
            assert not kept.due(sequence)
    interval = max(INTERVAL, window)
    assert max(np.diff([*taken, sequence.computed])) < interval + MIN_SPACING
    end = n_prompt - REWRITTEN
    before = max(one for one in taken if one <= max(end, 0))
    assert end - before < MIN_SPACING


def test_without_a_budget_none_is_taken() -> None:
    kept = Checkpoints(0)
    assert kept.next_stop(Growing(0, 0, 5000)) is None
    assert not kept.due(Growing(0, 4096, 5000))


def test_one_that_is_too_large_is_not_tried_again_at_once() -> None:
    kept = Checkpoints(100)
    kept.add(0, ids(512), bytes(101))
    kept.add(1, ids(512), None)
    assert kept.used == 0
    assert not kept.due(Growing(0, 600, 10))
    assert kept.due(Growing(1, 512 + INTERVAL, 10))


# --- which are kept -----------------------------------------------------------------------------


def test_those_near_the_beginning_become_sparse() -> None:
    lengths: list[int] = []
    for length in range(512, 512 * 33, 512):
        lengths.append(length)
        if len(lengths) > 6:
            del lengths[least_needed(lengths)]
    assert lengths[-2:] == [31 * 512, 32 * 512]
    for before, length in pairwise([0, *lengths]):
        # What a branch just before this length computes again, and how far it is from the end.
        assert length - before <= 2 * (lengths[-1] - length) + 512


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=20, unique=True).map(sorted))
def test_the_longest_is_never_dropped(lengths: list[int]) -> None:
    assert 0 <= least_needed(lengths) < len(lengths) - 1


@given(
    adds=st.lists(st.tuples(st.integers(0, 4), st.integers(1, 30)), max_size=60),
    budget=st.integers(0, 200),
)
def test_the_budget_holds_and_slots_lose_evenly(adds: list[tuple[int, int]], budget: int) -> None:
    kept = Checkpoints(budget)
    lengths = [0] * 5
    for slot, size in adds:
        lengths[slot] += 7
        kept.add(slot, ids(lengths[slot], 1000 * slot), bytes(size))
        assert kept.used <= budget
        if size <= budget - 30 * 4:  # there is room for one of every slot
            held = ids(lengths[slot], 1000 * slot)
            assert kept.usable(slot, np.append(held, 1), lengths[slot])[0] == lengths[slot]


def test_copies_of_a_slot_share_its_checkpoints() -> None:
    kept = Checkpoints(100)
    for length in (20, 40, 60):
        kept.add(0, ids(length), bytes(30))
    kept.begin(1, 0, 45)
    kept.copy(0, 2)
    assert kept.used == 90
    held = np.append(ids(60), 7)
    assert [kept.usable(slot, held, 60)[0] for slot in (0, 1, 2)] == [60, 40, 60]
    kept.begin(0, 0, 20)
    kept.begin(2, None, 0)
    assert kept.used == 60
    assert [kept.usable(slot, held, 60)[0] for slot in (0, 1, 2)] == [20, 40, 0]
    kept.clear(1)
    assert kept.used == 30


@given(st.lists(st.integers(0, 1), max_size=12), st.lists(st.integers(0, 1), max_size=12))
def test_other_tokens_are_never_taken_for_its_own(was: list[int], held: list[int]) -> None:
    """Also if a slot's content was replaced without notice."""
    kept = Checkpoints(1000)
    for length in range(1, len(was) + 1):
        kept.add(0, np.array(was[:length], dtype=np.int32), b"x")
    for length in range(1, len(held)):
        found, checkpoint = kept.usable(0, np.array(held, dtype=np.int32), length)
        fitting = [n for n in range(1, length + 1) if was[:n] == held[:n] and n <= len(was)]
        assert found == max(fitting, default=0)
        assert (checkpoint is None) == (found == 0)


def test_what_a_window_still_holds_needs_no_checkpoint() -> None:
    kept = Checkpoints(0, window=8, oldest=lambda slot: 10)
    held = ids(40)
    usable = [length for length in range(1, 41) if kept.usable(0, held, length)[0] == length]
    assert usable == list(range(17, 41))
    assert first_needed(17, 8) == 10, "the first of the eight positions up to 17"


# --- real models --------------------------------------------------------------------------------


@pytest.fixture(
    scope="module", params=["mamba", pytest.param("jamba", marks=pytest.mark.slow), "gemma3"]
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = make(request.param, tmp_path_factory.mktemp("models"))
    model = Model(
        Load(str(path), ctx_size=1024, parallel=4, batch_size=NEAR, threads=1, drafts=False)
    )
    yield Counting(model)
    model.close()


class TokenRun(Run):
    """An engine whose prompts and answers are token ids."""

    def ask(self, prompt: list[int], n: int = 12, **fields: Any) -> int:
        return self.send(
            GenerationRequest(
                tokens=tuple(prompt), top_logprobs=0, max_tokens=n, sampling=GREEDY,
                ignore_eos=True, **fields,
            )
        )  # fmt: skip

    def answer(self, prompt: list[int], n: int = 12, **fields: Any) -> list[int]:
        id = self.ask(prompt, n, **fields)
        self.finish()
        return self.tokens(id)

    def tokens(self, id: int, choice: int = 0) -> list[int]:
        return [
            entry.token
            for event in self.events
            if isinstance(event, Delta) and (event.id, event.choice) == (id, choice)
            for entry in event.logprobs
        ]


def prompt_of(model: Counting, words: int, seed: int = 0) -> list[int]:
    chance = random.Random(seed)
    text = " ".join(chance.choice(WORDS) for _ in range(words))
    return [int(token) for token in model.tokenize((PromptPart(text, True),))]


def fresh(model: Counting) -> TokenRun:
    for slot in range(model.n_parallel):
        model.forget(slot)
    model.decoded.clear()
    run = TokenRun(model)
    run.engine.scheduler.checkpoints.interval = NEAR
    return run


def alone(model: Counting, prompt: list[int], n: int = 12) -> list[int]:
    """The answer of an engine that shares nothing."""
    return fresh(model).answer(prompt, n, cache_prompt=False)


def computed(model: Counting) -> int:
    """How many tokens were computed since the last call."""
    total = sum(model.decoded)
    model.decoded.clear()
    return total


@pytest.mark.slow
def test_a_second_turn_computes_new_tokens_only(model: Counting) -> None:
    """Also if the answer or the end of the prompt is written in another way."""
    prompt, more = prompt_of(model, 150), prompt_of(model, 9, seed=1)
    n = len(prompt)
    assert n > 2 * NEAR
    turns = [
        lambda answer: [*prompt, *answer, *more],
        lambda answer: [*prompt, *answer[:5], *more],
        lambda answer: [*prompt[:-REWRITTEN], *more],
        lambda answer: prompt,
    ]
    expected = [alone(model, turn(alone(model, prompt))) for turn in turns]
    for turn, answer in zip(turns, expected, strict=True):
        run = fresh(model)
        first = run.answer(prompt)
        computed(model)
        second = turn(first)
        assert run.answer(second) == answer
        kept = n - REWRITTEN
        assert computed(model) <= len(second) - kept + len(answer)


def test_a_question_asked_in_another_way_computes_at_most_one_interval_again(
    model: Counting,
) -> None:
    said: list[int] = []
    run = fresh(model)
    for turn in range(3):
        said += prompt_of(model, 70, seed=turn)
        said += run.answer(said)
    for shared in (len(said) - 30, len(said) // 2, len(said) // 3):
        other = said[:shared] + prompt_of(model, 7, seed=9)
        computed(model)
        answer = run.answer(other)
        assert computed(model) <= len(other) - shared + NEAR + len(answer)
        assert answer == alone(model, other)
        run = fresh(model)
        run.answer(said)


def test_choices_and_prompts_that_arrive_together_share_a_prefill(model: Counting) -> None:
    system = prompt_of(model, 90)
    prompts = [system + prompt_of(model, 5, seed=seed) for seed in range(2)]
    expected = [alone(model, prompt) for prompt in prompts]
    run = fresh(model)
    ids = [run.ask(prompt) for prompt in prompts]
    run.finish()
    assert [run.tokens(id) for id in ids] == expected
    assert computed(model) < len(system) + 2 * 40 + 2 * 12
    run = fresh(model)
    id = run.send(
        GenerationRequest(
            tokens=tuple(prompts[0]), n=4, top_logprobs=0, max_tokens=12, sampling=GREEDY,
            ignore_eos=True,
        )
    )  # fmt: skip
    run.finish()
    assert [run.tokens(id, choice) for choice in range(4)] == [expected[0]] * 4
    assert computed(model) <= len(prompts[0]) + 4 * 12


@pytest.mark.parametrize("budget", [0, 60_000, 1 << 24])
def test_any_requests_get_the_answers_of_a_fresh_context(model: Counting, budget: int) -> None:
    """Turns, branches and choices, several at a time; more conversations than slots."""
    chance = random.Random(budget)
    run = fresh(model)
    run.engine.scheduler.checkpoints.budget = budget
    known = [prompt_of(model, words, seed=words) for words in (30, 90, 200)]
    asked: list[tuple[list[int], int]] = []
    for number in range(16):
        base = chance.choice(known)
        cut = len(base) if chance.random() < 0.5 else chance.randrange(1, len(base))
        prompt = base[:cut] + prompt_of(model, chance.randrange(1, 40), seed=100 + number)
        asked.append((prompt, run.ask(prompt, 8)))
        for _ in range(chance.choice((0, 1, 5, 40))):
            run.engine.step()
        known.append(prompt + run.tokens(asked[-1][1]))
    run.finish()
    assert run.engine.scheduler.checkpoints.used <= budget
    answers = [run.tokens(id) for _, id in asked]
    assert answers == [alone(model, prompt, 8) for prompt, _ in asked]


def test_the_tokens_of_drafts_are_cut_off_within_the_window(tmp_path: Path) -> None:
    """An answer that repeats itself, with proposed tokens and without."""
    prompt = tuple([*range(20, 50)] * 3)
    bias = {token: 12.0 for token in range(20, 23)}
    sampling = SamplingParams(temperature=0.8, seed=1, logit_bias=bias)
    request = GenerationRequest(
        tokens=prompt, sampling=sampling, max_tokens=300, ignore_eos=True, top_logprobs=0
    )
    path, answers, steps = make("gemma3", tmp_path), [], []
    for drafts in (False, True):
        load = Load(str(path), ctx_size=512, parallel=1, batch_size=64, threads=1, drafts=drafts)
        model = Counting(Model(load))
        assert model.window == WINDOW
        run = TokenRun(model)
        run.engine._planner.pace = Eager(1000)
        id = run.send(request)
        run.finish()
        answers.append(run.tokens(id))
        steps.append(len(model.decoded))
        model.close()
    assert answers[0] == answers[1]
    assert len(answers[0]) == 300
    assert steps[1] < steps[0] - 20


class Refusing:
    """A model that cannot restore a checkpoint, or cannot take one."""

    def __init__(self, model: Counting, method: str, result: Any) -> None:
        self._model = model
        self._method = method
        self._result = result
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        if name != self._method:
            return getattr(self._model, name)
        self.calls += 1
        return lambda *arguments: self._result


@pytest.mark.parametrize(("method", "result"), [("restore", False), ("save_checkpoint", None)])
def test_what_fails_is_computed_again(model: Counting, method: str, result: Any) -> None:
    prompt = prompt_of(model, 180)
    other = [*prompt[:150], *prompt_of(model, 5, seed=1)]
    expected = alone(model, prompt), alone(model, other)
    refusing = Refusing(fresh(model).engine.model, method, result)
    run = TokenRun(refusing)
    run.engine.scheduler.checkpoints.interval = NEAR
    assert run.answer(prompt) == expected[0]
    ids = [run.ask(other), run.ask(other)]
    run.finish()
    assert [run.tokens(id) for id in ids] == [expected[1]] * 2
    assert refusing.calls > 0


def test_a_state_is_not_restored_to_a_slot_that_is_still_to_be_copied(model: Counting) -> None:
    """llama.cpp copies cells in the next decode, which would overwrite the state."""
    run = fresh(model)
    run.answer(prompt_of(model, 40))
    held = next(len(tokens) for slot, tokens in run.engine.scheduler.idle if slot == 0)
    state = model.save_checkpoint(0)
    model.copy(0, 1)
    late = model.info.metadata["general.architecture"] != "mamba"  # it copies no cells
    assert model.restore(0, state, held) is not late
    model.forget(0)
    assert model.restore(1, state, held) is not late
    model.forget(1)


def test_a_window_that_is_gone_cannot_be_cut(model: Counting) -> None:
    run = fresh(model)
    run.answer(prompt_of(model, 180))
    held = next(len(tokens) for slot, tokens in run.engine.scheduler.idle if slot == 0)
    assert held > 384
    if model.window:
        assert model.window == WINDOW
        oldest = model.oldest(0)
        assert 0 < oldest < held - 2 * WINDOW
        assert model.cut(0, oldest + WINDOW - 1)
        assert not model.cut(0, oldest + WINDOW - 2)
    else:
        assert not model.cut(0, held - 1)
    model.forget(0)
