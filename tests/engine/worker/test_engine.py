"""The loop on a real context, in this process: batching, cancel, limits, failing decodes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from engine_runs import Failing, Run
from fixed_logits import FixedLogits

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta, EngineEvent, Failed
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.failures import EngineBroken
from offgrid.engine.worker.llama.errors import DecodeError, LoadError
from offgrid.engine.worker.llama.model import Model
from offgrid.errors import ContextLengthExceeded, InvalidParameter
from offgrid.sampling import SamplingParams

LOAD = {"ctx_size": 512}


def test_a_batch_changes_no_answer(run: Run, model: Model) -> None:
    texts = [f"Once upon a time {word}" for word in ("a", "the old", "in a house there", "no")]
    alone = []
    for text in texts * 2:
        id = run.submit(text)
        run.finish()
        alone.append(run.text(id))
    ids = [run.submit(text) for text in texts * 2]
    run.finish()
    assert [run.text(id) for id in ids] == alone
    assert len(set(alone)) > 1


def test_cancel_in_the_queue_in_prefill_and_in_the_stream(run: Run, model: Model) -> None:
    running = [run.submit("Once upon", max_tokens=400, ignore_eos=True) for _ in range(4)]
    waiting = run.submit("Once")
    run.engine.step()
    assert len(run.engine.scheduler.waiting) == 1
    run.engine.cancel(waiting)
    run.engine.step()
    assert not run.engine.scheduler.waiting
    # While it streams: the slot is idle after the step that handles the cancel.
    run.engine.cancel(running[0])
    late = run.submit("once upon a time " * 60, max_tokens=4)
    run.engine.step()
    assert {s.request_id for s in run.engine.scheduler.running} == {*running[1:], late}
    # In prefill: none of its tokens has been sampled yet.
    assert run.text(late) == ""
    run.engine.cancel(late)
    run.engine.step()
    assert {s.request_id for s in run.engine.scheduler.running} == set(running[1:])
    for id in running[1:]:
        run.engine.cancel(id)
    assert not run.engine.step()
    assert not any(isinstance(event, Failed) for event in run.events)


def test_a_cancel_ends_all_choices(run: Run) -> None:
    """A6: those with a slot and those that wait."""
    other = run.submit("In a house", max_tokens=400, ignore_eos=True)
    id = run.submit("Once upon", n=6, max_tokens=400, ignore_eos=True)
    run.engine.step()
    scheduler = run.engine.scheduler
    assert len(scheduler.running) == 4
    assert len(scheduler.waiting) == 3
    run.engine.cancel(id)
    run.engine.step()
    assert [s.request_id for s in scheduler.running] == [other]
    assert not scheduler.waiting


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 7, 8])
def test_an_answer_has_exactly_as_many_tokens_as_it_may(run: Run, most: int) -> None:
    """B6: neither one more nor one less."""
    ids = [run.submit(text, max_tokens=most, ignore_eos=True) for text in ("Once", "\u65e5\u672c")]
    run.finish()
    for end in map(run.last, ids):
        assert isinstance(end, Delta)
        assert (end.completion_tokens, end.finish_reason) == (most, "length")


def test_a_choice_is_ended_alone(run: Run) -> None:
    """In the stream, in the queue and unknown; its last delta comes, the others go on."""
    id = run.submit("Once upon", n=5, max_tokens=20, ignore_eos=True)
    run.engine.step()
    assert [s.choice for s in run.engine.scheduler.waiting] == [4]
    for choice in (1, 4, 9):
        run.engine.end(id, choice)
    run.engine.end(id + 1, 0)
    run.engine.step()
    assert {s.choice for s in run.engine.scheduler.running} == {0, 2, 3}
    assert not run.engine.scheduler.waiting
    run.finish()
    last = {e.choice: e for e in run.events if isinstance(e, Delta) and e.finish_reason}
    lengths = [(last[n].finish_reason, last[n].completion_tokens) for n in range(5)]
    assert lengths == [
        ("length", 20), ("stop", 1), ("length", 20), ("length", 20), ("stop", 0),
    ]  # fmt: skip


def test_streams_continue_during_a_long_prefill(run: Run) -> None:
    first = run.submit("Once upon", max_tokens=60, ignore_eos=True)
    run.engine.step()
    run.submit("once upon a time " * 60, max_tokens=2)
    for _ in range(5):
        before = len([e for e in run.events if isinstance(e, Delta) and e.id == first])
        run.engine.step()
        after = len([e for e in run.events if isinstance(e, Delta) and e.id == first])
        assert after == before + 1
    run.finish()


def test_the_end_of_the_context_ends_the_answer(run: Run, model: Model) -> None:
    id = run.submit("Once upon a time", max_tokens=None, ignore_eos=True)
    run.finish()
    end = run.last(id)
    assert isinstance(end, Delta)
    assert end.finish_reason == "length"
    prompt = len(model.tokenize((PromptPart("Once upon a time", True),)))
    assert end.completion_tokens == model.n_ctx - prompt


def test_requests_refused_before_they_reach_llama_cpp(run: Run, model: Model) -> None:
    def refused(error: type[Exception], **fields: Any) -> None:
        with pytest.raises(error):
            run.engine.prepare(1, GenerationRequest(**fields))

    refused(ContextLengthExceeded, tokens=tuple([5] * model.n_ctx))
    refused(ContextLengthExceeded, parts=(PromptPart("A" * 60_000, False),))
    refused(InvalidParameter, tokens=(model.n_vocab,))
    refused(InvalidParameter, tokens=(-1,))
    refused(InvalidParameter, tokens=())
    bias = SamplingParams(logit_bias={model.n_vocab: 1.0})
    refused(InvalidParameter, tokens=(5,), sampling=bias)
    for call in (
        lambda: model.forget(4),
        lambda: model.forget(-1),
    ):
        with pytest.raises(ValueError, match="slot"):
            call()


def test_several_choices(run: Run) -> None:
    sampling = SamplingParams(temperature=1.5, seed=3)
    id = run.submit("Once upon a time", sampling=sampling, n=3)
    run.finish()
    texts = [run.text(id, choice) for choice in range(3)]
    assert len(set(texts)) == 3
    alone = run.submit("Once upon a time", sampling=sampling)
    run.finish()
    assert run.text(alone) == texts[0]


def test_the_loop_does_not_sleep_while_others_wait(model: Model) -> None:
    """Both slots become idle in one step; no arrival would wake the loop."""
    ended: list[int] = []
    done = threading.Event()

    def emit(events: tuple[EngineEvent, ...]) -> None:
        ended.extend(e.id for e in events if isinstance(e, Delta) and e.finish_reason)
        if len(ended) == 3 * model.n_parallel:
            done.set()

    engine = Engine(model, emit)
    request = GenerationRequest(tokens=(300, 301), max_tokens=2, ignore_eos=True)
    for id in range(3 * model.n_parallel):
        engine.submit(engine.prepare(id, request))
    loop = threading.Thread(target=engine.run)
    loop.start()
    try:
        assert done.wait(60)
    finally:
        engine.stop()
        loop.join(60)
    assert sorted(ended) == list(range(3 * model.n_parallel))


def test_a_failed_decode_ends_only_its_requests(model: Model, run: Run) -> None:
    reference = run.submit("Once upon a time")
    run.finish()
    codes: list[int | None] = [None, -3]
    failing = Run(Failing(model, lambda: codes.pop(0) if codes else None))
    one = failing.submit("Once upon a time")
    failing.engine.step()
    failing.engine.step()
    assert isinstance(failing.last(one), Failed)
    two = failing.submit("Once upon a time")
    failing.finish()
    assert failing.text(two) == run.text(reference)


def test_a_refused_batch_is_retried_in_parts(model: Model, run: Run) -> None:
    """Return value 1 means no room for the whole batch; each sequence may still fit alone."""
    texts = ["Once upon a time", "In a house"]
    expected = []
    for text in texts:
        id = run.submit(text)
        run.finish()
        expected.append(run.text(id))
    codes: list[int | None] = [1]
    failing = Run(Failing(model, lambda: codes.pop(0) if codes else None))
    ids = [failing.submit(text) for text in texts]
    failing.finish()
    assert [failing.text(id) for id in ids] == expected


def test_only_the_guilty_request_of_a_refused_batch_fails(model: Model, run: Run) -> None:
    """A9: return value -1 means that the batch is invalid, and changes nothing."""
    texts = ["Once upon a time", "In a house", "One day"]
    expected = []
    for text in texts:
        id = run.submit(text)
        run.finish()
        expected.append(run.text(id))
    # The second request cannot be computed, alone or with others.
    failing = Run(Failing(model, lambda: -1 if culprit() in model.batch.slots else None))
    ids = [failing.submit(text) for text in texts]

    def culprit() -> int:
        running = failing.engine.scheduler.running
        return next((s.slot for s in running if s.request_id == ids[1]), -1)

    failing.finish()
    assert isinstance(failing.last(ids[1]), Failed)
    assert [failing.text(ids[i]) for i in (0, 2)] == [expected[0], expected[2]]


def test_cells_that_nothing_may_share_are_freed_for_others(model: Model) -> None:
    """What has ended without ``cache_prompt`` is of no use, but its cells are still taken."""
    run = Run(FixedLogits(model, room=250))
    ids = [
        run.submit("Once", max_tokens=tokens, ignore_eos=True, cache_prompt=False)
        for tokens in (100, 200)
    ]
    run.finish()
    last = [run.last(id) for id in ids]
    assert [e.completion_tokens for e in last if isinstance(e, Delta)] == [100, 200]


@pytest.mark.parametrize(
    ("code", "no_room", "retriable"),
    [(1, True, True), (-1, False, True), (2, False, False), (-2, False, False)],
)
def test_the_message_of_a_failed_decode(code: int, no_room: bool, retriable: bool) -> None:
    error = DecodeError(code)
    assert (error.no_room, error.retriable) == (no_room, retriable)


def test_decodes_that_always_fail_end_the_process(model: Model) -> None:
    failing = Run(Failing(model, lambda: -3))
    failing.submit("Once")
    failing.engine.step()
    failing.submit("Once")
    with pytest.raises(EngineBroken):
        failing.engine.step()


def test_a_context_that_does_not_fit_is_refused(starter_path: Path) -> None:
    with pytest.raises(LoadError, match="OFFGRID_PARALLEL"):
        Model(Load(str(starter_path), parallel=1_000_000))
