"""Answers with a prediction are those without one, and their counts do not depend on drafts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from engine_runs import Run
from fixed_logits import FixedLogits
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import GenerationRequest
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.pace import DraftPace, Wish
from offgrid.engine.worker.drafts.prediction import PredictedText, Prediction
from offgrid.engine.worker.llama.model import Model
from offgrid.sampling import SamplingParams


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tiny_models.make("llama", tmp_path_factory.mktemp("models"))
    model = Model(Load(str(path), ctx_size=256, parallel=2, batch_size=32, threads=1))
    yield model
    model.close()


class Eager(DraftPace):
    """Has every proposal decoded that fits, or none."""

    def __init__(self, most: int) -> None:
        super().__init__(1000)
        self._most = most

    def choose(self, streams: int, wishes: list[Wish]) -> list[int]:
        return [min(wish.most, self._most) for wish in wishes]

    def drafted(self, *step: Any) -> None:
        """Learn nothing."""


def answered(
    model: Model, request: GenerationRequest, predicted: list[int] | None, most: int = 0
) -> tuple[list[Delta], list[int], int]:
    """Return the deltas, the tokens and the number of steps."""
    run = Run(FixedLogits(model))
    run.engine._planner.pace = Eager(most)
    prepared = run.engine.prepare(1, request)
    [sequence] = prepared.sequences
    sequence.drafter = None
    if predicted is not None:
        text = PredictedText(np.array(predicted, dtype=np.int32), model.n_vocab)
        prediction = Prediction(text)
        sequence.drafter = Drafter([prediction], prediction)
    run.engine.submit(prepared)
    steps = 1
    while run.engine.step():
        steps += 1
    deltas = [event for event in run.events if isinstance(event, Delta)]
    return deltas, sequence.tokens[sequence.n_prompt : len(sequence)].tolist(), steps


edits = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 6), st.lists(st.integers(10, 60), max_size=6)),
    max_size=4,
)
"""Places of an answer at which a few tokens are replaced by others."""


@settings(max_examples=25)
@given(edits=edits, seed=st.integers(0, 99), temperature=st.sampled_from([0.0, 0.7, 1.2]))
def test_equal_answers_and_equal_counts(
    loaded: Model, edits: list[tuple[int, int, list[int]]], seed: int, temperature: float
) -> None:
    request = GenerationRequest(
        tokens=tuple(range(20 + seed % 7, 50)),
        sampling=SamplingParams(temperature=temperature, seed=seed, frequency_penalty=0.5),
        max_tokens=50, stop=("zzz",), top_logprobs=1,
    )  # fmt: skip
    plain, answer, _ = answered(loaded, request, None)
    predicted = answer.copy()
    for place, removed, added in edits:
        predicted[place : place + removed] = added
    one_by_one, same, _ = answered(loaded, request, predicted)
    assert same == answer
    for most in (1, 4, 15):
        deltas, tokens, _ = answered(loaded, request, predicted, most)
        assert tokens == answer
        for delta, slow, bare in zip(deltas, one_by_one, plain, strict=True):
            assert (delta.text, delta.logprobs) == (bare.text, bare.logprobs)
            assert delta.finish_reason == bare.finish_reason
            assert delta.prediction_accepted == slow.prediction_accepted
            assert delta.prediction_accepted + delta.prediction_rejected == len(predicted)
    if not edits:
        assert deltas[-1].prediction_accepted == len(answer)


def test_an_answer_that_is_known_needs_few_steps(loaded: Model) -> None:
    request = GenerationRequest(
        tokens=tuple(range(20, 50)), sampling=SamplingParams(temperature=0.7, seed=1),
        max_tokens=100, ignore_eos=True,
    )  # fmt: skip
    _, answer, slow = answered(loaded, request, None)
    _, _, equal = answered(loaded, request, answer, 15)
    _, _, changed = answered(loaded, request, [*answer[:40], 11, 12, 13, *answer[45:]], 15)
    assert slow >= 100
    assert equal <= 9
    assert changed <= 20


def test_the_text_of_the_request_is_followed(loaded: Model) -> None:
    """From the request to the counts, with the sources that a request usually has."""
    run = Run(loaded)
    request = GenerationRequest(
        tokens=(20, 21, 22), max_tokens=10, sampling=SamplingParams(temperature=0.0),
        ignore_eos=True,
    )  # fmt: skip
    id = run.send(request)
    run.finish()
    text = run.text(id)
    again = run.send(GenerationRequest(**{
        **{name: getattr(request, name) for name in request.__struct_fields__},
        "prediction": text,
    }))  # fmt: skip
    run.finish()
    assert run.text(again) == text
    last = run.last(again)
    assert isinstance(last, Delta)
    assert last.prediction_accepted + last.prediction_rejected == len(loaded.tokenize_plain(text))


@pytest.mark.parametrize(("architecture", "drafts"), [("llama", False), ("mamba", True)])
def test_counts_without_drafts(tmp_path: Path, architecture: str, drafts: bool) -> None:
    """Where nothing is drafted, by a setting or because the model cannot cut, counts are exact."""
    path = tiny_models.make(architecture, tmp_path)
    model = Model(
        Load(str(path), ctx_size=128, parallel=1, batch_size=32, threads=1, drafts=drafts)
    )
    try:
        run = Run(model)
        fields: dict[str, Any] = {"max_tokens": 8, "ignore_eos": True}
        first = run.submit("ab", **fields)
        run.finish()
        text = run.text(first)
        id = run.submit("ab", prediction=f"{text} and more", **fields)
        run.finish()
        last = run.last(id)
        assert isinstance(last, Delta)
        assert run.text(id) == text
        assert last.drafted == 0
        total = len(model.tokenize_plain(f"{text} and more"))
        assert last.prediction_accepted + last.prediction_rejected == total
    finally:
        model.close()
