"""A program in a terminal (a pseudo-terminal), as a person uses it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from pathlib import Path

from processes import ONE_THREAD, heed_signals
from support import TIMEOUT, eventually

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-_])")
CTRL_C, CTRL_D, CTRL_Z, ALT_ENTER, ENTER = "\x03", "\x04", "\x1a", "\x1b\r", "\r"


def _in_terminal() -> None:
    """For ``preexec_fn``: make standard input the terminal of the program."""
    heed_signals()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A program that runs in a terminal of 100 columns."""

    def __init__(self, *command: str, cwd: Path | str = "/", **environ: str) -> None:
        own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        # pytest-xdist sets COLUMNS, which takes precedence over the size of the terminal.
        without = ("COLUMNS", "LINES", "NO_COLOR", "TERM")
        inherited = {name: v for name, v in os.environ.items() if name not in without}
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            # Nobody answers the questions that prompt_toolkit asks a terminal.
            env={**inherited, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **ONE_THREAD,
                 **environ},
            stdin=other, stdout=other, stderr=other,
            start_new_session=True,
            preexec_fn=_in_terminal,
        )  # fmt: skip
        os.close(other)
        self._own = own
        self._read: list[bytes] = []
        self._seen = 0
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    def _read_all(self) -> None:
        while True:
            try:
                data = os.read(self._own, 65536)
            except OSError:  # Linux reports the end like this
                return
            if not data:
                return
            self._read.append(data)

    @property
    def descriptor(self) -> int:
        """The descriptor of the terminal."""
        return self._own

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._own)[3] & termios.ECHO)

    @property
    def raw(self) -> str:
        """Everything that the program has printed, with escape sequences."""
        return b"".join(self._read).decode("utf-8", "replace")

    @property
    def text(self) -> str:
        """The same without escape sequences."""
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    def find(self, pattern: str) -> re.Match[str]:
        """Wait for text that matches after the last match; return the match."""
        found: re.Match[str] | None = None

        def look() -> bool:
            nonlocal found
            ended = not self._reader.is_alive()  # read first, so that the last output is searched
            found = re.compile(pattern, re.MULTILINE).search(self.text, self._seen)
            assert found or not ended, f"no {pattern!r} in {self.text[self._seen :]!r}"
            return found is not None

        try:
            eventually(look, f"a text like {pattern!r}")
        finally:
            assert found is not None, f"{pattern!r} is not in {self.text[self._seen :]!r}"
        self._seen = found.end()
        return found

    def type(self, keys: str) -> None:
        """Type on the keyboard."""
        os.write(self._own, keys.encode())

    def say(self, line: str) -> None:
        """Type a line and press Enter."""
        self.type(line + ENTER)

    def wait(self) -> int:
        """Wait for the end; return the exit status."""
        status = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return status

    def end(self) -> None:
        """Kill the program, if it runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(TIMEOUT)
        os.close(self._own)
