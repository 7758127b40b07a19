"""Counts costs and savings of the choice of slots, with the scheduler alone: no model, no clock.

    python benchmarks/placement.py

Eight slots, a given number of streams at once, answers of 20 to 120 tokens, 20,000 steps. llama.cpp
computes tokens of neighbouring slots together, so fewer calls per step are better. The part of a
prompt that a slot holds is not computed again. A conversation that exceeds 1,500 tokens is
truncated to its beginning, as clients do.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass, field
from typing import Any

from report import add_json_option, machine, print_table, write_json
from simulated import Turn

from offgrid.engine.worker.scheduler.plan import Scheduler
from offgrid.engine.worker.sequence import Status
from offgrid.engine.worker.spans import BatchSpan

SLOTS = 8
STEPS = 20_000
KINDS = {"only new prompts": 0, "6 conversations": 6, "12 conversations": 12}


@dataclass
class Played:
    """A running scheduler and its counts."""

    talks: int
    streams: int
    chance: random.Random
    scheduler: Scheduler[Turn[int]] = field(default_factory=lambda: Scheduler(SLOTS, 512))
    said: dict[int, list[int] | None] = field(default_factory=dict)
    """The tokens of each conversation; None while it waits for an answer."""
    requests: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("steps", "calls", "copies", "prompt", "computed"), 0)
    )

    def ask(self) -> None:
        """Submit a turn of a random conversation unless it is waiting for an answer."""
        self.requests += 1
        talk = self.chance.randrange(self.talks) if self.talks else self.requests
        said = self.said.get(talk, [])
        if said is None:
            return
        self.said[talk] = None
        own = 10_000_000 + 1000 * talk
        prompt = said + [own + self.chance.randrange(1000) for _ in range(40)]
        prompt = prompt[:60] if len(prompt) > 1500 else prompt
        self.scheduler.submit([Turn(self.requests, talk, prompt, self.chance.randint(20, 120))])

    def step(self) -> None:
        """One step of the engine's loop."""
        for placement in self.scheduler.admit():
            if placement.sequence.status is Status.PARKED:
                continue
            self.counts["copies"] += placement.rescue is not None
            self.counts["copies"] += placement.source not in (None, placement.sequence.slot)
            self.counts["prompt"] += len(placement.sequence)
            self.counts["computed"] += len(placement.sequence) - placement.keep
        spans = self.scheduler.plan(prefill=64)
        streams = [span for span in spans if span.count == 1 and span.completes]
        if streams:
            used = {span.sequence.slot for span in streams}
            used |= {slot for slot, _ in self.scheduler.bridges(streams, 100)}
            self.counts["steps"] += 1
            self.counts["calls"] += sum(slot - 1 not in used for slot in used)
        self.scheduler.record(spans)
        for span in spans:
            self._draw(span)

    def _draw(self, span: BatchSpan[Turn[int]]) -> None:
        turn = span.sequence
        if not span.completes:
            return
        if turn.n_tokens < len(turn.tokens):
            turn.tokens[turn.n_tokens] = self.chance.randrange(1000)
            turn.n_tokens += 1
        else:
            self.said[turn.talk] = turn.tokens.tolist()
            self.scheduler.release(turn)


def play(talks: int, streams: int) -> dict[str, int]:
    """Return the counts for ``talks`` conversations (0: only new ones) and ``streams`` streams."""
    played = Played(talks, streams, random.Random(1))
    for _ in range(STEPS):
        running = len(played.scheduler.running) + len(played.scheduler.waiting)
        if running < streams and played.chance.random() < 0.3:
            played.ask()
        played.step()
    return played.counts


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_json_option(parser)
    options = parser.parse_args()
    figures: list[dict[str, Any]] = [
        {"kind": kind, "streams": streams, **play(talks, streams)}
        for kind, talks in KINDS.items()
        for streams in (2, 4, 6)
    ]
    print_table(
        f"{SLOTS} slots",
        ("requests", "streams", "calls a step", "copies", "computed of prompts"),
        [
            (
                f["kind"], f["streams"], f"{f['calls'] / f['steps']:.2f}", f["copies"],
                f"{100 * f['computed'] / f['prompt']:.0f} %",
            )
            for f in figures
        ],
    )  # fmt: skip
    write_json(options.json, {"machine": machine(), "placement": figures})


if __name__ == "__main__":
    main()
