"""Preferences that requests have set: the default model, and models that stay loaded.

They are in a small JSON file beside that of stored responses and survive a restart. The
settings come first: a default model or a pin that they give holds, whatever the file says. No
configuration file is ever written.

The file is a convenience: if it is absent or damaged, there are no preferences, and the log says
why.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from offgrid.errors import StoreFailed, TransferError
from offgrid.store.disk import DISK, Disk
from offgrid.store.manifest import write_whole

log = logging.getLogger(__name__)

NAME = "preferences.json"
MOST_PINNED = 1000
_MOST_BYTES = 1 << 20
_VERSION = 1


class Preferred(msgspec.Struct, frozen=True):
    """The preferences: ids of models, which need not exist any more."""

    default: str = ""
    """The default model; empty if none was set."""
    pinned: tuple[str, ...] = ()


NOTHING = Preferred()


class _File(msgspec.Struct):
    version: int
    default: str = ""
    pinned: tuple[str, ...] = ()


class Preferences:
    """The file with the preferences. Thread-safe.

    Args:
        path: the file; None to have none.
        disk: the operations on files.
    """

    def __init__(self, path: Path | None, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk
        self._changing = threading.Lock()
        """Held while the file is changed. Every request reads the preferences, and none waits for
        a slow disk meanwhile."""
        self._known: tuple[tuple[int, ...] | None, Preferred] = None, NOTHING
        """Stamp of the file that was read last, and what it says."""

    @classmethod
    def beside(cls, responses_file: Path) -> Preferences:
        """Return the preferences in the folder of the file of stored responses."""
        return cls(responses_file.with_name(NAME))

    def read(self) -> Preferred:
        """Return what is set now, also by another process."""
        stamp = self._look()
        if stamp is None:
            return NOTHING
        known = self._known
        if stamp != known[0]:
            known = self._known = stamp, self._parsed()
        return known[1]

    def set_default(self, model_id: str) -> None:
        """Set the default model; an empty id takes that back.

        Raises:
            StoreFailed: the file cannot be written.
        """
        self._change(lambda now: msgspec.structs.replace(now, default=model_id))

    def set_pinned(self, model_id: str, pinned: bool) -> None:
        """Set whether a model stays loaded.

        Raises:
            StoreFailed: the file cannot be written, or too many models are pinned.
        """

        def change(now: Preferred) -> Preferred:
            others = tuple(name for name in now.pinned if name != model_id)
            if pinned and len(others) >= MOST_PINNED:
                raise StoreFailed(f"{MOST_PINNED} models are pinned already; unpin one first.")
            return msgspec.structs.replace(now, pinned=(*others, model_id) if pinned else others)

        self._change(change)

    def forget(self, model_id: str) -> None:
        """Take back all preferences for a model that was removed. They do no harm if that fails."""
        with contextlib.suppress(StoreFailed):
            if model_id == self.read().default:
                self.set_default("")
            if model_id in self.read().pinned:
                self.set_pinned(model_id, False)

    def _change(self, change: Callable[[Preferred], Preferred]) -> None:
        with self._changing:
            before = self.read()
            after = change(before)
            if after != before:
                self._write(after)

    def _look(self) -> tuple[int, ...] | None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                found = self._path.stat()
                return found.st_mtime_ns, found.st_size, found.st_ino
        return None

    def _parsed(self) -> Preferred:
        assert self._path is not None
        try:
            with self._path.open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
            if len(data) > _MOST_BYTES:
                raise ValueError("it is too large")
            made = msgspec.json.decode(data, type=_File)
            if made.version != _VERSION:
                raise ValueError(f"it has version {made.version}")
        except FileNotFoundError:
            return NOTHING
        except (OSError, ValueError, RecursionError) as ex:  # DecodeError is a ValueError
            log.warning("the preferences are not used: %s: %s", self._path, ex)
            return NOTHING
        return Preferred(made.default, made.pinned)

    def _write(self, preferred: Preferred) -> None:
        if self._path is None:
            raise StoreFailed("This server has no folder in which preferences could be stored.")
        data = msgspec.json.encode(_File(_VERSION, preferred.default, preferred.pinned))
        try:
            with contextlib.suppress(FileExistsError):
                self._path.parent.mkdir(parents=True, mode=0o700)
            write_whole(self._path, data, self._disk, 0o600)
        except (TransferError, OSError) as ex:
            log.error("%s", ex)
            # The message of the error has the path of the folder, which clients do not learn.
            code = ex.code if isinstance(ex, TransferError) else "unwritable"
            reason = "the disk is full" if code == "disk_full" else "its folder cannot be written"
            raise StoreFailed(f"The preference cannot be stored: {reason}; see the log.") from ex
