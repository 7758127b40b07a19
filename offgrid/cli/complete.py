"""``offgrid complete``."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import Any

import click

from offgrid.api.completions.request import parse_completion
from offgrid.api.shapes import Json
from offgrid.cli.help import Command
from offgrid.cli.options import complete_model, fail
from offgrid.cli.talk.options import piped_text, request_fields, sampling_options, source_options
from offgrid.cli.talk.screen import Screen, Speed
from offgrid.cli.talk.source import Source, open_source, status_of
from offgrid.errors import InvalidParameter, OffgridError
from offgrid.inprocess.stream import TextCollector


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
    prompt = _text(text)
    fields = request_fields(flags)
    if echo:
        fields["echo"] = True
    try:
        request = parse_completion({**fields, "prompt": prompt})
        if max(request.n, request.candidates) > 1:
            raise InvalidParameter("n and best_of cannot be given here; run the command again", "n")
    except InvalidParameter as ex:
        fail(str(ex), 2)
    screen = Screen(verbose=verbose)
    try:
        source, found = open_source(model, flags, url=url, local=local, say=screen.hint)
        try:
            _answer(source, {**fields, "model": found, "prompt": prompt}, screen, as_json)
        finally:
            source.close()
    except OffgridError as ex:
        fail(str(ex), status_of(ex))
    except KeyboardInterrupt:
        sys.exit(130)


def _text(given: str | None) -> str:
    if given is not None:
        return given
    piped = sys.stdin.read() if sys.stdin is not None and sys.stdin.isatty() else piped_text()
    if piped is None:
        raise click.UsageError("there is no text: give TEXT, or send it to standard input")
    return piped.removesuffix("\n").removesuffix("\r")


def _answer(source: Source, body: Json, screen: Screen, as_json: bool) -> None:
    speed, collector = Speed(), TextCollector()
    chunks: Any = source.complete(body)
    try:
        with closing(chunks):
            for chunk in chunks:
                speed.heard()
                for event in collector.add(chunk):
                    if not as_json:
                        screen.text(event.text)
    finally:
        if not as_json and collector.text and not collector.text.endswith("\n"):
            screen.text("\n")
    whole = collector.body()
    if as_json:
        click.echo(json.dumps(whole, indent=2))
    screen.speed(speed, whole.get("usage") or {})
