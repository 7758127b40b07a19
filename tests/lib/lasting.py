"""A model whose answers last until a test ends them, and streams that are always read.

An answer of the starter that ignores its end fills a context of 2,048 tokens, which takes some
seconds whatever ``--ctx-size`` says. On a busy machine it may end before the next line of the test.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from pathlib import Path

from scripted_model import write
from support import TIMEOUT, Json, Stream

CONTEXT = 1 << 18
"""Tokens of an answer, which take a fast machine more than a minute."""
FLAGS = ("--ctx-size", str(CONTEXT), "--no-drafts")
"""Without these, an answer is short, or has many tokens in each step."""
BODY: Json = {"model": "lasting", "prompt": "Once", "ignore_eos": True, "stream": True}
"""A completion request whose answer lasts."""


def make_lasting(folder: Path) -> Path:
    """Write the model ``lasting`` to a folder."""
    return write(folder / "lasting.gguf", "", (), "on and on", context=CONTEXT)


class Kept(Stream):
    """A stream that has begun, and that a thread reads to its end.

    The server gives up a client that reads nothing for twenty seconds.

    Attributes:
        last: the latest event.
    """

    def __init__(self, base_url: str, path: str, body: Json) -> None:
        super().__init__(base_url, path, body)
        self.last = ""
        try:
            self.read_some()
        except BaseException:
            super().__exit__()
            raise
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        # The test may end the connection, and so may the end of the server.
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            for event in self.events():
                self.last = event

    @property
    def ended(self) -> bool:
        """Whether everything has been read."""
        return not self._thread.is_alive()

    def wait(self) -> str:
        """Wait for the end; return the last event."""
        self._thread.join(TIMEOUT)
        assert self.ended, "the stream goes on"
        return self.last

    def leave(self) -> None:
        """Close the connection, while the server writes to it or later."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed
                self._socket.shutdown(socket.SHUT_RDWR)
        self.wait()
        self.response.close()
        self._connection.close()

    def __exit__(self, *_: object) -> None:
        self.leave()
