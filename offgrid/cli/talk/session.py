"""What ``offgrid run`` does: a chat in the terminal, or the answer to one question."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import click

from offgrid.cli.options import fail
from offgrid.cli.talk.chat import answer, chat
from offgrid.cli.talk.commands import Talk
from offgrid.cli.talk.conversation import Conversation
from offgrid.cli.talk.options import piped_text, request_fields, status_of
from offgrid.cli.talk.screen import Screen, is_terminal
from offgrid.cli.talk.source import open_source
from offgrid.errors import InvalidParameter, OffgridError


@dataclass(frozen=True, slots=True)
class Session:
    """The arguments of ``offgrid run``; its help explains them."""

    model: str
    prompt: tuple[str, ...]
    system: str
    images: tuple[str, ...]
    verbose: bool
    url: str | None
    local: bool


def run_session(session: Session, flags: dict[str, Any]) -> None:
    """Chat, or answer one question.

    Args:
        flags: the options for fields of requests and for settings, by name.
    """
    screen = Screen(verbose=session.verbose)
    try:
        conversation = Conversation(session.system, request_fields(flags))
        for path in session.images:
            conversation.add_image(path)
    except InvalidParameter as ex:
        fail(str(ex), 2)
    question = _question(session.prompt)
    try:
        source, found = open_source(
            session.model, flags, url=session.url, local=session.local, say=screen.hint
        )
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
