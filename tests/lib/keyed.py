"""Keys for servers of the tests."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offgrid.caller import Scope
from offgrid.store.keys import Grant, Key, KeyFile

ALL: tuple[Scope, ...] = ("admin",)


def new_key(path: Path, name: str, *scopes: Scope, **grant: Any) -> tuple[Key, str]:
    """Create a key in a file; return it and its secret. Without scopes, it has the usual ones."""
    file = KeyFile(path)
    try:
        return file.create(name, Grant(frozenset(scopes or ("inference", "history")), **grant))
    finally:
        file.close()


def bearer(secret: str) -> dict[str, str]:
    """The header with a key."""
    return {"Authorization": f"Bearer {secret}"}


_HEAD = re.compile(
    rb"(?:\A|(?<=\r\n\r\n))[A-Za-z]+ [^\r\n]* HTTP/1\.[01]\r\n(?:[^\r\n]+\r\n)*?Host:[^\r\n]*\r\n"
)
_WITH_BODY = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.IGNORECASE)
_KEYED = re.compile(rb"\r\n(?:authorization|x-api-key|api-key):", re.IGNORECASE)


@contextlib.contextmanager
def sending(secret: str) -> Iterator[None]:
    """Add a key to every request of this process that has none.

    This includes requests that a test writes byte by byte: the header follows ``Host`` where the
    beginning of a request is sent at once. Everything else that is sent stays as it is.
    """
    header = rb"\g<0>Authorization: Bearer " + secret.encode() + b"\r\n"

    def with_key(data: Any) -> Any:
        sent = bytes(data)
        if _HEAD.match(sent) is None or _KEYED.search(sent.partition(b"\r\n\r\n")[0]):
            return data
        # What follows a request with a body is that body.
        return _HEAD.sub(header, sent, 1 if _WITH_BODY.search(sent) else 0)

    class Keyed(socket.socket):
        """A socket whose requests have the key."""

        def sendall(self, data: Any, *flags: int) -> None:
            super().sendall(with_key(data), *flags)

    plain = socket.socket
    socket.socket = Keyed  # type: ignore[misc]
    try:
        yield
    finally:
        socket.socket = plain  # type: ignore[misc]
