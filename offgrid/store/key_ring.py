"""The keys of a running server: in memory, and read again when the keys file changes.

The command line changes the file beside the running server, so each request looks at the file's
inode, size and modification time. A file that was modified moments ago is read again, because a
second change may leave the same time.

Once there was a key, the server stays closed: a file that is removed, locked or damaged later makes
it refuse requests, and never lets them pass.
"""

from __future__ import annotations

import hmac
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from offgrid.store.keys import Key, KeyFile, KeysError, KeysLocked, Secret, digest_of

log = logging.getLogger(__name__)

Problem = Literal["revoked", "expired", "replaced"]
"""Why a secret is not valid; ``replaced``: its key was rotated."""
_FRESH = 2.0
"""Seconds for which the modification time of a file may hide a further change."""
_RETRY = 1.0
"""Seconds after which a file that could not be read is tried again."""
_TOUCH = 3600.0
"""Seconds between two notes of a key's use: each is a write to the disk."""


class KeysUnavailable(Exception):
    """The keys cannot be read now; whether a request may pass is unknown. The message is short and
    has no path, because clients see it."""


@dataclass(frozen=True, slots=True)
class _State:
    """What is known.

    Attributes:
        stamp: identity, size and time of the file that was read; None if there is none.
        settled: whether every later change of the file changes its stamp.
        secrets: the hashes of all secrets.
        failure: why the keys are not known, in words for clients; None if they are known.
        read_at: when it was read, on the monotonic clock.
    """

    stamp: tuple[int, ...] | None
    settled: bool
    secrets: tuple[Secret, ...] = ()
    failure: str | None = None
    read_at: float = 0.0


class KeyRing:
    """The keys. Thread-safe.

    Args:
        path: the keys file, which need not exist.
        clock: seconds since 1970.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._clock = clock
        self._monotonic = monotonic
        self._file = KeyFile(path, clock)
        self._lock = threading.Lock()
        self._closed = False
        """Whether there was a key at some time, so that requests need one from then on."""
        self._state = _State(None, settled=False)
        self._touched: dict[str, float] = {}

    def open(self) -> None:
        """Read the file for the first time, and log what is wrong with the keys.

        Raises:
            KeysError: it exists and cannot be read.
        """
        if not os.path.lexists(self.path):
            return
        keys = self._file.all()
        if keys and not any(key.valid(self._clock()) for key in keys):
            log.warning(
                "all keys in %s are revoked or expired, so every request is refused; create one "
                "with 'offgrid keys create NAME', or remove the file to serve without keys",
                self.path,
            )
        if os.name != "nt" and stat.S_IMODE(os.stat(self.path).st_mode) & 0o022:
            log.warning("others may write to %s; run: chmod 600 %s", self.path, self.path)
        self.reload()

    def reload(self) -> int:
        """Read the file again, whether or not it seems changed; return the number of valid keys.

        Raises:
            KeysUnavailable: that is not possible; requests are refused until it is.
        """
        with self._lock:
            self._state = self._read(self._stamp())
        now = self._clock()
        return sum(key.valid(now) for key in {s.key.id: s.key for s in self._known()}.values())

    @property
    def needed(self) -> bool:
        """Whether requests need a key.

        Raises:
            KeysUnavailable: that cannot be found out.
        """
        self._look()
        return self._closed

    def find(self, secret: str) -> tuple[Key, Problem | None] | None:
        """Return the key of a secret, and why it is not valid, or None; None if no key has it.

        The time that this takes does not depend on which secret matches, or how far.

        Raises:
            KeysUnavailable: the keys cannot be read.
        """
        self._look()
        found = _match(self._known(), secret)
        return None if found is None else (found.key, self._problem(found))

    def refuses(self, secret: str | None) -> bool | None:
        """Return whether a request with this secret, or with none, will be refused.

        It never waits, so the socket thread may ask. It returns None if the file has changed and
        cannot be read at this moment.
        """
        stamp = self._stamp()
        if self._state.failure is None and self._state.stamp != stamp and not self._try(stamp):
            return None
        state = self._state
        if state.failure is not None:
            return True
        if not self._closed:
            return False
        found = None if secret is None else _match(state.secrets, secret)
        return found is None or self._problem(found) is not None

    def _try(self, stamp: tuple[int, ...] | None) -> bool:
        """Read the file unless that would take long; return whether it was read."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._state = self._read(stamp, wait=False)
        except KeysLocked:
            return False
        finally:
            self._lock.release()
        return True

    def names(self) -> dict[str, str]:
        """Return the names of all keys by their ids, also of revoked ones; none if they are not
        known now. It reads no file."""
        return {secret.key.id: secret.key.name for secret in self._state.secrets}

    def touch(self, key: Key) -> None:
        """Note, about once an hour, that a key is used. May write to the disk."""
        now = self._clock()
        last = self._touched.get(key.id, key.last_used or 0.0)
        if 0 <= now - last < _TOUCH:
            return
        self._touched[key.id] = now
        try:
            self._file.touch(key.id, now)
        except KeysError as ex:  # the server may have no permission to write
            log.debug("the use of key %s is not noted: %s", key.name, ex)

    def close(self) -> None:
        """Close the file; a later call reopens it."""
        self._file.close()

    def _problem(self, secret: Secret) -> Problem | None:
        now, key = self._clock(), secret.key
        if key.revoked is not None:
            return "revoked"
        if not key.valid(now):
            return "expired"
        return "replaced" if secret.until is not None and now >= secret.until else None

    def _known(self) -> tuple[Secret, ...]:
        state = self._state
        if state.failure is not None:
            raise KeysUnavailable(state.failure)
        return state.secrets

    def _look(self) -> None:
        """Read the file if it has changed.

        Raises:
            KeysUnavailable: it cannot be read.
        """
        stamp = self._stamp()
        if not self._is_current(stamp):
            with self._lock:
                if not self._is_current(stamp):
                    self._state = self._read(stamp)
        self._known()

    def _is_current(self, stamp: tuple[int, ...] | None) -> bool:
        state = self._state
        if state.failure is not None:
            return state.stamp == stamp and self._monotonic() - state.read_at < _RETRY
        return state.settled and state.stamp == stamp

    def _stamp(self) -> tuple[int, ...] | None:
        """Return what changes with the file; None if there is none, and () if that is unknown."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return () if os.path.islink(self.path) else None
        except OSError:
            return ()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self, stamp: tuple[int, ...] | None, *, wait: bool = True) -> _State:
        """Return the state of the file as it is now.

        Raises:
            KeysLocked: another process has locked it, and ``wait`` is false.
        """
        now = self._monotonic()
        if stamp is None:
            if not self._closed:
                return _State(None, settled=True)
            return self._failed(stamp, "the keys file was removed", KeysError(
                f"the keys file {self.path} was removed, so every request is refused; restore it, "
                "or create keys with 'offgrid keys create'; to serve without keys, restart"
            ), now)  # fmt: skip
        age = self._clock() - stamp[3] / 1e9 if stamp else 0.0
        try:
            secrets = tuple(self._file.secrets(wait=wait))
        except KeysError as ex:
            if not wait and isinstance(ex, KeysLocked):
                raise
            return self._failed(stamp, "the keys file cannot be read", ex, now)
        if self._state.failure is not None:
            log.info("the keys file %s can be read again", self.path)
        self._closed = self._closed or bool(secrets)
        return _State(stamp, settled=age >= _FRESH, secrets=secrets, read_at=now)

    def _failed(
        self, stamp: tuple[int, ...] | None, failure: str, error: KeysError, now: float
    ) -> _State:
        if self._state.failure != failure:
            log.error("%s", error)
        self._closed = True
        return _State(stamp, settled=False, failure=failure, read_at=now)


def _match(secrets: tuple[Secret, ...], secret: str) -> Secret | None:
    """Return what has the hash of a secret. All are compared, each in constant time."""
    digest = digest_of(secret)
    found: Secret | None = None
    for known in secrets:
        if hmac.compare_digest(digest, known.digest):
            found = known
    return found
