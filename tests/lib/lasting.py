"""Answers that last until a test ends them, however busy the machine is.

An answer of the starter fills its context in a few seconds. A test that does several things
meanwhile may then find that it has ended by itself.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from pathlib import Path
from typing import Any

from scripted_model import write
from support import TIMEOUT, Json, Stream

LASTING = "lasting"
"""The id of the model."""
CONTEXT = 1 << 17
"""The length of its context in tokens."""
SETTINGS: Json = {"ctx_size": 0, "drafts": False}
"""Settings of a server that serves it: the whole context, and no drafts, which would fill it
several times as fast."""
FLAGS = ("--ctx-size", str(CONTEXT), "--no-drafts")
"""The same for ``offgrid serve``."""
_TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


def write_lasting(folder: Path) -> Path:
    """Write the model into a models directory."""
    return write(folder / f"{LASTING}.gguf", _TEMPLATE, (), "on and on", context=CONTEXT)


def lasting(text: str = "Once upon a time", **fields: Any) -> Json:
    """A completion request that goes on until the test ends it."""
    return {"model": LASTING, "prompt": text, "ignore_eos": True, "stream": True, **fields}


BODY = lasting()
"""Such a request."""


class Running(Stream):
    """A stream that runs until the test leaves it. It is read all the time: the server gives up
    clients that do not read."""

    def __init__(self, base_url: str, path: str, body: Json) -> None:
        super().__init__(base_url, path, body)
        self._reader = threading.Thread(target=self._read, daemon=True)

    def read_some(self) -> str:
        """Return the first event that contains text, once; the rest is read by a thread."""
        text = super().read_some()
        self._reader.start()
        return text

    def _read(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            while self.response.read(1 << 12):
                pass

    def leave(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._reader.ident is not None:
            self._reader.join(TIMEOUT)
        self.response.close()
        self._connection.close()

    def __exit__(self, *_: object) -> None:
        self.leave()


class Kept(Stream):
    """A stream that has begun, and that a thread reads to its end.

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
