"""Holds the first large write of an import or export until a test lets it go on."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from io import FileIO
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import TIMEOUT, Json

from offgrid.api.transfers.running import Transfers
from offgrid.store.disk import Disk

_LARGE = 100_000


class Gate:
    """Holds writes while it is closed."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def pass_(self) -> None:
        self.reached.set()
        assert self.open.wait(TIMEOUT)

    def open_when_cancelled(self, transfers: Transfers[Any]) -> None:
        """Let the transfer that runs go on as soon as it knows that it is cancelled."""
        running = transfers.running
        assert running is not None

        def wait() -> None:
            running._cancelled.wait(TIMEOUT)
            self.open.set()

        threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def closed_gate() -> Iterator[Gate]:
    """Hold all large writes of this process while the block runs, until the gate is opened."""
    made, write = Gate(), Disk.write

    def slow(self: Disk, file: FileIO, data: bytes) -> None:
        if len(data) > _LARGE:
            made.pass_()
        write(self, file, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Disk, "write", slow)
        yield made
        made.open.set()


class Impatient:
    """A client that sends a request and leaves before the answer."""

    def __init__(self, url: str, path: str, body: Json) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
        self._connection.request("POST", path, json.dumps(body).encode())

    def leave(self) -> None:
        self._connection.close()
