"""Speed beside busy programs: the automatic number of threads, every fixed one, and llama-server.

    python benchmarks/neighbours.py --llama-server PATH --plot neighbours.png
    python benchmarks/neighbours.py --spin 0,1000,100000     # also other waiting policies
    python benchmarks/neighbours.py --read a.json b.json --plot neighbours.png  # of earlier runs
    python benchmarks/neighbours.py --quick                  # does everything work?

A neighbour is a process that computes without end. All servers run at once, and take turns; the
others are idle meanwhile. When the number of neighbours changes, every server first answers for two
seconds that do not count. A figure is the mean over all rounds of the tokens that arrived per
second, after the first token of the last stream. OffGrid proposes no tokens (``--no-drafts``), so
that the servers compute the same. The ratios compare with the best fixed number of
threads of the same row, and with llama-server's default.

The model is SmolLM2-135M-Instruct from the folder of the tests' real models, or else a model of
its shape with random weights. Before timing, the greedy answer of each server that runs OffGrid is
compared with that of the first fixed number; a difference is reported (flash attention rounds
differently with another number of threads).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import models
import psutil
from clients import Clients, Prompts, Reading, read_all
from report import add_json_option, print_table, write_json
from servers import LlamaServer, OffGrid, Program

from offgrid.engine import processors
from offgrid.engine.protocol.commands import Load

REAL = (
    Path(os.environ.get("OFFGRID_TEST_MODELS") or "~/.cache/offgrid-tests").expanduser()
    / "SmolLM2-135M-Instruct.gguf"
)
PROMPT_TOKENS = 32
CHECKED_TOKENS = 24
AUTOMATIC = "automatic"
_SETTLE_SECONDS = 2.0
_FIRST_SECONDS = 10.0
"""Longest wait for the first tokens; a server that takes longer is measured without them."""
_IDLE_SECONDS, _LOOK_SECONDS = 10.0, 0.3
"""Longest wait until a server is idle, and time between two looks at it."""


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Run busy processes."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def speed(server: Program, prompts: Prompts, streams: int, seconds: float, most: int) -> float:
    """Return the tokens per second of simultaneous streams, and end them after some seconds."""
    body = {**server.exact, "max_tokens": most}
    clients = Clients(server)
    readings = clients.send_all(
        [{**body, "prompt": prompts.text(PROMPT_TOKENS)} for _ in range(streams)]
    )
    _read(clients, _FIRST_SECONDS, lambda: all(reading.started for reading in readings))
    began = time.perf_counter()
    _read(clients, seconds, lambda: False)
    if clients.open < streams:
        raise SystemExit(f"{server.name}: a stream ended early; lower --seconds")
    ended = time.perf_counter()
    clients.leave()
    _wait_idle(server)
    return _arrived(readings, began) / (ended - began)


def _read(clients: Clients, seconds: float, enough: Callable[[], bool]) -> None:
    """Read for some seconds, or until it is enough."""
    until = time.perf_counter() + seconds
    while clients.open and not enough() and (left := until - time.perf_counter()) > 0:
        clients.poll(left)


def _wait_idle(server: Program) -> None:
    """Wait until a server has noticed that its clients left: its last step may take a second."""
    own = psutil.Process(server.process.pid)
    deadline, before = time.monotonic() + _IDLE_SECONDS, -1.0
    while time.monotonic() < deadline:
        times = [each.cpu_times() for each in (own, *own.children(recursive=True))]
        used = sum(each.user + each.system for each in times)
        if used - before < 0.1 * _LOOK_SECONDS and before >= 0:
            return
        before = used
        time.sleep(_LOOK_SECONDS)


def _arrived(readings: list[Reading], since: float) -> int:
    for reading in readings:
        if reading.status != 200:
            raise SystemExit(f"status {reading.status}: {reading.chunks[-1:]}")
    times = (when for r in readings for found in r.tokens().values() for when in found)
    return sum(when >= since for when in times)


def check(servers: dict[str, Program]) -> None:
    """Compare the greedy answers of all servers that run OffGrid."""
    body = {"prompt": "Once upon a time", "max_tokens": CHECKED_TOKENS, "temperature": 0,
            "ignore_eos": True}  # fmt: skip
    answers = {
        name: read_all(server, [body])[0].text()
        for name, server in servers.items()
        if isinstance(server, OffGrid)
    }
    fixed = next(name for name in answers if name.isdigit())
    for name, answer in answers.items():
        if not answer:
            raise SystemExit(f"{name}: no answer")
        if answer != answers[fixed]:
            print(f"note: {name} answers differently from {fixed} threads", file=sys.stderr)


def start(stack: ExitStack, load: Load, options: argparse.Namespace) -> dict[str, Program]:
    """Start all servers; the names are those of the columns."""
    most = processors.cores().start
    counts = options.threads or [n for n in range(1, most + 1) if n <= 4 or n in (most - 1, most)]
    wanted = [(AUTOMATIC, 0, "")] + [(str(count), count, "") for count in counts]
    wanted += [(f"automatic, spin {spin}", 0, spin) for spin in options.spin]
    wanted += [(f"{most}, spin {spin}", most, spin) for spin in options.spin]
    servers: dict[str, Program] = {}
    for name, threads, spin in wanted:
        own = Load(load.path, parallel=load.parallel, ctx_size=load.ctx_size, threads=threads)
        with _spinning(spin):
            server = OffGrid(own, options.program, flags=["--no-drafts"])
        servers[name] = stack.enter_context(server)
    if options.llama_server:
        servers["llama-server"] = stack.enter_context(LlamaServer(load, options.llama_server))
    for server in servers.values():
        server.warm()
    return servers


@contextmanager
def _spinning(rounds: str) -> Iterator[None]:
    """Set the variable with which the next server starts; leave it alone if ``rounds`` is empty."""
    before = os.environ.get("GOMP_SPINCOUNT")
    if rounds:
        os.environ["GOMP_SPINCOUNT"] = rounds
    try:
        yield
    finally:
        if rounds and before is None:
            del os.environ["GOMP_SPINCOUNT"]
        elif before is not None:
            os.environ["GOMP_SPINCOUNT"] = before


def measure(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the speeds for each number of neighbours and streams."""
    seconds, rounds = (0.5, 1) if options.quick else (options.seconds, options.repeat)
    settle = min(_SETTLE_SECONDS, 4 * seconds)
    # Long enough for 600 tokens per second and stream.
    most = 64 + int(600 * max(seconds, settle))
    load = Load(str(path), parallel=max(options.streams), ctx_size=most + 2 * PROMPT_TOKENS + 64)
    figures = []
    with ExitStack() as stack:
        servers = start(stack, load, options)
        prompts = {
            name: Prompts(server, seed=number)
            for number, (name, server) in enumerate(servers.items())
        }
        check(servers)
        for count, streams in itertools.product(options.neighbours, options.streams):
            found: dict[str, list[float]] = {name: [] for name in servers}
            with neighbours(count):
                for name, server in servers.items():
                    speed(server, prompts[name], streams, settle, most)
                for number in range(rounds):
                    for name in _turns([*servers], number):
                        each = speed(servers[name], prompts[name], streams, seconds, most)
                        found[name].append(each)
            figures.append(summary(count, streams, found))
    return figures


def _turns(names: list[str], number: int) -> list[str]:
    """Return the order of a round: another server begins each time, so that none has a better
    place."""
    first = number % len(names)
    return names[first:] + names[:first]


def summary(count: int, streams: int, found: dict[str, list[float]]) -> dict[str, Any]:
    """Return the means of the rounds, and the ratios."""
    means = {name: sum(speeds) / len(speeds) for name, speeds in found.items()}
    best = max((name for name in means if name.isdigit()), key=means.__getitem__)
    other = means.get("llama-server")
    return {
        "neighbours": count, "streams": streams, "best_threads": int(best), "rounds": found,
        "tokens_per_s": means, "of_best": means[AUTOMATIC] / means[best],
        "of_llama_server": means[AUTOMATIC] / other if other else None,
    }  # fmt: skip


def plot(path: Path, figures: list[dict[str, Any]]) -> None:
    """Tokens per second against the number of neighbours, one diagram per number of streams."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    counts = sorted({f["streams"] for f in figures})
    figure, axes = plt.subplots(
        1, len(counts), figsize=(5 * len(counts), 3.8), squeeze=False, constrained_layout=True
    )
    for axis, streams in zip(axes[0], counts, strict=True):
        rows = [f for f in figures if f["streams"] == streams]
        places = [f["neighbours"] for f in rows]
        for name in rows[0]["tokens_per_s"]:
            label = f"OffGrid, {name} threads" if name.isdigit() else name
            style = "-" if name == AUTOMATIC else "--" if name.isdigit() else ":"
            axis.plot(
                places, [f["tokens_per_s"][name] for f in rows], style, marker="o", label=label
            )
        axis.set_title(f"{streams} stream{'s' if streams > 1 else ''}")
        axis.set_xlabel("busy neighbour processes")
        axis.set_ylabel("tokens/s")
        axis.set_xticks(places)
        axis.set_ylim(bottom=0)
        axis.grid(True, alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def show(model: str, figures: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table, write the figures and draw them."""
    names = list(figures[0]["tokens_per_s"])
    print_table(
        f"{model}, {processors.cores().start} cores, tokens/s over all streams",
        ["neighbours", "streams", *names, "automatic / best fixed", "automatic / llama-server"],
        [[f["neighbours"], f["streams"], *(f["tokens_per_s"].get(name) for name in names),
          f["of_best"], f["of_llama_server"]] for f in figures],
    )  # fmt: skip
    write_json(options.json, {"model": model, "neighbours": figures})
    if options.plot:
        plot(options.plot, figures)


def numbers(text: str) -> list[int]:
    """Return the numbers of an option such as ``1,4``."""
    return [int(word) for word in text.split(",") if word]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", help="a path or a name of models.py (SmolLM2)")
    parser.add_argument("--neighbours", type=numbers, default=[0, 1, 2, 4], metavar="N,...")
    parser.add_argument("--streams", type=numbers, default=[1, 4], metavar="N,...")
    parser.add_argument("--threads", type=numbers, default=[], metavar="N,...",
                        help="fixed numbers (1 to 4, and the largest two)")  # fmt: skip
    parser.add_argument("--spin", type=lambda text: text.split(","), default=[], metavar="N,...",
                        help="further values of GOMP_SPINCOUNT to measure")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--llama-server", metavar="PATH", help="also measure this program")
    parser.add_argument("--program", default="", help="command instead of the installed offgrid")
    parser.add_argument("--read", type=Path, nargs="+", metavar="FILE",
                        help="only show the figures of earlier runs")  # fmt: skip
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the figures")
    parser.add_argument("--quick", action="store_true", help="end soon; the figures mean nothing")
    add_json_option(parser)
    options = parser.parse_args()
    if options.read:
        runs = [json.loads(file.read_text()) for file in options.read]
        show(runs[0]["model"], [row for run in runs for row in run["neighbours"]], options)
        return
    if options.model:
        path = models.resolve(options.model)
    else:
        path = REAL if REAL.is_file() else models.resolve("smollm-135m")
    show(path.stem, measure(path, options), options)


if __name__ == "__main__":
    main()
