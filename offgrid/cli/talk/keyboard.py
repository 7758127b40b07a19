"""Reads the user's messages in the terminal: with editing, earlier inputs, and several lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from offgrid.terminal import shown

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

QUOTES = '"""'
"""Begins and ends a message of several lines."""
_MORE = "... "


class Keyboard:
    """Reads messages. Earlier ones are kept in memory only: they may be private.

    Args:
        commands: words that Tab completes at the beginning of a line.
    """

    def __init__(self, commands: Iterable[str]) -> None:
        # A single question needs none of it.
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory

        self._session: PromptSession[str] = PromptSession(
            history=InMemoryHistory(),
            completer=WordCompleter([*commands], sentence=True),
            complete_while_typing=False,
            key_bindings=_keys(),
            multiline=True,
            prompt_continuation=_MORE,
        )

    def read(self, prompt: str) -> str:
        """Return the next message, without the quotes around several lines.

        Raises:
            EOFError: Ctrl-D was pressed.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        return unquoted(self._session.prompt(shown(prompt)))


def _keys() -> KeyBindings:
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        """End the message, unless its quotes are open."""
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def another_line(event: KeyPressEvent) -> None:
        """Begin another line: Alt-Enter, or Escape and Enter."""
        event.current_buffer.insert_text("\n")

    return keys


def is_open(text: str) -> bool:
    """Whether a text begins with quotes that do not end it."""
    text = text.strip()
    return text.startswith(QUOTES) and (len(text) < 2 * len(QUOTES) or not text.endswith(QUOTES))


def unquoted(text: str) -> str:
    """Return a text without the quotes around it."""
    inner = text.strip()
    if inner.startswith(QUOTES) and not is_open(inner):
        return inner[len(QUOTES) : -len(QUOTES)].strip("\n")
    return text
