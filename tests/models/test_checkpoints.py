"""Checkpoints of sliding windows with real weights: what is reused, and that the answers stay."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine_runs import GREEDY, Run

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta
from offgrid.engine.protocol.requests import GenerationRequest
from offgrid.engine.worker.cache.opening import open_tiers
from offgrid.engine.worker.checkpoints import INTERVAL
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prefix import REWRITTEN

pytestmark = pytest.mark.models

ANSWER = 8


class Engine:
    """The model with empty slots.

    Args:
        path: of its file.
        folder: of saved prefixes.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        load = Load(
            str(path), ctx_size=2048, parallel=2, threads=1, flash_attention="off",
            cache_dir=str(folder), cache_disk=-1,
        )  # fmt: skip
        self._model = Model(load)
        self._run = Run(self._model, tiers=open_tiers(self._model))

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [*map(int, self._model.tokenize_plain(text))]

    def ask(self, tokens: list[int], reuse: bool = True) -> tuple[str, int]:
        """Return an answer, and how many tokens of its prompt were reused."""
        run = self._run
        id = run.send(
            GenerationRequest(
                tokens=tuple(tokens), sampling=GREEDY, max_tokens=ANSWER, ignore_eos=True,
                cache_prompt=reuse,
            )
        )  # fmt: skip
        run.finish()
        (first, *_) = (e for e in run.events if isinstance(e, Delta) and e.id == id)
        return run.text(id), first.cached_tokens

    def close(self) -> None:
        """Save what the slots hold, as a worker does at its end."""
        self._run.engine.save_all(time.monotonic() + 60)
        self._model.close()


@pytest.fixture
def begin(gemma3: Path, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Start engines one after another, as workers follow each other."""
    running: list[Engine] = []

    def start() -> Engine:
        while running:
            running.pop().close()
        running.append(Engine(gemma3, tmp_path))
        return running[0]

    yield start
    while running:
        running.pop().close()


def test_turns_branches_and_restarts(begin: Callable[[], Engine]) -> None:
    engine = begin()
    days = (f"On day {day}, the otter counted {day * 7} stones." for day in range(1, 120))
    tokens = engine.tokens(" ".join(days))[:1300]
    assert len(tokens) == 1300
    question = engine.tokens(" How many stones did the otter count on day 3?")
    turn = [*tokens[:-1], *question]  # the end of the prompt is written differently
    branch = [*tokens[:700], *question]
    expected = [engine.ask(prompt, reuse=False)[0] for prompt in (turn, branch)]
    assert engine.ask(tokens)[1] == 0
    # The slot still holds the window before the last token, and not the one before the 700th: there
    # is a checkpoint after the first interval.
    assert engine.ask(turn) == (expected[0], len(tokens) - 1)
    assert engine.ask(branch) == (expected[1], INTERVAL)
    assert begin().ask(branch) == (expected[1], len(branch) - REWRITTEN)
