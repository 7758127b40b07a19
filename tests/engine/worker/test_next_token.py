"""Rows of logits: they are llama.cpp's, beside other requests, in chunks and after a preemption."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_runs import Counting, Failing, Run
from reference_logits import ReferenceModel

from offgrid.engine.protocol.events import Delta, Failed, LogitsRow
from offgrid.engine.protocol.frames import encode_frame, take_reports
from offgrid.engine.protocol.reports import Step
from offgrid.engine.protocol.requests import NextToken, PromptPart
from offgrid.engine.worker.llama.errors import NO_ROOM
from offgrid.errors import ContextLengthExceeded, InvalidParameter
from offgrid.sampling import Sampler, SamplingParams, follow

STORY = "Once upon a time there was a small otter who lived beside a wide river. " * 4
ANSWER = " The otter was brave and"
N_CTX = 256
LOAD = {"ctx_size": N_CTX, "parallel": 3, "drafts": False}


@pytest.fixture(scope="module")
def reference(starter_path: Path) -> Iterator[ReferenceModel]:
    model = ReferenceModel(starter_path)
    yield model
    model.close()


def ids(model: Counting, text: str) -> list[int]:
    return model.tokenize((PromptPart(text, True),)).tolist()


def ask(run: Run, text: str = STORY, answer: str | tuple[int, ...] = (), **fields: object) -> int:
    return run.submit(text, next_token=NextToken(answer), max_tokens=0, **fields)


def row_of(run: Run, id: int) -> LogitsRow:
    deltas = [e for e in run.events if isinstance(e, Delta) and e.id == id and not e.progress]
    (delta,) = deltas
    assert delta.finish_reason == "length"
    assert delta.row is not None
    return delta.row


def numbers(row: LogitsRow) -> np.ndarray:
    return np.frombuffer(row.logits, np.float32)


def check(row: LogitsRow, tokens: list[int], reference: ReferenceModel) -> None:
    logits = numbers(row).astype(np.float64)
    logprobs = logits - logits.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    assert np.abs(logprobs - reference.log_probabilities(tokens)[-1]).max() < 1e-3


def test_the_row_after_prompt_and_answer(
    run: Run, model: Counting, reference: ReferenceModel
) -> None:
    answer = ids(model, ANSWER)
    id = ask(run, answer=tuple(answer))
    run.finish()
    row = row_of(run, id)
    check(row, ids(model, STORY) + answer, reference)
    assert np.frombuffer(row.prompt, np.int32).tolist() == ids(model, STORY)
    assert np.frombuffer(row.answer, np.int32).tolist() == answer
    assert row.state[0] == len(answer)
    assert row.ends == tuple(sorted(model.eog_ids))


def test_streams_go_on_meanwhile(run: Run, model: Counting, reference: ReferenceModel) -> None:
    alone = run.submit("The fox", max_tokens=20, ignore_eos=True)
    run.finish()
    stream = run.submit("The fox", max_tokens=20, ignore_eos=True)
    run.engine.step()
    id = ask(run)
    run.finish()
    assert run.text(stream) == run.text(alone) != ""
    check(row_of(run, id), ids(model, STORY), reference)


def test_a_cached_prefix_is_not_computed_again(run: Run, model: Counting) -> None:
    ask(run)
    run.finish()
    computed = sum(model.decoded)
    again = ask(run, answer=" The")
    run.finish()
    assert sum(model.decoded) - computed < 5
    assert row_of(run, again).state[0] == 1


STATEFUL = (
    SamplingParams(mirostat=2, mirostat_tau=2.0, seed=3),
    SamplingParams(mirostat=1, mirostat_eta=0.5, seed=3),
    SamplingParams(adaptive_target=0.4, top_k=50, seed=3),
)


@pytest.mark.parametrize("params", STATEFUL)
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_the_state_follows_the_answer_in_any_chunks(
    run: Run, model: Counting, params: SamplingParams, rows: int
) -> None:
    run.engine.scheduler.scored_tokens = rows
    answer = ids(model, ANSWER)
    id = ask(run, answer=tuple(answer), sampling=params)
    run.finish()
    expected = Sampler(model.n_vocab, params, prompt_tokens=ids(model, STORY))
    for place, token in enumerate(answer):
        one = ask(run, answer=tuple(answer[:place]))
        run.finish()
        follow(expected, np.ascontiguousarray(numbers(row_of(run, one))), token)
    found = row_of(run, id)
    assert found.state[0] == len(answer)
    assert found.state[1:] == pytest.approx(expected.state[1:], abs=1e-3)
    assert found.sampling == params


def test_a_preempted_sequence_follows_no_token_twice(model: Counting) -> None:
    """The youngest sequence is preempted amid the answer, and computed again."""
    codes: list[int | None] = []
    run = Run(Failing(model, lambda: codes.pop(0) if codes else None))
    run.engine.scheduler.scored_tokens = 2
    answer = tuple(ids(model, ANSWER * 3))
    run.submit("In a house", max_tokens=60, ignore_eos=True)
    run.engine.step()
    id = ask(run, "The fox", answer=answer, sampling=STATEFUL[0])
    codes += [None, None, None, NO_ROOM]
    run.finish()
    assert codes == []
    again = ask(run, "The fox", answer=answer, sampling=STATEFUL[0])
    run.finish()
    assert row_of(run, id).state == pytest.approx(row_of(run, again).state, abs=1e-3)
    assert row_of(run, id).state[0] == len(answer)


def test_texts_are_resolved_for_the_server(run: Run, model: Counting) -> None:
    id = ask(
        run,
        sampling=SamplingParams(dry_multiplier=1.0, logit_bias={5: -1.0}),
        text_bias={" otter": 2.0},
        dry_breakers=("\n",),
    )
    run.finish()
    found = row_of(run, id).sampling
    (otter,) = ids(model, " otter")
    assert found.logit_bias == {5: -1.0, otter: 2.0}
    assert found.dry_breakers
    assert found.seed is not None


def test_a_row_crosses_the_pipe(run: Run) -> None:
    id = ask(run, sampling=SamplingParams(logit_bias={3: False, 4: 1.5}, seed=9), answer=" The")
    run.finish()
    row = row_of(run, id)
    delta = Delta(id, 0, "", 0, "length", row=row)
    buffer = bytearray(encode_frame(Step((delta,))))
    (report,) = take_reports(buffer)
    assert isinstance(report, Step)
    assert report.events == (delta,)


def test_answers_that_are_refused(run: Run, model: Counting) -> None:
    with pytest.raises(InvalidParameter) as caught:
        ask(run, answer=(model.n_vocab,))
    assert caught.value.param == "continuation"
    with pytest.raises(ContextLengthExceeded) as longer:
        ask(run, answer=(5,) * N_CTX)
    assert longer.value.param == "continuation"
    assert not any(isinstance(event, Failed) for event in run.events)
