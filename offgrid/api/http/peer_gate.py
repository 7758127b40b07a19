"""Requests that come through the peers port: who sends them, and which resources they reach.

The peers port is another socket of the same server. Its connections have TLS with a certificate of
a paired machine, or none while a pairing code is open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import falcon

from offgrid.api.http.access import needs_of, refuse_unknown
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.http.waitress.environ import PEER, on_peers_port
from offgrid.caller import Caller
from offgrid.errors import RequestError
from offgrid.peers.book import Book

Admit = Callable[[Mapping[str, Any], str], Caller]


class NotPaired(RequestError):
    """401: the machine is not, or no longer, a peer of this one."""

    status = 401
    type = "authentication_error"
    code = "not_paired"


def admit_peers(admit: Admit, book: Book | None) -> Admit:
    """Return a function that finds the caller of a request: a peer, or what ``admit`` finds.

    Keys mean nothing on the peers port: there, the certificate says who sends the request.

    Args:
        admit: finds the caller of other requests.
        book: the peers; None if this server has none.
    """

    def admit_any(env: Mapping[str, Any], address: str) -> Caller:
        if not on_peers_port(env):
            return admit(env, address)
        # It may have been forgotten after its connection began.
        peer = None if book is None else book.by_fingerprint(env[PEER])
        if peer is None:
            raise NotPaired("This machine is not paired with yours. Pair them: offgrid peers pair.")
        return peer.caller(address)

    return admit_any


class PeerGate:
    """Middleware: peers reach the resources that are made for them, and inference. Other clients
    reach all others. A request for anything else learns only that there is no such path."""

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Raise HTTPRouteNotFound, or let the request pass."""
        is_inner = bool(getattr(resource, "for_peers", False))
        if not on_peers_port(req.env):
            allowed = not is_inner
        else:
            allowed = is_inner or needs_of(resource, req.method) == INFERENCE["POST"]
        if not allowed:
            refuse_unknown(req)  # without a key or a certificate even that is not told
            raise falcon.HTTPRouteNotFound
