"""Three machines behind HAProxy: cache hits, the spread of the load, and throughput.

    python benchmarks/cluster.py                 # all tables
    python benchmarks/cluster.py --table real

24 conversations of 6 turns with 4 shared system prompts run at the same time. HAProxy has the
configuration that ``offgrid cluster haproxy`` writes; other rows change how it chooses the machine.

real: three OffGrid servers with the starter model on this machine. They show which tokens are cache
hits, and how the load is spread. They share the cores, so their times say nothing.

simulated: machines with known speeds (``simulated_machines.py``), which show the throughput. Each
conversation has its next turn as soon as the last one is answered.

pauses: the same machines, but people read before they ask again, so that few requests run at a
time.
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
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from clients import WORDS
from report import add_json_option, machine, print_table, write_json
from servers import OffGrid
from simulated_machines import SLOTS

from offgrid.cli.cluster.haproxy import Machine, Options, configuration
from offgrid.engine.protocol.commands import Load
from offgrid.store.catalogue import STARTER_PATH

MACHINES, CONVERSATIONS, TURNS, SYSTEMS = 3, 24, 6, 4
SYSTEM_WORDS, QUESTION_WORDS, ANSWER = 200, 30, 24
"""Words of a system prompt and of a question, and tokens of an answer."""
SPEED = 25.0
"""Tokens per second of a slot of a simulated machine."""
PAUSE = 4.0
"""Mean seconds between an answer and the next turn, where there are pauses."""
COLUMNS = ("choice", "requests", "hits", "worst hits", "load", "worst load", "rate", "worst rate")
TABLES = ("real", "simulated", "pauses")
_HEADER = "X-OffGrid-Machine"
_CHOICE = re.compile(r"    balance hash.*?stick store-request [^\n]*\n", re.DOTALL)
_CONSISTENT = "    balance hash var({})\n    hash-type consistent\n"
CHOICES = {
    "offgrid cluster haproxy": "",
    "without its memory of conversations": (
        f"{_CONSISTENT.format('txn.key')}    hash-balance-factor {Options.balance}\n"
    ),
    "without a bound, too": _CONSISTENT.format("txn.key"),
    "hash of the system prompt": _CONSISTENT.format("req.text0"),
    "leastconn": "    balance leastconn\n",
    "roundrobin": "    balance roundrobin\n",
}
"""The rows, and the lines that take the place of those that choose the machine."""


@dataclass
class Turn:
    """What one answer has told.

    Attributes:
        machine: which one has answered.
        prefix: tokens of its prompt that a machine had computed before.
        cached: tokens of its prompt that were not computed.
        prompt, answer: tokens of both.
        began, ended: on a clock, in seconds.
    """

    machine: str
    prefix: int
    cached: int
    prompt: int
    answer: int
    began: float
    ended: float


@dataclass
class Talks:
    """All conversations of one run.

    Attributes:
        port: of HAProxy.
        number: of conversations.
        pause: mean seconds between an answer and the next turn.
        turns: what was answered.
        failed: what went wrong.
    """

    port: int
    number: int = CONVERSATIONS
    pause: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _systems: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Hold all conversations at the same time."""
        threads = [threading.Thread(target=self._talk, args=(n,)) for n in range(self.number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failed or len(self.turns) != self.number * TURNS:
            raise SystemExit(f"answers failed: {self.failed[:1]}")

    def _talk(self, number: int) -> None:
        system, chance = number % SYSTEMS, random.Random(number)
        messages = [{"role": "system", "content": words(f"system {system}", SYSTEM_WORDS)}]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        before = 0
        for turn in range(TURNS):
            if self.pause:
                time.sleep(chance.expovariate(1 / self.pause))
            question = words(f"talk {number}, turn {turn}", QUESTION_WORDS)
            messages.append({"role": "user", "content": question})
            if turn == 0:
                before = self._known(system)
            began = time.perf_counter()
            name, answer = self._ask(connection, messages)
            if answer is None:
                return
            usage = answer["usage"]
            prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            done = Turn(name, before, cached, prompt, completion, began, time.perf_counter())
            with self._lock:
                self.turns.append(done)
                if turn == 0:  # a token more or less for each word of the question
                    self._systems[system] = prompt * SYSTEM_WORDS // len(text_of(messages).split())
            before = prompt + completion
            messages.append(answer["choices"][0]["message"])

    def _known(self, system: int) -> int:
        """Tokens of a system prompt that another conversation has had answered already."""
        with self._lock:
            return self._systems.get(system, 0)

    def _ask(self, connection: http.client.HTTPConnection, messages: Any) -> tuple[str, Any]:
        body = {
            "messages": messages, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True,
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        if response.status == 200:
            return response.headers[_HEADER], json.loads(content)
        self.failed.append(f"{response.status} {content.decode(errors='replace')[:200]}")
        return "", None

    @property
    def hits(self) -> float:
        """The share of prefix tokens that were cached."""
        prefix = sum(turn.prefix for turn in self.turns)
        return sum(min(turn.cached, turn.prefix) for turn in self.turns) / prefix

    @property
    def requests(self) -> list[int]:
        """How many requests each machine has answered, the most first."""
        return sorted(Counter(turn.machine for turn in self.turns).values(), reverse=True)

    @property
    def load(self) -> float:
        """Tokens that the busiest machine has computed and generated, relative to the mean."""
        loads: Counter[str] = Counter()
        for turn in self.turns:
            loads[turn.machine] += turn.prompt - turn.cached + turn.answer
        return max(loads.values()) * MACHINES / sum(loads.values())

    @property
    def rate(self) -> float:
        """Generated tokens per second, from the first request to the last answer."""
        seconds = max(t.ended for t in self.turns) - min(t.began for t in self.turns)
        return sum(turn.answer for turn in self.turns) / seconds


def text_of(messages: list[dict[str, str]]) -> str:
    """All texts of a conversation."""
    return " ".join(message["content"] for message in messages)


def words(seed: str, number: int) -> str:
    """Random words that begin with the seed."""
    chance = random.Random(seed)
    return " ".join([seed, *chance.choices(WORDS, k=number - len(seed.split()))])


@contextlib.contextmanager
def simulated(number: int = MACHINES) -> Iterator[list[int]]:
    """Run simulated machines; yield their ports."""
    script = str(Path(__file__).with_name("simulated_machines.py"))
    command = [sys.executable, script, "127.0.0.1", *[str(SPEED)] * number]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield [int(process.stdout.readline()) for _ in range(number)]
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


@contextlib.contextmanager
def proxy(ports: list[int], lines: str = "") -> Iterator[int]:
    """Run HAProxy in front of machines; yield its port.

    Args:
        ports: of the machines.
        lines: what takes the place of the lines that choose a machine; empty to keep them.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    machines = [Machine(f"m{number}", "127.0.0.1", one) for number, one in enumerate(ports, 1)]
    text = configuration(machines, Options(f"127.0.0.1:{port}", slots=SLOTS))
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "haproxy.cfg"
        file.write_text(_CHOICE.sub(lambda _: lines, text) if lines else text)
        process = subprocess.Popen([program, "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
        try:
            while not _listens(port):
                if process.poll() is not None:
                    raise SystemExit("HAProxy does not start; is it installed?")
                time.sleep(0.05)
            yield port
        finally:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def run(table: str, lines: str) -> Talks:
    """Hold all conversations once, and return them.

    Args:
        table: one of TABLES.
        lines: as in CHOICES.
    """
    machines = real() if table == "real" else simulated()
    with machines as ports, proxy(ports, lines) as port:
        talks = Talks(port, pause=PAUSE if table == "pauses" else 0.0)
        talks.run()
    return talks


def row(table: str, lines: str, repeat: int, alone: float) -> tuple[Any, ...]:
    """Measure one choice some times: the places on the ring differ, as the ports do.

    Args:
        table: one of TABLES.
        lines: as in CHOICES.
        repeat: how often.
        alone: tokens per second of a machine with its share of the conversations.

    Returns:
        The cells of COLUMNS after the first one.
    """
    # Simulated machines only wait, so their runs do not disturb each other.
    with ThreadPoolExecutor(1 if table == "real" else repeat) as pool:
        runs = list(pool.map(lambda _: run(table, lines), range(repeat)))
    hits, loads = [talks.hits for talks in runs], [talks.load for talks in runs]
    cells = ["/".join(map(str, runs[0].requests)), mean(hits), min(hits), mean(loads), max(loads)]
    if table != "simulated":
        return (*cells, None, None)
    rates = [talks.rate / (MACHINES * alone) for talks in runs]
    return (*cells, mean(rates), min(rates))


def one_machine() -> float:
    """Tokens per second of one simulated machine with its share of the conversations."""
    with simulated(1) as ports, proxy(ports) as port:
        talks = Talks(port, CONVERSATIONS // MACHINES)
        talks.run()
    return talks.rate


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", choices=TABLES)
    parser.add_argument("--choice", choices=CHOICES)
    parser.add_argument("--repeat", type=int, default=3, help="runs of each row")
    add_json_option(parser)
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    for table in TABLES:
        if options.table not in (None, table):
            continue
        alone = one_machine() if table == "simulated" else 0.0
        rows = [
            (name, *row(table, lines, options.repeat, alone))
            for name, lines in CHOICES.items()
            if options.choice in (None, name)
        ]
        print_table(table, COLUMNS, rows)
        results[table] = [dict(zip(COLUMNS, cells, strict=True)) for cells in rows]
    write_json(options.json, results)


if __name__ == "__main__":
    main()
