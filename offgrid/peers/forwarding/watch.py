"""Notices peers that have fallen silent while requests to them run.

A process that ends closes its connections, and the system tells. A machine that was switched off, a
cut cable and a stopped process tell nothing. So while requests to a peer run, a thread asks it
again and again whether it is alive, on a separate connection, and ends those requests if no answer
comes. An answer of any kind is enough, also that the peer accepts no connections: while it
finishes its last answers, its port is closed already.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from offgrid.peers.book import Peer
from offgrid.peers.connection import PeerConnection, PeerConnections
from offgrid.peers.errors import PeerError, PeerUnreachable

PATH = "/peer/alive"
THREAD = "peer-watch"
_OWN_DELAY = 0.5
"""Seconds by which this process must be late to be at fault itself."""


@dataclass(frozen=True)
class Pace:
    """How closely peers are watched, in seconds.

    Attributes:
        every: from one answer to the next question.
        patience: from the last answer until the peer counts as lost.
        lingers: how long a thread and its connection are kept when no request runs.
    """

    every: float = 0.4
    patience: float = 1.5
    lingers: float = 5.0


class Watches:
    """Watches peers, each with a thread while requests to it run. Thread-safe.

    Args:
        connections: opens connections to peers.
        pace: how closely.

    Attributes:
        pace: the same, for peers of which no request runs yet.
    """

    def __init__(self, connections: PeerConnections, pace: Pace) -> None:
        self._connections, self.pace = connections, pace
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}

    def begin(self, peer: Peer, lost: Callable[[], None]) -> Callable[[], None]:
        """Watch a peer for a request.

        Args:
            peer: the peer.
            lost: called once, on another thread, if the peer falls silent.

        Returns:
            A function that ends this; idempotent.
        """
        with self._lock:
            watch = self._watches.get(peer.certificate)
            if watch is None or not watch.add(lost):
                watch = _Watch(peer, self._connections, self.pace)
                watch.add(lost)
                self._watches[peer.certificate] = watch
                watch.start()
        return lambda: watch.remove(lost)

    def close(self) -> None:
        """End the threads. Idempotent."""
        with self._lock:
            watches = [*self._watches.values()]
        for watch in watches:
            watch.end()


class _Watch:
    """Watches one peer."""

    def __init__(self, peer: Peer, connections: PeerConnections, pace: Pace) -> None:
        self._peer, self._connections, self._pace = peer, connections, pace
        self._changed = threading.Condition()
        self._running: list[Callable[[], None]] = []
        self._ended = False
        self._connection: PeerConnection | None = None
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, lost: Callable[[], None]) -> bool:
        """Add a request; return False if the thread has ended."""
        with self._changed:
            if self._ended:
                return False
            self._running.append(lost)
            return True

    def remove(self, lost: Callable[[], None]) -> None:
        """Remove a request that has ended."""
        with self._changed:
            self._running = [one for one in self._running if one is not lost]

    def end(self) -> None:
        """End the thread soon."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _run(self) -> None:
        try:
            while self._waits_for_requests():
                if not self._answers():
                    self._give_up()
        finally:
            if self._connection is not None:
                self._connection.close()

    def _waits_for_requests(self) -> bool:
        """Wait until it is time to ask; return False if nothing is left to do."""
        idle = 0.0
        with self._changed:
            while not self._ended:
                # Requests that begin do not wake this thread: they have better things to do.
                self._changed.wait(self._pace.every)
                if self._running:
                    break
                idle += self._pace.every
                self._ended = idle >= self._pace.lingers
            return not self._ended

    def _give_up(self) -> None:
        with self._changed:
            lost, self._running = self._running, []
        for one in lost:
            one()

    def _answers(self) -> bool:
        """Ask whether the peer is alive; return False if it has been silent for too long."""
        allowed = self._pace.patience - self._pace.every
        ends = time.monotonic() + allowed
        while True:
            try:
                self._ask(ends)
                return True
            except PeerUnreachable as ex:
                if not ex.is_silent:
                    return True
            except PeerError:
                return True
            late = time.monotonic() - ends
            if 0 <= late < _OWN_DELAY:
                return False
            if late >= _OWN_DELAY:  # this process stood still, so it was not listening
                ends = time.monotonic() + allowed
            # Otherwise there is no way to the peer, which is known at once.
            with self._changed:
                if self._ended:
                    return True
                self._changed.wait(self._pace.every / 4)

    def _ask(self, ends: float) -> None:
        """Ask once, until a moment in seconds of ``time.monotonic``.

        Raises:
            PeerError: no answer came by then, or another one.
        """
        if self._connection is None:
            self._connection = self._connections.open(self._peer, _left(ends))
        try:
            self._connection.lend(_left(ends))
            # Without a deadline: an answer that came while this process stood still counts.
            self._connection.request("GET", PATH).read_all()
        except BaseException:
            self._connection.close()
            self._connection = None
            raise


def _left(ends: float) -> float:
    return max(0.1, ends - time.monotonic())
