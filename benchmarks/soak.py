"""Lets many clients use a server for minutes, and checks that it is as good as new afterwards.

    python benchmarks/soak.py                 # 1,000 clients, 64 at a time, 10 minutes
    python benchmarks/soak.py --quick         # does everything work?

Starts ``offgrid serve`` with the bundled starter model, 8 slots, and several API keys, one of which
has a limit on requests per minute. The clients run in a second process (``soak_clients.py``): they
stream, wait for whole answers, ask for several choices, store responses, send wrong requests, and a
third of them hangs up at random moments. A third process requests ``/health`` without pause.

These checks decide the exit status:

- Clients meet no error but 429 and 503 with Retry-After, and no stream without an end.
- 99 % of the requests of ``/health`` take less than 50 ms.
- At the end all slots are free, the server answers a chat, and it and its worker are the processes
  that they were.
- Memory is flat: the trend of the memory of both processes after the first fifth of the time,
  the median of the slopes between all pairs of samples (Theil and Sen), is below ``--growth`` MiB
  for the whole run (not judged by ``--quick``: contexts fill up at first).
- The server has as many threads and open files as before the clients came.
"""

from __future__ import annotations

import argparse
import dataclasses
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from report import add_json_option, percentile, print_table, write_json
from servers import OffGrid
from soak_clients import Plan

from offgrid.caller import SCOPES, Limits
from offgrid.engine.protocol.commands import Load
from offgrid.store.catalogue import STARTER_PATH
from offgrid.store.keys import Grant, KeyFile

MAX_HEALTH = 0.05
"""Seconds within which 99 % of the requests of ``/health`` must be answered."""
SAMPLE = 2.0
"""Seconds between two samples of memory."""
SETTLE = 60.0
"""Most seconds until the last requests have ended and their connections are closed."""
HERE = Path(__file__).parent


@dataclasses.dataclass
class Sizes:
    """The processes of a server at one moment."""

    at: float
    server: int
    worker: int
    threads: int
    files: int


class Watched:
    """The server that is watched, and its worker."""

    def __init__(self, server: OffGrid, key: str) -> None:
        self._server = server
        self._key = key
        self._process = psutil.Process(server.process.pid)
        self._worker = max(self._process.children(), key=lambda child: child.memory_info().rss)
        self.began = time.monotonic()

    def sizes(self) -> Sizes:
        """Measure both processes."""
        own = self._process
        with own.oneshot():
            return Sizes(
                time.monotonic() - self.began, own.memory_info().rss,
                self._worker.memory_info().rss, own.num_threads(), own.num_fds(),
            )  # fmt: skip

    def alive(self) -> bool:
        """Whether both are the processes that they were at the beginning."""
        return bool(self._process.is_running() and self._worker.is_running())

    def busy(self) -> int:
        """The number of sequences that run or wait."""
        loaded = self.get("/v1/loaded")
        return sum(model["sequences"] for model in loaded["data"])

    def get(self, path: str) -> Any:
        """Return the JSON of a GET request."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if response.status != 200:
            raise SystemExit(f"GET {path}: {response.status} {content.decode(errors='replace')}")
        return json.loads(content)

    def chats(self) -> bool:
        """Whether the server answers a chat."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status == 200 and bool(json.loads(content)["choices"])


def slope(samples: list[tuple[float, float]]) -> float:
    """Return the median of the slopes between all pairs of samples (Theil and Sen)."""
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(samples)
        for later in samples[number + 1 :]
        if later[0] > earlier[0]
    ]
    return statistics.median(slopes) if slopes else 0.0


def prober(port: int) -> None:
    """Request ``/health`` until standard input ends, then write the times as JSON."""
    import threading

    stop = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    times: list[float] = []
    failed = 0
    while not stop.is_set():
        began = time.perf_counter()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/health")
            good = json.loads(connection.getresponse().read()) == {"status": "healthy"}
            connection.close()
        except (OSError, ValueError, http.client.HTTPException):
            good = False
        failed += not good
        times.append(time.perf_counter() - began)
        stop.wait(0.05)
    json.dump({"times": times, "failed": failed}, sys.stdout)


def make_keys(path: Path, count: int) -> list[str]:
    """Create API keys in a new file; the last of them may send 120 requests a minute."""
    file = KeyFile(path)
    secrets = []
    for number in range(count):
        limits = Limits(requests_per_minute=120) if number == count - 1 else Limits()
        grant = Grant(scopes=SCOPES, limits=limits)
        secrets.append(file.create(f"soak-{number}", grant)[1])
    file.close()
    return secrets


def start_clients() -> subprocess.Popen[str]:
    """Start the process of the clients, which waits for its plan."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "soak_clients.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def watch(watched: Watched, clients: subprocess.Popen[str], plan: Plan) -> list[Sizes]:
    """Feed the clients their plan; sample the server's sizes until they have left."""
    assert clients.stdin is not None
    clients.stdin.write(json.dumps(dataclasses.asdict(plan)))
    clients.stdin.close()
    sizes = []
    while clients.poll() is None:
        sizes.append(watched.sizes())
        try:
            clients.wait(SAMPLE)
        except subprocess.TimeoutExpired:
            continue
    return sizes


def settle(watched: Watched, before: Sizes | None) -> tuple[int, Sizes]:
    """Wait until no sequence runs, and no more threads and files are open than before."""
    deadline = time.monotonic() + SETTLE
    while True:
        busy, after = watched.busy(), watched.sizes()
        calm = before is None or (after.threads <= before.threads and after.files <= before.files)
        if (busy == 0 and calm) or time.monotonic() > deadline:
            return busy, after
        time.sleep(0.5)


def _mib(size: float) -> float:
    return size / (1 << 20)


def soak(options: argparse.Namespace) -> int:
    """Run everything, print the tables; return the exit status."""
    clients_count, at_once = (12, 6) if options.quick else (options.clients, options.at_once)
    seconds = 10.0 if options.quick else 60.0 * options.minutes
    with tempfile.TemporaryDirectory(prefix="offgrid-soak-") as temporary:
        folder = Path(temporary)
        keys_file = folder / "keys.sqlite3"
        keys = make_keys(keys_file, options.keys) if options.keys else []
        flags = [
            "--responses-file", str(folder / "responses.sqlite3"), "--keys-file", str(keys_file),
            # Prefixes in memory would fill up during the whole run, as they should.
            "--cache-ram-mb", "16",
        ]  # fmt: skip
        load = Load(str(STARTER_PATH), parallel=8, ctx_size=0)
        with (
            (folder / "log").open("wb") as log,
            OffGrid(load, options.program, queue_size=64, flags=flags, stderr=log) as server,
        ):
            server.key = keys[0] if keys else ""
            server.warm()
            watched = Watched(server, server.key)
            # Files and threads that open with the first requests of each kind are no leak.
            few = Plan(server.port, server.model, keys, 8, 8, 5.0, options.seed + 1)
            watch(watched, start_clients(), few)
            _, before = settle(watched, None)
            probe = subprocess.Popen(
                [sys.executable, str(HERE / "soak.py"), "--prober", str(server.port)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            clients = start_clients()
            plan = Plan(
                server.port, server.model, keys, clients_count, at_once, seconds, options.seed
            )
            sizes = watch(watched, clients, plan)
            assert clients.stdout is not None
            seen = json.loads(clients.stdout.read())
            health = json.loads(probe.communicate()[0])
            busy, after = settle(watched, before)
            alive, answers = watched.alive(), watched.chats()
        log_size = (folder / "log").stat().st_size
    return report(options, seen, health, before, sizes, after, busy, alive and answers, log_size)


def report(
    options: argparse.Namespace,
    seen: dict[str, Any],
    health: dict[str, Any],
    before: Sizes,
    sizes: list[Sizes],
    after: Sizes,
    busy: int,
    works: bool,
    log_size: int,
) -> int:
    """Print the tables, write the JSON; return the exit status."""
    statuses: dict[str, int] = seen["statuses"]
    print_table(
        f"{seen['served']:,} clients; {sum(statuses.values()):,} answers, "
        f"{seen['left']:,} requests whose client left",
        ["request and status", "answers"],
        sorted(statuses.items()),
    )
    steady = sizes[len(sizes) // 5 :]
    duration = sizes[-1].at if sizes else 0.0
    growth = {
        name: _mib(slope([(each.at, float(getattr(each, name))) for each in steady]) * duration)
        for name in ("server", "worker")
    }
    p99 = percentile(health["times"], 0.99)
    limit = options.growth
    rows: list[tuple[str, Any, Any, bool]] = [
        ("errors other than 429 and 503 with Retry-After", sum(seen["faults"].values()), 0,
         not seen["faults"]),
        ("/health, 99 % below, ms", 1e3 * p99, 1e3 * MAX_HEALTH, p99 < MAX_HEALTH),
        ("/health, slowest, ms", 1e3 * max(health["times"]), "", True),
        ("/health, requests failed", health["failed"], 0, not health["failed"]),
        ("sequences at the end", busy, 0, busy == 0),
        ("same processes, and a chat is answered", "yes" if works else "no", "yes", works),
        ("server: trend of memory, MiB in all", growth["server"], limit,
         options.quick or growth["server"] < limit),
        ("worker: trend of memory, MiB in all", growth["worker"], limit,
         options.quick or growth["worker"] < limit),
        ("server: MiB before, most, after",
         " / ".join(f"{_mib(size):.0f}" for size in
                    (before.server, max(each.server for each in sizes), after.server)), "", True),
        ("worker: MiB before, most, after",
         " / ".join(f"{_mib(size):.0f}" for size in
                    (before.worker, max(each.worker for each in sizes), after.worker)), "", True),
        ("threads before, after", f"{before.threads} / {after.threads}", "",
         after.threads <= before.threads),
        ("open files before, after", f"{before.files} / {after.files}", "",
         after.files <= before.files),
        ("log, kB", log_size / 1e3, "", True),
    ]  # fmt: skip
    print_table(
        f"The server during and after {duration / 60:.1f} minutes",
        ["", "measured", "at most", "good"],
        [[name, value, target, "yes" if good else "NO"] for name, value, target, good in rows],
    )
    for what, times in sorted(seen["faults"].items()):
        print(f"{times} times: {what}")
    write_json(options.json, {
        "clients": seen, "health_p99": p99, "growth_mib": growth,
        "sizes": [dataclasses.asdict(each) for each in sizes],
    })  # fmt: skip
    return 0 if all(good for _, _, _, good in rows) else 1


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=1000, help="clients that come in all")
    parser.add_argument("--at-once", type=int, default=64, help="clients at a time")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long they come and go")
    parser.add_argument("--keys", type=int, default=4, help="API keys; 0: a server without keys")
    parser.add_argument("--growth", type=float, default=10.0, help="largest trend of memory in MiB")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--program", default="", help="command instead of the installed offgrid")
    parser.add_argument("--quick", action="store_true", help="few clients for a few seconds")
    parser.add_argument("--prober", type=int, help=argparse.SUPPRESS)
    add_json_option(parser)
    options = parser.parse_args()
    if options.prober is not None:
        prober(options.prober)
        return
    raise SystemExit(soak(options))


if __name__ == "__main__":
    main()
