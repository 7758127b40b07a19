"""``offgrid run``."""

from __future__ import annotations

import sys
from typing import Any

import click

from offgrid.cli.help import Command
from offgrid.cli.options import complete_model, fail
from offgrid.cli.talk.chat import answer, chat
from offgrid.cli.talk.commands import Talk
from offgrid.cli.talk.conversation import Conversation
from offgrid.cli.talk.options import piped_text, request_fields, sampling_options, source_options
from offgrid.cli.talk.screen import Screen, is_terminal
from offgrid.cli.talk.source import open_source, status_of
from offgrid.errors import InvalidParameter, OffgridError


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
    screen = Screen(verbose=verbose)
    try:
        conversation = Conversation(system or "", request_fields(flags))
        for path in images:
            conversation.add_image(path)
    except InvalidParameter as ex:
        fail(str(ex), 2)
    question = _question(prompt)
    try:
        source, found = open_source(model, flags, url=url, local=local, say=screen.hint)
        try:
            talk = Talk(source, found, conversation, screen)
            if question is None:
                chat(talk)
            else:
                conversation.ask(question)
                answer(talk)
        finally:
            source.close()
    except OffgridError as ex:
        fail(str(ex), status_of(ex))
    except KeyboardInterrupt:
        sys.exit(130)


def _question(prompt: tuple[str, ...]) -> str | None:
    """Return the only question; None for a chat in the terminal."""
    asked = " ".join(prompt)
    piped = piped_text()
    parts = [part for part in ((piped or "").strip("\n"), asked) if part.strip()]
    if parts:
        return "\n\n".join(parts)
    if is_terminal():
        return None
    if piped is None and sys.stdin is not None and sys.stdin.isatty():
        return sys.stdin.read()  # the answer goes to a file
    missing = "give a PROMPT after MODEL, or send one to standard input"
    raise click.UsageError(f"there is no question: {missing}")
