"""Every kind of memory gives the answers of a fresh context after sharing, cutting and preempting.

Keys and values can be cut at any token, the state of a recurrent layer only at a checkpoint, and a
sliding window forgets. The models have random weights: their answers mean nothing, but differ for
every prompt. Sampled greedily with a penalty, they do not repeat one token. So a wrong memory
shows.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from engine_runs import Counting, Failing, Run
from tiny_models import WINDOW, make

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta, Failed
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.engine.worker.checkpoints import INTERVAL
from offgrid.engine.worker.llama.errors import NO_ROOM
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prefix import REWRITTEN
from offgrid.sampling import SamplingParams

CAN_CUT = {"llama": True, "mamba": False, "jamba": False, "gemma3": False}
TAIL = {"llama": True, "mamba": False, "jamba": False, "gemma3": True}
"""Whether a few tokens at the end can be cut. The slots of gemma3 hold 256 tokens, so that what
follows a token can be cut until about 200 more are there."""
GREEDY = SamplingParams(temperature=0.0, frequency_penalty=2.0)
STORY = "The otter lived beside a wide river, and every morning it looked for the fox. " * 2
ANSWER = 40
"""Tokens of an answer: more than the window."""


# jamba has a layer of each kind that llama and mamba have.
@pytest.fixture(
    scope="module",
    params=["llama", "mamba", pytest.param("jamba", marks=pytest.mark.slow), "gemma3"],
)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = make(request.param, tmp_path_factory.mktemp("models"))
    # Without drafts, the tokens of a step are those that the scheduler has planned.
    load = Load(str(path), ctx_size=768, parallel=4, batch_size=64, threads=1, drafts=False)
    model = Model(load)
    yield model
    model.close()


class TokenRun(Run):
    """An engine whose prompts and answers are token ids."""

    def ask(self, prompt: list[int], **fields: Any) -> int:
        fields = {"max_tokens": ANSWER, "sampling": GREEDY, "ignore_eos": True, **fields}
        return self.send(GenerationRequest(tokens=tuple(prompt), top_logprobs=0, **fields))

    def tokens(self, id: int, choice: int = 0) -> list[int]:
        return [entry.token for delta in self._deltas(id, choice) for entry in delta.logprobs]

    def cached(self, id: int, choice: int = 0) -> int:
        return self._deltas(id, choice)[0].cached_tokens

    def _deltas(self, id: int, choice: int) -> list[Delta]:
        return [
            event
            for event in self.events
            if isinstance(event, Delta) and (event.id, event.choice) == (id, choice)
        ]


@pytest.fixture
def run(model: Counting) -> TokenRun:
    return TokenRun(model)


def prompt_of(model: Counting, text: str) -> list[int]:
    return [int(token) for token in model.tokenize((PromptPart(text, True),))]


def alone(model: Counting, prompt: list[int], n: int = ANSWER) -> list[int]:
    """The answer of a new engine with an empty memory, which shares nothing."""
    for slot in range(model.n_parallel):
        model.forget(slot)
    run = TokenRun(model)
    id = run.ask(prompt, cache_prompt=False, max_tokens=n)
    run.finish()
    for slot in range(model.n_parallel):
        model.forget(slot)
    model.decoded.clear()
    return run.tokens(id)


def test_whether_the_memory_can_be_cut(loaded: Model, request: pytest.FixtureRequest) -> None:
    architecture = request.node.callspec.params["loaded"]
    assert loaded.can_cut is CAN_CUT[architecture]
    assert TokenRun(loaded).engine.scheduler.can_cut_tail is TAIL[architecture]
    assert loaded.window == (WINDOW if architecture == "gemma3" else 0)


def test_the_answers_would_show_a_wrong_memory(model: Counting) -> None:
    """All other tests rely on this: an answer depends on the prompt and does not repeat itself."""
    prompt = prompt_of(model, STORY)
    assert len(prompt) > 2 * WINDOW
    answers = [alone(model, p) for p in (prompt, [*prompt[:-9], 5, *prompt[-8:]], prompt[:-1])]
    assert all(len(answer) == ANSWER and len(set(answer)) > ANSWER // 2 for answer in answers)
    assert len(set(map(tuple, answers))) == 3


def test_the_same_prompt_again(run: TokenRun, model: Counting) -> None:
    prompt = prompt_of(model, STORY)
    expected = alone(model, prompt)
    ids = []
    for _ in range(3):
        ids.append(run.ask(prompt))
        run.finish()
    assert [run.tokens(id) for id in ids] == [expected] * 3
    again = len(prompt) - (1 if run.engine.scheduler.can_cut_tail else REWRITTEN)
    assert [run.cached(id) for id in ids] == [0, again, again]


def test_the_next_turn_of_a_conversation(run: TokenRun, model: Counting) -> None:
    """A finished answer leaves a whole sequence, which recurrent models can share too."""
    prompt = prompt_of(model, STORY)
    first = run.ask(prompt)
    run.finish()
    longer = [*prompt, *run.tokens(first), *prompt_of(model, " And then it swam.")]
    second = run.ask(longer)
    run.finish()
    # The last sampled token has not been computed.
    assert run.cached(second) == len(prompt) + ANSWER - 1
    assert run.tokens(second) == alone(model, longer)


def test_as_many_conversations_as_slots(loaded: Model) -> None:
    """Their next turns arrive together, each time in another order; every prefix is reused."""
    load = Load(loaded.info.path, ctx_size=768, parallel=8, threads=1, drafts=False)
    wide = Counting(Model(load))
    run = TokenRun(wide)
    chance = random.Random(3)
    said = [prompt_of(wide, f"{number} says: {STORY[:60]}") for number in range(8)]
    order = list(range(8))
    for turn in range(5):
        chance.shuffle(order)
        some = order if turn % 2 == 0 else order[:3]  # the others keep their slots meanwhile
        prompts = {number: [*said[number], *prompt_of(wide, f" And {turn}?")] for number in some}
        asked = {number: run.ask(prompts[number], max_tokens=10) for number in some}
        run.finish()
        if turn:
            assert [run.cached(asked[n]) for n in some] == [len(said[n]) - 1 for n in some]
        for number in some:
            said[number] = prompts[number] + run.tokens(asked[number])
    for number in order[:2]:
        assert said[number][-10:] == alone(wide, prompts[number], 10)
    wide.close()


@pytest.mark.parametrize("steps", [1, 12])
def test_a_prefix_of_a_running_sequence(run: TokenRun, model: Counting, steps: int) -> None:
    prompt, other = prompt_of(model, STORY), prompt_of(model, STORY + "One day")
    expected = alone(model, prompt, 80), alone(model, other)
    first = run.ask(prompt, max_tokens=80)
    for _ in range(steps):
        run.engine.step()
    # After one step the slot holds 64 tokens, and the other sequence waits for the prompt's end.
    # After twelve, the answer has begun.
    second = run.ask(other)
    run.finish()
    assert (run.tokens(first), run.tokens(second)) == expected
    assert other[: len(prompt)] == prompt
    cut = steps == 1 or run.engine.scheduler.can_cut_tail
    assert run.cached(second) == (len(prompt) if cut else len(prompt) - REWRITTEN)


def test_a_whole_running_sequence(run: TokenRun, model: Counting) -> None:
    """Nothing must be cut, and no checkpoint is needed for a recurrent state."""
    prompt = prompt_of(model, STORY)
    first = run.ask(prompt, max_tokens=80)
    while len(run.tokens(first)) < 10:
        run.engine.step()
    other = [*prompt, *run.tokens(first)[:9], 7, 8, 9]
    second = run.ask(other)
    run.finish()
    assert run.cached(second) == len(prompt) + 9
    assert run.tokens(first) == alone(model, prompt, 80)
    assert run.tokens(second) == alone(model, other)


def test_four_choices(run: TokenRun, model: Counting) -> None:
    prompt = prompt_of(model, STORY)
    expected = alone(model, prompt)
    id = run.ask(prompt, n=4)
    run.finish()
    assert [run.tokens(id, choice) for choice in range(4)] == [expected] * 4
    shared = len(prompt) - 1
    assert [run.cached(id, choice) for choice in range(4)] == [0, shared, shared, shared]
    assert len(prompt) <= sum(model.decoded) <= len(prompt) + 4 * ANSWER


@pytest.mark.slow
def test_sequences_in_the_middle_slots_end_first(run: TokenRun, model: Counting) -> None:
    """If their ends can be cut, the slots between are bridged; their contents stay right."""
    prompts = [prompt_of(model, f"{word} {STORY}") for word in ("One", "Two", "Three", "Four")]
    expected = [alone(model, prompt, 90) for prompt in prompts]
    lengths = (90, 6, 12, 90)
    ids = [run.ask(p, max_tokens=n) for p, n in zip(prompts, lengths, strict=True)]
    run.finish()
    assert [run.tokens(id) for id in ids] == [
        tokens[:n] for tokens, n in zip(expected, lengths, strict=True)
    ]
    # Two streams continue. With the two bridged slots between them, a batch has four tokens.
    bridged = run.engine.scheduler.can_cut_tail
    assert (model.decoded.count(4) > 50) is bridged
    assert (model.decoded.count(2) > 50) is not bridged
    # Both are submitted before anything else runs: the two slots still hold their old contents.
    longer = [[*prompts[index], *run.tokens(ids[index]), 9] for index in (1, 2)]
    again = [run.ask(prompt) for prompt in longer]
    run.finish()
    assert [run.cached(id) for id in again] == [
        len(prompts[index]) + lengths[index] - 1 for index in (1, 2)
    ]
    assert [run.tokens(id) for id in again] == [alone(model, prompt) for prompt in longer]


def test_no_room_makes_the_youngest_wait(model: Counting) -> None:
    prompts = [prompt_of(model, text) for text in (STORY, "In a house there was " * 3, "The fox")]
    expected = [alone(model, prompt) for prompt in prompts]
    codes: list[int | None] = [None] * 15 + [NO_ROOM] * 2
    run = TokenRun(Failing(model, lambda: codes.pop(0) if codes else None))
    ids = [run.ask(prompt) for prompt in prompts]
    run.finish()
    assert not codes
    assert not any(isinstance(event, Failed) for event in run.events)
    assert [run.tokens(id) for id in ids] == expected


@pytest.mark.slow
def test_many_in_turn(run: TokenRun, model: Counting) -> None:
    """More prompts than slots: slots are copied, cut, moved and evicted, also at their end."""
    words = (STORY * 2).split()
    prompts = [
        prompt_of(model, " ".join(words[: 8 + 9 * (i * 5 % 7)]) + f" {i % 3}") for i in range(14)
    ]
    expected = [alone(model, prompt, 10) for prompt in prompts]
    ids = [run.ask(prompt, max_tokens=10) for prompt in prompts]
    run.finish()
    assert [run.tokens(id) for id in ids] == expected
    assert sum(run.cached(id) for id in ids) > 100


@pytest.mark.slow
def test_to_the_end_of_the_context(run: TokenRun, model: Counting) -> None:
    """Many windows long: one sequence fills the context, and a second one shares its prefix."""
    prompt = prompt_of(model, STORY)
    room = model.n_ctx - len(prompt)
    expected = alone(model, prompt, room)
    assert len(expected) == room > 8 * WINDOW
    first = run.ask(prompt, max_tokens=None)
    run.finish()
    assert run.tokens(first) == expected
    cut = [*prompt, *expected[: room - 60], 9]
    second = run.ask(cut, max_tokens=None)
    run.finish()
    assert run.tokens(second) == alone(model, cut, model.n_ctx - len(cut))
    # The first checkpoint is at the end of the prompt.
    checkpoint = len(prompt) - REWRITTEN + INTERVAL
    tail = run.engine.scheduler.can_cut_tail
    assert run.cached(second) == (len(cut) - 1 if tail else checkpoint)
