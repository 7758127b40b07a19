"""Prefixes are computed once, on a real context; answers stay right."""

from __future__ import annotations

import threading

import pytest
from engine_runs import Counting, Failing, Run
from support import eventually
from variants import few

from offgrid.engine.protocol.events import Delta, Failed, Started
from offgrid.engine.protocol.requests import PromptPart
from offgrid.engine.worker.llama.errors import NO_ROOM, DecodeError
from offgrid.engine.worker.llama.model import Model
from offgrid.sampling import SamplingParams

LOAD = {"drafts": False}
"""How many tokens a step decodes would depend on measured times."""
STORY = "Once upon a time there was a small otter who lived beside a wide river. " * 6


def n_tokens(model: Counting, text: str) -> int:
    return len(model.tokenize((PromptPart(text, True),)))


def cached(run: Run, id: int, choice: int = 0) -> int:
    return next(
        event.cached_tokens
        for event in run.events
        if isinstance(event, Delta) and (event.id, event.choice) == (id, choice)
    )


def test_the_same_prompt_again(run: Run, model: Counting) -> None:
    first = run.submit(STORY)
    run.finish()
    model.decoded.clear()
    again = run.submit(STORY)
    run.finish()
    assert cached(run, first) == 0
    assert cached(run, again) == n_tokens(model, STORY) - 1
    assert model.decoded[0] == 1
    assert run.text(again) == run.text(first)


def test_a_short_prompt_again(run: Run, model: Counting) -> None:
    """It is computed as the first time, so its logprobs are the same to the last bit."""
    text = "Once upon a time"
    ids = []
    for between in ("", "Once upon a house", "Once"):
        if between:
            run.submit(between)
            run.finish()
        model.decoded.clear()
        ids.append(run.submit(text, top_logprobs=2, max_tokens=5))
        run.finish()
        assert cached(run, ids[-1]) == 0
        assert model.decoded[0] == n_tokens(model, text)
    first, *others = (
        [e.logprobs for e in run.events if isinstance(e, Delta) and e.id == id] for id in ids
    )
    assert first
    assert others == [first, first]


def test_the_next_turn_of_a_conversation(run: Run, model: Counting) -> None:
    first = run.submit(STORY, max_tokens=30, ignore_eos=True)
    run.finish()
    longer = STORY + run.text(first) + " And then"
    second = run.submit(longer)
    run.finish()
    # The last sampled token has not been computed, and tokens may merge across the border.
    assert cached(run, second) >= n_tokens(model, STORY)
    fresh = Run(model)
    alone = fresh.submit(longer, cache_prompt=False)
    fresh.finish()
    assert run.text(second) == fresh.text(alone)


def test_a_running_sequence_is_shared(run: Run, model: Counting) -> None:
    expected = run.submit(STORY + "One day", cache_prompt=False)
    run.finish()
    running = run.submit(STORY, max_tokens=200, ignore_eos=True)
    for _ in range(20):
        run.engine.step()
    assert run.text(running)
    other = run.submit(STORY + "One day")
    run.finish()
    assert cached(run, other) >= n_tokens(model, STORY) - 2
    assert run.text(other) == run.text(expected)


def test_the_same_new_prompt_at_once_is_computed_once(run: Run, model: Counting) -> None:
    ids = [run.submit(STORY, max_tokens=2) for _ in range(4)]
    run.finish()
    prompt = n_tokens(model, STORY)
    assert prompt <= sum(model.decoded) <= prompt + 4 * 3
    assert [cached(run, id) for id in ids] == [0, prompt - 1, prompt - 1, prompt - 1]
    assert len({run.text(id) for id in ids}) == 1


def test_choices_share_one_prefill(run: Run, model: Counting) -> None:
    id = run.submit(STORY, n=8, max_tokens=2, sampling=SamplingParams(seed=1))
    run.finish()
    prompt = n_tokens(model, STORY)
    assert prompt <= sum(model.decoded) <= prompt + 8 * 3
    for choice in range(1, 8):
        assert cached(run, id, choice) == prompt - 1


def test_prompts_that_arrive_together_are_prefilled_in_one_call(
    model: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offgrid.engine.worker.engine._GATHER_SECONDS", 60.0)
    texts = ["One day", "Two foxes", "In a house"]
    left = list(texts)
    run = Run(model, expecting=lambda: bool(left))
    loop = threading.Thread(target=run.engine.run)
    loop.start()
    try:
        for text in texts:
            run.submit(text, max_tokens=1)
            left.remove(text)
            run.engine.nudge()
        eventually(
            lambda: sum(isinstance(e, Delta) for e in list(run.events)) == 3, "all are answered"
        )
    finally:
        run.engine.stop()
        loop.join()
    assert model.decoded == [sum(n_tokens(model, text) for text in texts)]


def test_requests_without_cache_prompt_share_nothing(run: Run, model: Counting) -> None:
    secret = run.submit(STORY, cache_prompt=False)
    run.finish()
    other = run.submit(STORY)
    run.finish()
    third = run.submit(STORY, cache_prompt=False)
    run.finish()
    assert [cached(run, id) for id in (secret, other, third)] == [0, 0, 0]


def test_many_prompts_in_turn_stay_right(run: Run, model: Counting) -> None:
    """More prompts than slots, with common prefixes of many lengths.

    Their order makes the engine copy, cut and evict slots.
    """
    words = STORY.split()
    texts = [" ".join(words[: 10 + 7 * (i * 5 % 11)]) + f" {i % 4}" for i in range(24)]
    fresh = Run(model)
    alone = [fresh.submit(text, max_tokens=8, cache_prompt=False) for text in texts]
    fresh.finish()
    ids = [run.submit(text, max_tokens=8) for text in texts]
    run.finish()
    assert [run.text(id) for id in ids] == [fresh.text(id) for id in alone]
    assert sum(cached(run, id) for id in ids) > 100


def test_a_slot_whose_stream_has_ended_is_bridged(run: Run, model: Counting) -> None:
    """A token in the slot between costs less than a second call; the slot's contents stay right."""
    texts = [f"{word} {STORY}" for word in ("One", "Two", "Three")]
    fresh = Run(model)
    alone = [fresh.submit(text, max_tokens=80, cache_prompt=False, ignore_eos=True)
             for text in texts]  # fmt: skip
    fresh.finish()
    lengths = (80, 4, 80)
    ids = [run.submit(text, max_tokens=n, ignore_eos=True)
           for text, n in zip(texts, lengths, strict=True)]  # fmt: skip
    model.decoded.clear()
    run.finish()
    # The two remaining streams give batches of three tokens, one of which is the bridge.
    assert model.decoded.count(3) > 20
    assert 2 not in model.decoded
    assert [run.text(ids[i]) for i in (0, 2)] == [fresh.text(alone[i]) for i in (0, 2)]
    again = run.submit(texts[1], max_tokens=80, ignore_eos=True)
    run.finish()
    assert cached(run, again) == n_tokens(model, texts[1]) - 1
    assert run.text(again) == fresh.text(alone[1])


def test_no_room_evicts_idle_slots_first(model: Counting) -> None:
    codes: list[int | None] = []
    run = Run(Failing(model, lambda: codes.pop(0) if codes else None))
    first = run.submit(STORY)
    run.finish()
    codes.append(NO_ROOM)
    second = run.submit("In a house", max_tokens=4)
    run.finish()
    assert not any(isinstance(event, Failed) for event in run.events)
    assert run.text(second)
    again = run.submit(STORY)
    run.finish()
    assert cached(run, again) == 0
    assert run.text(again) == run.text(first)


def test_no_room_preempts_the_youngest_and_no_token_is_lost(model: Counting) -> None:
    texts = [STORY, "In a house there was", "The fox"]
    fresh = Run(model)
    alone = [fresh.submit(text, max_tokens=30) for text in texts]
    fresh.finish()
    fresh_texts = [fresh.text(id) for id in alone]
    codes: list[int | None] = [None] * 12 + [NO_ROOM] * 2
    run = Run(Failing(model, lambda: codes.pop(0) if codes else None))
    ids = [run.submit(text, max_tokens=30, cache_prompt=False) for text in texts]
    run.finish()
    assert not codes
    assert [run.text(id) for id in ids] == fresh_texts


class Limited(Counting):
    """A model whose slots share fewer cells than they could fill."""

    def __init__(self, model: Model, cells: int) -> None:
        super().__init__(model)
        self._cells = cells
        self.refused = 0
        self._held = dict.fromkeys(range(model.n_parallel), 0)

    def forget(self, slot: int) -> None:
        self._held[slot] = 0
        self._model.forget(slot)

    def cut(self, slot: int, keep: int) -> bool:
        self._held[slot] = keep
        return bool(self._model.cut(slot, keep))

    def copy(self, source: int, target: int) -> None:
        self._held[target] = self._held[source]
        self._model.copy(source, target)

    def decode(self) -> None:
        slots = self._model.batch.slots.tolist()
        if sum(self._held.values()) + len(slots) > self._cells:
            self.refused += 1
            raise DecodeError(NO_ROOM)
        for slot in slots:
            self._held[slot] += 1
        super().decode()


@pytest.mark.parametrize("cells", few(1, [120, 160, 300]))
def test_with_lasting_lack_of_room_all_are_answered_in_turn(loaded: Model, cells: int) -> None:
    texts = [f"{i} {STORY}"[:180] for i in range(6)]
    fresh = Run(Counting(loaded))
    alone = [fresh.submit(text, max_tokens=40, ignore_eos=True, cache_prompt=False)
             for text in texts]  # fmt: skip
    fresh.finish()
    for slot in range(loaded.n_parallel):
        loaded.forget(slot)
    model = Limited(loaded, cells)
    run = Run(model)
    ids = [run.submit(text, max_tokens=40, ignore_eos=True) for text in texts]
    for _ in range(1000):
        if not run.engine.step():
            break
    else:
        pytest.fail("it never ends")
    assert 0 < model.refused < 40
    for id, lone in zip(ids, alone, strict=True):
        last = run.last(id)
        assert isinstance(last, Delta)
        assert (last.finish_reason, last.completion_tokens) == ("length", 40)
        # Later, rounding may decide between two tokens that are practically tied.
        assert run.text(id)[:20] == fresh.text(lone)[:20]
    for slot in range(loaded.n_parallel):
        loaded.forget(slot)


def test_a_parked_sequence_has_a_slot_and_computes_later(run: Run) -> None:
    first, second = run.submit(STORY), run.submit(STORY)
    run.engine.step()

    def started() -> list[tuple[int, bool]]:
        return [(e.id, e.computing) for e in run.events if isinstance(e, Started)]

    assert started() == [(first, True), (second, False)]
    run.finish()
    assert started() == [(first, True), (second, False), (second, True)]


def test_no_room_for_the_only_sequence_is_an_error(model: Counting) -> None:
    run = Run(Failing(model, lambda: NO_ROOM))
    id = run.submit("Once")
    run.engine.step()
    assert isinstance(run.last(id), Failed)


class CannotCut(Counting):
    """A model that, like a recurrent one, cannot remove the end of a sequence."""

    def cut(self, slot: int, keep: int) -> bool:
        return False


def test_a_model_that_cannot_cut_is_detected_and_served(loaded: Model) -> None:
    run = Run(CannotCut(loaded))
    first = run.submit(STORY)
    run.finish()
    second = run.submit(STORY)
    run.finish()
    assert run.engine.scheduler.can_cut is False
    assert cached(run, second) == 0
    assert run.text(second) == run.text(first)
    ids = [run.submit(STORY) for _ in range(3)]
    run.finish()
    assert {run.text(id) for id in ids} == {run.text(first)}
    for slot in range(loaded.n_parallel):
        loaded.forget(slot)
