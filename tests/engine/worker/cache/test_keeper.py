"""Slots are saved and restored, on a real context: the answers stay the same."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_runs import GREEDY, Counting, Run
from msgspec import structs
from tiny_models import make

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.engine.saved_prefixes import delete_saved, saved_files
from offgrid.engine.worker.cache.opening import open_tiers
from offgrid.engine.worker.checkpoints import Checkpoints
from offgrid.engine.worker.llama.model import Model

LOAD = {"ctx_size": 512, "parallel": 2, "batch_size": 64}
STORIES = [
    f"{name} the otter lived beside a wide river, and every day there was something to see. " * 8
    for name in ("Ada", "Ben", "Cleo", "Dora", "Emil")
]


@pytest.fixture
def begin(model: Counting, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start engines one after another, each with empty slots, as a worker begins."""
    opened = []

    def start(ram: int = 0, disk: int = -1, *, on: Any = model) -> Run:
        for slot in range(on.n_parallel):
            on.forget(slot)
        on.load = structs.replace(on.load, cache_ram=ram, cache_dir=str(tmp_path), cache_disk=disk)
        tiers = open_tiers(on)
        assert (tiers is None) == (ram == disk == 0)
        if tiers is not None:
            opened.append(tiers)
        return Run(on, tiers=tiers)

    yield start
    for tiers in opened:
        tiers.close()


def ask(run: Run, text: str, **fields: Any) -> tuple[str, int]:
    """An answer, and its cached tokens."""
    id = run.submit(text, **{"max_tokens": 8, **fields})
    run.finish()
    deltas = [event for event in run.events if isinstance(event, Delta) and event.id == id]
    return run.text(id), deltas[0].cached_tokens


def stop(run: Run) -> None:
    """What a worker does at its end."""
    run.engine.save_all(time.monotonic() + 60)


def test_after_a_restart(begin: Callable[..., Run], model: Counting) -> None:
    first = begin()
    answer, cached = ask(first, STORIES[0])
    assert cached == 0
    stop(first)
    again = begin()
    model.decoded.clear()
    assert ask(again, STORIES[0]) == (answer, model.decoded[0] and cached_all(model, STORIES[0]))
    assert model.decoded[0] == 1
    # Another end after the same beginning: the rest of what was saved is cut off.
    longer = STORIES[0][:400] + " One day a fox came."
    other = begin()
    text, cached = ask(other, longer)
    assert cached >= 50
    assert (text, 0) == ask(begin(), longer, cache_prompt=False)


def cached_all(model: Counting, text: str) -> int:
    return len(model.tokenize((PromptPart(text, True),))) - 1


@pytest.mark.slow
def test_more_conversations_than_slots(
    begin: Callable[..., Run], model: Counting, tmp_path: Path
) -> None:
    """No prompt is computed twice, whether memory or only the disk takes what slots lose."""
    expected = [ask(begin(0, 0), story) for story in STORIES]
    for ram, disk in ((64, 0), (0, -1), (1, -1)):
        delete_saved(tmp_path)
        run = begin(ram, disk)
        assert [ask(run, story) for story in STORIES] == expected
        model.decoded.clear()
        order = [*range(5), *range(5)]
        random.Random(ram).shuffle(order)
        for number in order:
            text, cached = ask(run, STORIES[number])
            assert text == expected[number][0]
            assert cached == cached_all(model, STORIES[number])


@pytest.mark.slow
def test_several_at_once(begin: Callable[..., Run], model: Counting) -> None:
    """Requests that arrive together, also for the same conversation, get the right answers."""
    expected = [ask(begin(0, 0), story)[0] for story in STORIES]
    run = begin(8)
    for story in STORIES:
        ask(run, story)
    chance = random.Random(1)
    for _ in range(3):
        asked = [chance.randrange(5) for _ in range(5)]
        ids = [run.submit(STORIES[number], max_tokens=8) for number in asked]
        run.finish()
        assert [run.text(id) for id in ids] == [expected[number] for number in asked]
        for id, number in zip(ids, asked, strict=True):
            deltas = [e for e in run.events if isinstance(e, Delta) and e.id == id]
            assert deltas[0].cached_tokens == cached_all(model, STORIES[number])


def test_cache_prompt_false_leaves_nothing(begin: Callable[..., Run], tmp_path: Path) -> None:
    run = begin(64)
    answer, _ = ask(run, STORIES[0], cache_prompt=False)
    for story in STORIES[1:4]:
        ask(run, story, cache_prompt=False)
    stop(run)
    assert saved_files(tmp_path) == []
    ask(run, STORIES[0])
    stop(run)
    assert ask(begin(), STORIES[0], cache_prompt=False) == (answer, 0)


def test_an_idle_worker_writes_what_a_kill_would_lose(
    begin: Callable[..., Run], tmp_path: Path
) -> None:
    run = begin()
    answers = [ask(run, story) for story in STORIES[:2]]
    engine = run.engine
    assert engine.has_work is False
    keeper, idle = engine._keeper, engine.scheduler.idle
    assert keeper.pause(idle) is not None
    assert [keeper.write_one(idle, Checkpoints(0)) for _ in range(3)] == [True, True, False]
    assert keeper.pause(idle) is None
    assert keeper.tiers is not None
    keeper.tiers.finish_writing(time.monotonic() + 60)
    assert len(saved_files(tmp_path)) == 2
    assert keeper.tiers.held_bytes == 0
    for story, (text, _) in zip(STORIES[:2], answers, strict=True):
        again, cached = ask(begin(), story)
        assert again == text
        assert cached > 100


def test_answers_that_the_end_interrupts_are_saved(
    begin: Callable[..., Run], tmp_path: Path
) -> None:
    """The server ends them before the worker, which may not have heard of it yet."""
    run = begin()
    run.submit(STORIES[0], max_tokens=50, ignore_eos=True)
    while len(run.events) < 3:
        run.engine.step()
    run.submit(STORIES[1], max_tokens=50, cache_prompt=False)
    run.engine.step()
    stop(run)
    assert len(saved_files(tmp_path)) == 1
    assert ask(begin(), STORIES[0])[1] > 100


def test_an_idle_worker_writes_memory_too(begin: Callable[..., Run], tmp_path: Path) -> None:
    run = begin(64)
    for story in STORIES:
        ask(run, story)
    keeper, idle = run.engine._keeper, run.engine.scheduler.idle
    assert keeper.tiers is not None
    while keeper.pause(idle) is not None:
        keeper.write_one(idle, Checkpoints(0))
        keeper.tiers.finish_writing(time.monotonic() + 60)
    assert len(saved_files(tmp_path)) == len(STORIES)


@pytest.mark.slow
@pytest.mark.parametrize("then", ["evict", "stop"])
def test_what_is_forgotten_is_not_written_again(
    begin: Callable[..., Run], tmp_path: Path, then: str
) -> None:
    """Neither what memory holds nor what slots hold."""
    run = begin(64)
    for story in STORIES[:3]:
        ask(run, story)
    assert run.engine._keeper.tiers is not None
    assert run.engine._keeper.tiers.held_bytes > 0
    delete_saved(tmp_path)
    if then == "evict":
        ask(run, STORIES[3])
    stop(run)
    later = int(then == "evict")
    assert len(saved_files(tmp_path)) == later
    assert run.engine._keeper.tiers.held_bytes == 0
    assert [ask(begin(), story)[1] for story in STORIES[:3]] == [0] * 3
    # What is computed later is saved, also without a quiet moment.
    for story in (*STORIES[:2], STORIES[4]):
        assert ask(run, story)[1] == 0
    assert run.engine._keeper.tiers.held_bytes > 0
    stop(run)
    assert len(saved_files(tmp_path)) == later + 3


@pytest.mark.slow
def test_files_altered_at_random(
    begin: Callable[..., Run], model: Counting, tmp_path: Path
) -> None:
    """No wrong token: what does not arrive whole is computed."""
    run = begin()
    answer, _ = ask(run, STORIES[0])
    stop(run)
    (file,) = saved_files(tmp_path)
    whole = file.path.read_bytes()
    chance = random.Random(5)
    for number in range(6):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[chance.randrange(len(content)) :]
        else:
            for _ in range(number):
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        file.path.write_bytes(whole)
        again = begin()
        file.path.write_bytes(content)
        assert ask(again, STORIES[0]) == (answer, 0)
        assert not file.path.exists()
        file.path.write_bytes(content)  # this time it is there at the start
        assert ask(begin(), STORIES[0]) == (answer, 0)


def test_a_state_that_llama_refuses(
    begin: Callable[..., Run], model: Counting, tmp_path: Path
) -> None:
    """A file may be as it was written, and still not fit. The prompt is computed."""
    run = begin()
    answer, _ = ask(run, STORIES[0])
    tiers = run.engine._keeper.tiers
    assert tiers is not None
    slot, tokens = next((slot, tokens) for slot, tokens in run.engine.scheduler.idle if len(tokens))
    state = model.save_state(slot)
    assert state is not None
    for wrong in (
        state[: len(state) // 2].copy(),
        np.zeros(50, dtype=np.uint8),
        state[::-1].copy(),
    ):
        tiers.save(tokens, 10, wrong)
        tiers.finish_writing(time.monotonic() + 60)
        assert len(saved_files(tmp_path)) == 1
        assert ask(begin(), STORIES[0]) == (answer, 0)
        assert saved_files(tmp_path) == []


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [("llama", {}), ("mamba", {}), ("jamba", {}), ("gemma3", {}), ("gemma3", {"swa_full": True})],
)
def test_kinds_of_memory(architecture: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """Recurrent states and sliding windows are restored as a whole, for prompts that begin with
    everything that was saved. With ``swa_full`` nothing is saved."""
    saved = str(tmp_path / "saved")
    path = make(architecture, tmp_path)
    prompts: list[tuple[int, ...]] = []

    def answers(cache: int, ends: list[list[int]]) -> list[tuple[str, int]]:
        load = Load(
            str(path), ctx_size=512, parallel=2, batch_size=64, threads=1,
            cache_dir=saved, cache_disk=cache, **fields,
        )  # fmt: skip
        model = Model(load)
        tiers = open_tiers(model)
        assert (tiers is None) == (cache == 0 or bool(fields))
        run = Run(model, tiers=tiers)
        found = []
        for end in ends:
            tokens = (*prompts[0], *end) if prompts else tuple(end)
            request = GenerationRequest(
                tokens=tokens, sampling=GREEDY, max_tokens=10, ignore_eos=True
            )
            id = run.send(request)
            run.finish()
            deltas = [e for e in run.events if isinstance(e, Delta) and e.id == id]
            found.append((run.text(id), deltas[0].cached_tokens))
        if not prompts:
            prompts.append(tuple(max((held for _, held in run.engine.scheduler.idle), key=len)))
        stop(run)
        if tiers is not None:
            tiers.close()
        model.close()
        return found

    ((_, none),) = answers(-1, [[7, *range(20, 220)]])
    assert none == 0
    length = len(prompts[0])
    assert length > 200
    ends = [[5, 6, 7], [9] * 40]
    expected = [answers(0, [end])[0][0] for end in ends]
    for end, text in zip(ends, expected, strict=True):
        assert answers(-1, [end]) == [(text, 0 if fields else length)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "kept"), [("llama", 200), ("mamba", 197), ("jamba", 197), ("gemma3", 197)]
)
def test_the_same_prompt_after_a_restart(architecture: str, kept: int, tmp_path: Path) -> None:
    """Where slots cannot be cut, the checkpoint near the end of the prompt is saved with them; it
    is saved again with the slot in which it was restored."""
    path = make(architecture, tmp_path)
    prompt = (7, *range(20, 220))

    def answer(cache: int) -> tuple[str, int]:
        load = Load(
            str(path), ctx_size=512, parallel=2, batch_size=64, threads=1,
            cache_dir=str(tmp_path / "saved"), cache_disk=cache,
        )  # fmt: skip
        model = Model(load)
        tiers = open_tiers(model)
        run = Run(model, tiers=tiers)
        id = run.send(
            GenerationRequest(tokens=prompt, sampling=GREEDY, max_tokens=40, ignore_eos=True)
        )
        run.finish()
        (first, *_) = (e for e in run.events if isinstance(e, Delta) and e.id == id)
        stop(run)
        if tiers is not None:
            tiers.close()
        model.close()
        return run.text(id), first.cached_tokens

    expected, none = answer(0)
    assert none == 0
    assert [answer(-1) for _ in range(3)] == [(expected, 0), (expected, kept), (expected, kept)]
