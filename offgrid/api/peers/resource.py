"""``/v1/peers/{id}``: one peer, for callers with the scope ``peers``."""

from __future__ import annotations

import logging

import falcon

from offgrid.api.http.scopes import PEERS
from offgrid.api.peers.pairing import needed
from offgrid.errors import NotStored, StoreFailed
from offgrid.peers.book import Peer
from offgrid.peers.peers import Peers
from offgrid.terminal import shown

log = logging.getLogger(__name__)


class PeerResource:
    """One peer."""

    scopes = PEERS

    def __init__(self, peers: Peers | None) -> None:
        self._peers = peers

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Forget the peer: it can do nothing here from now on, also on its open connections."""
        book = needed(self._peers).book
        peer = _found(book.find(id))
        try:
            book.remove(peer.fingerprint)
        except OSError as ex:
            raise StoreFailed(
                f"The peer cannot be forgotten: {ex.strerror or ex}. It can still connect."
            ) from ex
        log.info("forgot the peer %s (%s)", shown(peer.name), peer.id)
        resp.media = {"object": "peer", "id": peer.id, "name": peer.name, "deleted": True}


def _found(peer: Peer | None) -> Peer:
    if peer is None:
        raise NotStored(
            "No peer has this id or name, or several have; GET /v1/peers lists all.", "id"
        )
    return peer
