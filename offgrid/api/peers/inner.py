"""Resources that only peers reach, through the peers port."""

from __future__ import annotations

import falcon
import msgspec

from offgrid.addresses import unmapped
from offgrid.api.http.caller import caller
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.http.waitress.environ import PEER
from offgrid.api.peers.own import OwnStatus
from offgrid.peers.peers import Peers


class AliveResource:
    """``GET /peer/alive``: shows that this machine can be reached. It waits for nothing."""

    scopes = INFERENCE
    for_peers = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer without a body."""
        resp.status = falcon.HTTP_204


class StatusResource:
    """``GET /peer/status``: what this machine says about itself.

    Args:
        own: makes the reports; None if peers are off, and then no request comes here.
        peers: learns where the peer is.
    """

    scopes = INFERENCE
    for_peers = True

    def __init__(self, own: OwnStatus | None, peers: Peers | None) -> None:
        self._own, self._peers = own, peers

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the report, with the models that the peer may use."""
        if self._own is None or self._peers is None:
            raise falcon.HTTPRouteNotFound
        port = req.get_param_as_int("port", min_value=1, max_value=65535)
        if port is not None:
            self._peers.called(req.env[PEER], unmapped(req.remote_addr), port)
        resp.data = msgspec.json.encode(self._own.report(caller().models))
        resp.content_type = falcon.MEDIA_JSON
