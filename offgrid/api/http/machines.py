"""Which machines are served: without keys only this one, unless the setting ``insecure`` is on.

The address to listen on is checked at start (:func:`check_address`), and each request by the
address that it comes from (:class:`OnlyThisMachine`). Under ``waitress-serve`` the application does
not know on which address the server listens, so the second check is the only one there. The second
check also protects a server on a loopback address with a proxy in front of it.
"""

from __future__ import annotations

import falcon

from offgrid.api.http.access import Access
from offgrid.api.http.forwarding import foreign_sender
from offgrid.api.http.waitress.environ import on_peers_port
from offgrid.config import Settings, is_local, is_loopback
from offgrid.errors import ConfigError, RequestError
from offgrid.store.key_ring import KeysUnavailable
from offgrid.store.keys import has_keys

_ADVICE = (
    "Create a key with 'offgrid keys create', or start the server with --insecure "
    "(OFFGRID_INSECURE=true) if you trust everybody on that network."
)


class RemoteRefused(RequestError):
    """403: the client is on another machine, and the server has no keys."""

    status = 403
    type = "permission_error"
    code = "remote_not_allowed"


def check_address(settings: Settings, host: str) -> None:
    """Check that a server may listen on an address.

    Args:
        settings: the settings.
        host: a name or an address.

    Raises:
        ConfigError: other machines can reach the address, and nothing says that they may.
    """
    if not (is_loopback(host) or settings.insecure or has_keys(settings)):
        raise ConfigError(
            f"OFFGRID_HOST (--host): {host!r} would let other machines use this server without "
            f"authentication. {_ADVICE} 127.0.0.1 serves this machine only."
        )


class OnlyThisMachine:
    """Refuses clients on other machines while there is neither a key nor ``insecure``."""

    def __init__(self, settings: Settings, access: Access) -> None:
        self._insecure = settings.insecure
        self._access = access

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Raise RemoteRefused, or let the request pass."""
        if on_peers_port(req.env):
            return
        sender = foreign_sender(req.env)
        if sender is None and is_local(req.env.get("REMOTE_ADDR") or ""):
            return
        if self._insecure or self._needs_key():
            return
        through = "" if sender is None else ", through a proxy that is not in trusted_proxies"
        raise RemoteRefused(
            f"This request comes from another machine{through}. The server has no keys. {_ADVICE}"
        )

    def _needs_key(self) -> bool:
        try:
            return self._access.ring.needed
        except KeysUnavailable:  # Access refuses the request
            return True
