"""``offgrid complete``."""

from __future__ import annotations

from typing import Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import complete_model
from offgrid.cli.talk.options import sampling_options, source_options


@click.command(cls=Command, short_help="Continue a text without the chat template.")
@click.argument("model", required=False, default="", shell_complete=complete_model)
@click.argument("text", required=False)
@click.option("--echo", is_flag=True, help="Print the text before its continuation.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer of the API as JSON.")
@click.option("--verbose", "-v", is_flag=True, help="Print tokens and speed after the answer.")
@sampling_options
@source_options
def complete(
    model: str,
    text: str | None,
    echo: bool,
    as_json: bool,
    verbose: bool,
    url: str | None,
    local: bool,
    **flags: Any,
) -> None:
    """Continue a text, without the chat template of the model.

    MODEL is an id, its beginning, or the path of a GGUF file; "" is the default model. TEXT is read
    from standard input if it is absent; one line end at its end is removed. Standard output gets
    the continuation and a line end.

    A server that listens on the configured address is used if it has the model; otherwise the
    command loads the model itself.

    The exit status is 0, 1 if there is no answer, 2 for wrong arguments or if there is no such
    model, and 130 after Ctrl-C.
    """
    if url is not None and local:
        raise click.UsageError("--url and --local exclude each other")
    from offgrid.cli.talk.continuation import Continuation, run_continuation

    run_continuation(Continuation(model, text, echo, as_json, verbose, url, local), flags)
