"""The commands of the terminal chat, which begin with a slash."""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from offgrid.cli.talk.conversation import Conversation
from offgrid.cli.talk.options import value_of
from offgrid.cli.talk.screen import Screen
from offgrid.cli.talk.source import Source
from offgrid.errors import OffgridError


class Leave(Exception):
    """The user ends the chat."""


class Again(Exception):
    """The user wants another answer to the last message."""


class Talk:
    """What the commands work on.

    Attributes:
        source: who answers.
        model: the id of the model; empty for a default model that is not known.
        conversation: the messages and options.
        screen: prints.
    """

    def __init__(
        self, source: Source, model: str, conversation: Conversation, screen: Screen
    ) -> None:
        self.source = source
        self.model = model
        self.conversation = conversation
        self.screen = screen


def _help(talk: Talk, rest: str) -> None:
    size = max(len(f"{name} {command.argument}") for name, command in COMMANDS.items())
    for name, command in COMMANDS.items():
        talk.screen.show(f"{f'{name} {command.argument}':<{size}}  {command.meaning}")
    talk.screen.show("")
    talk.screen.show(
        "Enter sends a message, Alt-Enter begins another line. Three quotes begin and end a "
        "message of several lines. // begins a message with a slash. Ctrl-C stops an answer, "
        "Ctrl-D ends."
    )


def _bye(talk: Talk, rest: str) -> None:
    raise Leave


def _new(talk: Talk, rest: str) -> None:
    talk.conversation.begin_again()
    talk.screen.note("a new conversation")


def _again(talk: Talk, rest: str) -> None:
    raise Again


def _system(talk: Talk, rest: str) -> None:
    if rest:
        talk.conversation.system = "" if rest in ('""', "''") else rest
    said = talk.conversation.system
    talk.screen.note(f"system message: {said}" if said else "no system message")


def _set(talk: Talk, rest: str) -> None:
    name, _, value = rest.partition(" ")
    conversation = talk.conversation
    if name and value.strip():
        conversation.set(name, value_of(value.strip()))
    shown = {name: conversation.options.get(name)} if name else conversation.options
    for option, given in shown.items():
        talk.screen.note(f"{option} {'is not set' if given is None else json.dumps(given)}")
    if not shown:
        talk.screen.note("nothing is set; for example /set temperature 0.5")


def _unset(talk: Talk, rest: str) -> None:
    if rest not in talk.conversation.options:
        raise OffgridError(f"{rest or 'an empty name'} is not set; /set shows what is")
    del talk.conversation.options[rest]
    talk.screen.note(f"{rest} is not set any more")


def _image(talk: Talk, rest: str) -> None:
    for path in _paths(rest, "/image FILE"):
        talk.conversation.add_image(path)
        talk.screen.note(f"{path} goes with your next message")


def _save(talk: Talk, rest: str) -> None:
    (path,) = _paths(rest, "/save FILE", most=1)
    talk.conversation.save(Path(path), talk.model)
    talk.screen.note(f"saved to {path}")


def _load(talk: Talk, rest: str) -> None:
    (path,) = _paths(rest, "/load FILE", most=1)
    model = talk.conversation.load(Path(path))
    talk.screen.note(f"{len(talk.conversation.messages)} messages from {path}")
    if model and model != talk.model:
        talk.screen.note(f"they were answered by {model}; /model {model} changes to it")


def _model(talk: Talk, rest: str) -> None:
    if rest:
        talk.model = talk.source.find(rest)
        talk.screen.note(f"{talk.model} answers now")
        return
    for id in talk.source.models():
        talk.screen.show(f"{'*' if id == talk.model else ' '} {id}")


class Command(NamedTuple):
    """A command: its argument and its meaning for the help text."""

    argument: str
    meaning: str
    run: Callable[[Talk, str], None]


COMMANDS = {
    "/help": Command("", "show this list", _help),
    "/new": Command("", "begin a new conversation", _new),
    "/again": Command("", "answer the last message again", _again),
    "/system": Command('[TEXT | ""]', "show, set or remove the system message", _system),
    "/set": Command("[NAME [VALUE]]", "show or set an option, such as temperature 0.5", _set),
    "/unset": Command("NAME", "remove an option", _unset),
    "/image": Command("FILE...", "send images with the next message", _image),
    "/model": Command("[MODEL]", "list the models, or change to another one", _model),
    "/save": Command("FILE", "save the conversation", _save),
    "/load": Command("FILE", "continue a saved conversation", _load),
    "/bye": Command("", "end", _bye),
}
_ALIASES = {"/?": "/help", "/exit": "/bye", "/quit": "/bye", "/clear": "/new", "/retry": "/again"}


def obey(line: str, talk: Talk) -> None:
    """Do what a line that begins with a slash says.

    Raises:
        OffgridError: there is no such command, or it cannot be done; the message says why.
        Leave: the chat ends.
        Again: the last message is to be answered again.
    """
    name, _, rest = line.partition(" ")
    name = name.casefold()
    command = COMMANDS.get(_ALIASES.get(name, name))
    if command is None:
        near = difflib.get_close_matches(name, [*COMMANDS, *_ALIASES], n=1)
        advice = f"did you mean {near[0]}?" if near else "/help lists them"
        raise OffgridError(f"{name} is not a command; {advice} // sends a message with a slash")
    command.run(talk, rest.strip())


def _paths(rest: str, usage: str, most: int = 16) -> list[str]:
    try:
        paths = shlex.split(rest)
    except ValueError:  # an apostrophe in a name
        paths = [rest]
    if not 1 <= len(paths) <= most:
        raise OffgridError(f"use {usage}; quote a name with spaces")
    return paths
