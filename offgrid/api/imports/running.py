"""Imports of the API: one at a time, in a thread of its own, which clients can follow and cancel.

An import that is cancelled, or whose server ends, keeps its partial file, and the next import of
the same model continues there.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from offgrid.api.http.sse import PING
from offgrid.api.imports.shapes import ImportRequest
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.client import ClientGone
from offgrid.engine.client.pending import POLL
from offgrid.errors import ImportRunning, Overloaded, TransferError
from offgrid.store.hashes import Hashes
from offgrid.store.imports import Outcome, import_models
from offgrid.store.progress import Phase

log = logging.getLogger(__name__)

MAX_KEPT = 64
"""Imports that have ended and can still be retrieved."""
_PAUSE = 0.2
"""Seconds between two events of progress."""


class _Cancelled(Exception):
    """Nobody wants the import any longer."""


class RunningImport:
    """An import while it runs, and after. Thread-safe.

    Args:
        request: what the client wants.
        paths: its paths, resolved.
        within: the import roots, resolved.
        models_dir: where the models go.
    """

    def __init__(
        self,
        request: ImportRequest,
        paths: Sequence[Path],
        within: Sequence[Path],
        models_dir: Path,
        hashes: Hashes,
    ) -> None:
        self.id = f"import_{secrets.token_hex(12)}"
        self.thread: threading.Thread | None = None
        self._request = request
        self._paths = paths
        self._within = within
        self._models_dir = models_dir
        self._hashes = hashes
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

    @property
    def ended(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._status != "in_progress"

    def cancel(self) -> None:
        """Stop it soon; :meth:`wait_end` waits for that."""
        self._cancelled.set()

    def snapshot(self) -> Json:
        """Return the import in its current state."""
        with self._changed:
            return {
                "id": self.id,
                "object": "import",
                "created_at": self._created,
                "completed_at": self._completed,
                "status": self._status,
                "paths": list(self._request.paths),
                "ids": list(self._request.ids),
                "replace": self._request.replace,
                "background": self._request.background,
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
        yield _frame({"type": "import.created", "import": self.snapshot()})
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
                events.append({"type": "import.progress", "progress": progress})
                shown = progress
            events += [{"type": "import.file", "file": file} for file in files]
            if ended:
                state = self.snapshot()
                events.append({"type": f"import.{state['status']}", "import": state})
            if events:
                yield b"".join(map(_frame, events))
            elif ping_interval and now - spoke >= ping_interval:
                yield PING
            else:
                continue
            if ended:
                return
            spoke = now

    def run(self) -> None:
        """Import, on the calling thread; every error becomes the import's."""
        status, error = "failed", None
        try:
            outcomes = import_models(
                self._paths,
                self._models_dir,
                ids=self._request.ids or None,
                within=self._within,
                replace=self._request.replace,
                report=self._report,
                tell=self._tell,
                look=self._look,
                plan=self._plan,
                hashes=self._hashes,
            )
            if not any(o.status == "failed" or o.code == "different" for o in outcomes):
                status = "completed"
        except _Cancelled:
            status = "cancelled"
        except TransferError as ex:
            error = {"code": ex.code, "message": self._told(str(ex))}
        except Exception:
            log.exception("an import failed")
            error = {"code": "internal", "message": "Internal server error."}
        with self._changed:
            self._status, self._error = status, error
            self._completed = int(time.time())
            self._changed.notify_all()

    def _look(self, folder: str) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def _plan(self, size: int) -> None:
        self._planned = size

    def _report(self, name: str, phase: Phase, done: int, total: int) -> None:
        self._look(name)
        copied = {"comparing": 0, "copying": done, "verifying": total}[phase]
        self._progress = {
            "file": plain_text(name),
            "phase": phase,
            "done": done,
            "total": total,
            "all_done": min(self._placed + copied, self._planned),
            "all_total": self._planned,
        }

    def _tell(self, outcome: Outcome) -> None:
        reason = outcome.reason
        if outcome.code == "different":
            reason = "another file has this name in the models directory; replace: true replaces it"
        file = {
            "status": outcome.status,
            "id": outcome.id or None,
            "name": plain_text(outcome.name),
            "size": outcome.size,
            "reason": self._told(reason) or None,
            "code": outcome.code or None,
        }
        with self._changed:
            self._files.append(file)
            self._placed += outcome.size if outcome.status == "imported" else 0
            self._changed.notify_all()

    def _told(self, text: str) -> str:
        """Return a reason for a client, who learns no paths of this machine outside the roots."""
        folder = str(self._models_dir)
        text = text.replace(f"{folder}{os.sep}", "").replace(folder, "the models directory")
        return plain_text(text)


class Imports:
    """The imports of one server. Thread-safe."""

    def __init__(self, settings: Settings, hashes: Hashes) -> None:
        self._models_dir = settings.models_dir
        self._hashes = hashes
        self._lock = threading.Lock()
        self._imports: OrderedDict[str, RunningImport] = OrderedDict()
        self._closed = False

    @property
    def running(self) -> RunningImport | None:
        """The import that is in progress."""
        with self._lock:
            return self._running()

    def _running(self) -> RunningImport | None:
        return next((made for made in self._imports.values() if not made.ended), None)

    def start(
        self, request: ImportRequest, paths: Sequence[Path], within: Sequence[Path]
    ) -> RunningImport:
        """Begin an import.

        Raises:
            ImportRunning: another one is in progress.
            Overloaded: the server ends, or the system cannot start a thread now.
        """
        made = RunningImport(request, paths, within, self._models_dir, self._hashes)
        made.thread = threading.Thread(target=made.run, name="import", daemon=True)
        with self._lock:
            if self._closed:
                raise Overloaded("The server is shutting down.", code="server_shutting_down")
            running = self._running()
            if running is not None:
                raise ImportRunning(running.id)
            try:
                made.thread.start()
            except RuntimeError:
                message = "The system cannot start another thread; try again later."
                raise Overloaded(message) from None
            self._imports[made.id] = made
            while len(self._imports) > MAX_KEPT + 1:
                self._imports.popitem(last=False)
        return made

    def find(self, id: str) -> RunningImport | None:
        """Return an import that runs, or has ended not long ago."""
        with self._lock:
            return self._imports.get(id)

    def forget(self, id: str) -> None:
        """Forget an import that has ended."""
        with self._lock:
            self._imports.pop(id, None)

    def close(self, timeout: float) -> None:
        """Cancel the running import and wait for its end. No other can begin."""
        with self._lock:
            self._closed = True
            running = self._running()
        if running is not None and running.thread is not None:
            running.cancel()
            running.thread.join(timeout)


def _frame(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: ".encode() + msgspec.json.encode(event) + b"\n\n"


def plain_text(text: str) -> str:
    """Return a text for JSON; bytes of a path that are not UTF-8 become U+FFFD."""
    return os.fsencode(text).decode("utf-8", "replace")
