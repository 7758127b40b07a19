"""When the draft model drafts: answers stay the same, it pays, and a bad one costs next to nothing.

Simulated machines stand for llama.cpp where times matter.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from engine_runs import Eager, Run
from fixed_logits import FixedLogits, row_after
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import GenerationRequest
from offgrid.engine.worker.drafts.account import LARGEST, START, Account
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.model import DraftModel, Effort, Wish
from offgrid.engine.worker.drafts.model_planner import Candidate, ModelPlanner
from offgrid.engine.worker.drafts.pace import DraftPace
from offgrid.engine.worker.drafts.pace import Wish as PaceWish
from offgrid.engine.worker.drafts.source import Draft
from offgrid.engine.worker.llama.draft import load_draft
from offgrid.engine.worker.llama.model import Model
from offgrid.sampling import SamplingParams

SLOTS, CONTEXT = 3, 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    tiny_models.make("llama", path).rename(path / "main.gguf")
    shutil.copy(path / "main.gguf", path / "twin.gguf")
    tiny_models.make_draft(path, "other")
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Iterator[Model]:
    load = Load(
        str(folder / "main.gguf"), ctx_size=CONTEXT, parallel=SLOTS, batch_size=64, threads=1
    )
    model = Model(load)
    yield model
    model.close()


class Rich(Account):
    """Affords everything."""

    def affords(self, tokens: int, step: float) -> bool:
        return True

    def pay(self, seconds: float, step: float) -> None:
        """Pay nothing."""


def eager_run(model: Any, draft_model: DraftModel | None) -> Run:
    run = Run(model, draft_model=draft_model)
    run.engine._planner.pace = Eager(1000)
    if run.engine._planner._model is not None:
        run.engine._planner._model.account = Rich()
    return run


def answers(run: Run, requests: list[GenerationRequest]) -> list[list[Delta]]:
    ids = [run.send(request) for request in requests]
    run.finish()
    return [
        [event for event in run.events if isinstance(event, Delta) and event.id == id] for id in ids
    ]


def told(deltas: list[Delta]) -> list[Any]:
    """Return what the client gets, choice by choice."""
    in_order = sorted(deltas, key=lambda delta: delta.choice)
    return [(d.choice, d.text, d.completion_tokens, d.finish_reason, d.logprobs) for d in in_order]


class Knowing(DraftModel):
    """Knows the row after every text, and makes mistakes."""

    def __init__(self, fixed: FixedLogits, seed: int) -> None:
        super().__init__(fixed, fixed.n_vocab)
        self._rng = random.Random(seed)
        self._fixed = fixed

    def missing(self, wish: Wish) -> int:
        return self._rng.randint(0, 3)

    def _draft(self, wishes: Iterable[Wish]) -> dict[int, list[int]]:
        drafts = {}
        for wish in wishes:
            assert wish.most >= 1
            text = wish.tokens.tolist()
            for _ in range(self._rng.randint(0, wish.most)):
                row = row_after(text, self._fixed.n_vocab)
                guess = int(row.argmax())
                text.append(self._rng.randrange(5, 60) if self._rng.random() < 0.2 else guess)
            drafts[wish.slot] = text[len(wish.tokens) :]
        return drafts


requests = st.builds(
    GenerationRequest,
    tokens=st.lists(st.integers(10, 60), min_size=1, max_size=30).map(tuple),
    sampling=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.5, 1.0]),
        frequency_penalty=st.sampled_from([0.0, 0.7]),
        seed=st.integers(0, 100),
    ),
    max_tokens=st.sampled_from([1, 2, 30]),
    stop=st.sampled_from([(), ("e",)]),
    n=st.sampled_from([1, 2]),
    top_logprobs=st.sampled_from([None, 2]),
)


@settings(max_examples=12)
@given(wanted=st.lists(requests, min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_answers_are_the_same(loaded: Model, wanted: list[GenerationRequest], seed: int) -> None:
    plain = answers(eager_run(FixedLogits(loaded), None), wanted)
    fixed = FixedLogits(loaded)
    drafted = answers(eager_run(fixed, Knowing(fixed, seed)), wanted)
    assert [told(deltas) for deltas in drafted] == [told(deltas) for deltas in plain]


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["twin", "other"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_with_llama_cpp(loaded: Model, folder: Path, draft: str, temperature: float) -> None:
    """A twin is always right about greedy tokens, another model hardly ever."""
    load = Load(loaded.load.path, ctx_size=CONTEXT, parallel=SLOTS, batch_size=64, threads=1,
                draft_model=str(folder / f"{draft}.gguf"))  # fmt: skip
    second = load_draft(load, loaded)
    assert second is not None
    wanted = [
        GenerationRequest(
            tokens=tuple(range(first, first + 20)), max_tokens=50, ignore_eos=True, n=2,
            sampling=SamplingParams(temperature=temperature, seed=3),
        )
        for first in (20, 60, 100)
    ]  # fmt: skip
    plain = answers(eager_run(loaded, None), wanted)
    for slot in range(SLOTS):
        loaded.forget(slot)
    model = DraftModel(second, loaded.n_vocab, floor=0.0)
    drafted = answers(eager_run(loaded, model), wanted)
    for slot in range(SLOTS):
        loaded.forget(slot)
    second.close()
    assert model.works
    assert [told(deltas) for deltas in drafted] == [told(deltas) for deltas in plain]
    accepted = sum(delta.draft_accepted for deltas in drafted for delta in deltas)
    proposed = sum(delta.drafted for deltas in drafted for delta in deltas)
    assert proposed > 100
    if draft == "twin" and temperature == 0:
        assert accepted > 0.9 * proposed
    if draft == "other":
        assert accepted < 0.2 * proposed


def test_a_draft_model_that_fails_ends_no_answer(loaded: Model, folder: Path) -> None:
    class Broken(DraftModel):
        def _draft(self, wishes: Iterable[Wish]) -> dict[int, list[int]]:
            raise RuntimeError("out of luck")

    fixed = FixedLogits(loaded)
    wanted = [GenerationRequest(tokens=(20, 21, 22), max_tokens=20, ignore_eos=True)]
    model = Broken(fixed, fixed.n_vocab)
    [deltas] = answers(eager_run(fixed, model), wanted)
    assert deltas[-1].completion_tokens == 20
    assert not model.works


# --- simulated machines ---------------------------------------------------------------------------


class Text:
    """A sequence of a simulation."""

    n_prompt = 0
    slot = 0
    matcher = None

    def __init__(self, prompt: int) -> None:
        self.tokens = np.zeros(5000, dtype=np.int32)
        self._size = prompt

    def __len__(self) -> int:
        return self._size

    def add(self, count: int) -> None:
        self._size += count


class Simulated:
    """A draft model that takes ``call`` seconds for a token and ``token`` for one of a prompt."""

    works = True

    def __init__(self, call: float, token: float) -> None:
        self._call, self._token = call, token
        self._held = 0
        self.effort = Effort()
        self.spent = 0.0

    def forget(self) -> None:
        self._held = 0

    def missing(self, wish: Wish) -> int:
        return len(wish.tokens) - min(self._held, len(wish.tokens) - 1)

    def draft(self, wishes: list[Wish]) -> dict[int, list[int]]:
        [wish] = wishes
        missing = self.missing(wish)
        count = min(64, missing)
        self._held = len(wish.tokens) - missing + count
        seconds = self._call if count <= 4 else self._token * count
        more = wish.most - 1 if count == missing else 0
        self.effort = Effort(count, seconds, more, more * self._call)
        self.spent += seconds + more * self._call
        return {0: [0] * wish.most} if count == missing else {}


def simulate(
    *, right: float, call: float, token: float, row: float, prompt: int, answer: int, requests: int
) -> float:
    """Return the speed with the draft model relative to that without.

    A plain step takes one second, and each further row ``row`` seconds. ``right`` is the
    probability that a drafted token is right. The requests come one after another.
    """
    rng = random.Random(1)
    pace, model = DraftPace(64), Simulated(call, token)
    planner = ModelPlanner(model)  # type: ignore[arg-type]
    took = 0.0
    for _ in range(requests):
        model.forget()
        sequence, drafter = Text(prompt), Drafter([])
        while len(sequence) < prompt + answer:
            planner.begin()
            left = prompt + answer - len(sequence) - 1
            draft = drafter.propose(sequence, 1, pace)
            before = model.spent
            one = Candidate(0, drafter, sequence, min(15, left), draft)
            [one] = planner.improve(pace, 1, [one]) if left else [one]
            tokens = one.draft.tokens
            count = pace.choose(1, [PaceWish(len(tokens), drafter.trust("model", pace))])[0]
            agreed = 0
            while agreed < count and rng.random() < right:
                agreed += 1
            seconds = 1 + row * count
            took += seconds + model.spent - before
            # A wrong token is one that differs from the draft.
            sequence.tokens[len(sequence) + agreed] = 0 if agreed == count < len(tokens) else 1
            sequence.add(agreed + 1)
            if count:
                gain = pace.drafted(1, 1, count, 1 + agreed, seconds)
                planner.gained(gain, {0})
            else:
                pace.plain(1, seconds)
                planner.plain(pace)
    return requests * answer / took


@pytest.mark.parametrize(
    ("right", "call", "row", "least"), [(0.8, 0.1, 0.1, 1.5), (0.9, 0.05, 0.05, 2.5)]
)
def test_a_good_draft_model_pays(right: float, call: float, row: float, least: float) -> None:
    speed = simulate(
        right=right, call=call, token=call / 20, row=row, prompt=100, answer=300, requests=10
    )
    assert speed > least


@pytest.mark.parametrize("prompt", [10, 300, 3000])
@pytest.mark.parametrize(
    ("right", "call", "row"), [(0.05, 0.1, 0.1), (0.5, 0.6, 0.5), (0.8, 1.0, 0.2), (0.9, 0.1, 1.0)]
)
def test_a_bad_one_costs_next_to_nothing(
    right: float, call: float, row: float, prompt: int
) -> None:
    answers = {"prompt": prompt, "answer": 300, "requests": 20}
    speed = simulate(right=right, call=call, token=call / 20, row=row, **answers)
    steps = answers["answer"] * answers["requests"]
    # The balance at the start, one percent, and the last call before the account is empty.
    assert 1 / speed <= 1.01 + (START + 8) / steps


def test_long_prompts_are_computed_once_drafts_have_paid() -> None:
    good = {"right": 0.9, "call": 0.05, "token": 0.02, "row": 0.05, "answer": 300}
    assert simulate(**good, prompt=3000, requests=20) > 1  # each prompt takes 60 plain steps
    account = Account()
    account.learn(100, 2.0, 0, 0.0)
    assert not account.affords(3000, 1.0)
    account.gain(50.0)
    assert account.affords(3000, 1.0)
    account.gain(10_000.0)
    assert account.balance == LARGEST
    account.pay(LARGEST + 5, 1.0)
    assert not account.affords(0, 1.0)


def test_what_was_wrong_long_ago_is_tried_again() -> None:
    account = Account()
    assert [account.plain() for _ in range(2000)].count(True) == 2


def test_a_call_that_took_very_long_by_chance_does_not_end_the_drafts() -> None:
    """The worker may have been stopped meanwhile."""
    account = Account()
    account.learn(10, 0.1, 1, 0.1)
    account.learn(10, 1000.0, 1, 1000.0)
    account.pay(2000.0, 0.03)
    assert (account.token, account.call) == pytest.approx((0.012, 0.12))
    assert not account.affords(0, 0.03)
    for _ in range(2001):
        account.plain()
    assert account.affords(0, 0.03)


def test_a_draft_model_that_has_become_faster_is_measured_again() -> None:
    """At first, another program slows it down."""
    account = Account()
    account.learn(0, 0.0, 1, 3.0)
    for _ in range(8000):
        account.plain()
    assert account.call == pytest.approx(3.0 / 256)


def test_a_source_that_is_right_more_often_is_kept(loaded: Model) -> None:
    pace = DraftPace(64)
    for _ in range(20):
        pace.plain(1, 1.0)
        pace.acceptance.judge("sure", 9, 10)
        pace.acceptance.judge("unsure", 1, 10)
    model = Simulated(0.05, 0.01)
    planner = ModelPlanner(model)  # type: ignore[arg-type]
    for kind, replaced in (("sure", False), ("unsure", True)):
        planner.begin()
        one = Candidate(0, Drafter([]), Text(3), 8, Draft([7, 7, 7], kind))
        [after] = planner.improve(pace, 1, [one])
        assert (after.draft != one.draft) is replaced
