"""Cases of ``server.py`` that compare OffGrid with the bare loop and with llama-server in one run.

``short`` and ``long`` measure streams that have about 50 and 1,000 tokens of context: tokens per
second from the moment at which all streams have begun until the first one ends, so that no prompt
is computed meanwhile. The bare loop runs with flash attention and without; its better time is the
limit. ``first`` measures the time to the first token of one new prompt of 1,000 words.

llama-server has its row with ``--llama-server PATH``. All take turns, and the best round counts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from cases import USAGE, Result, Setup, completed
from clients import WORDS, Prompts, Reading, read_all
from msgspec import structs
from report import percentile
from servers import Bare, LlamaServer, OffGrid, Program

from offgrid.engine.protocol.commands import Load

TARGETS = {1: "0.97", 4: "0.95", 8: "0.95"}
_TOKENS = 96


def _servers(stack: ExitStack, setup: Setup, load: Load) -> list[Program]:
    options = setup.options
    servers: list[Program] = [stack.enter_context(OffGrid(load, options.program))]
    if options.llama_server:
        servers.append(stack.enter_context(LlamaServer(load, options.llama_server)))
    for server in servers:
        server.warm()
    return servers


def _speed(readings: list[Reading]) -> float:
    """Tokens per second while all streams generate."""
    times = [next(iter(reading.tokens().values())) for reading in readings]
    begin, end = max(each[0] for each in times), min(each[-1] for each in times)
    if begin >= end:
        raise SystemExit("a stream ended before all had begun; raise the tokens of an answer")
    return sum(begin < when <= end for each in times for when in each) / (end - begin)


def _share(setup: Setup, context: int) -> Result:
    """Streams at a length of context, against the bare loop."""
    counts = [1] if setup.quick else [1, 4, 8]
    context, tokens = setup.size(context, 50), setup.size(_TOKENS, 16)
    load = Load(
        str(setup.model), parallel=max(counts), ctx_size=2 * context + tokens + 128,
        threads=setup.options.threads,
    )  # fmt: skip
    rows: list[list[Any]] = []
    figures: list[dict[str, Any]] = []
    with ExitStack() as stack:
        bare = {
            way: stack.enter_context(Bare(structs.replace(load, flash_attention=way)))
            for way in ("on", "off")
        }
        servers = _servers(stack, setup, load)
        prompts = {server.name: Prompts(server, setup.options.seed) for server in servers}
        for streams in counts:
            limits: dict[str, list[float]] = {way: [] for way in bare}
            speeds: dict[str, list[float]] = {server.name: [] for server in servers}
            for _ in range(setup.rounds):
                for server in servers:
                    body = {**server.exact, **USAGE, "max_tokens": tokens}
                    text = prompts[server.name].text
                    bodies = [{**body, "prompt": text(context)} for _ in range(streams)]
                    # With all prompts computed, no stream ends before another one begins.
                    read_all(server, [{**body, "max_tokens": 1} for body in bodies])
                    readings = read_all(server, bodies)
                    completed(readings, tokens)
                    speeds[server.name].append(_speed(readings))
                for way, loop in bare.items():
                    seconds = loop.seconds(streams, context, tokens, steps_only=True)
                    limits[way].append(streams * tokens / seconds)
            best = {way: max(found) for way, found in limits.items()}
            for name, found in speeds.items():
                share = max(found) / max(best.values())
                target = TARGETS.get(streams, "") if name == OffGrid.name else ""
                rows.append([streams, name, best["on"], best["off"], max(found), share, target])
                figures.append({
                    "streams": streams, "server": name, "bare": limits, "speeds": found,
                    "share": share,
                })  # fmt: skip
    return Result(
        f"Share of the bare loop at {context:,} tokens of context and more",
        ["streams", "server", "bare, flash on: tokens/s", "bare, off: tokens/s", "tokens/s",
         "share of the better", "target"],
        rows,
        {"context": context, "rows": figures},
    )  # fmt: skip


def short(setup: Setup) -> Result:
    """Streams with 50 tokens of context, as a share of the bare loop."""
    return _share(setup, 50)


def long(setup: Setup) -> Result:
    """Streams with 1,000 tokens of context, as a share of the bare loop."""
    return _share(setup, 1000)


def first(setup: Setup) -> Result:
    """Time to the first token of one prompt of 1,000 words."""
    words = setup.size(1000, 50)
    load = Load(str(setup.model), parallel=4, ctx_size=4096, threads=setup.options.threads)
    rng = random.Random(setup.options.seed)
    with ExitStack() as stack:
        servers = _servers(stack, setup, load)
        times: dict[str, list[float]] = {server.name: [] for server in servers}
        prompt_tokens = 0
        for number in range(2 * setup.rounds):
            # Another number first, so that no server has the beginning of the prompt.
            text = f"{rng.randrange(10**9)} " + " ".join(rng.choices(WORDS, k=words))
            for server in servers if number % 2 else reversed(servers):
                body = {**server.exact, **USAGE, "max_tokens": 4, "prompt": text}
                readings = read_all(server, [body])
                completed(readings, 4)
                prompt_tokens = readings[0].usage()["prompt_tokens"]
                times[server.name].append(readings[0].first())
    least = {name: min(found) for name, found in times.items()}
    other = least.get(LlamaServer.name)
    rows = [
        [name, 1e3 * least[name], 1e3 * percentile(found, 0.5),
         None if other is None else least[name] / other]
        for name, found in times.items()
    ]  # fmt: skip
    return Result(
        f"First token of a prompt of {words:,} words, {prompt_tokens:,} tokens",
        ["server", "best ms", "median ms", "best over llama-server's (target 1)"],
        rows,
        {"words": words, "prompt_tokens": prompt_tokens, "seconds": times},
    )


CASES: dict[str, Callable[[Setup], Result]] = {"short": short, "long": long, "first": first}
"""Cases by their names for ``--case``."""
