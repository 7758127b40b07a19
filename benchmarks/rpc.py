"""What it costs to divide a model between two machines.

    python benchmarks/rpc.py --rpc-library libggml-rpc.so    # as root: it makes network namespaces

Two machines are network namespaces with a bridge between them (``tests/lib/hosts.py``): one serves
a model of random weights, the other one lends memory to it (``offgrid rpc-worker``). ``tc`` limits
the rates of the cables; a delay is made by a relay in front of the one that lends
(``tests/lib/delays.py``). Each machine computes with one thread, so that they do not slow each
other down: a step is computed by one after the other. The first row is one machine alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
from report import add_json_option, machine, print_table, write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))
import hosts
from hosts import Host, Lan
from processes import program
from rpc_workers import peer_of
from support import request

from offgrid.peers.book import Book
from offgrid.peers.identity import load_identity

LINKS = (("", 0.0), ("1gbit", 0.0), ("1gbit", 2.0), ("100mbit", 0.0))
"""Rate of each cable, and milliseconds in each direction."""
PROMPT, ANSWER = 512, 64
"""Words of a prompt, about as many tokens; tokens of an answer."""
COLUMNS = ("layers there", "cables", "load s", "prompt tokens/s", "answer tokens/s")
PORT = 11613


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    layers: str
    cables: str
    load: float
    prompt: float
    answer: float


def peers(host: Host) -> Path:
    """Where the programs of a host keep what belongs to peers."""
    return host.folder / ".offgrid-llm" / "peers"


def pair(here: Host, far: Host, address: str) -> None:
    """Let two hosts know each other; the far one is reached at an address."""
    identities = [load_identity(peers(host), host.name) for host in (here, far)]
    Book(peers(here)).add(peer_of(identities[1], address))
    Book(peers(far)).add(peer_of(identities[0], here.address))


def ask(url: str, number: int) -> tuple[float, float]:
    """Tokens per second of a new prompt and of its answer."""
    prompt = f"{number} " + "word " * PROMPT
    body = {"prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True}
    response = request(url, "POST", "/v1/completions", body)
    if response.status != 200:
        raise SystemExit(response.body.decode())
    timings = response.json["timings"]
    return timings["prompt_per_second"], timings["predicted_per_second"]


def measure(host: Host, flags: list[str], layers: str, cables: str) -> Row:
    """Serve a model, and ask it three times; the better figures count."""
    server = host.serve(*flags)
    seconds = float(server.err.find(r"loaded \S+ in ([\d.]+) s")[1])
    figures = [ask(server.url, number) for number in range(3)]
    server.end()
    prompt, answer = (max(values) for values in zip(*figures, strict=True))
    return Row(layers, cables, seconds, prompt, answer)


@contextlib.contextmanager
def linked(folder: Path, rate: str, delay: float) -> Iterator[tuple[Lan, str]]:
    """Two hosts, and the address and port at which the second one is reached."""
    with hosts.lan(folder, 2) as lan:
        here, far = lan.hosts
        target = f"{far.address}:{PORT}"
        if delay:
            target = far.delayed(target, delay)
        for host in lan.hosts if rate else ():
            host.limit(rate)
        pair(here, far, far.address)
        yield lan, target.rpartition(":")[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rpc-library", required=True, help="path of libggml-rpc.so")
    parser.add_argument("--model", default="llama-1b", choices=models.RECIPES)
    add_json_option(parser)
    options = parser.parse_args()
    if reason := hosts.refusal():
        raise SystemExit(reason)
    half = models.RECIPES[options.model].shape.layers // 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = models.make(options.model, folder)
        usual = [
            "--no-config", "--threads", "1", "--parallel", "1", "--ctx-size", "4096",
            "--rpc-library", options.rpc_library, "--no-drafts", "--cache-disk-mb", "0",
        ]  # fmt: skip
        for number, (rate, delay) in enumerate(LINKS):
            place = folder / f"lan{number}"
            place.mkdir()
            with linked(place, rate, delay) as (lan, port):
                here, far = lan.hosts
                # A host without a model of its folder serves the starter.
                os.link(path, here.models / path.name)
                if not rows:
                    rows.append(measure(here, usual, "none", ""))
                worker = far.start(
                    program("offgrid"), "rpc-worker", "--no-config", "--threads", "1",
                    "--rpc-library", options.rpc_library,
                )  # fmt: skip
                worker.out.find(f":{PORT}")
                cables = ", ".join(filter(None, (rate, f"{delay:g} ms" if delay else "")))
                flags = [*usual, "--rpc-servers", f"{far.name}:{port}"]
                for layers in (half, 2 * half) if not rate else (half,):
                    given = [*flags, "--rpc-layers", str(layers)]
                    rows.append(measure(here, given, str(layers), cables or "unlimited"))
    cells: list[list[Any]] = [
        [row.layers, row.cables, row.load, row.prompt, row.answer] for row in rows
    ]
    print_table(f"{options.model}, {2 * half} layers, one thread on each machine", COLUMNS, cells)
    write_json(options.json, {"machine": machine(), "model": options.model, "rows": cells})


if __name__ == "__main__":
    main()
