"""Throughput and latency over HTTP, compared with a bare ``llama_decode`` loop of the same run.

    python benchmarks/server.py                                # throughput on the starter model
    python benchmarks/server.py --models tiny-peaked,tiny-flat --streams 1,4,8,16 --plot http.png
    python benchmarks/server.py --case prefix,pace             # other cases, see cases.py
    python benchmarks/server.py --case short --models smollm2 --llama-server PATH    # see chats.py
    python benchmarks/server.py --case all --quick             # does everything work?

A model is a path, ``starter``, or the name of a model of ``models.py``.

Throughput: for each number of streams, that many clients each send a request at once and read their
answer token by token; temperature 0.7, exact top_p 0.95, no end before the last token. The prompts
are new, so that every server must compute them. The bare loop and the servers take turns, and each
figure is the best of ``--repeat`` rounds. llama-cpp-python's server is also measured if its extras
are installed (``pip install 'llama-cpp-python[server]'``), and llama.cpp's with
``--llama-server PATH``.

Each stream must deliver exactly the requested number of tokens, a usage chunk and ``[DONE]``, or
the benchmark ends with an error. Before timing, simultaneous greedy streams are compared with the
text of a single stream; a difference is reported (a larger batch may round differently).
"""

from __future__ import annotations

import argparse
import itertools
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import models
from cases import CASES as SINGLE
from cases import ON_STARTER, USAGE, Setup, completed
from chats import CASES as CHATS
from clients import Prompts, Reading, read_all
from report import add_json_option, percentile, print_table, write_json
from servers import Bare, LlamaCppPython, LlamaServer, OffGrid, Program

from offgrid.engine.protocol.commands import Load
from offgrid.store.catalogue import STARTER_PATH

PROMPT_TOKENS = 64
CASES = SINGLE | CHATS


def check(server: Program, prompt: str, tokens: int, streams: int) -> None:
    """Check answers before timing them."""
    body = {**server.exact, **USAGE, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    alone = read_all(server, [body])
    beside = read_all(server, [body] * streams)
    completed(alone + beside, tokens)
    if any(reading.text() != alone[0].text() for reading in beside):
        # A larger batch may round differently. If the two best tokens are that close, a difference
        # is no error, but it should be visible.
        print("note: a greedy answer differs beside others", file=sys.stderr)


def measure(server: Program, prompts: Prompts, streams: int, tokens: int) -> dict[str, Any]:
    """One round over HTTP."""
    body = {**server.exact, "max_tokens": tokens, **(USAGE if server.says_usage else {})}
    came, prompt_tokens = 0, PROMPT_TOKENS
    while came == 0:  # if a server's answers may end at once, all of them may
        bodies = [{**body, "prompt": prompts.text(PROMPT_TOKENS)} for _ in range(streams)]
        readings = read_all(server, bodies)
        if server.says_usage:
            completed(readings, tokens)
            came = streams * tokens
            prompt_tokens = readings[0].usage()["prompt_tokens"]
        else:
            came = sum(len(times) for reading in readings for times in reading.tokens().values())
    return {**_times(readings), "tokens": came, "prompt_tokens": prompt_tokens}


def _times(readings: list[Reading]) -> dict[str, float]:
    firsts, gaps, ends = [], [], []
    for reading in readings:
        times = [when for tokens in reading.tokens().values() for when in tokens]
        if not times:
            continue
        firsts.append(times[0] - reading.sent)
        gaps += [later - earlier for earlier, later in itertools.pairwise(times)]
        ends.append(times[-1])
    return {
        "seconds": max(ends) - readings[0].sent,
        "ttft": percentile(firsts, 0.5),
        "gap_p50": percentile(gaps, 0.5) if gaps else 0.0,
        "gap_p99": percentile(gaps, 0.99) if gaps else 0.0,
    }


def start_servers(stack: ExitStack, load: Load, options: argparse.Namespace) -> list[Program]:
    """Start all programs to be compared."""
    servers: list[Program] = [stack.enter_context(OffGrid(load, options.program))]
    if options.llama_server:
        servers.append(stack.enter_context(LlamaServer(load, options.llama_server)))
    missing = LlamaCppPython.missing()
    if options.no_llama_cpp_python:
        pass
    elif missing:
        print(
            f"note: no row for llama-cpp-python's server, {', '.join(missing)} not installed",
            file=sys.stderr,
        )
    else:
        servers.append(stack.enter_context(LlamaCppPython(load)))
    for server in servers:
        server.warm()
    return servers


def throughput(path: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one model; return a row of figures for each number of streams and server."""
    counts = [int(count) for count in options.streams.split(",")]
    tokens = options.tokens or (16 if options.quick else 256)
    load = Load(
        str(path), parallel=max(counts), ctx_size=tokens + 2 * PROMPT_TOKENS + 128,
        threads=options.threads,
    )  # fmt: skip
    figures = []
    with ExitStack() as stack:
        bare = stack.enter_context(Bare(load))
        servers = start_servers(stack, load, options)
        prompts = {server.name: Prompts(server, seed=options.seed) for server in servers}
        for server in servers:
            if server.says_usage:
                check(server, prompts[server.name].text(PROMPT_TOKENS), tokens, max(counts))
        for streams in counts:
            limits: list[float] = []
            rounds: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
            prompt_tokens = PROMPT_TOKENS
            for _ in range(options.repeat):
                for server in servers:
                    found = measure(server, prompts[server.name], streams, tokens)
                    rounds[server.name].append(found)
                    if server is servers[0]:
                        prompt_tokens = found["prompt_tokens"]
                        limits.append(bare.seconds(streams, prompt_tokens, tokens))
            limit = streams * tokens / min(limits)
            for name, found_all in rounds.items():
                best = max(found_all, key=lambda found: found["tokens"] / found["seconds"])
                speed = best["tokens"] / best["seconds"]
                figures.append({
                    "model": path.stem, "streams": streams, "server": name,
                    "bare_tokens_per_s": limit, "tokens_per_s": speed, "share": speed / limit,
                    **{key: best[key] for key in ("ttft", "gap_p50", "gap_p99")},
                })  # fmt: skip
        print_table(
            f"{path.stem}, {prompt_tokens} prompt tokens, {tokens} tokens an answer, "
            "temperature 0.7, top_p 0.95",
            ["streams", "server", "bare tokens/s", "tokens/s", "share", "first token ms (median)",
             "gap p50 ms", "gap p99 ms"],
            [[f["streams"], f["server"], f["bare_tokens_per_s"], f["tokens_per_s"], f["share"],
              1e3 * f["ttft"], 1e3 * f["gap_p50"], 1e3 * f["gap_p99"]] for f in figures],
        )  # fmt: skip
    return figures


def plot(path: Path, figures: list[dict[str, Any]]) -> None:
    """Tokens per second and time to first token against the number of streams, a row per model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(f["model"] for f in figures))
    figure, grid = plt.subplots(
        len(names), 2, figsize=(10, 3.6 * len(names)), squeeze=False, constrained_layout=True
    )
    for (left, right), name in zip(grid, names, strict=True):
        mine = [f for f in figures if f["model"] == name]
        bare = {f["streams"]: f["bare_tokens_per_s"] for f in mine}
        left.plot(list(bare), list(bare.values()), "k--", marker=".", label="bare llama_decode")
        for server in dict.fromkeys(f["server"] for f in mine):
            rows = [f for f in mine if f["server"] == server]
            streams = [f["streams"] for f in rows]
            left.plot(streams, [f["tokens_per_s"] for f in rows], marker="o", label=server)
            right.plot(streams, [1e3 * f["ttft"] for f in rows], marker="o", label=server)
        for axis, what in ((left, "tokens/s"), (right, "first token, median (ms)")):
            axis.set_title(name)
            axis.set_xlabel("streams")
            axis.set_ylabel(what)
            axis.set_xticks(list(bare))
            axis.set_ylim(bottom=0)
            axis.grid(True, alpha=0.3)
            axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="cases: throughput, "
        + "; ".join(f"{name} ({(case.__doc__ or '').rstrip('.')})" for name, case in CASES.items()),
    )
    parser.add_argument("--case", default="throughput", help="cases, or 'all'")
    parser.add_argument(
        "--models", help="paths, 'starter' or names of models.py (starter; other cases tiny-peaked)"
    )
    parser.add_argument("--streams", default="1,4,8,16", help="numbers of clients (throughput)")
    parser.add_argument("--tokens", type=int, default=0, help="of each answer (throughput; 256)")
    parser.add_argument("--threads", type=int, default=0, help="of llama.cpp")
    parser.add_argument("--repeat", type=int, default=0, help="rounds; the best counts (3)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts and moments")
    parser.add_argument(
        "--program", default="", help="how to call offgrid, as in 'python -m offgrid'"
    )
    parser.add_argument("--llama-server", metavar="PATH", help="llama.cpp's server, for its rows")
    parser.add_argument("--no-llama-cpp-python", action="store_true", help="leave its rows out")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the throughput")
    add_json_option(parser)
    options = parser.parse_args()
    options.repeat = options.repeat or (1 if options.quick else 3)
    names = ["throughput", *CASES] if options.case == "all" else options.case.split(",")
    unknown = [name for name in names if name != "throughput" and name not in CASES]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}")
    rows: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for name in names:
        default = "starter" if name == "throughput" else "tiny-peaked"
        wanted = (options.models or default).split(",")
        paths = [STARTER_PATH if one == "starter" else models.resolve(one) for one in wanted]
        if name == "throughput":
            rows += itertools.chain.from_iterable(throughput(path, options) for path in paths)
            continue
        for path in [ON_STARTER[name]] if name in ON_STARTER else paths:
            result = CASES[name](Setup(path, options))
            print_table(f"{result.title} ({path.stem})", result.columns, result.rows)
            results.append({"case": name, "model": path.stem, **result.figures})
            # Write the results after each case: the last one may take an hour.
            write_json(options.json, {"rounds": options.repeat, "rows": rows, "cases": results})
    write_json(options.json, {"rounds": options.repeat, "rows": rows, "cases": results})
    if options.plot:
        plot(options.plot, rows)


if __name__ == "__main__":
    main()
