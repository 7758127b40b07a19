"""What proxies say about their clients: X-Forwarded-For, -Proto and -Host.

A client can send these headers too, so only those of trusted proxies are used. Each proxy appends
the address that its connection came from. Read from the right, the addresses of trusted proxies are
skipped; the first other address is the client's, and everything to the left of it was sent by the
client and proves nothing.

All forwarding headers are removed afterwards, so that no other code believes them.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import falcon

from offgrid.config import Settings, is_local, networks
from offgrid.config.network import UNIX, to_address
from offgrid.errors import InvalidParameter

_HEADERS = (
    "HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_FORWARDED_PORT", "HTTP_X_FORWARDED_BY", "HTTP_X_FORWARDED_SERVER", "HTTP_X_REAL_IP",
)  # fmt: skip
_FORWARDED_FOR = re.compile(r'for="?([^";, ]+)', re.IGNORECASE)
"""RFC 7239."""
_SENDER = "offgrid.foreign_sender"


def foreign_sender(env: dict[str, Any]) -> str | None:
    """Return the other machine from which an untrusted proxy says that a request came; None if
    there is none. Lying about it gains nothing: it can only cause a refusal."""
    sender: str | None = env.get(_SENDER)
    return sender


class Forwarding:
    """Puts the client's address, scheme and host in place of those of a trusted proxy."""

    def __init__(self, settings: Settings) -> None:
        self._networks = networks(settings.trusted_proxies)
        self._unix = UNIX in settings.trusted_proxies

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Change the WSGI environment; the next middleware sees the result.

        Raises:
            InvalidParameter: a trusted proxy sends a header that cannot be read.
        """
        self.apply(req.env)

    def address(self, env: dict[str, Any]) -> str:
        """Return the address of a client, from the headers of its request and the ``REMOTE_ADDR``
        of its connection; that of the connection if a trusted proxy sends nothing that can be
        read."""
        changed = dict(env)
        with contextlib.suppress(InvalidParameter):
            self.apply(changed)
        return str(changed["REMOTE_ADDR"])

    def apply(self, env: dict[str, Any]) -> None:
        """Change a WSGI environment.

        Raises:
            InvalidParameter: as :meth:`process_request`.
        """
        said = {name: env.pop(name) for name in _HEADERS if name in env}
        if to_address(env.get("REMOTE_ADDR") or "") is None:
            # Servers give various texts, or none, for clients of a Unix socket.
            env["REMOTE_ADDR"] = UNIX
        hops = _values(said.get("HTTP_X_FORWARDED_FOR"))
        if not self._trusts(env["REMOTE_ADDR"]):
            # Some proxies send the address in one of these headers only.
            hops += _values(said.get("HTTP_X_REAL_IP"))
            hops += _FORWARDED_FOR.findall(said.get("HTTP_FORWARDED", ""))
            foreign = [hop for hop in map(_address_of, hops) if hop and not is_local(hop)]
            if foreign:
                env[_SENDER] = foreign[-1]
            return
        place = self._place(hops)
        if place:
            env["REMOTE_ADDR"] = env["REMOTE_HOST"] = _checked(hops[-place])
        scheme = _at(_values(said.get("HTTP_X_FORWARDED_PROTO")), place).lower()
        if scheme in ("http", "https"):
            env["wsgi.url_scheme"] = scheme
        host = _at(_values(said.get("HTTP_X_FORWARDED_HOST")), place)
        if host:
            env["HTTP_HOST"] = host

    def _trusts(self, client: str) -> bool:
        address = to_address(client)
        if address is None:
            return self._unix
        return any(address in network for network in self._networks)

    def _place(self, hops: list[str]) -> int:
        """Return the place of the client's address, counted from the right; 0 if there are none."""
        for place, hop in enumerate(reversed(hops), 1):
            if not self._trusts(_checked(hop)):
                return place
        return len(hops)


def _values(header: str | None) -> list[str]:
    return [] if header is None else [value.strip() for value in header.split(",")]


def _at(values: list[str], place: int) -> str:
    """Return the value that came with an address; most proxies replace these headers, so that
    there is one."""
    return values[-min(max(place, 1), len(values))] if values else ""


def _address_of(hop: str) -> str | None:
    """Return the IP address of ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` or
    ``[2001:db8::1]:80``; None for other texts."""
    host = hop.strip('"')
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    address = to_address(host)
    return None if address is None else str(address)


def _checked(hop: str) -> str:
    address = _address_of(hop)
    if address is None:
        raise InvalidParameter(
            "The X-Forwarded-For header of the proxy contains something other than IP addresses; "
            "let the proxy append the address of its client.",
            code="invalid_forwarding",
        )
    return address
