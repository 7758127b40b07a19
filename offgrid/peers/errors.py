"""What can go wrong between this machine and a peer.

::

    PeerError                 an error that names the peer
    ├── PeerUnreachable       no connection, a lost one, or no answer in time
    ├── PeerRefused           the peer does not know this machine, or no longer
    └── PeerProtocolError     its answer is not what this version of OffGrid expects
"""

from __future__ import annotations

from offgrid.errors import OffgridError
from offgrid.peers.book import Peer


class PeerError(OffgridError):
    """An error of a peer.

    Attributes:
        peer: the peer.
        reason: what happened, as a part of a sentence that names the peer already.
        is_sent: whether the peer may have got the request, or a part of it.
    """

    def __init__(self, peer: Peer, message: str, reason: str, *, is_sent: bool = False) -> None:
        super().__init__(message)
        self.peer, self.reason, self.is_sent = peer, reason, is_sent


class PeerUnreachable(PeerError):
    """The peer cannot be reached, has ended the connection, or is silent.

    Attributes:
        is_lost: whether the connection ended, and not the time.
        is_silent: whether nothing came back, not even that the connection is refused.
    """

    def __init__(
        self,
        peer: Peer,
        reason: str,
        *,
        is_sent: bool = False,
        is_lost: bool = False,
        is_silent: bool = False,
    ) -> None:
        super().__init__(
            peer, f"The peer {peer.name} cannot be reached: {reason}.", reason, is_sent=is_sent
        )
        self.is_lost, self.is_silent = is_lost, is_silent


class PeerRefused(PeerError):
    """The peer does not know this machine, or no longer."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(
            peer,
            f"The peer {peer.name} refuses this machine, because it has forgotten it. Pair them "
            "again: offgrid peers pair.",
            "it has forgotten this machine",
        )


class PeerProtocolError(PeerError):
    """The answer of the peer is not what this version of OffGrid expects."""

    def __init__(self, peer: Peer, reason: str) -> None:
        super().__init__(
            peer,
            f"The peer {peer.name} does not answer as expected: {reason}. Both machines should "
            "have the same version of OffGrid.",
            reason,
            is_sent=True,
        )
