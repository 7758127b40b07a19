"""What ``offgrid complete`` does."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import click

from offgrid.api.completions.request import parse_completion
from offgrid.api.shapes import Json
from offgrid.cli.options import fail
from offgrid.cli.talk.echo import no_echo
from offgrid.cli.talk.options import piped_text, request_fields, status_of
from offgrid.cli.talk.screen import Screen, Speed
from offgrid.cli.talk.source import Source, open_source
from offgrid.errors import InvalidParameter, OffgridError
from offgrid.inprocess.stream import TextCollector


@dataclass(frozen=True, slots=True)
class Continuation:
    """The arguments of ``offgrid complete``; its help explains them."""

    model: str
    text: str | None
    echo: bool
    as_json: bool
    verbose: bool
    url: str | None
    local: bool


def run_continuation(job: Continuation, flags: dict[str, Any]) -> None:
    """Continue a text.

    Args:
        flags: the options for fields of requests and for settings, by name.
    """
    prompt = _text(job.text)
    fields = request_fields(flags)
    if job.echo:
        fields["echo"] = True
    try:
        request = parse_completion({**fields, "prompt": prompt})
        if max(request.n, request.candidates) > 1:
            raise InvalidParameter("n and best_of cannot be given here; run the command again", "n")
    except InvalidParameter as ex:
        fail(str(ex), 2)
    screen = Screen(verbose=job.verbose)
    try:
        source, found = open_source(job.model, flags, url=job.url, local=job.local, say=screen.hint)
        try:
            _answer(source, {**fields, "model": found, "prompt": prompt}, screen, job.as_json)
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
        with closing(chunks), no_echo():
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
