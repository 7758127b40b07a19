"""The table of peers: the state of each, and what it has last said about itself.

Each peer is asked by a thread, so that one which does not answer delays no other. It is asked more
often while somebody looks at the table, and less often while it cannot be reached.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from offgrid.peers.book import Book, Peer
from offgrid.peers.connection import PeerConnections
from offgrid.peers.errors import PeerError, PeerProtocolError, PeerRefused
from offgrid.peers.status import MAX_REPORT, State, StatusReport, read_report

log = logging.getLogger(__name__)

PATH = "/peer/status"
USUAL = 10.0
"""Seconds between two questions."""
LOOKED_AT = 2.0
"""The same while somebody looks."""
LONGEST = 30.0
"""The same while the peer cannot be reached, in the end."""
LOOKING = 10.0
"""Seconds for which somebody counts as looking after a request."""
ANSWER_SECONDS = 4.0
"""How long a peer may take to connect, and then to answer."""
_JOIN_SECONDS = 2.0
JITTER = 0.1
"""Part of a pause by which it varies, so that machines started together do not ask together."""


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A paired machine as it is known now.

    Attributes:
        peer: as the book has it.
        state: the state of the connection.
        report: what it last said; None before its first answer.
        last_seen: when it last answered, in seconds since 1970; None if it has not since the server
            was started.
        problem: why it is not connected; empty if it is.
    """

    peer: Peer
    state: State = "unknown"
    report: StatusReport | None = None
    last_seen: float | None = None
    problem: str = ""


class PeerTable:
    """Asks all peers of a book from time to time. Thread-safe.

    Args:
        book: the peers.
        connections: connections to them.
        clock: monotonic seconds.
        own_port: returns the peers port of this machine, which the peers are told; 0 for none.
    """

    def __init__(
        self,
        book: Book,
        connections: PeerConnections,
        clock: Callable[[], float] = time.monotonic,
        own_port: Callable[[], int] = lambda: 0,
    ) -> None:
        self._book, self._connections, self._clock = book, connections, clock
        self._own_port = own_port
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}
        self._looked_at = float("-inf")
        self._runs = False
        book.on_change(self._follow)

    def start(self) -> None:
        """Begin to ask."""
        with self._lock:
            self._runs = True
        self._follow()

    def close(self) -> None:
        """End all threads. Requests that wait for an answer must be ended before, by
        :meth:`PeerConnections.close`. Idempotent."""
        with self._lock:
            self._runs = False
            watches = list(self._watches.values())
            self._watches.clear()
        for watch in watches:
            watch.end()
        ends = time.monotonic() + _JOIN_SECONDS
        for watch in watches:
            watch.join(max(0.0, ends - time.monotonic()))

    def known(self) -> list[KnownPeer]:
        """Return all peers, in the order in which they were paired. Waits for nothing."""
        return [self.of(peer) for peer in self._book.all()]

    def of(self, peer: Peer) -> KnownPeer:
        """Return what is known about one peer."""
        with self._lock:
            watch = self._watches.get(peer.fingerprint)
        return KnownPeer(peer) if watch is None else replace(watch.known, peer=peer)

    def look(self) -> list[KnownPeer]:
        """Return the same, for somebody who looks at the table: the peers are asked more often for
        the next seconds."""
        self._looked_at = self._clock()
        with self._lock:
            watches = list(self._watches.values())
        for watch in watches:
            watch.hurry()
        return self.known()

    def appeared(self, id: str) -> None:
        """Ask the peer with an id now, if it is not connected: the network says that it is there.

        The network may say so as often as it likes, so a peer that was just asked is not asked.
        """
        with self._lock:
            watches = list(self._watches.values())
        for watch in watches:
            if watch.known.peer.id == id and watch.known.state != "connected":
                watch.hurry()

    def ask(self, peer: Peer) -> StatusReport:
        """Return what a peer says about itself now.

        Raises:
            PeerError: it cannot be reached, refuses, or does not answer as expected.
        """
        port = self._own_port()
        path = f"{PATH}?port={port}" if port else PATH
        status, body = self._connections.request(
            peer, "GET", path, timeout=ANSWER_SECONDS, limit=MAX_REPORT
        )
        if status != 200:
            raise PeerProtocolError(peer, f"status {status} for {PATH}")
        try:
            return read_report(body)
        except ValueError as ex:
            raise PeerProtocolError(peer, f"{PATH}: {ex}") from None

    def pause_after(self, failures: int) -> float:
        """Return the seconds until the next question.

        Args:
            failures: how many of the latest questions failed.
        """
        # After a pairing, the other machine may need a moment until it knows this one.
        if failures == 1 or self._clock() - self._looked_at < LOOKING:
            pause = LOOKED_AT
        else:
            pause = min(LONGEST, USUAL * max(1, failures - 1))
        return pause * random.uniform(1 - JITTER, 1 + JITTER)

    def _follow(self) -> None:
        """Start to ask new peers, and stop to ask forgotten ones."""
        with self._lock:
            if not self._runs:
                return
            # Read with the lock: another thread may follow a later change of the book meanwhile.
            peers = {peer.fingerprint: peer for peer in self._book.all()}
            gone = [self._watches.pop(key) for key in [*self._watches] if key not in peers]
            for key, peer in peers.items():
                if key not in self._watches:
                    self._watches[key] = _Watch(self, peer)
        for watch in gone:
            watch.end()


class _Watch:
    """The thread that asks one peer."""

    def __init__(self, table: PeerTable, peer: Peer) -> None:
        self.known = KnownPeer(peer)
        self._table, self._fingerprint = table, peer.fingerprint
        self._ended = False
        self._wanted = threading.Event()
        self._asked_at = float("-inf")
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="peer-status", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Ask now, unless the last answer is new."""
        if time.monotonic() - self._asked_at > LOOKED_AT:
            self.wake()

    def wake(self) -> None:
        """Ask now."""
        self._wanted.set()

    def end(self) -> None:
        """Tell the thread to end."""
        self._ended = True
        self._wanted.set()

    def join(self, seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._ended:
            self._wanted.clear()
            self._asked_at = time.monotonic()
            try:
                self._ask()
            except Exception:
                log.exception("asking the peer %s failed", self.known.peer.name)
                self._failures += 1
            self._asked_at = time.monotonic()
            self._wanted.wait(self._table.pause_after(self._failures))

    def _ask(self) -> None:
        before = self.known
        try:
            report = self._table.ask(before.peer)
        except PeerError as ex:
            if self._ended:
                return
            self._failures += 1
            state: State = "refused" if isinstance(ex, PeerRefused) else "unreachable"
            self.known = replace(before, state=state, problem=str(ex))
            if self._failures == 2:
                log.warning("%s", ex)
            return
        self.known = replace(
            before, state="connected", report=report, last_seen=time.time(), problem=""
        )
        if before.state == "unknown" or self._failures >= 2:
            log.info("the peer %s is connected", before.peer.name)
        self._failures = 0
