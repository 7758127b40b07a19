"""What every request passes: a number, and the check of who may ask.

Without keys, only this machine is served. A web page that the user happens to visit runs on this
machine too, so the Host header (DNS rebinding) and the Origin header are checked.
"""

from __future__ import annotations

import ipaddress
import secrets
from typing import Any
from urllib.parse import urlsplit

import falcon

from offgrid.api.errors import HostRefused
from offgrid.config import Settings, is_loopback
from offgrid.errors import InvalidParameter


class RequestId:
    """Gives every response an ``x-request-id``."""

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        resp.set_header("x-request-id", f"req_{secrets.token_hex(12)}")


class HostGuard:
    """Refuses requests that a foreign web page made, and answers those of allowed ones (CORS)."""

    def __init__(self, settings: Settings) -> None:
        self._names = {settings.host.lower(), *(h.lower() for h in settings.allowed_hosts)}
        self._any_address = settings.allow_remote
        self._origins = {origin.rstrip("/").lower() for origin in settings.cors_origins}

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Raise HostRefused or InvalidParameter, or let the request pass."""
        host = self._check_host(req)
        origin = req.get_header("Origin")
        if origin is None:
            return
        if origin.rstrip("/").lower() in self._origins:
            self._allow(req, resp, origin)
        elif not (host and urlsplit(origin).netloc.lower() == host.lower()):
            raise HostRefused(
                "Pages of this origin may not call the API; OFFGRID_CORS_ORIGINS lists those that "
                "may.",
                code="origin_not_allowed",
            )

    def _check_host(self, req: falcon.Request) -> str | None:
        host: str | None = req.env.get("HTTP_HOST")
        if host is None:
            if req.env.get("SERVER_PROTOCOL") == "HTTP/1.0":
                return None
            raise InvalidParameter("The Host header is missing.", code="invalid_host")
        # The server joins repeated headers with a comma.
        if "," in host or not host:
            raise InvalidParameter("There must be exactly one Host header.", code="invalid_host")
        if not self._knows(_name_of(host)):
            raise HostRefused(
                "This server is not meant under that host name; OFFGRID_ALLOWED_HOSTS adds names."
            )
        return host

    def _knows(self, name: str) -> bool:
        if is_loopback(name) or name in self._names:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    @staticmethod
    def _allow(req: falcon.Request, resp: falcon.Response, origin: str) -> None:
        resp.set_header("Access-Control-Allow-Origin", origin)
        resp.append_header("Vary", "Origin")
        resp.set_header("Access-Control-Expose-Headers", "x-request-id, x-offgrid-seed")
        if req.method == "OPTIONS" and req.get_header("Access-Control-Request-Method"):
            resp.set_header("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")
            wanted: Any = req.get_header("Access-Control-Request-Headers")
            if wanted:
                resp.set_header("Access-Control-Allow-Headers", wanted)
            resp.set_header("Access-Control-Max-Age", "600")
            resp.status = 204
            resp.complete = True


def _name_of(host: str) -> str:
    """The host without its port, an IPv6 address without its brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
