"""Middleware for every request: a notice, and the check that no foreign web page sent it.

Without keys, the server serves only this machine. A web page that the user happens to visit runs on
this machine too. So each request must show that no page of another site made it:

1. ``Host`` is a name of this server. A page whose own host name resolves to this server (DNS
   rebinding) sends that name instead.
2. ``Origin``, if present, is this server's own or an allowed one. Browsers send it with every form
   and every ``fetch`` that posts, whatever the content type.
3. Without ``Origin`` (an image, a script, a frame, a link), ``Sec-Fetch-Site`` of the browser is
   ``same-origin``, or ``none`` for an address that a person typed. Browsers send it to this machine
   and over HTTPS; in other cases ``Referer`` is checked.

Programs other than browsers send no ``Origin``, ``Sec-Fetch-Site`` or ``Referer``. A link may lead
to the pages of :data:`_LINKED`: they change nothing, and the page with the link cannot read them.

Headers are compared as texts, without a URL parser, which could fail on them.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable

import falcon

from offgrid.addresses import own_names
from offgrid.api.fields import notices
from offgrid.api.http.rates import HEADERS as RATE_HEADERS
from offgrid.api.http.refusals import HostRefused
from offgrid.api.http.waitress.environ import on_peers_port
from offgrid.config import Commit, Settings, is_loopback
from offgrid.errors import InvalidParameter

log = logging.getLogger(__name__)

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.~-]+)?)\]|([\w.~-]+))(?::[0-9]{0,5})?", re.ASCII)
"""RFC 9110, section 7.2, limited to characters of host names: an address in brackets or a name, and
a port."""
_ORIGIN_OF_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_HEADER_NAMES = re.compile(r"[\w!#$%&'*+.^`|~, \t-]+", re.ASCII)
EXPOSED = (
    "x-request-id", "request-id", "openai-processing-ms", "openai-version", "x-offgrid-seed",
    "x-offgrid-peer", "x-offgrid-peer-request-id",
    notices.HEADER, notices.WARNING, "retry-after", "retry-after-ms", "x-should-retry",
    *RATE_HEADERS,
)  # fmt: skip
"""Headers of responses that pages of allowed origins may read."""
_LINKED = frozenset({"/", "/health", "/openapi.json", "/ui", "/v1/models"})
_METHODS = "GET, POST, DELETE, OPTIONS"


class UnknownFields:
    """Puts notices about a request into headers, such as the names of fields without effect; see
    the module notices."""

    def __init__(self, settings: Settings) -> None:
        self._tolerant = settings.unknown_fields == "ignore"

    def prepare(self, settings: Settings) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`."""

        def commit() -> None:
            self._tolerant = settings.unknown_fields == "ignore"

        return commit

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Begin with no names; threads serve many requests."""
        notices.begin(tolerant=self._tolerant)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Set the headers, and log the names if unknown fields are accepted."""
        warning = notices.warning()
        if warning is not None:
            resp.set_header(notices.WARNING, warning)
        names = notices.ignored()
        if names:
            listed = notices.header(names)
            resp.set_header(notices.HEADER, listed)
            level = logging.INFO if self._tolerant else logging.DEBUG
            log.log(level, "%s %s: fields without effect: %s", req.method, req.path, listed)


class OneLength:
    """Refuses a body with two lengths: a proxy in front of this server may use the other one.

    ``offgrid serve`` refuses such requests earlier (:mod:`offgrid.api.http.waitress`). Under
    ``waitress-serve`` it never refuses any, because waitress hides Transfer-Encoding from the
    application. Other WSGI servers may let both headers pass.
    """

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Raise InvalidParameter, or let the request pass."""
        if "HTTP_TRANSFER_ENCODING" in req.env and req.env.get("CONTENT_LENGTH"):
            raise InvalidParameter(
                "A request must not have both Content-Length and Transfer-Encoding.",
                code="invalid_length",
            )


class AllowedOrigins:
    """The origins whose pages may call the API."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(map(self._normal, origins))

    def __contains__(self, origin: str) -> bool:
        return self._normal(origin) in self._origins

    @staticmethod
    def _normal(origin: str) -> str:
        return origin.rstrip("/").lower()


def cors_headers(origin: str) -> list[tuple[str, str]]:
    """Return the headers that let pages of an allowed origin read a response."""
    return [
        ("Access-Control-Allow-Origin", origin),
        ("Vary", "Origin"),
        ("Access-Control-Expose-Headers", ", ".join(EXPOSED)),
    ]


class HostGuard:
    """Refuses requests of foreign web pages, and adds CORS headers for those of allowed origins."""

    def __init__(self, settings: Settings) -> None:
        self._names = {settings.host.lower(), *(h.lower() for h in settings.allowed_hosts)}
        self._any_address = settings.serves_others
        if self._any_address:
            self._names |= own_names()
        self._origins = AllowedOrigins(settings.cors_origins)
        self._varies = bool(settings.cors_origins)

    def prepare(self, settings: Settings) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`."""
        new = HostGuard(settings)

        def commit() -> None:
            self.__dict__ = new.__dict__

        return commit

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Raise HostRefused or InvalidParameter, or let the request pass."""
        if on_peers_port(req.env):  # no browser has a peer's certificate
            return
        if self._varies:  # a cache must not give the response for one origin to another
            resp.set_header("Vary", "Origin")
        host = self._check_host(req)
        origin: str | None = req.env.get("HTTP_ORIGIN")
        if origin is None:
            self._check_site(req, host)
        elif origin in self._origins:
            self._allow(req, resp, origin)
        elif not _is_own(origin, host):
            raise HostRefused(
                "Pages of this origin may not call the API; add the origin to "
                "OFFGRID_CORS_ORIGINS (--cors-origins) to allow them.",
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
            raise InvalidParameter(
                "A request must have exactly one Host header.", code="invalid_host"
            )
        parts = _HOST.fullmatch(host)
        if parts is None or not self._knows((parts[1] or parts[2]).lower()):
            raise HostRefused(
                "Host header not allowed; add the name to OFFGRID_ALLOWED_HOSTS (--allowed-hosts)."
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

    def _check_site(self, req: falcon.Request, host: str | None) -> None:
        """Refuse a request without ``Origin`` that a page of another site made."""
        site: str | None = req.env.get("HTTP_SEC_FETCH_SITE")
        if site is not None:
            own = site.strip().lower() in ("same-origin", "none")
        else:
            page = _ORIGIN_OF_URL.match(req.env.get("HTTP_REFERER", ""))
            own = page is None or page[0] in self._origins or _is_own(page[0], host)
        if not own and not _is_link(req):
            raise HostRefused(
                "Pages of other sites may not embed this URL. To let the pages of an origin call "
                "the API, add the origin to OFFGRID_CORS_ORIGINS (--cors-origins).",
                code="cross_site",
            )

    @staticmethod
    def _allow(req: falcon.Request, resp: falcon.Response, origin: str) -> None:
        for name, value in cors_headers(origin):
            resp.set_header(name, value)
        if req.method == "OPTIONS" and req.env.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD"):
            resp.set_header("Access-Control-Allow-Methods", _METHODS)
            # The origin may send any header: Authorization, X-Api-Key, and those of its client.
            wanted = req.env.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
            if _HEADER_NAMES.fullmatch(wanted):
                resp.set_header("Access-Control-Allow-Headers", wanted)
            if req.env.get("HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK", "").lower() == "true":
                resp.set_header("Access-Control-Allow-Private-Network", "true")
            resp.set_header("Access-Control-Max-Age", "600")
            resp.status = 204
            resp.complete = True


def _is_own(origin: str, host: str | None) -> bool:
    """Whether an origin is the address to which the request was sent."""
    if host is None:
        return False
    scheme, separator, address = origin.lower().partition("://")
    return scheme in ("http", "https") and separator == "://" and address == host.lower()


def _is_link(req: falcon.Request) -> bool:
    """Whether a person follows a link to one of the pages of :data:`_LINKED`."""
    return (
        req.method in ("GET", "HEAD")
        and req.path in _LINKED
        and req.env.get("HTTP_SEC_FETCH_MODE", "navigate") == "navigate"
        # Not a frame: the page around it could not read it, but could tell that a server runs.
        and req.env.get("HTTP_SEC_FETCH_DEST", "document") == "document"
    )
