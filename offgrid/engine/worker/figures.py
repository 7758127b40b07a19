"""What the loop has done and what the slots hold, as the server's statistics want to know it."""

from __future__ import annotations

from offgrid.engine.build import Device
from offgrid.engine.protocol.reports import Figures, SlotState
from offgrid.engine.worker.engine import Engine


def figures_of(engine: Engine, gpus: tuple[Device, ...] = ()) -> Figures:
    """Return the figures of an engine. Any thread may call it while the loop runs: lists are copied
    in one step, and a number that is a step old does no harm."""
    scheduler = engine.scheduler
    slots = _slots(engine)
    return Figures(
        engine.steps,
        engine.prefilled,
        engine.generated,
        scheduler.preempted,
        sum([slot.held for slot in slots]),
        gpus,
        slots,
    )


def _slots(engine: Engine) -> tuple[SlotState, ...]:
    scheduler = engine.scheduler
    running = [
        SlotState(
            sequence.slot,
            True,
            sequence.computed,
            sequence.n_prompt,
            sequence.cached,
            sequence.completion_tokens,
            sequence.left,
            sequence.owner,
        )
        for sequence in tuple(scheduler.running)
    ]
    idle = [SlotState(slot, False, len(tokens)) for slot, tokens in scheduler.idle.now()]
    # The loop may move a sequence into its slot between the two lines above.
    states = {state.id: state for state in (*idle, *running) if state.id >= 0}
    return tuple(states[id] for id in sorted(states))
