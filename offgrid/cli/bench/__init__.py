"""``offgrid bench``: the speed of a model on this machine."""

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
from offgrid.cli.help import Command
from offgrid.cli.models import find_model
from offgrid.cli.options import chosen_options, complete_model, fail, settings_from
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
_MOST = 256
_BUSY = 0.5
"""Load average of the last minute for each processor, above which a machine counts as busy."""
_ROW = "{:<14} {:>7} {:>7} {:>11} {:>9}"


def _numbers(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Return the numbers of an option such as ``1,4``; None if it was not given."""
    if value is None:
        return None
    try:
        numbers = tuple(int(word) for word in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not numbers with commas, such as 1,4") from None
    if not all(1 <= number <= _MOST for number in numbers):
        raise click.BadParameter(f"{value!r}: use numbers from 1 to {_MOST}")
    return numbers


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


@click.command(cls=Command, short_help="Measure how fast a model is on this machine.")
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--prompt",
    "-p",
    default=512,
    show_default=True,
    type=click.IntRange(1, 1 << 20),
    metavar="N",
    help="Tokens of the prompts that are prefilled.",
)
@click.option(
    "--generate",
    "-n",
    "tokens",
    default=128,
    show_default=True,
    type=click.IntRange(1, 1 << 20),
    metavar="N",
    help="Tokens of the answers.",
)
@click.option(
    "--streams",
    "-s",
    default="1,4",
    show_default=True,
    callback=_numbers,
    metavar="N,...",
    help="Requests at a time; each number is measured.",
)
@click.option(
    "--threads",
    "-t",
    default=None,
    callback=_numbers,
    metavar="N,...",
    help="Threads of llama.cpp; the model is loaded once for each number.  "
    "[default: physical cores; a server finds its number by measuring]",
)
@click.option(
    "--repeat",
    "-r",
    default=3,
    show_default=True,
    type=click.IntRange(1, 100),
    metavar="N",
    help="Times that each test is run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@chosen_options("models_dir", "gpu_layers")
def bench(
    model: str,
    prompt: int,
    tokens: int,
    streams: tuple[int, ...],
    threads: tuple[int, ...] | None,
    repeat: int,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure how fast MODEL prefills prompts and generates answers on this machine.

    MODEL is an id, its beginning, or the path of a GGUF file. The model runs in a worker, as it
    does in a server. Each speed is in tokens per second over all streams: the median of the
    repetitions, and half of their range. Stop other programs before.
    """
    settings = settings_from(flags)
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
        for count in threads or (processors.processors()[0],):
            most = max(prompt, tokens)
            with _loaded(entry, description, settings, count, max(streams), most) as client:
                _check_room(client, most)
                for result in _results(client, prompt, tokens, streams, repeat):
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


def _results(
    client: EngineClient, prompt: int, tokens: int, streams: tuple[int, ...], repeat: int
) -> Iterator[Result]:
    """Yield the results of all tests on a loaded model."""
    measure = Measure(client)
    tests: tuple[tuple[str, int, Callable[[int, int], float]], ...] = (
        ("prefill", prompt, measure.prefill), ("generate", tokens, measure.generate),
    )  # fmt: skip
    for name, size, run in tests:
        for count in streams:
            run(min(size, 16), count)  # The first run of a kind is slow.
            speeds = tuple(run(size, count) for _ in range(repeat))
            yield Result(name, size, count, client.load.threads, speeds)
