"""Computes the branches of requests: reads their rows, goes from one path to the next, and lets
idle slots help."""

from __future__ import annotations

from offgrid.engine.worker.branch_rows import BranchRows
from offgrid.engine.worker.cache.keeper import Keeper
from offgrid.engine.worker.failures import Failures
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.outbox import Outbox
from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Sequence, Status
from offgrid.errors import SamplingError


class Branches:
    """Lets the sequences with branches go on after each step."""

    def __init__(
        self,
        model: Model,
        scheduler: Scheduler[Sequence],
        keeper: Keeper,
        failures: Failures,
        outbox: Outbox,
    ) -> None:
        self._model = model
        self._scheduler = scheduler
        self._keeper = keeper
        self._failures = failures
        self._outbox = outbox

    def follow(self, spans: list[BranchRows]) -> None:
        """Read the rows of a decoded batch, and choose what its sequences compute next."""
        for rows in spans:
            sequence = rows.sequence
            if sequence.status is Status.FINISHED:
                continue
            try:
                rows.read()
            except SamplingError as ex:
                self._failures.fail_rows(sequence, ex)
                continue
            if sequence.computed == len(sequence):
                self._go_on(sequence)
        for rows in spans:
            self._spread(rows.sequence)

    def _go_on(self, sequence: Sequence) -> None:
        """Begin the next path, or end the sequence if none is left to begin."""
        branching = sequence.branching
        assert branching is not None
        trie = branching.trie
        if branching.needs_state:
            state = self._model.save_checkpoint(sequence.slot)
            if state is not None:
                branching.states[len(branching.tokens)] = state
        keep, found = branching.advance()
        if keep is None:
            if self._cut(sequence, 0):
                sequence.computed = sequence.n_tokens = sequence.n_prompt
            if found or not trie.active:
                self._outbox.add(sequence.branched(found, trie.done, last=not trie.active))
            self._scheduler.release(sequence)
            return
        if found:
            self._outbox.add(sequence.branched(found, trie.done, last=False))
        if self._cut(sequence, keep):
            sequence.go_on(branching)
            self._scheduler.branch(sequence)
        else:
            sequence.go_on(branching)
            self._scheduler.start_over(sequence)

    def _spread(self, sequence: Sequence) -> None:
        """Let idle slots compute other paths of a request whose prompt is computed.

        Each slot that computes paths has one more group of them to compute then, since it costs a
        copy of the prompt.
        """
        branching = sequence.branching
        assert branching is not None
        trie = branching.trie
        while (
            sequence.status in (Status.PREFILL, Status.DECODING)
            and sequence.computed >= sequence.n_prompt >= self._scheduler.min_copy
            and len(trie.waiting) > trie.active
            and (slot := self._scheduler.lendable()) is not None
        ):
            self._begin(sequence.helper(), slot, sequence.slot, sequence.cached)

    def _begin(self, helper: Sequence, slot: int, source: int, cached: int) -> None:
        """Begin a sequence after the prompt that another slot holds."""
        self._keeper.save(*self._scheduler.lend(slot, helper, helper.n_prompt))
        helper.cached = cached
        self._model.forget(slot)
        self._model.copy(source, slot)
        if not self._model.cut(slot, helper.position(helper.n_prompt)):
            self._model.forget(slot)
            self._scheduler.cannot_cut(helper)

    def _cut(self, sequence: Sequence, keep: int) -> bool:
        """Cut off what follows ``keep`` tokens after the prompt; return whether that was done. If
        it was not, the slot is empty afterwards."""
        index = sequence.n_prompt + keep
        if index >= sequence.computed:
            return True
        slot, position = sequence.slot, sequence.position(index)
        state = None if sequence.branching is None else sequence.branching.states.get(keep)
        if (self._scheduler.can_cut_tail and self._model.cut(slot, position)) or (
            state is not None and self._model.restore(slot, state, position)
        ):
            sequence.computed = index
            return True
        self._model.forget(slot)
        sequence.computed = 0
        return False
