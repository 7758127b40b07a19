"""Which conversations keep their computed prefixes: the scheduler with lists as its memory.

The guarantee, if no two conversations are the same: with n slots, the next turn of a conversation
reuses everything computed for it if fewer than n other conversations have run since its last turn
ended. That is the most that "least recently used" can guarantee, and no choice of slots may break
it. Of turns that arrive together, none loses its prefix to another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from benchmark_modules import load_module
from hypothesis import given
from hypothesis import strategies as st
from slot_memory import Kind, SlotMemory
from variants import few

from offgrid.engine.worker.prefix import MIN_COPY, REWRITTEN
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.scheduler.slots import Placement
from offgrid.engine.worker.sequence import Status

Turn = load_module("simulated").Turn
ANSWER = 5
"""Tokens of every answer."""
INTERVAL, SPACING = 24, 4
"""Tokens between two checkpoints: as a rule, and at least."""
AMPLE, SCARCE = 1 << 30, 300
"""Budgets of checkpoints in tokens."""


@dataclass(eq=False)
class Talk:
    """A conversation: its tokens, and how many of them have been computed."""

    number: int
    said: list[int]
    computed: int = 0
    turn: Turn | None = None
    others: set[int] = field(default_factory=set)
    """Conversations that have run since its last turn ended."""
    n_turns: int = 0

    def ask(self, length: int) -> Turn:
        """Begin a turn with tokens that no other conversation contains."""
        self.n_turns += 1
        self.said += self._own(length)
        number = 1000 * (self.number + 1) + self.n_turns
        self.turn = turn = Turn(number, self, list(self.said), ANSWER)
        return turn

    def _own(self, length: int) -> list[int]:
        begin = 1000 * (self.number + 1) + 100_000 * self.n_turns
        return list(range(begin, begin + length))


class Desk:
    """Runs turns to their ends, with lists instead of llama.cpp's memory."""

    def __init__(self, n_slots: int, kind: Kind = Kind.CUT, budget: int = 0) -> None:
        self.n_slots = n_slots
        self.memory = SlotMemory(n_slots, kind)
        self.scheduler = Scheduler[Turn](
            n_slots, 256, can_cut=kind is Kind.CUT,
            checkpoints=self.memory.checkpoints(budget, INTERVAL, SPACING),
        )  # fmt: skip
        self.talks: list[Talk] = []
        self.lost: list[Talk] = []
        """Conversations with a turn that did not reuse everything computed for them."""

    def open(self, system: int, number: int | None = None) -> Talk:
        """Begin a conversation; the first ``system`` tokens are the same in all conversations."""
        talk = Talk(len(self.talks) if number is None else number, list(range(1, system + 1)))
        self.talks.append(talk)
        return talk

    def submit(self, talks: list[Talk], length: int) -> None:
        self.scheduler.submit([talk.ask(length) for talk in talks])

    def step(self) -> None:
        placements = self.scheduler.admit()
        self.memory.carry_out(self.scheduler, placements)
        for placement in placements:
            self._count(placement)
        for span in self.scheduler.plan(prefill=64):
            turn = span.sequence
            tokens = turn.tokens[: span.start + span.count].tolist()
            assert self.memory.tokens[turn.slot] == tokens[: span.start]
            self.memory.compute(turn.slot, span.start, tokens[span.start :])
            self.scheduler.record([span])
            if span.completes:
                self._draw(turn)
        self.memory.take_checkpoints(self.scheduler)
        assert self.scheduler.checkpoints.used <= self.scheduler.checkpoints.budget

    def finish(self) -> None:
        while self.scheduler.has_work:
            self.step()

    def _count(self, placement: Placement[Turn]) -> None:
        turn = placement.sequence
        if turn.status is Status.PARKED:
            return
        for other in self.talks:
            if other is not turn.talk:
                other.others.add(turn.talk.number)
        if turn.cached < turn.talk.computed and len(turn.talk.others) < self.n_slots:
            self.lost.append(turn.talk)

    def _draw(self, turn: Turn) -> None:
        talk = turn.talk
        if turn.n_tokens == turn.n_prompt + ANSWER:
            talk.said = turn.tokens[: turn.n_tokens].tolist()
            talk.computed = turn.computed
            talk.others = {s.talk.number for s in self.scheduler.running} - {talk.number}
            talk.turn = None
            self.scheduler.release(turn)
        else:
            turn.tokens[turn.n_tokens] = 9_000_000 + talk.n_turns * 100 + turn.n_tokens % 100
            turn.n_tokens += 1


BUDGETS = st.sampled_from([0, SCARCE, AMPLE])
SYSTEMS = st.sampled_from([0, MIN_COPY + 4, 60])
"""Tokens with which all conversations begin."""


@given(
    n_slots=st.integers(1, 9),
    system=SYSTEMS,
    kind=st.sampled_from(Kind),
    budget=BUDGETS,
    length=st.integers(MIN_COPY, 40),
    rounds=st.integers(2, 6),
    random_=st.randoms(use_true_random=False),
)
def test_as_many_conversations_as_slots_all_at_once(
    n_slots: int,
    system: int,
    kind: Kind,
    budget: int,
    length: int,
    rounds: int,
    random_: random.Random,
) -> None:
    desk = Desk(n_slots, kind, budget)
    talks = [desk.open(system) for _ in range(n_slots)]
    for _ in range(rounds):
        random_.shuffle(talks)
        some = talks[: random_.randint(1, n_slots)]
        desk.submit(some, length)
        turns = [talk.turn for talk in some]
        before = [talk.computed for talk in some]
        desk.finish()
        for turn, computed in zip(turns, before, strict=True):
            assert turn is not None
            assert turn.cached >= computed
    assert desk.lost == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("n_talks", few(1, [8, 11]))
def test_fifty_rounds(n_talks: int, kind: Kind) -> None:
    """Turns arrive at once, in groups, or one by one while others run."""
    chance = random.Random(n_talks)
    desk = Desk(8, kind, SCARCE)
    talks = [desk.open(20) for _ in range(n_talks)]
    for number in range(50):
        order = chance.sample(talks, n_talks)
        while order:
            some = [order.pop() for _ in range(min(len(order), chance.choice((1, 2, n_talks))))]
            desk.submit(some, 17)
            for _ in range(chance.randint(0, 4) if number % 2 else 0):
                desk.step()
        desk.finish()
        assert desk.lost == [], f"in round {number}"


@given(
    n_slots=st.integers(1, 5),
    more=st.integers(0, 4),
    system=SYSTEMS,
    kind=st.sampled_from(Kind),
    budget=BUDGETS,
    moves=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=40),
)
def test_no_more_is_lost_than_the_slots_force(
    n_slots: int, more: int, system: int, kind: Kind, budget: int, moves: list[tuple[int, int]]
) -> None:
    """Any conversations, at any moment; ``Desk`` counts the others that have run in between."""
    desk = Desk(n_slots, kind, budget)
    talks = [desk.open(system) for _ in range(n_slots + more)]
    for which, steps in moves:
        talk = talks[which % len(talks)]
        if talk.turn is None:
            desk.submit([talk], MIN_COPY + which)
        for _ in range(steps):
            desk.step()
    desk.finish()
    assert desk.lost == []


@given(n_slots=st.integers(2, 8), random_=st.randoms(use_true_random=False))
def test_of_turns_that_arrive_together_none_takes_anothers_slot(
    n_slots: int, random_: random.Random
) -> None:
    """A new conversation comes first: it gets the slot of the conversation without a turn."""
    desk = Desk(n_slots)
    talks = [desk.open(20) for _ in range(n_slots)]
    desk.submit(talks, 20)
    desk.finish()
    random_.shuffle(talks)
    some = talks[1:]
    turns = [desk.open(20).ask(20), *(talk.ask(20) for talk in some)]
    before = [talk.computed for talk in some]
    desk.scheduler.submit(turns)
    desk.step()
    assert [turn.cached for turn in turns] == [20, *before]
    assert desk.scheduler.running == turns, "first come, first served"


@pytest.mark.parametrize("kind", Kind)
def test_a_prompt_with_a_rewritten_end_stays_in_its_slot(kind: Kind) -> None:
    """A template removes reasoning from earlier answers, in every turn of two conversations."""
    desk = Desk(2, kind, AMPLE)
    talks = [desk.open(30), desk.open(30)]
    for _ in range(4):
        desk.submit(talks, 20)
        turns = [talk.turn for talk in talks]
        prompts = [list(talk.said) for talk in talks]
        kept = [talk.computed for talk in talks]
        desk.finish()
        assert [turn.cached for turn in turns if turn is not None] == (
            kept if any(kept) else [0, 30]
        )
        for talk, prompt in zip(talks, prompts, strict=True):
            talk.computed = len(prompt) - REWRITTEN
            talk.said = prompt[:-REWRITTEN]


def test_the_turn_that_shares_most_continues_in_the_slot() -> None:
    """Two branches of a conversation arrive at once, the shorter one first."""
    desk = Desk(3)
    talk, other = desk.open(0), desk.open(0)
    desk.submit([talk, other], 40)
    desk.finish()
    branch = desk.open(0)
    branch.said = talk.said[:42]
    computed = talk.computed
    turns = [branch.ask(20), talk.ask(20)]
    desk.scheduler.submit(turns)
    desk.step()
    assert [turn.cached for turn in turns] == [42, computed]
    desk.finish()
    desk.submit([other], 20)
    turn = other.turn
    assert turn is not None
    desk.finish()
    assert turn.cached == 45, "it was not given up for the branch: a slot was free"


@given(
    n_slots=st.integers(1, 6),
    system=SYSTEMS,
    kind=st.sampled_from(Kind),
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=4),
    part=st.floats(0, 1),
    running=st.booleans(),
)
def test_a_branch_computes_at_most_one_interval_again(
    n_slots: int, system: int, kind: Kind, lengths: list[int], part: float, running: bool
) -> None:
    """A question is asked in another way, or an answer is wanted again: the prompt shares any part
    of what was computed. The other sequence may be running."""
    desk = Desk(n_slots, kind, AMPLE)
    talk = desk.open(system)
    for length in lengths:
        desk.submit([talk], length)
        desk.finish()
    if running:
        desk.submit([talk], 5)
        while talk.turn is not None and talk.turn.status is not Status.DECODING:
            desk.step()
    computed = talk.computed if talk.turn is None else talk.turn.computed
    tokens = talk.said if talk.turn is None else talk.turn.tokens.tolist()
    branch = desk.open(0, number=50)
    branch.said = tokens[: int(part * computed)]
    shared = len(branch.said)
    desk.submit([branch], 7)
    turn = branch.turn
    assert turn is not None
    desk.finish()
    again = 0 if kind is Kind.CUT else INTERVAL
    assert turn.cached >= shared - again - MIN_COPY - SPACING


@pytest.mark.parametrize("kind", Kind)
def test_newcomers_wait_for_the_prompt_that_they_share(kind: Kind) -> None:
    """Eight prompts with the same 200 tokens compute them once, whatever their own lengths."""
    desk = Desk(8, kind, SCARCE)
    talks = [desk.open(200) for _ in range(8)]
    for number, talk in enumerate(talks):
        desk.submit([talk], 1 + 9 * number)
    turns = [talk.turn for talk in talks]
    desk.finish()
    assert [turn.cached for turn in turns if turn is not None] == [0] + 7 * [200]
