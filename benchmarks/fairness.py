"""One caller with fifty requests in the queue, and a short chat of another: how long that waits.

    python benchmarks/fairness.py

A real worker with the starter and four slots. The chat is sent once as a further request of the
first caller, which is how it was before callers shared the slots, and once as a request of another.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from report import add_json_option, machine, print_table, write_json

import offgrid
from offgrid.engine.client.client import EngineClient, Generation
from offgrid.engine.client.pending import State
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart

SLOTS, QUEUED, TOKENS, ROUNDS = 4, 50, 128, 5
STARTER = Path(offgrid.__file__).parent / "models" / "offgrid-starter.gguf"


@dataclass
class Waited:
    """How long the chat waited in one round.

    Attributes:
        turns: requests of the first caller that got a slot while it waited.
        seconds: from its arrival to its first token.
    """

    turns: int
    seconds: float


def request(text: str, tokens: int, owner: str) -> GenerationRequest:
    """Return a request that shares no prefix with others."""
    return GenerationRequest(
        parts=(PromptPart(text, False),),
        max_tokens=tokens,
        ignore_eos=True,
        cache_prompt=False,
        owner=owner,
    )


@contextmanager
def queued(client: EngineClient, number: int) -> Iterator[list[Generation]]:
    """Let a caller fill the slots, with fifty more requests in the queue."""
    running = [
        client.submit(request(f"{number} {i} once upon a time", TOKENS, "greedy"))
        for i in range(SLOTS + QUEUED)
    ]
    try:
        yield running
    finally:
        for generation in running:
            generation.cancel()


def wait(client: EngineClient, number: int, owner: str, others: list[Generation]) -> Waited:
    """Send the chat, and wait for its first token."""

    def started() -> int:
        return sum(other.state >= State.STARTED for other in others)

    came = threading.Event()
    began, before = time.perf_counter(), started()
    chat = client.submit(request(f"{number} hello", 1, owner))
    chat.listener = came.set
    while not chat.answering:
        came.wait(1.0)
        came.clear()
    waited = Waited(started() - before, time.perf_counter() - began)
    chat.cancel()
    return waited


def play(client: EngineClient, owner: str | None) -> list[Waited]:
    """Return the waits of all rounds; without an owner, those on an idle model."""
    found = []
    for number in range(ROUNDS):
        if owner is None:
            found.append(wait(client, number, "other", []))
            continue
        with queued(client, number) as others:
            found.append(wait(client, number, owner, others))
    return found


def figures(client: EngineClient) -> list[dict[str, Any]]:
    """Return medians for the idle model, for one caller, and for two."""
    wait(client, -1, "other", [])
    cases = {"idle model": None, "one caller": "greedy", "two callers": "other"}
    found = []
    for name, owner in cases.items():
        rounds = play(client, owner)
        found.append({
            "case": name,
            "turns": statistics.median(one.turns for one in rounds),
            "most_turns": max(one.turns for one in rounds),
            "seconds": statistics.median(one.seconds for one in rounds),
            "rounds": [asdict(one) for one in rounds],
        })  # fmt: skip
    return found


def check(found: list[dict[str, Any]]) -> None:
    """Fail if the figures contradict what ``docs/engine.md`` says."""
    _, one, two = found
    assert one["turns"] >= QUEUED, "the chat of the same caller waits for all that came before"
    # The chat gets the next slot. Answers that end in the same step free others.
    assert two["most_turns"] <= SLOTS, "another caller waits for at most one turn"
    assert two["seconds"] < one["seconds"] / 4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_json_option(parser)
    options = parser.parse_args()
    load = Load(path=str(STARTER), ctx_size=512, parallel=SLOTS)
    client = EngineClient(load, queue_size=QUEUED + 1, load_timeout=60, stall_timeout=60)
    client.start()
    try:
        client.wait_ready()
        found = figures(client)
    finally:
        client.close()
    alone, one, _ = found
    print_table(
        f"first token of a short chat, {SLOTS} slots, {QUEUED} requests of {TOKENS} tokens queued",
        ("case", "turns of others", "seconds", "of one caller", "times idle"),
        [
            (
                f["case"], f["turns"], f"{f['seconds']:.3f}",
                f"{f['seconds'] / one['seconds']:.3f}",
                f"{f['seconds'] / alone['seconds']:.1f}",
            )
            for f in found
        ],
    )  # fmt: skip
    write_json(options.json, {"machine": machine(), "fairness": found})
    check(found)


if __name__ == "__main__":
    main()
