"""Replays answers on machines whose costs are known: how good are the drafts that are chosen?

    python benchmarks/draft_replay.py ~/.cache/offgrid-tests/SmolLM2-135M-Instruct.gguf

Nothing is computed and no clock is read, so the result is the same on every machine, however busy
it is. The answers are those of ``drafts.py``; the sources and the pace are the real ones. A step
takes what the table below says for its rows. The *bound* is the speed with the same proposals if it
were known how many tokens of each are right. *First* is the first answer of a process, *later* the
mean of the next three.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import drafts as benchmark
import numpy as np
from numpy.typing import NDArray
from report import add_json_option, print_table, write_json

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.drafts.drafter import Drafter
from offgrid.engine.worker.drafts.lookup import Lookup
from offgrid.engine.worker.drafts.pace import MOST, DraftPace, Wish
from offgrid.engine.worker.drafts.prediction import PredictedText, Prediction
from offgrid.engine.worker.drafts.source import Source
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Matcher

COSTS = {
    "SmolLM2, Q4_1": {1: 1.0, 2: 1.64, 4: 2.52, 8: 4.24, 16: 8.0, 32: 15.4, 64: 32.6},
    "llama-1b, Q4_0": {1: 1.0, 2: 1.94, 4: 3.04, 8: 6.32, 16: 8.0, 32: 14.7, 64: 26.9},
    "read from memory": {1: 1.0, 2: 1.05, 4: 1.15, 8: 1.35, 16: 1.75, 32: 2.6, 64: 4.5},
}
"""Rows -> the time of a step relative to one row: the table of docs/engine.md, and a large model
whose weights are read from memory."""
_STEP = 0.01
"""Seconds of a step of one row."""
_LATER = 3


def cost(table: dict[int, float], rows: int) -> float:
    """Return the time of a step, in steps of one row."""
    return float(np.interp(rows, [*table], [*table.values()]))


@dataclass
class Text:
    """A sequence whose answer is known."""

    prompt: list[int]
    answer: list[int]
    n_prompt: int = 0
    slot: int = 0
    matcher: Matcher | None = None
    length: int = 0
    tokens: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    def __post_init__(self) -> None:
        self.n_prompt = len(self.prompt)
        self.tokens = np.array([*self.prompt, *self.answer], dtype=np.int32)
        self.length = self.n_prompt + 1  # the prefill brings the first token

    def __len__(self) -> int:
        return self.length

    @property
    def left(self) -> int:
        """Tokens that the answer still needs."""
        return len(self.tokens) - self.length

    def agreeing(self, draft: list[int]) -> int:
        """Return how many of the proposed tokens are in the answer."""
        rest = self.tokens[self.length : self.length + len(draft)].tolist()
        pairs = zip(draft, rest, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(draft), len(rest)))


def bound(text: Text, source: Source, table: dict[int, float]) -> float:
    """Return the least time of an answer, in steps of one row."""
    right = []
    while text.left:
        most = min(MOST, text.left - 1)
        right.append(text.agreeing(source.propose(text, most).tokens) if most else 0)
        text.length += 1
    least = [0.0] * (len(right) + 1)
    for place in reversed(range(len(right))):
        least[place] = min(
            cost(table, 1 + count) + least[place + count + 1] for count in range(right[place] + 1)
        )
    return least[0]


def replay(text: Text, source: Source, table: dict[int, float], pace: DraftPace) -> float:
    """Return the time of an answer with the drafts that the pace chooses."""
    drafter, taken = Drafter([source]), 0.0
    while text.left:
        most, count, accepted = min(MOST, text.left - 1), 0, 0
        if most:
            draft = drafter.propose(text, most, pace)
            if draft.tokens:
                wish = Wish(len(draft.tokens), drafter.trust(draft.kind, pace))
                (count,) = pace.choose(1, [wish])
                accepted = text.agreeing(draft.tokens[:count])
        seconds = _STEP * cost(table, 1 + count)
        if count:
            pace.drafted(1, 1, count, 1 + accepted, seconds)
        else:
            pace.plain(1, seconds)
        text.length += 1 + accepted
        taken += seconds / _STEP
    return taken


def sources(
    model: Model, tokens: int
) -> dict[str, tuple[Callable[[], Text], Callable[[], Source]]]:
    """Return the cases: a function that makes the text, and one that makes its source."""
    (repeat, *_) = benchmark.repeat(model, tokens)
    (predicted,) = benchmark.prediction(model, tokens)
    guess = PredictedText(np.array(predicted.predictions[0], dtype=np.int32), model.n_vocab)

    def text(case: benchmark.Case) -> Callable[[], Text]:
        prompt = [*(case.requests[0].tokens or ())]
        return lambda: Text(prompt, case.scripts[0])

    return {
        "repeat": (text(repeat), Lookup),
        "prediction": (text(predicted), lambda: Prediction(guess)),
    }


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="whose vocabulary is used")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 400])
    add_json_option(parser)
    options = parser.parse_args()
    model = Model(Load(str(options.model), parallel=1, ctx_size=512, threads=1))
    rows = []
    for tokens in options.tokens:
        for name, (text, source) in sources(model, tokens).items():
            for machine, table in COSTS.items():
                plain = text().left
                pace = DraftPace(64)
                times = [replay(text(), source(), table, pace) for _ in range(1 + _LATER)]
                rows.append({
                    "case": name, "tokens": plain + 1, "costs": machine,
                    "bound": plain / bound(text(), source(), table),
                    "first": plain / times[0], "later": plain * _LATER / sum(times[1:]),
                })  # fmt: skip
    model.close()
    columns = ["case", "tokens", "costs", "bound", "first", "later"]
    print_table("Speed relative to plain steps", columns, [[*row.values()] for row in rows])
    write_json(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
