"""Pairing: ``/v1/peers/pair`` for the people of this machine, ``/peer/pair`` for other machines."""

from __future__ import annotations

import logging
import math

import falcon

from offgrid.addresses import split_address, unmapped
from offgrid.api.fields.common import check_fields
from offgrid.api.http.caller import caller
from offgrid.api.http.refusals import BodyTooLarge
from offgrid.api.http.request import read_checked
from offgrid.api.http.scopes import INFERENCE, PEERS
from offgrid.api.peers.shapes import PairRequest
from offgrid.api.shapes import Json
from offgrid.config import BY_NAME, Settings
from offgrid.errors import InvalidParameter, PeersOff
from offgrid.peers.book import Peer
from offgrid.peers.desk import Pairing, PairingDesk
from offgrid.peers.pairing import MAX_BODY, PairingClosed, shown_code, typed_code
from offgrid.peers.peers import Peers
from offgrid.terminal import shown

log = logging.getLogger(__name__)


def needed(peers: Peers | None) -> Peers:
    """Return the peers of this server.

    Raises:
        PeersOff: the setting ``peers`` is off.
    """
    if peers is None:
        raise PeersOff
    return peers


def paired_peer(peer: Peer) -> Json:
    """Return what the book says about a peer."""
    return {
        "object": "peer", "id": peer.id, "name": peer.name, "fingerprint": peer.fingerprint,
        "addresses": list(peer.addresses), "port": peer.port, "paired_at": peer.paired_at,
    }  # fmt: skip


def pairing_state(pairing: Pairing) -> Json:
    """Return what became of the latest code."""
    return {
        "object": "peers.pairing",
        "id": pairing.id,
        "state": pairing.state,
        "open": pairing.state == "open",
        "expires_at": pairing.expires_at,
        "locked_for": math.ceil(pairing.locked_for),
        "peer": None if pairing.peer is None else paired_peer(pairing.peer),
    }


class PairingResource:
    """``/v1/peers/pair``: opens and closes codes, or pairs with a machine that shows one."""

    scopes = PEERS

    def __init__(self, settings: Settings, peers: Peers | None) -> None:
        self._peers = peers
        self._max_body = settings.max_body_mb << 20

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Say what became of the latest code."""
        resp.media = pairing_state(needed(self._peers).desk.state())

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Open a code; or pair with the machine at an address."""
        peers = needed(self._peers)
        request = read_checked(
            req, self._max_body, lambda body: check_fields(body, PairRequest), optional=True
        )
        if request.address is None and request.code is None:
            code, pairing = peers.desk.open()
            log.info("a pairing code was opened by %s", _who())
            resp.set_header("Cache-Control", "no-store")
            opened = {"code": shown_code(code), "addresses": peers.places()}
            resp.media = {**pairing_state(pairing), **opened}
            return
        peer = self._pair(peers, request)
        log.info("paired with %s (%s), by %s", shown(peer.name), peer.id, _who())
        resp.media = paired_peer(peer)

    def on_delete(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Close the code."""
        desk = needed(self._peers).desk
        desk.close()
        resp.media = pairing_state(desk.state())

    def _pair(self, peers: Peers, request: PairRequest) -> Peer:
        if request.address is None or request.code is None:
            missing = "address" if request.address is None else "code"
            raise InvalidParameter(
                "To pair with a machine that shows a code, give both address and code; to show a "
                "code here, give neither.",
                missing,
                code="missing_required_parameter",
            )
        code = typed_code(request.code)
        try:
            host, port = split_address(request.address, int(BY_NAME["peers_port"].default))
        except ValueError as ex:
            raise InvalidParameter(f"{ex}.", "address") from None
        return peers.pair_with(host, port, code)


class PairResource:
    """``POST /peer/pair``: the first message of another machine that pairs with this one.

    A connection without a certificate reaches this and :class:`ConfirmResource`, and nothing else.
    """

    scopes = INFERENCE
    for_peers = True

    def __init__(self, peers: Peers | None) -> None:
        self._peers = peers

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer the first message."""
        resp.data = _desk(self._peers).answer(_message(req), _address(req))
        resp.content_type = falcon.MEDIA_JSON


class ConfirmResource:
    """``POST /peer/pair/confirm``: the message that proves that the other machine has the code."""

    scopes = INFERENCE
    for_peers = True

    def __init__(self, peers: Peers | None) -> None:
        self._peers = peers

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer the third message; the machine is a peer then."""
        resp.data = _desk(self._peers).confirm(_message(req), _address(req))
        resp.content_type = falcon.MEDIA_JSON


def _desk(peers: Peers | None) -> PairingDesk:
    if peers is None:  # there is no peers port then
        raise PairingClosed("Peers are off on this server.")
    return peers.desk


def _address(req: falcon.Request) -> str:
    return unmapped(req.env.get("REMOTE_ADDR") or "")


def _message(req: falcon.Request) -> bytes:
    """Return the body as it was sent: the proofs are about its bytes."""
    raw: bytes = req.bounded_stream.read(MAX_BODY + 1)
    if len(raw) > MAX_BODY:
        raise BodyTooLarge(f"The request body is larger than {MAX_BODY} bytes.")
    return raw


def _who() -> str:
    """Return who asks, for the log."""
    who = caller()
    return f"{who.name} ({who.id})" if who.has_key else who.address or "this machine"
