"""The tests of ``offgrid bench``."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import click
import msgspec
import psutil

from offgrid.cli.bench.measure import Measure
from offgrid.cli.listing import find_model
from offgrid.cli.options import fail
from offgrid.cli.output import short_number
from offgrid.config import Settings
from offgrid.engine import processors
from offgrid.engine.client.budget import Budget, budget_limit
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.roster import candidate_of
from offgrid.errors import OffgridError
from offgrid.startup import prepare_process
from offgrid.store.description import Description
from offgrid.store.disk import mib
from offgrid.store.survey import ModelEntry
from offgrid.terminal import shown

_ROOM = 64
"""Tokens of a slot's context in addition to those that are measured."""
_BUSY = 0.5
"""Load average of the last minute for each processor, above which a machine counts as busy."""
_ROW = "{:<14} {:>7} {:>7} {:>11} {:>9}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: tokens of prompts and of answers, numbers of streams and of threads (None
    for the physical cores), repetitions."""

    prompt: int
    tokens: int
    streams: tuple[int, ...]
    threads: tuple[int, ...] | None
    repeat: int


@dataclass(frozen=True, slots=True)
class Result:
    """Speeds of one test in tokens per second over all streams, one for each repetition."""

    test: str
    tokens: int
    streams: int
    threads: int
    speeds: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the result for JSON; ``tokens_per_second`` is the median."""
        return {
            "test": self.test, "tokens": self.tokens, "streams": self.streams,
            "threads": self.threads, "tokens_per_second": statistics.median(self.speeds),
            "repetitions": list(self.speeds),
        }  # fmt: skip

    def row(self) -> str:
        """Return the result as a line: the median and half the range."""
        spread = (max(self.speeds) - min(self.speeds)) / 2
        speed = f"{statistics.median(self.speeds):,.1f}"
        name = f"{self.test} {self.tokens}"
        return _ROW.format(name, self.streams, self.threads, speed, f"± {spread:,.1f}")


def run_tests(model: str, settings: Settings, plan: Plan, *, as_json: bool) -> None:
    """Measure a model and print the results."""
    entry, description = find_model(model, settings)
    if not description.generates:
        reason = description.problem or "it does not generate text"
        fail(f"{entry.id} cannot be measured: {reason}", 1)
    prepare_process()
    _warn_if_busy()
    if not as_json:
        size = f"{short_number(description.parameters)} parameters, {mib(entry.size)}"
        click.echo(f"{shown(entry.id)} ({size}, {shown(description.quantization or '?')})\n")
        click.echo(_ROW.format("TEST", "STREAMS", "THREADS", "TOKENS/S", "").rstrip())
    results = []
    try:
        for count in plan.threads or (processors.cores().start,):
            most = max(plan.prompt, plan.tokens)
            with _loaded(entry, description, settings, count, max(plan.streams), most) as client:
                _check_room(client, most)
                for result in _results(client, plan):
                    results.append(result)
                    if not as_json:
                        click.echo(result.row())
    except OffgridError as ex:
        fail(f"{entry.id}: {ex}", 1)
    if as_json:
        found = {
            "model": entry.id, "size": entry.size, "parameters": description.parameters,
            "quantization": description.quantization,
            "results": [result.as_json() for result in results],
        }  # fmt: skip
        click.echo(json.dumps(found, indent=2))


def _warn_if_busy() -> None:
    """Say if other programs keep the processors busy: the speeds would be too low."""
    load, cores = psutil.getloadavg()[0], processors.processors()[1]
    if load > cores * _BUSY:
        message = f"other programs use this machine (load {load:.1f}, {cores} processors)"
        click.echo(f"offgrid: {message}; the speeds will be too low", err=True)


@contextmanager
def _loaded(
    entry: ModelEntry,
    description: Description,
    settings: Settings,
    threads: int,
    streams: int,
    tokens: int,
) -> Iterator[EngineClient]:
    """Load a model with as many slots as streams, if it fits into memory, and unload it.

    Raises:
        ModelLoadFailed: it does not fit, or cannot be loaded.
    """
    candidate = candidate_of(settings, entry, description)
    load = msgspec.structs.replace(
        candidate.load, threads=threads, parallel=streams, ctx_size=tokens + _ROOM
    )
    given = candidate.given | {"parallel", "ctx_size"}
    fit = Budget(budget_limit(settings)).place(
        replace(candidate, load=load, given=given), [], False
    )
    client = EngineClient(
        load if fit is None else fit.load,
        queue_size=0,
        load_timeout=settings.load_timeout,
        stall_timeout=settings.stall_timeout,
        name=entry.id,
    )
    client.start()
    try:
        client.wait_ready()
        yield client
    finally:
        client.close()


def _check_room(client: EngineClient, tokens: int) -> None:
    context = client.info.n_ctx
    if tokens + _ROOM > context:
        raise OffgridError(
            f"its context is {context:,} tokens, and {tokens:,} plus {_ROOM} are needed; lower "
            "--prompt or --generate"
        )


def _results(client: EngineClient, plan: Plan) -> Iterator[Result]:
    """Yield the results of all tests on a loaded model."""
    measure = Measure(client)
    tests: tuple[tuple[str, int, Callable[[int, int], float]], ...] = (
        ("prefill", plan.prompt, measure.prefill), ("generate", plan.tokens, measure.generate),
    )  # fmt: skip
    for name, size, run in tests:
        for count in plan.streams:
            run(min(size, 16), count)  # The first run of a kind is slow.
            speeds = tuple(run(size, count) for _ in range(plan.repeat))
            yield Result(name, size, count, client.load.threads, speeds)
