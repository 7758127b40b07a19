"""Keeps what the user types during an answer out of the answer, for the next prompt."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP")
"""Signals that end or stop the program where it is. The terminal is restored before."""


@contextlib.contextmanager
def no_echo() -> Iterator[None]:
    """While the body runs, the terminal does not show what is typed.

    It is kept, and the next program that reads the terminal gets it: the prompt of the chat, or the
    shell. Only Ctrl-C discards it. The terminal is restored however the body ends, also by a signal
    and while Ctrl-Z stops the program. Without a terminal, nothing is changed.
    """
    terminal = _Terminal.of_input()
    if terminal is None:
        yield
        return
    with terminal.signals_handled():
        terminal.hush()
        try:
            yield
        finally:
            terminal.restore()


class _Terminal:
    """The terminal on standard input, and its settings before they were changed."""

    def __init__(self, descriptor: int, settings: list[Any]) -> None:
        self._descriptor = descriptor
        self._settings = settings

    @classmethod
    def of_input(cls) -> _Terminal | None:
        """Return the terminal; None if there is none, or another program uses it now."""
        if sys.platform == "win32" or sys.stdin is None:
            return None
        import termios

        # A program that embeds the command may give any stream.
        with contextlib.suppress(OSError, ValueError, termios.error):
            descriptor = sys.stdin.fileno()
            if os.tcgetpgrp(descriptor) == os.getpgrp():
                return cls(descriptor, termios.tcgetattr(descriptor))
        return None

    def hush(self) -> None:
        """Show nothing of what is typed, and let the next reader edit it. Ctrl-C still works."""
        if sys.platform == "win32":
            return
        import termios

        changed = [*self._settings]
        changed[3] &= ~(termios.ECHO | termios.ICANON)
        self._set(changed)

    def restore(self) -> None:
        """Set what was set before."""
        self._set(self._settings)

    def _set(self, settings: list[Any]) -> None:
        if sys.platform == "win32":
            return
        import termios

        with contextlib.suppress(OSError, termios.error):  # the terminal may be gone
            if os.tcgetpgrp(self._descriptor) == os.getpgrp():
                termios.tcsetattr(self._descriptor, termios.TCSANOW, settings)

    @contextlib.contextmanager
    def signals_handled(self) -> Iterator[None]:
        """Restore the terminal before a signal ends or stops the program."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
        # nohup makes a program ignore SIGHUP: keep that.
        numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
        for number in numbers:
            signal.signal(number, self._on_signal)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Only Ctrl-Z comes here, when the program goes on.
        signal.signal(number, self._on_signal)
        self.hush()
