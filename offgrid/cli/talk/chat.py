"""The terminal chat: messages of the user and answers in turn, and a single question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from offgrid.api.shapes import Json
from offgrid.cli.talk.commands import COMMANDS, Again, Leave, Talk, obey
from offgrid.cli.talk.echo import no_echo
from offgrid.cli.talk.keyboard import Keyboard
from offgrid.errors import InvalidParameter, OffgridError
from offgrid.inprocess.stream import ChatCollector

_PROMPT = ">>> "


def answer(talk: Talk) -> None:
    """Print the answer to the last message and add it to the conversation.

    What came before an error or Ctrl-C is kept. If nothing came, the user's message is taken back.

    Raises:
        OffgridError: the answer failed.
        KeyboardInterrupt: the user stopped it.
    """
    collector = ChatCollector()
    try:
        # Closing the generator ends the generation.
        chunks: Any = talk.source.chat(talk.conversation.body(talk.model))
        with closing(chunks), no_echo():
            talk.screen.answer(chunks, collector)
    finally:
        talk.model = talk.model or collector.model
        if collector.text:
            talk.conversation.messages.append(collector.message())
        else:
            talk.conversation.take_back()
    if collector.finish_reason == "length":
        talk.screen.hint("(the answer ended at max_tokens or at the end of the context)")
    elif collector.finish_reason == "content_filter":
        talk.screen.hint("(the content filter of the server ended the answer)")


def chat(talk: Talk) -> None:
    """Talk until the user ends it."""
    name = talk.model or "the default model"
    talk.screen.note(f"{name}, {talk.source.where}. /help shows the commands, Ctrl-D ends.")
    words = [f"{name} " if command.argument else name for name, command in COMMANDS.items()]
    for line in _lines(talk, Keyboard(words)):
        try:
            _turn(talk, line)
        except Leave:
            return
        except KeyboardInterrupt:
            talk.screen.note("(stopped)")
        except OffgridError as ex:
            talk.screen.error(str(ex))
            if getattr(ex, "code", None) == "context_length_exceeded":
                talk.screen.note("/new begins a new conversation")


def _lines(talk: Talk, keyboard: Keyboard) -> Iterator[str]:
    """Yield what the user types, until Ctrl-D."""
    while True:
        try:
            line = keyboard.read(_PROMPT)
        except EOFError:
            return
        except KeyboardInterrupt:
            talk.screen.note("Ctrl-D or /bye ends")
            continue
        if line.strip():
            yield line


def _turn(talk: Talk, line: str) -> None:
    conversation = talk.conversation
    begin = line.lstrip()
    try:
        if begin.startswith("/") and not begin.startswith("//"):
            obey(begin.rstrip(), talk)
            return
        conversation.ask(begin[1:] if begin.startswith("//") else line)
    except Again:
        message: Json | None = conversation.take_back()
        if message is None:
            raise InvalidParameter("There is no message to answer again.") from None
        conversation.messages.append(message)
    answer(talk)
