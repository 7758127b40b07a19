"""The key with which this server signs reasoning, in a file beside the stored responses.

It lets conversations go on after a restart and, since backups contain it, on another machine. If
the file can be neither read nor written, the key is in memory only, and reasoning of answers from
before a restart is left out of prompts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

log = logging.getLogger(__name__)

NAME = "signing.key"
_SIZE = 32

_Version = tuple[int, int, int]


class SigningKey:
    """The key in the folder of the file of stored responses. Thread-safe.

    It is read again when its file has changed, and a new one is made when the file was deleted:
    ``offgrid restore`` and ``offgrid forget`` act on a server that runs.
    """

    def __init__(self, responses_file: Path) -> None:
        self._path = responses_file.with_name(NAME)
        self._in_memory = secrets.token_bytes(_SIZE)
        self._read: tuple[_Version, bytes] | None = None
        self._told = ""

    def __call__(self) -> bytes:
        """Return the key, of 32 bytes."""
        try:
            return self._in_file()
        except OSError as ex:
            self._tell(logging.INFO, f"the key that signs reasoning is kept in memory only: {ex}")
        return self._in_memory

    def _in_file(self) -> bytes:
        """Return the key in the file; it is made if there is none."""
        with contextlib.suppress(FileNotFoundError):
            version = self._version()
            if self._read is not None and self._read[0] == version:
                return self._read[1]
        self._make()
        version, key = self._version(), self._path.read_bytes()
        if len(key) != _SIZE:
            self._tell(
                logging.WARNING, f"{self._path} is damaged; delete it, and a new key is made"
            )
            return self._in_memory
        self._read = version, key
        return key

    def _make(self) -> None:
        """Write a new key if there is no file. It gets its name when it is complete: a full disk or
        a kill must leave no file that is damaged."""
        if os.path.lexists(self._path):
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        made = self._path.with_name(f".{NAME}.{secrets.token_hex(4)}")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(made, flags, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_SIZE))
                file.flush()
                os.fsync(file.fileno())
            try:
                with contextlib.suppress(FileExistsError):  # another process was faster
                    os.link(made, self._path)
            except OSError:  # a file system without links
                if not os.path.lexists(self._path):
                    os.rename(made, self._path)
        finally:
            made.unlink(missing_ok=True)

    def _version(self) -> _Version:
        status = self._path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _tell(self, level: int, message: str) -> None:
        """Log what is wrong, once."""
        if message != self._told:
            self._told = message
            log.log(level, "%s", message)


def delete_signing_key(responses_file: Path) -> bool:
    """Delete the key; return whether there was one.

    Raises:
        OSError: the file cannot be deleted.
    """
    try:
        responses_file.with_name(NAME).unlink()
    except FileNotFoundError:
        return False
    return True
