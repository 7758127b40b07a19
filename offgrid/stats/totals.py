"""Totals that survive a restart, in a small JSON file beside that of stored responses.

The file is a convenience: if it is absent, damaged or cannot be written, the totals begin anew, the
log says so, and nothing else happens. It has names of models and keys, and no text of a request.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

import msgspec

from offgrid.errors import TransferError
from offgrid.store.disk import DISK, Disk
from offgrid.store.manifest import write_whole

log = logging.getLogger(__name__)

NAME = "stats.json"
OTHERS = "(others)"
"""Stands for all names beyond :data:`MOST_NAMES`."""
MOST_NAMES = 1000
"""Most models, and most keys, that have separate totals: names come and go for years."""
_MOST_BYTES = 8 << 20
_VERSION = 1


class Used(msgspec.Struct):
    """What requests have used: requests, and tokens of prompts, of those the cached ones, and of
    answers."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0

    def add(self, other: Used) -> None:
        """Add what others have used."""
        self.requests += other.requests
        self.prompt += other.prompt
        self.cached += other.cached
        self.completion += other.completion


class UsedByKey(Used):
    """What the requests of one key have used, and the name of the key."""

    name: str = ""


class Count(msgspec.Struct):
    """Requests of one method to one endpoint with one class of status, such as ``2xx``."""

    method: str
    endpoint: str
    status: str
    count: int


class _File(msgspec.Struct):
    version: int
    since: float
    requests: list[Count]
    models: dict[str, Used]
    keys: dict[str, UsedByKey]


class Totals:
    """Sums of requests and tokens. Not thread-safe.

    Attributes:
        since: when counting began, in seconds since 1970.
        requests: (method, endpoint, class of status) -> number.
        models: id -> what requests for it have used.
        keys: id of a key -> what it has used.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.requests: dict[tuple[str, str, str], int] = {}
        self.models: dict[str, Used] = {}
        self.keys: dict[str, UsedByKey] = {}

    def count(self, method: str, endpoint: str, status: str, number: int = 1) -> None:
        """Count requests."""
        key = (method, endpoint, status)
        self.requests[key] = self.requests.get(key, 0) + number

    def add_model(self, model: str, used: Used) -> None:
        """Add what a request for a model has used."""
        self.models.setdefault(_bounded(model, self.models), Used()).add(used)

    def add_key(self, key: str, name: str, used: Used) -> None:
        """Add what a request of a key has used."""
        id = _bounded(key, self.keys)
        total = self.keys.setdefault(id, UsedByKey())
        total.name = OTHERS if id == OTHERS else name
        total.add(used)

    def add(self, other: Totals) -> None:
        """Add other totals."""
        self.since = min(self.since, other.since)
        for (method, endpoint, status), number in other.requests.items():
            self.count(method, endpoint, status, number)
        for model, used in other.models.items():
            self.add_model(model, used)
        for key, of_key in other.keys.items():
            self.add_key(key, of_key.name, of_key)

    def __bool__(self) -> bool:
        return bool(self.requests or self.models or self.keys)


def _bounded(name: str, known: dict[str, Used] | dict[str, UsedByKey]) -> str:
    return name if name in known or len(known) < MOST_NAMES else OTHERS


class TotalsFile:
    """The file with the totals.

    Args:
        path: the file; None to keep nothing.
        disk: the operations on files.
    """

    def __init__(self, path: Path | None, disk: Disk = DISK) -> None:
        self._path = path
        self._disk = disk
        self._failed = False
        self._stamp = self._look()
        """The stamp of the file that was read or written last."""

    @classmethod
    def beside(cls, responses_file: Path) -> TotalsFile:
        """Return the file in the folder of the file of stored responses."""
        return cls(responses_file.with_name(NAME))

    @property
    def changed(self) -> bool:
        """Whether another process has written, restored or removed the file since this one used
        it."""
        return self._look() != self._stamp

    def _look(self) -> tuple[int, ...] | None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                found = self._path.stat()
                return found.st_mtime_ns, found.st_size, found.st_ino
        return None

    def load(self) -> Totals | None:
        """Return the totals in the file; None if there is none, or it is not usable."""
        if self._path is None:
            return None
        self._stamp = self._look()
        try:
            if self._path.stat().st_size > _MOST_BYTES:
                raise ValueError("it is too large")
            made = msgspec.json.decode(self._path.read_bytes(), type=_File)
            if made.version != _VERSION:
                raise ValueError(f"it has version {made.version}")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as ex:  # DecodeError is a ValueError
            log.warning("the totals of the statistics begin anew: %s: %s", self._path, ex)
            return None
        totals = Totals(made.since)
        for row in made.requests:
            totals.count(row.method, row.endpoint, row.status, row.count)
        for model, used in made.models.items():
            totals.add_model(model, used)
        for key, of_key in made.keys.items():
            totals.add_key(key, of_key.name, of_key)
        return totals

    def save(self, totals: Totals) -> bool:
        """Write the totals; a kill at any moment leaves the old or the new ones.

        Returns:
            Whether they are on the disk. They are not if the file has changed since it was read:
            they would replace what a restore or another server has just written.
        """
        if self._path is None:
            return False
        data = msgspec.json.encode(
            _File(
                _VERSION,
                totals.since,
                [Count(*key, number) for key, number in sorted(totals.requests.items())],
                totals.models,
                totals.keys,
            )
        )
        try:
            with contextlib.suppress(FileExistsError):
                self._path.parent.mkdir(parents=True, mode=0o700)
            draft = self._path.with_name(f".{self._path.name}.draft")
            # Only administrators learn the names of keys.
            write_whole(draft, data, self._disk, 0o600)
            if self.changed:
                self._disk.remove(draft)
                return False
            self._disk.replace(draft, self._path)
            self._stamp = self._look()
        except (TransferError, OSError) as ex:
            if not self._failed:  # only the first of several failures
                log.warning("the totals of the statistics are not saved: %s", ex)
            self._failed = True
            return False
        self._failed = False
        return True


def now() -> float:
    """Return the seconds since 1970."""
    return time.time()
