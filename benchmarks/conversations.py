"""Computed tokens of second turns, and the memory of all processes, beside llama.cpp's server.

    python benchmarks/conversations.py --llama-server PATH            # both tables
    python benchmarks/conversations.py --table memory --llama-server PATH

Turns: a prompt of 2,000 tokens and an answer of 40; then the next turn, the same prompt again, a
branch in the middle, and another conversation with the same first half. ``computed`` counts the
tokens of the prompt that were not taken from the cache, ``new`` those that differ.

Memory: a server with 8 slots of 4,096 tokens answers 8 requests at once, and then has ``--settle``
seconds to prepare for grammars. Pages of files that several processes share count once
(``Pss`` in ``/proc``), so no other program should use the same model file meanwhile.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from models import resolve
from report import add_json_option, machine, print_table, write_json
from servers import LlamaServer, OffGrid, Program

from offgrid.engine.memory import MIB
from offgrid.engine.protocol.commands import Load

REAL = Path("~/.cache/offgrid-tests").expanduser()
"""Where the tests keep the real models that they have fetched."""
TURNS = (str(REAL / "gemma-3-270m.gguf"), "small-mamba", "small-jamba")
MEMORY = (str(REAL / "SmolLM2-135M-Instruct.gguf"), str(REAL / "gemma-3-270m.gguf"))
PROMPT, ANSWER, NEW = 2000, 40, 20
"""Tokens of the first prompt, of each answer, and of what is new in a later prompt."""
SLOTS, CONTEXT = 8, 4096


def programs(load: Load, options: argparse.Namespace) -> Iterator[Callable[[], Program]]:
    """Yield what starts each program. One runs at a time."""
    flags = ["--cache-ram-mb", "0", "--cache-disk-mb", "0"]
    yield lambda: OffGrid(load, options.program, flags=flags)
    if options.llama_server:
        yield lambda: LlamaServer(load, options.llama_server)


def computed(server: Program, prompt: list[int]) -> int:
    """Let a server answer a prompt; return how many of its tokens were computed."""
    body = {"prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
    usage = server.ask("/v1/completions", body)["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return int(usage["prompt_tokens"]) - int(cached)


def later_prompts(first: list[int], chance: random.Random) -> dict[str, tuple[list[int], int]]:
    """Return the later prompts by name, each with the length of the prefix that it shares."""
    other = [chance.randrange(100, 250) for _ in range(NEW)]
    half = len(first) // 2
    return {
        "next turn, answer rewritten": ([*first, *other], len(first)),
        "the same prompt again": (first, len(first) - 1),
        "a branch in the middle": ([*first[:half], *other], half),
        "another conversation": ([*first[: half + 7], *reversed(other)], half + 7),
    }


def turns(text: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of one model: for each later prompt, the computed tokens."""
    path = resolve(text)
    load = Load(str(path), parallel=4, ctx_size=CONTEXT, threads=options.threads)
    rows = []
    for start in programs(load, options):
        with start() as server:
            server.warm()
            chance = random.Random(1)
            first = [chance.randrange(100, 250) for _ in range(PROMPT)]
            computed(server, first)
            for name, (prompt, shared) in later_prompts(first, chance).items():
                rows.append({
                    "model": path.stem, "server": server.name, "prompt": name,
                    "new": len(prompt) - shared, "computed": computed(server, prompt),
                })  # fmt: skip
    return rows


def held(server: Program) -> int:
    """Return the bytes that a server and its workers hold."""
    own = psutil.Process(server.process.pid)
    everyone = [own, *own.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in everyone)


def memory(text: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of one model: the memory of each server."""
    path = resolve(text)
    load = Load(str(path), parallel=SLOTS, ctx_size=CONTEXT, threads=options.threads)
    rows: list[dict[str, Any]] = []
    for start in programs(load, options):
        with start() as server:
            server.warm()
            loaded = held(server)
            threads = [
                threading.Thread(target=computed, args=(server, [100 + n, *range(100, 160)]))
                for n in range(SLOTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            time.sleep(options.settle)
            rows.append({
                "model": path.stem, "server": server.name, "loaded": loaded // MIB,
                "answered": held(server) // MIB,
            })  # fmt: skip
    for row in rows:
        row["ratio"] = round(row["answered"] / rows[-1]["answered"], 3)
    return rows


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--table", choices=("all", "turns", "memory"), default="all")
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="other models than usual")
    parser.add_argument("--llama-server", metavar="PATH")
    parser.add_argument("--program", default="", help="the command of OffGrid")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--settle", type=float, default=20.0)
    add_json_option(parser)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    tables = {"turns": (turns, TURNS), "memory": (memory, MEMORY)}
    for name, (measure, usual) in tables.items():
        if options.table not in ("all", name):
            continue
        rows = [row for text in options.models or usual for row in measure(text, options)]
        print_table(name, list(rows[0]), [list(row.values()) for row in rows])
        found[name] = rows
    write_json(options.json, {**machine(), **found})


if __name__ == "__main__":
    main()
