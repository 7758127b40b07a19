"""Measures requests made to keep the server busy: their cost, and how long others wait.

    python benchmarks/bodies.py            # the search for control texts, and parsing, in a process
    python benchmarks/bodies.py --server   # and many large bodies at once to a separate server

*Longest wait* is the longest time for which a thread that only ticks did not run: Python's
threads share one lock, and a call into C may hold it until it ends. Each figure is the best of
several rounds, because other load on the machine only makes it longer.

The results are checked: the search against the readable definition in ``tests/``, bodies against
the expected values or refusals.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
from report import add_json_option, print_table, write_json
from servers import OffGrid

from offgrid.api.fields.body import parse_object
from offgrid.engine.protocol.commands import Load
from offgrid.errors import InvalidParameter
from offgrid.sampling import TextSet
from offgrid.store.catalogue import STARTER_PATH

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))
from reference_scaffold import ReferenceScaffold

MARK = "\ufdd0"
CONTROL = ["<bos>", "</table>", "[multimodal]", *(f"<unused{n}>" for n in range(6400))]
TEXTS = {"<": "<", "<unused": "<unused", "words": "The quick brown fox. "}
SIZES = (1_000, 10_000, 100_000, 500_000, 2_000_000)
PATIENCE = 5.0
"""Seconds; a search that takes longer is not repeated with a longer text."""
TICK = 0.0005
ROUNDS = 6
ANSWERED = 60
"""Seconds after the last response before memory is measured."""


def timed(function: Callable[[], Any], rounds: int = ROUNDS) -> tuple[float, float, Any]:
    """Return seconds and the longest wait of another thread, the best of each, and the result."""
    best = wait = float("inf")
    for _ in range(rounds):
        gaps: list[float] = []
        done = threading.Event()
        ticker = threading.Thread(target=_tick, args=(gaps, done))
        ticker.start()
        time.sleep(20 * TICK)
        began = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - began)
        done.set()
        ticker.join()
        wait = min(wait, max(gaps) - TICK)
    return best, wait, result


def _tick(gaps: list[float], done: threading.Event) -> None:
    last = time.perf_counter()
    while not done.is_set():
        time.sleep(TICK)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now


# --- control texts --------------------------------------------------------------------------------


def search() -> list[list[Any]]:
    """Time the server's search against the regular expression that defines it."""
    texts = TextSet(CONTROL)
    reference = ReferenceScaffold(CONTROL)
    rows = []
    for name, piece in TEXTS.items():
        slow: float | None = 0.0
        for size in SIZES:
            text = piece * (size // len(piece))
            seconds, wait, found = timed(lambda text=text: texts.mark(text, MARK))
            if slow is not None and slow < PATIENCE / 5:
                slow, _, expected = timed(lambda text=text: reference.mark(text, MARK), rounds=1)
                if found != expected:
                    raise SystemExit(f"{name}: the search does not find what the definition does")
            else:
                slow = None
            faster = None if slow is None else slow / seconds
            before = None if slow is None else slow * 1e3
            rows.append([f"`{name}`", f"{size:,}", before, seconds * 1e3, wait * 1e3, faster])
    return rows


def building() -> list[list[Any]]:
    """Time the preparation that is done once for a model."""
    rows = []
    for name, control in (
        ("6,400 as Gemma has them", CONTROL),
        ("170,000 of 20 bytes", [f"<|control-{n:07d}|>" for n in range(170_000)]),
        ("16,000 of 256 bytes, almost alike", [f"{'a' * 249}{n:07d}" for n in range(16_000)]),
    ):
        seconds, wait, texts = timed(lambda control=control: TextSet(control), rounds=1)
        rows.append([name, seconds * 1e3, wait * 1e3, texts.memory / 2**20])
    return rows


# --- bodies ---------------------------------------------------------------------------------------


def _many(item: bytes, n: int) -> bytes:
    return b'{"a":[' + b",".join([item] * n) + b"]}"


def _numbered(template: bytes, n: int, before: bytes, after: bytes) -> bytes:
    return before + b",".join(template % i for i in range(n)) + after


BODIES: dict[str, tuple[bytes, str]] = {
    # Name -> the body, and the reason for its refusal.
    "2,700,000 empty lists": (_many(b"[]", 2_700_000), "lists and objects"),
    "4,000,000 token ids": (_many(b"1", 3_900_000), "values"),
    "90,000 messages": (_many(b'{"role":"user","content":"x"}', 90_000), "lists and objects"),
    "8 MB of digits": (b'{"a":' + b"1" * 8_000_000 + b"}", "more than 400 characters"),
    "100,000 levels": (b"[" * 100_000, "nested too deeply"),
    "2,048 inputs of 512 ids": (
        _many(b"[" + b",".join(b"%d" % (i * 60) for i in range(512)) + b"]", 2048), ""
    ),
    "1,059,000 ids": (_numbered(b"1%d", 1_059_000, b'{"a":[', b"]}"), ""),
    "37,000 messages": (_many(b'{"role":"user","content":"x"}', 37_000), ""),
    "99,000 different keys": (_numbered(b'"k%d":1', 99_000, b'{"a":{', b"}}"), ""),
    "a text of 8 MB": (b'{"a":"' + b"x" * 8_000_000 + b'"}', ""),
    "a text of 2,000,000 emoji": (b'{"a":"' + "\U0001f600".encode() * 2_000_000 + b'"}', ""),
    "a key twice, 1,059,000 ids": (
        _numbered(b"1%d", 1_059_000, b'{"a":1,"a":[', b"]}"), "comes twice"
    ),
}  # fmt: skip


def _parsed(raw: bytes) -> Any:
    try:
        return parse_object(raw)
    except InvalidParameter as ex:
        return ex.message


def parsing() -> list[list[Any]]:
    """Time the reading of each body."""
    rows = []
    for name, (raw, reason) in BODIES.items():
        seconds, wait, result = timed(lambda raw=raw: _parsed(raw))
        right = reason in result if reason else result == json.loads(raw)
        if not right:
            raise SystemExit(f"{name}: {str(result)[:200]}")
        del result
        verdict = f"refused: {reason}" if reason else "parsed"
        rows.append([name, len(raw) / 1e6, verdict, seconds * 1e3, wait * 1e3])
    return rows


# --- a server -------------------------------------------------------------------------------------


def serving(load: Load, program: str) -> list[list[Any]]:
    """Send many large bodies at once; watch the health page and the memory."""
    rows = []
    with OffGrid(load, program) as server:
        server.warm()
        _health(server.port)
        start = server.resident()["server"]
        for kind, field in (
            ("1,000,000 ids", b'"prompt":[' + b",".join(b"1%d" % i for i in range(10**6)) + b"]"),
            ("2,700,000 lists", b'"messages":[' + b",".join([b"[]"] * 2_700_000) + b"]"),
        ):
            path = "/v1/completions" if b"prompt" in field else "/v1/chat/completions"
            body = b'{"model":"' + server.model.encode() + b'",' + field + b"}"
            for n in (1, 4, 16):
                longest, peak = _attack(server, path, body, n)
                time.sleep(ANSWERED)
                after = server.resident()["server"]
                rows.append(
                    [kind, n, longest * 1e3, (peak - start) / 2**20, (after - start) / 2**20]
                )
    return rows


def _attack(server: OffGrid, path: str, body: bytes, n: int) -> tuple[float, int]:
    """Return the longest time that the health page took, and the most memory."""
    threads = [threading.Thread(target=_refused, args=(server.port, path, body)) for _ in range(n)]
    for thread in threads:
        thread.start()
    longest, peak = 0.0, 0
    while any(thread.is_alive() for thread in threads):
        longest = max(longest, _health(server.port))
        peak = max(peak, server.resident()["server"])
        time.sleep(0.005)
    return longest, peak


def _refused(port: int, path: str, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 400:
        print(f"{path}: {answer.status} {content[:200]!r}", file=sys.stderr)


def _health(port: int) -> float:
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"/health says {answer.status}")
    return time.perf_counter() - began


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", action="store_true", help="attack a server too (7 minutes)")
    parser.add_argument("--model", default="starter", help="a path, starter, or one of models.py")
    parser.add_argument("--program", default="", help="how to start it: python -m offgrid")
    add_json_option(parser)
    options = parser.parse_args()
    tables = {
        "A text is searched for 6,400 control texts": (
            ("text", "bytes", "expression ms", "ours ms", "longest wait ms", "x faster"), search()
        ),
        "Made once for a model": (
            ("control texts", "ms", "longest wait ms", "MiB"), building()
        ),
        "A body is read": (("body", "MB", "", "ms", "longest wait ms"), parsing()),
    }  # fmt: skip
    if options.server:
        path = STARTER_PATH if options.model == "starter" else models.resolve(options.model)
        load = Load(str(path), parallel=4, ctx_size=2048)
        columns = ("body", "at once", "/health ms", "peak MiB", f"MiB after {ANSWERED} s")
        tables["Large bodies to a server"] = (columns, serving(load, options.program))
    for title, (columns, rows) in tables.items():
        print_table(title, columns, rows)
    write_json(options.json, {title: rows for title, (_, rows) in tables.items()})


if __name__ == "__main__":
    main()
