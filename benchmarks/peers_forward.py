"""What forwarding costs: the same requests to a machine, and to another one that forwards them.

    python benchmarks/peers_forward.py
    python benchmarks/peers_forward.py --model tiny-peaked --quick      # does everything work?

Both servers run on this machine and talk over loopback, so the figures have no network in them: its
round trip comes on top once for each request. ``far`` has the model. ``near`` is its peer, has
another model, and forwards. The two take turns, one request or one group of requests each, so that
a change of the machine's load meets both.

``first``: milliseconds from sending a request of 64 tokens to its first token. ``streams``: seconds
from sending that many requests at once until the last one ends, and tokens per second.

A greedy text must be the same from both, and each stream must have all its tokens and its usage.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import models
from cases import USAGE, completed
from clients import Prompts, Reading, read_all
from report import add_json_option, print_table, write_json
from servers import OffGrid

from offgrid.engine.protocol.commands import Load
from offgrid.peers.book import Book, Peer
from offgrid.peers.identity import load_identity
from offgrid.store.catalogue import STARTER_PATH

PROMPT_TOKENS = 64
MOST_FIRST, MOST_STREAMS = 5.0, 0.03
"""Targets: milliseconds, and the share of the time."""
_SECONDS = 60.0
"""How long the near machine may take to learn of the model."""


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def introduce(folder: Path) -> dict[str, list[str]]:
    """Write the identities and books of two machines; return the flags of each."""
    ports = {name: free_port() for name in ("far", "near")}
    identities = {name: load_identity(folder / name, name) for name in ports}
    for name, other in (("far", "near"), ("near", "far")):
        peer = Peer(
            name=other, certificate=identities[other].certificate, addresses=("127.0.0.1",),
            port=ports[other], paired_at=int(time.time()),
        )  # fmt: skip
        Book(folder / name).add(peer)
    return {
        name: [
            "--peers", "--peers-dir", str(folder / name), "--peers-host", "127.0.0.1",
            "--peers-port", str(port), "--peers-name", name, "--no-peers-discovery",
        ]
        for name, port in ports.items()
    }  # fmt: skip


def wait_listed(near: OffGrid, model: str) -> None:
    """Return when the near machine lists the model of the far one."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", near.port, timeout=5)
        connection.request("GET", "/v1/models")
        listed = json.loads(connection.getresponse().read())["data"]
        connection.close()
        if model in [one["id"] for one in listed]:
            return
        time.sleep(0.2)
    raise SystemExit("the near machine does not list the model of the far one")


def starter_copy() -> Path:
    """The starter under another name: the near machine has it under its own."""
    path = models.OUT / "starter-far.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(STARTER_PATH, path)
    return path


def seconds_of(readings: list[Reading]) -> float:
    """Seconds from sending the first request until the last token."""
    ends = [max(when for times in one.tokens().values() for when in times) for one in readings]
    return max(ends) - readings[0].sent


class Trial:
    """The two servers, and what was measured of each.

    Args:
        servers: far and near.
        tokens: of an answer.
        seed: of the prompts.
    """

    def __init__(self, servers: list[OffGrid], tokens: int, seed: int) -> None:
        self._servers, self._tokens = servers, tokens
        self._prompts = Prompts(servers[0], seed)

    def check(self) -> None:
        """Compare a greedy text of both."""
        text = self._prompts.text(PROMPT_TOKENS)
        body = {"prompt": text, "temperature": 0, "max_tokens": self._tokens, "ignore_eos": True}
        texts = {read_all(server, [body])[0].text() for server in self._servers}
        if len(texts) != 1 or not texts.pop():
            raise SystemExit("the two machines give different texts")

    def first(self, rounds: int) -> dict[str, list[float]]:
        """Seconds to the first token of single requests."""
        found: dict[str, list[float]] = {server.name: [] for server in self._servers}
        for number in range(rounds):
            for server in self._servers[:: 1 if number % 2 else -1]:
                found[server.name].append(self._ask(server, 1, 4)[0].first())
        return found

    def streams(self, count: int, rounds: int) -> dict[str, list[float]]:
        """Seconds of groups of requests."""
        found: dict[str, list[float]] = {server.name: [] for server in self._servers}
        for number in range(rounds):
            for server in self._servers[:: 1 if number % 2 else -1]:
                found[server.name].append(seconds_of(self._ask(server, count, self._tokens)))
        return found

    def _ask(self, server: OffGrid, count: int, tokens: int) -> list[Reading]:
        """Send requests with new prompts of the same length; read them to the end."""
        body = {**USAGE, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        texts = [self._prompts.text(PROMPT_TOKENS) for _ in range(count)]
        readings = read_all(server, [{**body, "prompt": text} for text in texts])
        completed(readings, tokens)
        return readings


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Start both servers and measure; return the figures."""
    path = starter_copy() if options.model == "starter" else models.resolve(options.model)
    counts = [int(count) for count in options.streams.split(",")]
    tokens = options.tokens or (16 if options.quick else 128)
    rounds = options.rounds or (3 if options.quick else 15)
    load = Load(
        str(path), parallel=max(counts), ctx_size=tokens + 2 * PROMPT_TOKENS + 128,
        threads=options.threads,
    )  # fmt: skip
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        flags = introduce(folder)
        far = stack.enter_context(OffGrid(load, options.program, flags=flags["far"]))
        own = Load(str(STARTER_PATH), parallel=1, ctx_size=512, threads=1)
        near = stack.enter_context(OffGrid(own, options.program, flags=flags["near"]))
        far.name, near.name, near.model = "far", "near", path.stem
        wait_listed(near, path.stem)
        for server in (far, near):
            server.warm()
        trial = Trial([far, near], tokens, options.seed)
        trial.check()
        before = os.getloadavg()[0]
        first = None if options.only == "streams" else trial.first(10 * rounds)
        wanted = [] if options.only == "first" else counts
        streams = {count: trial.streams(count, rounds) for count in wanted}
        return {
            "model": path.stem, "tokens": tokens, "rounds": rounds, "first": first,
            "streams": streams, "load": [before, os.getloadavg()[0]],
        }  # fmt: skip


def report(found: dict[str, Any]) -> bool:
    """Print the tables; return whether the targets are met."""
    good = True
    if found["first"]:
        first = {name: 1e3 * statistics.median(times) for name, times in found["first"].items()}
        added = first["near"] - first["far"]
        good = added <= MOST_FIRST
        print_table(
            f"{found['model']}: first token, ms (median of {len(found['first']['far'])}; "
            f"target: at most {MOST_FIRST:g} added)",
            ["", "far", "near", "added"],
            [["first token", first["far"], first["near"], added]],
        )
    rows = []
    for count, times in found["streams"].items():
        far, near = (statistics.median(times[name]) for name in ("far", "near"))
        share = near / far - 1
        good = good and share <= MOST_STREAMS
        speed = count * found["tokens"]
        rows.append([count, far, near, speed / far, speed / near, f"{100 * share:.1f} %"])
    if rows:
        print_table(
            f"{found['model']}: {found['tokens']} tokens an answer (median of {found['rounds']} "
            f"rounds; target: at most {100 * MOST_STREAMS:g} % added)",
            [
                "streams",
                "far s",
                "through near s",
                "far tokens/s",
                "through near tokens/s",
                "added",
            ],
            rows,
        )
    before, after = found["load"]
    print(f"\nLoad of the machine: {before:.1f} before, {after:.1f} after. Texts are equal.")
    return good


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--model", default="smollm-135m", help="a path, 'starter', or a name of models.py"
    )
    parser.add_argument("--only", choices=("first", "streams"), help="leave the other case out")
    parser.add_argument("--streams", default="1,8", help="numbers of streams")
    parser.add_argument("--tokens", type=int, default=0, help="of each answer (128)")
    parser.add_argument("--rounds", type=int, default=0, help="groups of each kind (15)")
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp in the far machine")
    parser.add_argument("--seed", type=int, default=1, help="of the prompts")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--program", default="", help="how to call offgrid")
    add_json_option(parser)
    options = parser.parse_args()
    found = measure(options)
    good = report(found)
    write_json(options.json, found)
    if not good and not options.quick:
        raise SystemExit("a target is missed")


if __name__ == "__main__":
    main()
