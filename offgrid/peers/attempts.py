"""Wrong pairing codes: five lock the pairing for ten minutes, also across a restart."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from offgrid.peers.identity import write_private

log = logging.getLogger(__name__)

FILE = "pairing.json"
MOST = 5
"""Wrong codes that lock the pairing."""
SECONDS = 600.0
"""How long it is locked, and how long a wrong code counts."""


class Clock(NamedTuple):
    """The clocks: Unix time, which people may set, and seconds that never go back."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class _File(msgspec.Struct):
    wrong: list[float]
    """Unix times of wrong codes."""
    version: int = 1


class Attempts:
    """The wrong codes of the last ten minutes. Not thread-safe: its owner has a lock.

    In this process their age is told by the monotonic clock. The file has Unix times, as no other
    clock survives a restart; a time in the future counts as now.

    Args:
        folder: the setting ``peers_dir``.
        clock: the clocks.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path, self._clock = folder / FILE, clock
        self._wrong = self._read()

    @property
    def left(self) -> int:
        """How many more wrong codes do not lock the pairing, plus one; 0 if it is locked."""
        self._forget()
        return max(0, MOST - len(self._wrong))

    def locked_for(self) -> float:
        """Return for how many seconds pairing is locked; 0 if it is not."""
        if self.left:
            return 0.0
        return max(0.0, self._wrong[-MOST] + SECONDS - self._clock.monotonic())

    def add(self) -> None:
        """Count a wrong code, in memory and on disk.

        Raises:
            OSError: it cannot be written; it counts in this process.
        """
        self._forget()
        now = self._clock.monotonic()
        self._wrong.append(now)
        if len(self._wrong) >= MOST:  # the lock begins with the last of them
            self._wrong = [now] * MOST
        wall = self._clock.wall()
        self._write([wall - (now - moment) for moment in self._wrong])

    def _forget(self) -> None:
        since = self._clock.monotonic() - SECONDS
        self._wrong = [moment for moment in self._wrong if moment > since]

    def _read(self) -> list[float]:
        now, wall = self._clock.monotonic(), self._clock.wall()
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=_File).wrong[-MOST:]
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as ex:
            # Nothing says that no codes were tried, so it is locked; that ends by itself.
            log.warning("%s cannot be read (%s); pairing is locked for ten minutes", FILE, ex)
            found = [wall] * MOST
            with contextlib.suppress(OSError):
                self._write(found)
        return [now - max(0.0, wall - moment) for moment in found]

    def _write(self, wrong: list[float]) -> None:
        write_private(self._path, msgspec.json.encode(_File(wrong)))
