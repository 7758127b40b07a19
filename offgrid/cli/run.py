"""``offgrid run``."""

from __future__ import annotations

from typing import Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import complete_model
from offgrid.cli.talk.options import sampling_options, source_options


@click.command(cls=Command)
@click.argument("model", required=False, default="", shell_complete=complete_model)
@click.argument("prompt", nargs=-1)
@click.option("--system", "-s", metavar="TEXT", help="The system message.")
@click.option("--image", "-i", "images", multiple=True, metavar="FILE",
              help="Send an image with the first message; repeatable.")  # fmt: skip
@click.option("--verbose", "-v", is_flag=True, help="Print tokens and speed after each answer.")
@sampling_options
@source_options
def run(
    model: str,
    prompt: tuple[str, ...],
    system: str | None,
    images: tuple[str, ...],
    verbose: bool,
    url: str | None,
    local: bool,
    **flags: Any,
) -> None:
    """Chat with a model in the terminal.

    MODEL is an id, its beginning, or the path of a GGUF file; without it, the default model
    answers. With a PROMPT, or a question on standard input, only the answer is printed. With both,
    the text of standard input comes first.

    A server that listens on the configured address is used if it has the model; otherwise the
    command loads the model itself, until it ends.

    The exit status is 0, 1 if there is no answer, 2 for wrong arguments or if there is no such
    model, and 130 after Ctrl-C.
    """
    if url is not None and local:
        raise click.UsageError("--url and --local exclude each other")
    from offgrid.cli.talk.session import Session, run_session

    run_session(Session(model, prompt, system or "", images, verbose, url, local), flags)
