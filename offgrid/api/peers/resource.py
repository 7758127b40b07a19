"""``/v1/peers/{id}``: one peer, for callers with the scope ``peers``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import falcon
from msgspec import structs

from offgrid.api.fields.common import check_fields
from offgrid.api.http.request import read_checked
from offgrid.api.http.scopes import PEERS
from offgrid.api.peers.listing import described
from offgrid.api.peers.pairing import needed
from offgrid.api.peers.shapes import PeerUpdate
from offgrid.caller import Limits
from offgrid.config import Settings
from offgrid.errors import InvalidParameter, NotStored, StoreFailed
from offgrid.peers.book import Peer
from offgrid.peers.peers import Peers
from offgrid.store.catalogue import Catalogue
from offgrid.store.grants import GrantRefused, known_models
from offgrid.terminal import shown

log = logging.getLogger(__name__)


class PeerResource:
    """One peer."""

    scopes = PEERS

    def __init__(self, settings: Settings, peers: Peers | None, catalogue: Catalogue) -> None:
        self._peers, self._catalogue = peers, catalogue
        self._max_body = settings.max_body_mb << 20

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return what is known about the peer."""
        peers = needed(self._peers)
        resp.media = described(peers.table.of(_found(peers.book.find(id))))

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Change what the peer may do here; it holds from its next request on."""
        peers = needed(self._peers)
        peer = _found(peers.book.find(id))
        request = read_checked(req, self._max_body, lambda body: check_fields(body, PeerUpdate))
        given = self._given(request)

        def change(before: Peer) -> Peer:
            return structs.replace(before, grant=structs.replace(before.grant, **given))

        try:
            after = _found(peers.book.change(peer.fingerprint, change))
        except OSError as ex:
            raise StoreFailed(
                f"The peer cannot be changed: {ex.strerror or ex}. It may do what it could before."
            ) from ex
        log.info("changed what the peer %s (%s) may do", shown(after.name), after.id)
        resp.media = described(peers.table.of(after))

    def _given(self, request: PeerUpdate) -> dict[str, Any]:
        """Return what changes of the grant.

        Raises:
            InvalidParameter: there is no such model.
        """
        given: dict[str, Any] = {}
        if request.models is not None:
            given["models"] = self._models(request.models) if request.models else None
        if request.limits is not None:
            given["limits"] = Limits(**structs.asdict(request.limits))
        return given

    def _models(self, models: Sequence[str]) -> tuple[str, ...]:
        try:
            return tuple(sorted(known_models(models, self._catalogue, "GET /v1/models lists")))
        except GrantRefused as ex:
            raise InvalidParameter(f"{ex}.", "models") from None

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
