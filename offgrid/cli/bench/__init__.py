"""``offgrid bench``: the speed of a model on this machine."""

from __future__ import annotations

from typing import Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import chosen_options, complete_model, settings_from

_MOST = 256


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
    from offgrid.cli.bench.runs import Plan, run_tests

    run_tests(model, settings, Plan(prompt, tokens, streams, threads, repeat), as_json=as_json)
