"""The cases of ``server.py``: requirements of a server besides average speed.

Each case starts a separate server, checks its answers and returns a table. Prompts are new in every
round unless the case measures repetition, so that nothing comes from a cache by accident.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clients import Clients, Prompts, Reading, read_all
from report import percentile
from servers import OffGrid

from offgrid.engine.protocol.commands import Load
from offgrid.store.catalogue import STARTER_PATH

CHAT = "/v1/chat/completions"
USAGE = {"stream_options": {"include_usage": True}}
EXACT = OffGrid.exact


@dataclass
class Result:
    """A case's table, and the figures for the JSON file."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass
class Setup:
    """The arguments of all cases.

    Attributes:
        model: the file to serve.
        options: the command line.
    """

    model: Path
    options: argparse.Namespace

    @property
    def quick(self) -> bool:
        """Whether to end within seconds; the figures are then meaningless."""
        return bool(self.options.quick)

    @property
    def rounds(self) -> int:
        """How often each figure is measured; the best one counts."""
        return int(self.options.repeat)

    def size(self, usual: int, quick: int) -> int:
        """A number of tokens or requests."""
        return quick if self.quick else usual

    @contextmanager
    def serve(
        self, parallel: int, ctx_size: int, queue_size: int = 16
    ) -> Iterator[tuple[OffGrid, Prompts]]:
        """A server that has answered once, and new prompts for it."""
        load = Load(
            str(self.model), parallel=parallel, ctx_size=ctx_size, threads=self.options.threads
        )
        with OffGrid(load, self.options.program, queue_size) as server:
            server.warm()
            yield server, Prompts(server, seed=self.options.seed)


def completed(readings: list[Reading], tokens: int, choices: int = 1) -> None:
    """End with an error unless every stream delivered exactly the requested number of tokens."""
    for reading in readings:
        if reading.status != 200:
            raise SystemExit(f"status {reading.status}: {reading.chunks[-1:]}")
        got = reading.usage()["completion_tokens"]
        if got != tokens * choices:
            raise SystemExit(f"{got} tokens came, {tokens * choices} were asked for")


# --- prefixes -----------------------------------------------------------------------------------


def prefix(setup: Setup) -> Result:
    """8 clients arrive at once with the same new prefix and different endings."""
    clients, length = 8, setup.size(1500, 300)
    alone, together, cached = [], [], []
    tokens = 8
    with setup.serve(clients, length + 256) as (server, prompts):
        for _ in range(setup.rounds):
            body = {**EXACT, **USAGE, "max_tokens": tokens}
            one = read_all(server, [{**body, "prompt": prompts.text(length) + " The end."}])
            shared = prompts.text(length)
            endings = [f" And then, said otter {number}," for number in range(clients)]
            many = read_all(server, [{**body, "prompt": shared + ending} for ending in endings])
            completed(one + many, tokens)
            alone.append(one[0].first())
            together.append(percentile([reading.first() for reading in many], 0.5))
            cached.append(sum(cached_tokens(reading) for reading in many))
            prompt_tokens = one[0].usage()["prompt_tokens"]
    ratio = min(together) / min(alone)
    return Result(
        f"{clients} clients with the same new prefix of {prompt_tokens} tokens",
        ["", "alone ms", f"{clients} at once, median ms", "ratio", "target", "cached tokens"],
        [["first token", 1e3 * min(alone), 1e3 * min(together), ratio, "1.3", max(cached)]],
        {"alone": alone, "together": together, "ratio": ratio, "cached": cached},
    )


def cached_tokens(reading: Reading) -> int:
    """The number of cached tokens that the server reports."""
    return int((reading.usage().get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def conversation(setup: Setup) -> Result:
    """The second question of a long conversation."""
    length = setup.size(2000, 300)
    rows, figures = [], []
    with setup.serve(4, length + 512) as (server, prompts):
        for number in range(setup.rounds):
            body = {**EXACT, **USAGE, "max_tokens": 24}
            messages = [{"role": "user", "content": prompts.text(length)}]
            first = read_all(server, [{**body, "messages": messages}], CHAT)[0]
            messages += [
                {"role": "assistant", "content": first.text()},
                {"role": "user", "content": "And what did the otter do after that?"},
            ]
            second = read_all(server, [{**body, "messages": messages}], CHAT)[0]
            completed([first, second], 24)
            before, after = (r.usage()["prompt_tokens"] for r in (first, second))
            computed = after - cached_tokens(second)
            # Text of random tokens is not always tokenised to the same tokens: everything after the
            # first prompt, including the answer, may have to be computed.
            fine = computed <= after - before
            rows.append([
                number + 1, before, after, cached_tokens(second), computed, after - before,
                1e3 * first.first(), 1e3 * second.first(), "yes" if fine else "no",
            ])  # fmt: skip
            figures.append(
                {"prompt": before, "second_prompt": after, "computed": computed,
                 "ttft": first.first(), "second_ttft": second.first()}
            )  # fmt: skip
    return Result(
        "Second request of a conversation",
        ["round", "first prompt", "second prompt", "cached", "computed", "of these new at most",
         "first token ms", "second request ms", "only new ones"],
        rows,
        {"rounds": figures},
    )  # fmt: skip


def choices(setup: Setup) -> Result:
    """n = 8: the prompt is computed once for all choices."""
    n, length, tokens = 8, setup.size(1000, 200), 16
    alone, first, last = [], [], []
    with setup.serve(n, length + 256) as (server, prompts):
        for _ in range(setup.rounds):
            body = {**EXACT, **USAGE, "max_tokens": tokens}
            one = read_all(server, [{**body, "prompt": prompts.text(length)}])
            many = read_all(server, [{**body, "prompt": prompts.text(length), "n": n}])
            completed(one, tokens)
            completed(many, tokens, n)
            begins = [times[0] - many[0].sent for times in many[0].tokens().values()]
            if len(begins) != n:
                raise SystemExit(f"{len(begins)} of {n} choices came")
            alone.append(one[0].first())
            first.append(min(begins))
            last.append(max(begins))
            prompt_tokens = many[0].usage()["prompt_tokens"]
    return Result(
        f"n = {n} of a prompt of {prompt_tokens} tokens, milliseconds to the first token",
        ["", "n = 1", "first choice", "last choice", "last / n = 1"],
        [["", 1e3 * min(alone), 1e3 * min(first), 1e3 * min(last), min(last) / min(alone)]],
        {"alone": alone, "first": first, "last": last},
    )


# --- pace ---------------------------------------------------------------------------------------


def pace(setup: Setup) -> Result:
    """4 streams continue while a long prompt is prefilled."""
    streams, length, lead = 4, setup.size(8000, 1000), setup.size(200, 50)
    rounds = []
    with setup.serve(streams + 1, length + 1024) as (server, prompts):
        for _ in range(setup.rounds):
            body = {**EXACT, **USAGE, "max_tokens": 8}
            alone = read_all(server, [{**body, "prompt": prompts.text(length)}])
            completed(alone, 8)
            clients = Clients(server)
            # Longer than any prefill can take; the clients leave the streams when it is done.
            endless = {**EXACT, "max_tokens": length + 256}
            running = clients.send_all(
                [{**endless, "prompt": prompts.text(48)} for _ in range(streams)]
            )
            clients.run(until=lambda: all(len(r.chunks) > lead for r in running))  # noqa: B023
            long = clients.send({**body, "prompt": prompts.text(length)})
            clients.run(until=lambda: long.started)  # noqa: B023
            clients.leave()
            read = long.sent + long.first()
            quiet, busy = [], []
            for reading in running:
                times = [when for tokens in reading.tokens().values() for when in tokens]
                if times[-1] < read - 1.0:
                    raise SystemExit("a stream ended before the long prompt was read")
                for earlier, later in itertools.pairwise(times):
                    if later <= long.sent:
                        quiet.append(later - earlier)
                    elif earlier <= read:
                        busy.append(later - earlier)
            p50, p99 = percentile(quiet, 0.5), percentile(busy, 0.99)
            rounds.append({
                "ratio": p99 / p50, "quiet_p50": p50, "quiet_p99": percentile(quiet, 0.99),
                "busy_p50": percentile(busy, 0.5), "busy_p99": p99, "busy_max": max(busy),
                "alone": alone[0].first(), "beside": long.first(),
                "prompt": alone[0].usage()["prompt_tokens"],
            })  # fmt: skip
    best = min(rounds, key=lambda figures: figures["ratio"])
    return Result(
        f"{streams} streams while a prompt of {best['prompt']} tokens is read, milliseconds "
        "between two tokens",
        ["", "p50 without", "p99 without", "p50", "p99", "max", "p99 / p50 without", "target",
         "prompt alone", "prompt beside them"],
        [["", *(1e3 * best[k] for k in ("quiet_p50", "quiet_p99", "busy_p50", "busy_p99",
                                        "busy_max")),
          best["ratio"], "2.5", 1e3 * best["alone"], 1e3 * best["beside"]]],
        {"rounds": rounds},
    )  # fmt: skip


def logprobs(setup: Setup) -> Result:
    """Streams with logprobs and 10 alternatives against streams without."""
    streams, tokens = 4, setup.size(256, 32)
    plain: list[float] = []
    with_logprobs: list[float] = []
    with setup.serve(streams, tokens + 256) as (server, prompts):
        for _ in range(setup.rounds):
            for times, more in (
                (plain, {}), (with_logprobs, {"logprobs": True, "top_logprobs": 10}),
            ):  # fmt: skip
                bodies = [
                    {**EXACT, **USAGE, **more, "max_tokens": tokens,
                     "messages": [{"role": "user", "content": prompts.text(32)}]}
                    for _ in range(streams)
                ]  # fmt: skip
                readings = read_all(server, bodies, CHAT)
                completed(readings, tokens)
                times.append(max(r.ended for r in readings) - readings[0].sent)
                if more:
                    _check_logprobs(readings, tokens)
    total = streams * tokens
    share = min(plain) / min(with_logprobs)
    return Result(
        f"Logprobs with 10 alternatives, {streams} streams of {tokens} tokens, tokens/s",
        ["", "plain", "with logprobs", "share", "target"],
        [["", total / min(plain), total / min(with_logprobs), share, "0.95"]],
        {"plain": plain, "logprobs": with_logprobs, "share": share},
    )


def _check_logprobs(readings: list[Reading], tokens: int) -> None:
    for reading in readings:
        found = [
            token
            for event in reading.parse()[1]
            for choice in event["choices"]
            for token in (choice["logprobs"] or {}).get("content") or ()
        ]
        if len(found) != tokens or any(len(token["top_logprobs"]) != 10 for token in found):
            raise SystemExit(f"{len(found)} of {tokens} tokens have logprobs, or some not 10")


RECORDS = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "colour": {"enum": ["red", "green", "blue"]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
        },
        "required": ["name", "age", "colour", "tags"],
        "additionalProperties": False,
    },
}
"""No answer ends early, and each passes easy and hard places again and again."""


def structured(setup: Setup) -> Result:
    """Answers that follow a JSON schema against free ones."""
    tokens = setup.size(256, 32)
    rows, figures = [], {}
    with setup.serve(4, tokens + 256) as (server, prompts):
        for streams in (1, 4):
            plain: list[float] = []
            with_schema: list[float] = []
            for _ in range(setup.rounds):
                for times, more in ((plain, {}), (with_schema, {"json_schema": RECORDS})):
                    bodies = [
                        {**EXACT, **USAGE, **more, "max_tokens": tokens,
                         "messages": [{"role": "user", "content": prompts.text(32)}]}
                        for _ in range(streams)
                    ]  # fmt: skip
                    if more and not times:  # the first one compiles the schema
                        read_all(server, bodies, CHAT)
                    readings = read_all(server, bodies, CHAT)
                    completed(readings, tokens)
                    times.append(max(r.ended for r in readings) - readings[0].sent)
                    if more and not all(_RECORD.match(r.text()) for r in readings):
                        raise SystemExit(f"not as the schema says: {readings[0].text()[:200]!r}")
            total = streams * tokens
            share = min(plain) / min(with_schema)
            rows.append([streams, total / min(plain), total / min(with_schema), share, "0.95"])
            figures[str(streams)] = {"plain": plain, "structured": with_schema, "share": share}
    return Result(
        f"Answers of {tokens} tokens with a JSON schema, tokens/s",
        ["streams", "plain", "with schema", "share", "target"],
        rows,
        figures,
    )


_RECORD = re.compile(r"\[\s*(\{|$)")


# --- under pressure -----------------------------------------------------------------------------


def queue(setup: Setup) -> Result:
    """Far more clients than slots: all are answered, in order of arrival."""
    slots, count, tokens = 8, setup.size(200, 40), 16
    gap = 0.005
    with setup.serve(slots, 256, queue_size=count) as (server, prompts):
        clients = Clients(server)
        readings = []
        began = time.perf_counter()
        for number in range(count):
            # One after the other, so that there is an order of arrival.
            while (wait := began + number * gap - time.perf_counter()) > 0:
                if clients.open:
                    clients.poll(wait)
                else:
                    time.sleep(wait)
            body = {**EXACT, **USAGE, "prompt": prompts.text(32), "max_tokens": tokens}
            readings.append(clients.send(body))
        clients.run()
        completed(readings, tokens)
        firsts = [reading.sent + reading.first() for reading in readings]
        order = sorted(range(count), key=firsts.__getitem__)
        overtaken = max(abs(place - number) for place, number in enumerate(order))
        seconds = max(r.ended for r in readings) - began
    waits = [reading.first() for reading in readings]
    # Clients that get their slots together may receive their first token in any order.
    fine = overtaken < slots
    return Result(
        f"{count} clients on {slots} slots",
        ["", "answered", "in order", "furthest from its place", "longest wait s", "requests/s"],
        [["", f"{len(readings)} of {count}", "yes" if fine else "no", overtaken, max(waits),
          count / seconds]],
        {"overtaken": overtaken, "waits": waits, "seconds": seconds},
    )  # fmt: skip


def cancel(setup: Setup) -> Result:
    """Very many short requests; a third of the clients leave at a random moment."""
    slots, waiting, count = 8, 64, setup.size(10_000, 600)
    early = min(500, count // 2)
    at_once = 24
    random_ = random.Random(setup.options.seed)
    resident: dict[int, dict[str, int]] = {}
    left = 0
    with setup.serve(slots, 256, queue_size=waiting) as (server, prompts):
        clients = Clients(server)
        usual = 0.05
        open_: list[Reading] = []
        sent = 0
        began = time.perf_counter()
        while sent < count or open_:
            while sent < count and len(open_) < at_once:
                tokens = random_.randint(1, 16)
                leaves = random_.uniform(0, 1.5 * usual) if random_.random() < 1 / 3 else None
                body = {**EXACT, **USAGE, "prompt": prompts.text(24), "max_tokens": tokens}
                open_.append(clients.send(body, leave_after=leaves, label=tokens))
                sent += 1
                if sent % early == 0:
                    resident[sent] = server.resident()
            clients.poll()
            for reading in [reading for reading in open_ if reading.ended]:
                open_.remove(reading)
                left += reading.left
                if not reading.left:
                    completed([reading], reading.label)
                    # Moments are spread over the duration of a request here.
                    usual += 0.05 * (reading.ended - reading.sent - usual)
        seconds = time.perf_counter() - began
        time.sleep(0.5)
        resident[count] = server.resident()
        free = _all_free(server, prompts, slots, waiting)
    rows = []
    for kind in ("server", "workers"):
        start, end = resident[early][kind], resident[count][kind]
        most = max(moment[kind] for moment in resident.values())
        rows.append([kind, start / 2**20, most / 2**20, end / 2**20, end / start])
    return Result(
        f"{count} requests in {seconds:.0f} s, {left} of them left by their clients; slots at the "
        f"end: {free}",
        ["MiB in memory", f"after {early}", "most", "at the end", "end / start"],
        rows,
        {"resident": resident, "left": left, "seconds": seconds, "free": free},
    )


def _all_free(server: OffGrid, prompts: Prompts, slots: int, waiting: int) -> str:
    """Whether as many requests can run, and as many can wait, as at the start."""
    body = {**EXACT, **USAGE, "max_tokens": 100}
    many = read_all(server, [{**body, "prompt": prompts.text(24)} for _ in range(slots)])
    completed(many, 100)
    begins = [reading.sent + reading.first() for reading in many]
    if max(begins) >= min(reading.ended for reading in many):
        return "some are lost"
    body["max_tokens"] = 4
    every = read_all(server, [{**body, "prompt": prompts.text(8)} for _ in range(slots + waiting)])
    refused = sum(reading.status != 200 for reading in every)
    return f"{refused} places in the queue are lost" if refused else "all free"


# --- start --------------------------------------------------------------------------------------


def start(setup: Setup) -> Result:
    """From the start of the process to the first streamed token, by phases."""
    rounds = []
    for _ in range(setup.rounds):
        load = Load(str(setup.model), threads=setup.options.threads)
        with OffGrid(load, setup.options.program) as server:
            # Sent at once; it waits in the server until the model is loaded.
            reading = Clients(server)
            stream = reading.send({"prompt": "Once upon a time", "max_tokens": 4})
            reading.run(until=lambda: stream.started)  # noqa: B023
            reading.leave()
            first = stream.sent + stream.first()
            ready, _ = server.wait_line(r"^ *ready ")
            moments = {"listening": server.listening, "ready": ready, "first token": first}
            rounds.append({name: when - server.began for name, when in moments.items()})
    best = min(rounds, key=lambda moments: moments["first token"])
    rows = [[f"start to {name}", 1e3 * when] for name, when in best.items()]
    imports = {
        "python itself": "pass",
        "imports of the server": "import offgrid.cli",
        "imports of the worker": "import offgrid.engine.worker.main",
        "of these NumPy": "import numpy",
        "of these llama_cpp": "import llama_cpp.llama_cpp",
    }
    parts = {name: _seconds_of(code, setup.rounds) for name, code in imports.items()}
    plain = parts["python itself"]
    rows += [
        [name, 1e3 * (seconds if name == "python itself" else seconds - plain)]
        for name, seconds in parts.items()
    ]
    return Result(
        f"Process start to first streamed token, {setup.model.stem} (target: under 1,500 ms)",
        ["", "ms"],
        rows,
        {"rounds": rounds, "parts": parts},
    )


def _seconds_of(code: str, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(time.perf_counter() - began)
    return min(times)


CASES: dict[str, Callable[[Setup], Result]] = {
    "prefix": prefix,
    "conversation": conversation,
    "pace": pace,
    "logprobs": logprobs,
    "structured": structured,
    "choices": choices,
    "queue": queue,
    "cancel": cancel,
    "start": start,
}
"""Cases by their names for ``--case``."""
ON_STARTER = {"start": STARTER_PATH}
"""Cases that use a fixed model, whatever ``--models`` says."""
