"""The scheduler under random requests: arrivals, cancels, preemptions and ends in any order."""

from __future__ import annotations

from fake_sequences import Fake
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from slot_memory import Kind, SlotMemory

from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Status
from offgrid.engine.worker.spans import BatchSpan


class Life(RuleBasedStateMachine):
    """Requests arrive, run, end and leave in any order; few distinct tokens give common prefixes.

    Lists take the place of llama.cpp's memory, of one kind or another. Slots are never lost or
    shared, and every slot holds exactly the tokens that its sequence has computed. Each sequence
    has the status that follows from its slot and its tokens, and changes it only by a documented
    transition (``Fake.status``).
    """

    SLOTS = 7
    BUDGET = 150
    """Tokens: more than in the states of two sequences, fewer than in those of all."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler[Fake](self.SLOTS, 16)
        self.next_id = 0
        self.admitted: list[int] = []
        self.submitted: list[Fake] = []
        self.memory = SlotMemory(self.SLOTS)

    @initialize(kind=st.sampled_from(Kind), budget=st.sampled_from([0, BUDGET]))
    def choose_memory(self, kind: Kind, budget: int) -> None:
        self.memory = SlotMemory(self.SLOTS, kind)
        checkpoints = self.memory.checkpoints(budget, 16, 8)
        self.scheduler = Scheduler[Fake](
            self.SLOTS, 16, can_cut=kind is Kind.CUT, checkpoints=checkpoints
        )

    @rule(n=st.integers(1, 4), common=st.integers(0, 60), more=st.lists(st.integers(1, 2)),
          reuse=st.booleans())  # fmt: skip
    def submit(self, n: int, common: int, more: list[int], reuse: bool) -> None:
        tokens = [*[1] * common, *more, 3]
        sequences = [Fake(self.next_id, 0, tokens=tokens) for _ in range(n)]
        for sequence in sequences:
            sequence.reuse = reuse
        self.scheduler.submit(sequences)
        self.submitted += sequences
        self.next_id += 1

    @rule(which=st.integers(0, 30))
    def cancel(self, which: int) -> None:
        self.scheduler.cancel(which)

    @rule()
    def cut_no_more(self) -> None:
        """The scheduler learns it only by trying."""
        self.memory.refuses = True

    @rule()
    def lose_the_idle_slots(self) -> None:
        for slot in self.scheduler.idle.clear():
            self.memory.forget(slot)

    @rule()
    def preempt(self) -> None:
        if len(self.scheduler.running) > 1:
            self.scheduler.preempt(self.scheduler.running[-1])
            self.admitted = []  # it may be readmitted after sequences that arrived later

    @rule(finish=st.booleans(), token=st.integers(1, 2), late=st.booleans())
    def step(self, finish: bool, token: int, late: bool) -> None:
        """One step of the loop; ``late``: the masks of grammars are not ready in time."""
        before = list(self.scheduler.running)
        awaiting = [s for s in before if s.status is Status.AWAITING_MASK]
        self.memory.carry_out(self.scheduler, self.scheduler.admit())
        new = [s for s in self.scheduler.running if s not in before]
        self.admitted += [s.request_id for s in new]
        self.statuses_say_what_is_true()
        spans = self.scheduler.plan(prefill=4)
        assert sum(span.count for span in spans) <= 16
        assert len({id(span.sequence) for span in spans}) == len(spans)
        assert bool(spans) == bool(set(self.scheduler.running) - set(awaiting))
        assert spans or awaiting or not self.scheduler.waiting
        decoding = [
            s for s in self.scheduler.running
            if s.length - s.computed == 1 and s.status is not Status.PARKED  # not its status
        ]  # fmt: skip
        assert {id(s) for s in decoding} <= {id(span.sequence) for span in spans}
        self._bridge(spans)
        for span in spans:
            self._compute(span)
            if span.completes and late:
                self.scheduler.await_mask(span.sequence)
            elif span.completes:
                self._sample(span.sequence, finish, token)
        for sequence in awaiting if not late else ():
            self.scheduler.resume(sequence)
            self._sample(sequence, finish, token)
        self.memory.take_checkpoints(self.scheduler)

    def _bridge(self, spans: list[BatchSpan[Fake]]) -> None:
        used = {span.sequence.slot for span in spans}
        bridges = self.scheduler.bridges(spans, 16 - sum(span.count for span in spans))
        assert sum(span.count for span in spans) + len(bridges) <= 16
        assert len({slot for slot, _ in bridges} | used) == len(bridges) + len(used)
        for slot, position in bridges:
            assert not any(s.slot == slot and s.computed for s in self.scheduler.running)
            self.memory.cut(slot, position)
            self.memory.compute(slot, position, [0])
            assert self.memory.cut(slot, position) or self.memory.refuses

    def _compute(self, span: BatchSpan[Fake]) -> None:
        sequence = span.sequence
        tokens = sequence.tokens[span.start : span.start + span.count].tolist()
        self.memory.compute(sequence.slot, span.start, tokens)
        self.scheduler.record([span])

    def _sample(self, sequence: Fake, finish: bool, token: int) -> None:
        if finish or sequence.length > 120:
            self.scheduler.release(sequence)
        else:
            sequence.tokens[sequence.length] = token
            sequence.length += 1

    @invariant()
    def slots_add_up(self) -> None:
        slots = [s.slot for s in self.scheduler.running]
        assert sorted([*slots, *(slot for slot, _ in self.scheduler.idle)]) == list(
            range(self.SLOTS)
        )
        assert all(s.slot == -1 for s in self.scheduler.waiting)

    @invariant()
    def statuses_say_what_is_true(self) -> None:
        running, waiting = set(self.scheduler.running), set(self.scheduler.waiting)
        for sequence in self.submitted:
            if sequence in waiting:
                expected = {Status.WAITING}
            elif sequence not in running:
                expected = {Status.FINISHED}
            elif sequence.computed == sequence.length:
                expected = {Status.AWAITING_MASK}
            elif sequence.computed == sequence.length - 1:
                expected = {Status.DECODING}
            else:
                expected = {Status.PREFILL, Status.PARKED}
            assert sequence.status in expected
            assert (sequence.slot >= 0) == (sequence in running)

    @invariant()
    def slots_hold_what_is_believed(self) -> None:
        for sequence in self.scheduler.running:
            if sequence.status is not Status.PARKED:
                believed = sequence.tokens[: sequence.computed].tolist()
                assert self.memory.tokens[sequence.slot] == believed
        for slot, held in self.scheduler.idle:
            if len(held):
                assert self.memory.tokens[slot] == held.tolist()

    @invariant()
    def checkpoints_stay_within_their_budget(self) -> None:
        assert self.scheduler.checkpoints.used <= self.scheduler.checkpoints.budget

    @invariant()
    def in_order_of_arrival(self) -> None:
        assert self.admitted == sorted(self.admitted)


TestLife = Life.TestCase
