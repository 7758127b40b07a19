"""Compares the engine's speed with a bare ``llama_decode`` loop: no HTTP, no worker process.

    python benchmarks/engine.py                                        # the starter model
    python benchmarks/engine.py --models tiny-peaked,tiny-flat,llama-1b --plot engine.png

The engine runs in this process and its events are discarded. It computes prompts of random tokens,
new ones in every round, samples with temperature 0.7 and exact top_p 0.95, with and without the
logprobs of 10 alternatives, and makes text. The bare loop computes as much in a separate process;
the two take turns, and each figure is the best of ``--repeat`` rounds. Requests are tokenised and
checked before the clock starts, because another thread does that in the server.

Every choice must have exactly the requested number of tokens, or the benchmark ends with an error.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import models
import numpy as np
from report import add_json_option, print_table, write_json
from servers import Bare

import offgrid
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import Delta, EngineEvent, Failed
from offgrid.engine.protocol.requests import GenerationRequest
from offgrid.engine.worker.engine import Engine
from offgrid.engine.worker.llama.model import Model
from offgrid.sampling import SamplingParams
from offgrid.store.catalogue import STARTER_PATH

SAMPLING = SamplingParams(temperature=0.7, top_p=0.95)
ALTERNATIVES = 10


class Measured:
    """The engine, and counts of its events."""

    def __init__(self, load: Load) -> None:
        self.model = Model(load)
        self._engine = Engine(self.model, self._take)
        self._ids = itertools.count(1)
        self._rng = np.random.default_rng(1)
        self._tokens: dict[tuple[int, int], int] = {}

    def _take(self, events: tuple[EngineEvent, ...]) -> None:
        for event in events:
            if isinstance(event, Delta):
                self._tokens[event.id, event.choice] = event.completion_tokens
                wanted = event.logprobs
                if any(len(token.top) != ALTERNATIVES for token in wanted):
                    raise SystemExit("a token has not the alternatives that were asked for")
            elif isinstance(event, Failed):
                raise SystemExit(f"a request failed: {event.message}")

    def seconds(
        self, streams: int, prompt_tokens: int, tokens: int, alternatives: int | None = None
    ) -> float:
        """Time one round, from the requests in the queue to the last token."""
        prepared = []
        for _ in range(streams):
            ids = self._rng.integers(0, self.model.n_vocab, prompt_tokens).tolist()
            request = GenerationRequest(
                tokens=tuple(ids), sampling=SAMPLING, max_tokens=tokens, ignore_eos=True,
                top_logprobs=alternatives,
            )  # fmt: skip
            prepared.append(self._engine.prepare(next(self._ids), request))
        self._tokens.clear()
        began = time.perf_counter()
        for one in prepared:
            self._engine.submit(one)
        while self._engine.step():
            pass
        seconds = time.perf_counter() - began
        if list(self._tokens.values()) != [tokens] * streams:
            raise SystemExit(f"{tokens} tokens for {streams} streams, came: {self._tokens}")
        return seconds


def measure(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one model; return a row of figures for each number of streams."""
    counts = [int(count) for count in options.streams.split(",")]
    tokens, prompt_tokens = options.tokens, options.prompt
    load = Load(
        str(path), parallel=max(counts), ctx_size=tokens + prompt_tokens + 1,
        threads=options.threads,
    )  # fmt: skip
    engine = Measured(load)
    figures = []
    with Bare(load) as bare:
        engine.seconds(1, 8, 8)
        for streams in counts:
            times: dict[str, list[float]] = {"bare": [], "engine": [], "logprobs": []}
            for _ in range(options.repeat):
                times["bare"].append(bare.seconds(streams, prompt_tokens, tokens))
                times["engine"].append(engine.seconds(streams, prompt_tokens, tokens))
                times["logprobs"].append(
                    engine.seconds(streams, prompt_tokens, tokens, ALTERNATIVES)
                )
            speeds = {name: streams * tokens / min(rounds) for name, rounds in times.items()}
            figures.append({
                "model": path.stem, "streams": streams, **speeds,
                "share": speeds["engine"] / speeds["bare"],
                "logprobs_share": speeds["logprobs"] / speeds["engine"],
                # Time of a step in addition to llama_decode, for all streams together.
                "step_us": 1e6 * (min(times["engine"]) - min(times["bare"])) / tokens,
            })  # fmt: skip
    engine.model.close()
    print_table(
        f"{path.stem}, {prompt_tokens} prompt tokens, {tokens} tokens an answer, temperature 0.7, "
        "top_p 0.95",
        ["streams", "bare tokens/s", "engine tokens/s", "share", "µs a step more",
         f"with logprobs {ALTERNATIVES}", "share of plain"],
        [[f["streams"], f["bare"], f["engine"], f["share"], f["step_us"], f["logprobs"],
          f["logprobs_share"]] for f in figures],
    )  # fmt: skip
    return figures


def plot(path: Path, figures: list[dict[str, Any]]) -> None:
    """Plot tokens per second and share of the bare loop against the number of streams."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    for number, name in enumerate(dict.fromkeys(f["model"] for f in figures)):
        rows = [f for f in figures if f["model"] == name]
        streams = [f["streams"] for f in rows]
        color = f"C{number}"
        left.plot(streams, [f["bare"] for f in rows], "--", marker=".", color=color)
        left.plot(streams, [f["engine"] for f in rows], marker="o", color=color, label=name)
        right.plot(streams, [f["share"] for f in rows], marker="o", color=color, label=name)
    left.set_ylabel("tokens/s (dashed: bare llama_decode)")
    left.set_yscale("log")
    right.set_ylabel("share of the bare loop")
    right.set_ylim(0, 1.05)
    for axis in (left, right):
        axis.set_xlabel("streams")
        axis.set_xticks(sorted({f["streams"] for f in figures}))
        axis.grid(True, alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--models", default="starter", help="paths, 'starter' or names of models.py"
    )
    parser.add_argument("--streams", default="1,4,8,16", help="numbers of sequences")
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--threads", type=int, default=0, help="of llama.cpp")
    parser.add_argument("--repeat", type=int, default=3, help="rounds, the best of which counts")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the figures")
    add_json_option(parser)
    options = parser.parse_args()
    # An older package may be installed beside the source tree to be measured.
    print(f"offgrid {offgrid.__version__} of {Path(offgrid.__file__).parent}", file=sys.stderr)
    figures: list[dict[str, Any]] = []
    for name in options.models.split(","):
        path = STARTER_PATH if name == "starter" else models.resolve(name)
        figures += measure(path, options)
    write_json(options.json, {"rounds": options.repeat, "rows": figures})
    if options.plot:
        plot(options.plot, figures)


if __name__ == "__main__":
    main()
