"""Responses that are answered in the background: each has a thread, and outlives its client.

A background response is stored when it is created, and again when it has ended. Between the two its
events are in memory, where any number of clients can follow them. A stored response that is not
finished names its owner: if that process no longer exists, no process will finish it, and the next
reader makes it a failed response.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec
import psutil

from offgrid.api.generation import GenerationGroup, Signal
from offgrid.api.http.framing import NAMED, PING
from offgrid.api.responses.writer import ResponseWriter
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.client import ClientGone
from offgrid.engine.client.pending import POLL
from offgrid.engine.client.shares import Shares
from offgrid.errors import InvalidParameter, Overloaded
from offgrid.store.file import Owner
from offgrid.store.responses import ResponseStore, StoredResponse

log = logging.getLogger(__name__)

MAX_KEPT = 64
"""Finished responses whose events stay in memory, so that a client can follow them again."""
MAX_KEPT_BYTES = 32 << 20
_SAME_TIME = 2.0
"""Seconds by which two readings of a process's start may differ."""
_LOST = "The server ended before this response was finished; create it again."
_numbers = itertools.count()
_running_here: set[str] = set()
"""The owners of this process that still write responses."""


class BackgroundResponse:
    """A background response while it is answered, and for a while after.

    Attributes:
        id: the response's id.
        caller: the id of the owner of the stored response.
        whose: the owner of its place among the unfinished ones.
        wanted: whether somebody still wants the answer: false after a cancellation.
        discarded: whether the response was deleted, so that it must not be stored.
    """

    def __init__(
        self, id: str, alive: Callable[[], bool], caller: str = "", whose: str = ""
    ) -> None:
        self.id = id
        self.caller = caller
        self.whose = whose
        self.wanted = True
        self.discarded = False
        self.thread: threading.Thread | None = None
        self.size = 0
        self._alive = alive
        self._response: Json = {}
        self._frames: list[bytes] = []
        self._changed = threading.Condition()
        self._ended = False

    def alive(self) -> bool:
        """Whether the generation should go on: at first as long as the client stays."""
        return self.wanted and self._alive()

    def detach(self, response: Json) -> None:
        """Go on whether or not the client stays; ``response`` changes as it is answered."""
        self._response = response
        self._alive = lambda: True

    def add(self, event: Json) -> None:
        """Add an event for the clients that follow."""
        frame = NAMED.chunk(event)
        with self._changed:
            self._frames.append(frame)
            self.size += len(frame)
            self._changed.notify_all()

    def end(self) -> None:
        """Tell the clients that follow that no more events come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether no more events come."""
        return self._ended

    def snapshot(self) -> Json:
        """Return the response in its current state."""
        # Encoding makes a copy while no other thread runs.
        copy: Json = msgspec.json.decode(msgspec.json.encode(self._response))
        return copy

    def wait_end(self, alive: Callable[[], bool]) -> None:
        """Wait until it has ended.

        Raises:
            ClientGone: ``alive`` returned False.
        """
        with self._changed:
            while not self._ended:
                self._changed.wait(POLL)
                if not alive():
                    raise ClientGone

    def follow(
        self, after: int, ping_interval: float, alive: Callable[[], bool]
    ) -> Iterator[bytes]:
        """Yield the frames of the events after the given number, until the last one.

        Args:
            after: the ``sequence_number`` after which they begin; -1 for all.
            ping_interval: seconds without data before a comment is sent, 0 for never.
            alive: whether the client is still connected.
        """
        at = after + 1
        spoke = time.monotonic()
        while True:
            with self._changed:
                if len(self._frames) <= at and not self._ended:
                    self._changed.wait(POLL)
                frames, ended = self._frames[at:], self._ended
            if frames:
                at += len(frames)
                yield b"".join(frames)
            elif ended or not alive():
                return
            elif ping_interval and time.monotonic() - spoke >= ping_interval:
                yield PING
            else:
                continue
            spoke = time.monotonic()


class Background:
    """The background responses of one server. Thread-safe.

    Args:
        settings: at most half of the places in the queue of a model are taken by the background
            responses of a caller, so that other requests are not refused because of them. Callers
            that hold fewer than their share find half as many again.
    """

    def __init__(self, settings: Settings) -> None:
        most = max(1, (settings.parallel + settings.queue_size) // 2)
        self._unfinished = Shares(most, max(1, most // 2))
        self._lock = threading.Lock()
        self._responses: OrderedDict[str, BackgroundResponse] = OrderedDict()
        started = psutil.Process().create_time()
        self.owner = f"{os.getpid()} {started} {secrets.token_hex(8)}"
        """Names this server in responses that it has not finished."""
        _running_here.add(self.owner)

    def count(self, whose: str) -> None:
        """Count one more response of a caller as unfinished, until :meth:`uncount` or its end.

        Raises:
            Overloaded: too many are being answered.
        """
        with self._lock:
            if not self._unfinished.take(whose):
                raise Overloaded(
                    f"This server answers at most {self._unfinished.usual} responses in the "
                    "background at the same time; try again later."
                )

    def uncount(self, whose: str) -> None:
        """Count one less."""
        with self._lock:
            self._unfinished.give_back(whose)

    def start(
        self, response: BackgroundResponse, writer: ResponseWriter, group: GenerationGroup
    ) -> None:
        """Answer a response on a thread of its own.

        Raises:
            Overloaded: the system cannot start a thread now.
        """
        response.detach(writer.response)
        response.thread = threading.Thread(
            target=self._run,
            name=f"background-{next(_numbers)}",
            args=(response, writer, group),
            daemon=True,
        )
        with self._lock:  # a thread that finds it can join its thread
            try:
                response.thread.start()
            except RuntimeError:
                message = "The system cannot start another thread; try again later."
                raise Overloaded(message) from None
            self._responses[response.id] = response

    def find(self, id: str, owner: Owner) -> BackgroundResponse | None:
        """Return a response that this server answers or whose events it still has.

        Args:
            id: its id.
            owner: whose responses are looked at.
        """
        with self._lock:
            found = self._responses.get(id)
        return found if found is not None and found.caller in owner.sees else None

    def discard(self, id: str) -> bool:
        """Forget a deleted response and stop answering it; return whether there was one."""
        with self._lock:
            response = self._responses.pop(id, None)
            if response is not None:
                response.discarded = True
                response.wanted = False
        return response is not None

    def close(self, timeout: float) -> None:
        """Wait until the running ones have stored how they ended. No other can begin."""
        deadline = time.monotonic() + timeout
        with self._lock:
            threads = [
                response.thread
                for response in self._responses.values()
                if response.thread is not None
            ]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        _running_here.discard(self.owner)

    def _run(
        self, response: BackgroundResponse, writer: ResponseWriter, group: GenerationGroup
    ) -> None:
        """Answer a response. The writer reports and stores all errors but a cancellation."""
        try:
            for event in writer.stream():
                if event is not None and not isinstance(event, Signal):
                    response.add(event)
        except ClientGone:
            response.add(writer.cancelled())
        except Exception:
            log.exception("a background response failed")
        finally:
            group.cancel()
            self.uncount(
                response.whose
            )  # before the end is told: a client may begin another one at once
            response.end()
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Keep the events of the latest responses that have ended."""
        with self._lock:
            ended = [response for response in self._responses.values() if response.ended]
            size = sum(response.size for response in ended)
            for number, response in enumerate(ended):
                if len(ended) - number <= MAX_KEPT and size <= MAX_KEPT_BYTES:
                    break
                size -= response.size
                del self._responses[response.id]


def owner_lives(owner: str) -> bool:
    """Return whether the process that writes a response still exists."""
    pid, _, rest = owner.partition(" ")
    if pid == str(os.getpid()):
        return owner in _running_here
    try:
        started = psutil.Process(int(pid)).create_time()
        return bool(abs(started - float(rest.partition(" ")[0])) < _SAME_TIME)
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False


def read(store: ResponseStore, background: Background, id: str) -> StoredResponse | None:
    """Return a stored response; one that no process will finish becomes a failed one.

    Raises:
        StoreFailed: the file cannot be used.
    """
    stored = store.get(id)
    if stored is None or stored.owner is None or background.find(id, store.owner) is not None:
        return stored
    if owner_lives(stored.owner) and stored.owner != background.owner:
        return stored
    body: Json = msgspec.json.decode(stored.body)
    body |= {"status": "failed", "error": {"code": "server_error", "message": _LOST}}
    failed = StoredResponse(id, stored.previous, msgspec.json.encode(body), stored.inputs, ())
    store.finish(failed)
    return failed


def start_after(text: str | None) -> int:
    """Return the number of the event after which a stream begins; -1 for all.

    Raises:
        InvalidParameter: it is no number.
    """
    if text is None:
        return -1
    if not text.isascii() or not text.isdigit():
        raise InvalidParameter(
            "starting_after must be the sequence_number of an event.", "starting_after"
        )
    return int(text[:12])
