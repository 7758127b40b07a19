"""Measures the effect of attacks on a server: on its other clients, and on its memory.

    python benchmarks/attacks.py              # takes some minutes
    python benchmarks/attacks.py --quick      # does everything work?
    python benchmarks/attacks.py --only bodies,killed
    python benchmarks/attacks.py --keys       # clients have keys, and limits are in force

Starts ``offgrid serve`` on a free port of this machine and attacks it, one attack after the other.
During each attack another client runs in a separate process. It reads one stream after another of a
model that is not attacked, and requests ``/health`` without pause over a separate connection. A row
shows how much longer the longest pause of its streams was than its usual step, how long the slowest
``/health`` took, the responses to the attack, and whether the server and the worker of the stream
are still the same processes. At the end the server is left idle, and its memory is compared with
that before the first attack.

A server that an attack brings down is restarted for the next one, so the rows are independent.
Everything is bounded: connections, bytes, and the duration of an attack. Nothing leaves this
machine. The exit status is 1 if a check fails.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from attack_cases import ATTACKS, Attack
from attack_stage import Stage
from attack_wire import Outcome
from report import add_json_option, print_table, write_json

MAX_PAUSE = 0.5
"""Seconds that a stream may pause beyond its usual step."""
MAX_HEALTH = 0.2
"""Seconds that ``/health`` may take."""
MAX_GROWTH = 100
"""MiB by which the server's process may exceed its size before the first attack, after ``REST``."""
REST = 60.0
AFTERWARDS = 0.5
"""Seconds after an attack that still count as part of it, for its after-effects."""


@dataclass
class Row:
    """The result of an attack."""

    name: str
    meaning: str
    got: Outcome
    pause: float | None = None
    health: float | None = None
    broken: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def measure(stage: Stage, entry: Attack) -> Row:
    """Run one attack; return its row, whatever it does to the server."""
    if entry.alone:
        stage.stop()
        return _judged(Row(entry.name, entry.meaning, entry.run(stage)), entry)
    stage.start()
    usual = _calm(stage)
    worker = stage.worker("watched")
    began = time.perf_counter()
    try:
        got = entry.run(stage)
    except Exception as ex:
        got = Counter([f"{type(ex).__name__}"])
    seconds = time.perf_counter() - began
    time.sleep(AFTERWARDS)
    seen = stage.look()
    row = Row(entry.name, entry.meaning, got, max(0.0, seen["pause"] - usual), seen["health"],
              seen["broken"], seconds)  # fmt: skip
    status = stage.server.process.poll()
    if status is not None:
        row.faults.append(f"the server ended with status {status}")
    elif stage.worker("watched") != worker:
        row.faults.append("the watched worker is another one")
    return _judged(row, entry)


def _calm(stage: Stage) -> float:
    """Wait until the last attack is over; return the stream's usual step in seconds."""
    for _ in range(20):
        stage.look()
        time.sleep(0.5)
        seen = stage.look()
        if seen["pause"] < MAX_PAUSE / 2 and seen["tokens"] > 20:
            break
    return float(seen["step"])


def _judged(row: Row, entry: Attack) -> Row:
    others = [status for status in row.got if status not in entry.wanted]
    if others:
        row.faults.append(f"got {', '.join(sorted(others))}")
    if row.pause is not None and row.pause > MAX_PAUSE:
        row.faults.append(f"pause over {MAX_PAUSE:g} s")
    if row.health is not None and row.health > MAX_HEALTH:
        row.faults.append(f"/health over {MAX_HEALTH:g} s")
    if row.broken:
        row.faults.append(f"{row.broken} streams cut")
    return row


def nothing(stage: Stage) -> Outcome:
    """Wait, to get the figures without an attack."""
    time.sleep(2.0 if stage.quick else 10.0)
    return Counter()


def _rows(stage: Stage, options: argparse.Namespace) -> Iterator[Row]:
    chosen = options.only.split(",") if options.only else [entry.name for entry in ATTACKS]
    unknown = set(chosen) - {entry.name for entry in ATTACKS}
    if unknown:
        names = ", ".join(entry.name for entry in ATTACKS)
        raise SystemExit(f"no attack {', '.join(sorted(unknown))}; there are {names}")
    for entry in ATTACKS:
        if entry.name in chosen and entry.alone:
            yield measure(stage, entry)
    yield measure(stage, Attack("nothing", "nothing", nothing, frozenset()))
    for entry in ATTACKS:
        if entry.name in chosen and not entry.alone:
            row = measure(stage, entry)
            print(f"{entry.name}: {row.seconds:.1f} s", file=sys.stderr)
            yield row


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


def attack_all(options: argparse.Namespace) -> int:
    """Run all attacks, print and write the results; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), options)
        try:
            rows = list(_rows(stage, options))
            stage.start()
            peak = stage.look()["peak"]
            rest = 2.0 if options.quick else REST
            time.sleep(rest)
            after = stage.look()["resident"]
            memory = {"start": _mib(stage.base), "peak": _mib(peak), "after": _mib(after)}
        finally:
            stage.close()
            log = Path(folder, "log").read_text(encoding="utf-8", errors="replace")
            if options.log is not None:
                options.log.write_text(log, encoding="utf-8")
    growth = memory["after"] - memory["start"]
    print_table(
        f"Goals: pause at most {MAX_PAUSE:g} s, /health at most {MAX_HEALTH:g} s, "
        f"at most {MAX_GROWTH} MiB more {REST:g} s after the last attack",
        ["attack", "s", "longest pause ms", "slowest /health ms", "it got", "verdict"],
        [[row.meaning, row.seconds or None, _ms(row.pause), _ms(row.health),
          ", ".join(f"{n} x {status}" for status, n in sorted(row.got.items())) or "-",
          "; ".join(row.faults) or "good"] for row in rows],
    )  # fmt: skip
    good = growth <= MAX_GROWTH
    print(
        f"\nThe server's process: {memory['start']} MiB before, {memory['peak']} at its peak, "
        f"{memory['after']} after {rest:g} s of rest: {'good' if good else 'too much'}."
    )
    faulty = [row.name for row in rows if row.faults]
    print(f"{len(rows) - len(faulty)} of {len(rows)} rows are as they should be.")
    write_json(options.json, {
        "quick": options.quick, "keys": options.keys, "memory_mib": memory,
        "attacks": [{**vars(row), "got": dict(row.got)} for row in rows],
    })  # fmt: skip
    return 1 if faulty or not good else 0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def main() -> None:
    """Run the attacks."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="attacks: " + "; ".join(f"{entry.name} ({entry.meaning})" for entry in ATTACKS),
    )
    parser.add_argument("--quick", action="store_true", help="small attacks, in a minute")
    parser.add_argument("--keys", action="store_true", help="all clients have API keys")
    parser.add_argument("--only", help="names of attacks, with commas between them")
    parser.add_argument("--program", default="", help="how to start offgrid (installed program)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="where the server's log goes")
    add_json_option(parser)
    if not hasattr(os, "fork") or not Path("/proc").is_dir():
        raise SystemExit("attacks.py needs Linux: it finds workers in /proc and stops them.")
    # Ended by an outer time limit, it still ends its server and removes its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(attack_all(parser.parse_args()))


if __name__ == "__main__":
    main()
