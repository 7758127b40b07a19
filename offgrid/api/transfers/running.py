"""Transfers of the API: each kind one at a time, in a thread, which clients can follow and cancel.

A transfer that is cancelled, or whose server ends, keeps its partial file, and the next one of the
same model continues there.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Generic, Literal, TypeVar

from offgrid.api.http.framing import NAMED, PING
from offgrid.api.shapes import Json
from offgrid.engine.client.client import ClientGone
from offgrid.engine.client.pending import POLL
from offgrid.errors import Overloaded, TransferError, TransferRunning
from offgrid.store.imports import Outcome
from offgrid.store.progress import Phase

log = logging.getLogger(__name__)

MAX_KEPT = 64
"""Transfers of a kind that have ended and can still be retrieved."""
_PAUSE = 0.2
"""Seconds between two events of progress."""
_DONE = ("imported", "exported")


class _Cancelled(Exception):
    """The transfer was cancelled."""


class Transfer(ABC):
    """A transfer while it runs, and after. Thread-safe.

    A subclass does the work in :meth:`copy_models`, and gives the functions ``look``, ``plan``,
    ``report`` and ``tell`` to it.

    Attributes:
        kind: ``import`` or ``export``: the word in its id, its object and its events.
        different: what a client is told about a different file that has the same name.
        thread: the thread in which it runs.
    """

    different: ClassVar[str]
    kind: ClassVar[Literal["import", "export"]]

    def __init__(self) -> None:
        self.id = f"{self.kind}_{secrets.token_hex(12)}"
        self.thread: threading.Thread | None = None
        self._cancelled = threading.Event()
        self._changed = threading.Condition()
        """Guards the fields below; notified when any of them changes."""
        self._created = int(time.time())
        self._completed: int | None = None
        self._status = "in_progress"
        self._files: list[Json] = []
        self._progress: Json | None = None
        self._error: Json | None = None
        self._planned = self._placed = 0

    @abstractmethod
    def copy_models(self) -> Sequence[Outcome]:
        """Do the work, on the calling thread.

        Raises:
            TransferError: nothing, or nothing more, could be done.
        """

    @abstractmethod
    def asked(self) -> Json:
        """Return the fields of the request that its object repeats."""

    @abstractmethod
    def told(self, text: str) -> str:
        """Return a reason for a client, who learns no paths of this machine outside the roots."""

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._status != "in_progress"

    def cancel(self) -> None:
        """Stop it soon; :meth:`wait_end` waits for that."""
        self._cancelled.set()

    def snapshot(self) -> Json:
        """Return the transfer in its current state."""
        with self._changed:
            return {
                "id": self.id,
                "object": self.kind,
                "created_at": self._created,
                "completed_at": self._completed,
                "status": self._status,
                **self.asked(),
                "progress": self._progress,
                "files": list(self._files),
                "error": self._error,
            }

    def wait_end(self, alive: Callable[[], bool]) -> None:
        """Wait until it has ended.

        Raises:
            ClientGone: ``alive`` returned False.
        """
        with self._changed:
            while not self.ended:
                self._changed.wait(POLL)
                if not alive():
                    raise ClientGone

    def follow(self, ping_interval: float, alive: Callable[[], bool]) -> Iterator[bytes]:
        """Yield the frames of all events up to the end.

        Args:
            ping_interval: seconds without an event before a comment is sent, 0 for never.
            alive: whether the client is still connected.
        """
        kind = self.kind
        # Each file has an event, whenever the client comes; so none is told here too.
        yield NAMED.chunk({"type": f"{kind}.created", kind: {**self.snapshot(), "files": []}})
        told, shown, spoke = 0, None, time.monotonic()
        while alive():
            with self._changed:
                if not self.ended and len(self._files) == told:
                    self._changed.wait(min(POLL, _PAUSE))
                files, progress, ended = self._files[told:], self._progress, self.ended
            told += len(files)
            now = time.monotonic()
            events: list[Json] = []
            if progress is not shown and progress is not None and now - spoke >= _PAUSE:
                events.append({"type": f"{kind}.progress", "progress": progress})
                shown = progress
            events += [{"type": f"{kind}.file", "file": file} for file in files]
            if ended:
                state = self.snapshot()
                events.append({"type": f"{kind}.{state['status']}", kind: state})
            if events:
                yield b"".join(map(NAMED.chunk, events))
            elif ping_interval and now - spoke >= ping_interval:
                yield PING
            else:
                continue
            if ended:
                return
            spoke = now

    def run(self) -> None:
        """Do the work, on the calling thread; every error becomes the transfer's."""
        status, error = "failed", None
        try:
            status, error = self._result()
        except Exception:
            log.exception("an %s failed", self.kind)
            error = {"code": "internal", "message": "Internal server error."}
        with self._changed:
            self._status, self._error = status, error
            self._completed = int(time.time())
            self._changed.notify_all()

    def _result(self) -> tuple[str, Json | None]:
        """Do the work; return the status and the error with which it has ended."""
        try:
            outcomes = self.copy_models()
        except _Cancelled:
            return "cancelled", None
        except TransferError as ex:
            return "failed", {"code": ex.code, "message": self.told(str(ex))}
        failed = any(o.status == "failed" or o.code == "different" for o in outcomes)
        return "failed" if failed else "completed", None

    def look(self, folder: str) -> None:
        """Stop the work if it was cancelled."""
        if self._cancelled.is_set():
            raise _Cancelled

    def plan(self, size: int) -> None:
        """Note how many bytes will be copied."""
        self._planned = size

    def report(self, name: str, phase: Phase, done: int, total: int) -> None:
        """Note how far a file is, or stop the work if it was cancelled."""
        self.look(name)
        copied = {"comparing": 0, "copying": done, "verifying": total}[phase]
        self._progress = {
            "file": plain_text(name),
            "phase": phase,
            "done": done,
            "total": total,
            "all_done": min(self._placed + copied, self._planned),
            "all_total": self._planned,
        }

    def tell(self, outcome: Outcome) -> None:
        """Note what became of a file or model."""
        reason = self.different if outcome.code == "different" else outcome.reason
        file = {
            "status": outcome.status,
            "id": outcome.id or None,
            "name": plain_text(outcome.name),
            "size": outcome.size,
            "reason": self.told(reason) or None,
            "code": outcome.code or None,
        }
        with self._changed:
            self._files.append(file)
            self._placed += outcome.size if outcome.status in _DONE else 0
            self._changed.notify_all()


T = TypeVar("T", bound=Transfer)


class Transfers(Generic[T]):
    """The transfers of one kind. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._transfers: OrderedDict[str, T] = OrderedDict()
        self._closed = False

    @property
    def running(self) -> T | None:
        """The transfer that is in progress."""
        with self._lock:
            return self._running()

    def _running(self) -> T | None:
        return next((transfer for transfer in self._transfers.values() if not transfer.ended), None)

    def begin(self, transfer: T) -> None:
        """Begin a transfer.

        Raises:
            TransferRunning: another one is in progress.
            Overloaded: the server ends, or the system cannot start a thread now.
        """
        transfer.thread = threading.Thread(target=transfer.run, name=transfer.kind, daemon=True)
        with self._lock:
            if self._closed:
                raise Overloaded("The server is shutting down.", code="server_shutting_down")
            running = self._running()
            if running is not None:
                raise TransferRunning(running.kind, running.id)
            try:
                transfer.thread.start()
            except RuntimeError:
                message = "The system cannot start another thread; try again later."
                raise Overloaded(message) from None
            self._transfers[transfer.id] = transfer
            while len(self._transfers) > MAX_KEPT + 1:
                self._transfers.popitem(last=False)

    def find(self, id: str) -> T | None:
        """Return a transfer that runs, or has ended not long ago."""
        with self._lock:
            return self._transfers.get(id)

    def forget(self, id: str) -> None:
        """Forget a transfer that has ended."""
        with self._lock:
            self._transfers.pop(id, None)

    def close(self, timeout: float) -> None:
        """Cancel the running transfer and wait for its end. No other can begin."""
        with self._lock:
            self._closed = True
            running = self._running()
        if running is not None and running.thread is not None:
            running.cancel()
            running.thread.join(timeout)


def without_folder(text: str, folder: Path) -> str:
    """Return a reason without the path of a folder; paths that only begin alike stay."""
    path, separator = re.escape(str(folder)), re.escape(os.sep)
    text = re.sub(f"{path}{separator}", "", text)
    return re.sub(rf"{path}(?![\w{separator}-]|\.\w)", "the models directory", text)


def plain_text(text: str) -> str:
    """Return a text for JSON; bytes of a path that are not UTF-8 become U+FFFD."""
    # Not os.fsencode: in the locale C, it refuses the letters that names of models may have.
    return text.encode("utf-8", sys.getfilesystemencodeerrors()).decode("utf-8", "replace")
