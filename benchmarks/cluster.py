"""Three machines behind HAProxy: cache hits, the spread of the load, and throughput.

    python benchmarks/cluster.py                 # both tables
    python benchmarks/cluster.py --table real

24 conversations of 6 turns with 4 shared system prompts run at the same time, each with its next
turn as soon as the last one is answered. HAProxy has the configuration that ``offgrid cluster
haproxy`` writes; other rows change how it chooses the machine.

``real``: three OffGrid servers with the starter model on this machine. They show which tokens are
cache hits, and how requests and tokens are spread; they share the cores, so their times say nothing.
``simulated``: machines with known speeds (``simulated_machines.py``), which show the throughput.

*prefix tokens* are those tokens of a prompt that some machine has computed before: the conversation
until its last answer, or the system prompt of an earlier conversation. *hits* are those of them that
did not have to be computed again. *load* is the largest number of tokens (computed tokens of
prompts, and answers) of a machine, divided by the mean of all. *rate* is that of
the generated tokens while all conversations run, divided by what the slots of all machines
generate.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients import WORDS

from report import add_json_option, machine, print_table, write_json
from servers import OffGrid
from simulated_machines import SLOTS

from offgrid.cli.cluster.haproxy import Machine, Options, configuration
from offgrid.engine.protocol.commands import Load
from offgrid.store.catalogue import STARTER_ID, STARTER_PATH

MACHINES, CONVERSATIONS, TURNS, SYSTEMS = 3, 24, 6, 4
SYSTEM_WORDS, QUESTION_WORDS, ANSWER = 200, 30, 24
"""Words of a system prompt and of a question, and tokens of an answer."""
SPEED = 25.0
"""Tokens per second of a slot of a simulated machine."""
COLUMNS = ("balance", "hits", "requests", "load", "rate")
_CHOICE = re.compile(r"    balance hash.*?stick store-request [^\n]*\n", re.DOTALL)


@dataclass
class Turn:
    """What one answer has told.

    Attributes:
        prefix: tokens of its prompt that were computed before.
        cached: tokens of its prompt that were not computed.
        prompt, answer: tokens of both.
        began, ended: on the monotonic clock.
    """

    prefix: int
    cached: int
    prompt: int
    answer: int
    began: float
    ended: float


@dataclass
class Talks:
    """All conversations of one run."""

    port: int
    model: str
    system_tokens: int
    turns: list[Turn] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Hold all conversations at the same time."""
        threads = [
            threading.Thread(target=self._talk, args=(number,)) for number in range(CONVERSATIONS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failed:
            raise SystemExit(f"{len(self.failed)} answers failed: {self.failed[0]}")

    def _talk(self, number: int) -> None:
        system, before = number % SYSTEMS, 0
        messages = [{"role": "system", "content": words(f"system {system}", SYSTEM_WORDS)}]
        with self._lock:
            before = self.system_tokens if system in self._seen else 0
            self._seen.add(system)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        for turn in range(TURNS):
            question = words(f"talk {number}, turn {turn}", QUESTION_WORDS)
            messages.append({"role": "user", "content": question})
            began = time.perf_counter()
            answer = self._ask(connection, messages)
            if answer is None:
                return
            usage = answer["usage"]
            prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            done = Turn(before, cached, prompt, completion, began, time.perf_counter())
            with self._lock:
                self.turns.append(done)
            before = prompt + completion
            messages.append(answer["choices"][0]["message"])

    def _ask(self, connection: http.client.HTTPConnection, messages: Any) -> Any:
        body = {
            "model": self.model, "messages": messages, "max_tokens": ANSWER, "temperature": 0,
            "ignore_eos": True,
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        if response.status == 200:
            return json.loads(content)
        self.failed.append(f"{response.status} {content.decode(errors='replace')[:200]}")
        return None

    @property
    def hits(self) -> float:
        """The share of prefix tokens that were cached."""
        prefix = sum(turn.prefix for turn in self.turns)
        return sum(min(turn.cached, turn.prefix) for turn in self.turns) / prefix

    def rate(self, capacity: float) -> float:
        """Generated tokens per second until the first conversation ends, relative to a capacity."""
        begin = min(turn.began for turn in self.turns)
        end = max(turn.ended for turn in self.turns)
        return sum(turn.answer for turn in self.turns) / (end - begin) / capacity


def words(seed: str, number: int) -> str:
    """Random words that begin with the seed."""
    chance = random.Random(seed)
    return " ".join([seed, *chance.choices(WORDS, k=number - len(seed.split()))])


@contextlib.contextmanager
def simulated() -> Iterator[list[int]]:
    """Run simulated machines; yield their ports."""
    script = str(Path(__file__).with_name("simulated_machines.py"))
    command = [sys.executable, script, *[str(SPEED)] * MACHINES]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield [int(process.stdout.readline()) for _ in range(MACHINES)]
        assert process.stdin is not None
        process.stdin.close()


@contextlib.contextmanager
def real() -> Iterator[list[int]]:
    """Run OffGrid servers; yield their ports."""
    load = Load(str(STARTER_PATH), parallel=SLOTS, ctx_size=2048, threads=1)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(OffGrid(load, queue_size=64)) for _ in range(MACHINES)]
        for server in servers:
            server.warm()
        yield [server.port for server in servers]


def policies() -> dict[str, tuple[Options, str]]:
    """The rows: options, and what takes the place of the lines that choose the machine."""
    return {
        "offgrid cluster haproxy": (Options(), ""),
        "without a bound": (Options(), "    balance hash var(txn.key)\n    hash-type consistent\n"),
        "the system prompt only": (
            Options(), "    balance hash var(req.text0)\n    hash-type consistent\n"
        ),
        "leastconn": (Options(), "    balance leastconn\n"),
        "roundrobin": (Options(), "    balance roundrobin\n"),
    }  # fmt: skip


@contextlib.contextmanager
def proxy(ports: list[int], options: Options, lines: str) -> Iterator[tuple[int, Path]]:
    """Run HAProxy in front of machines; yield its port, and the path of its socket."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port, admin = free.getsockname()[1], Path(folder) / "admin.sock"
        free.close()
        machines = [Machine(f"m{number}", "127.0.0.1", one) for number, one in enumerate(ports, 1)]
        given = Options(
            f"127.0.0.1:{port}", options.balance, admin_socket=str(admin), stores=options.stores
        )
        text = configuration(machines, given)
        file = Path(folder) / "haproxy.cfg"
        file.write_text(_CHOICE.sub(lambda _: lines, text) if lines else text)
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        process = subprocess.Popen([program, "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                if process.poll() is not None:
                    raise SystemExit("HAProxy did not start; is it installed?")
                time.sleep(0.05)
            yield port, admin
        finally:
            process.kill()
            process.wait()


def served(admin: Path) -> list[int]:
    """How many requests each machine has got."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(admin))
        asking.sendall(b"show stat spread 4 -1\n")
        lines = asking.makefile().read().splitlines()
    names = lines[0].removeprefix("# ").split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line]
    return [int(row["stot"]) for row in rows if row["pxname"] == "spread"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", choices=["real", "simulated"])
    parser.add_argument("--only", help="one row")
    add_json_option(parser)
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    for table, machines in (("simulated", simulated), ("real", real)):
        if options.table in (None, table):
            rows = []
            for name, (chosen, lines) in policies().items():
                if options.only in (None, name):
                    with machines() as ports, proxy(ports, chosen, lines) as (port, admin):
                        tokens = SYSTEM_WORDS
                        talks = Talks(port, "offgrid-starter", tokens)
                        talks.run()
                        counts = served(admin)
                        rows.append(
                            (
                                name,
                                talks.hits,
                                "/".join(map(str, counts)),
                                max(counts) / (sum(counts) / len(counts)),
                                talks.rate(MACHINES * SLOTS * SPEED),
                            )
                        )
                        print(rows[-1], file=sys.stderr)
            print_table(table, COLUMNS, rows)
            results[table] = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    write_json(options.json, results)


if __name__ == "__main__":
    main()
