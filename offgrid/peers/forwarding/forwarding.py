"""Sends requests to peers: which one is asked, and what is done if it cannot be reached."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from offgrid.errors import PeerLost, PeersUnreachable
from offgrid.peers.book import Peer
from offgrid.peers.connection import PeerConnections
from offgrid.peers.errors import PeerError, PeerUnreachable
from offgrid.peers.forwarding.known import Found, Known, Whereabouts
from offgrid.peers.forwarding.running import Outgoing, Running
from offgrid.peers.forwarding.watch import Pace, Watches

log = logging.getLogger(__name__)

_BUSY = 503


class Forwarding:
    """Forwards requests for models of peers. Thread-safe.

    Args:
        connections: opens connections to peers.
        known: returns the paired machines as they are known now.
        pace: how closely peers are watched while they answer.

    Attributes:
        where: which peers have which models.
        watches: notices peers that fall silent.
    """

    def __init__(
        self,
        connections: PeerConnections,
        known: Callable[[], Sequence[Known]],
        pace: Pace | None = None,
    ) -> None:
        self.where = Whereabouts(known)
        self._connections = connections
        self.watches = Watches(connections, pace or Pace())
        self._changed = threading.Condition()
        self._running: set[Running] = set()

    def send(self, found: Sequence[Found], outgoing: Outgoing) -> Running:
        """Send a request to the first of several peers that takes it.

        The next one is asked only if nothing of a response has come, or one that says that the peer
        is too busy now. If all are busy, the last of these responses is returned.

        Args:
            found: the same model on several peers, in the order in which they are asked; not empty.
            outgoing: the request.

        Raises:
            PeersUnreachable: no peer can be reached, or takes requests of this machine.
            PeerLost: a peer has got the request, and was lost before it answered.
            ClientGone: the client has left.
            RequestTimeout: it has taken too long.
        """
        errors: list[PeerError] = []
        busy: Running | None = None
        for one in found:
            try:
                running = self._sent(one.peer, outgoing)
            except PeerError as ex:
                log.info("not forwarded: %s", ex)
                errors.append(ex)
                continue
            except BaseException:
                _close(busy)
                raise
            _close(busy)
            if not _is_busy(running):
                return running
            busy = running
        if busy is not None:
            return busy
        for error in errors:
            if error.is_sent:
                raise PeerLost(error.peer.name, error.reason)
        raise PeersUnreachable(found[0].model.id, [str(error) for error in errors])

    def drain(self, seconds: float) -> None:
        """Wait until no request runs, at most for some seconds; then end those that do."""
        ends = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(
                lambda: not self._running, timeout=max(0.0, ends - time.monotonic())
            )
            left = [*self._running]
        for running in left:
            running.stop()

    def close(self) -> None:
        """End the watches. Idempotent."""
        self.watches.close()

    def _sent(self, peer: Peer, outgoing: Outgoing) -> Running:
        """Send a request to one peer; a second time if it had closed a kept connection."""
        running = Running(peer, outgoing)
        try:
            return self._on(running)
        except PeerUnreachable as ex:
            if not (running.was_kept and ex.is_lost):
                raise
            was_sent = ex.is_sent
        try:
            return self._on(Running(peer, outgoing))
        except PeerUnreachable as ex:
            ex.is_sent = ex.is_sent or was_sent  # the peer may have worked on it before it ended
            raise

    def _on(self, running: Running) -> Running:
        """Send a request, and watch its peer until the response was read."""
        with self._changed:
            self._running.add(running)
        running.at_end(lambda: self._ended(running))
        self.where.sent(running.peer, 1)
        try:
            running.connect(self._connections)
            running.at_end(self.watches.begin(running.peer, running.lose))
            running.send()
        except BaseException:
            running.close()
            raise
        return running

    def _ended(self, running: Running) -> None:
        self.where.sent(running.peer, -1)
        with self._changed:
            self._running.discard(running)
            self._changed.notify_all()


def _is_busy(running: Running) -> bool:
    """Return whether a response says that another machine may be asked."""
    response = running.response
    return response.status == _BUSY and response.headers.get("x-should-retry") != "false"


def _close(running: Running | None) -> None:
    if running is not None:
        running.close()
