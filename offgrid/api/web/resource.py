"""``GET /ui`` and the files below it, ``GET /favicon.ico``, and ``GET /`` for browsers.

All URLs in the page are relative to its own, which ends with ``/ui/``. So it works after a proxy
that serves it under a path; ``/ui`` leads to ``/ui/`` with a relative URL for the same reason.
"""

from __future__ import annotations

import falcon

from offgrid.api.health import RootResource
from offgrid.api.web.accept import accepts_gzip, prefers_html
from offgrid.api.web.files import ICON, INDEX, PageFile, PageFiles
from offgrid.config import Commit, Settings
from offgrid.errors import RequestError

_POLICY = "; ".join((
    "default-src 'self'", "script-src 'self'", "style-src 'self'", "img-src 'self' data: blob:",
    "media-src 'self' blob:", "connect-src 'self'", "font-src 'self'", "object-src 'none'",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
))  # fmt: skip
"""The page loads nothing from other hosts, and runs no script that stands in HTML."""
_DEVICES = ", ".join((
    "accelerometer=()", "camera=(self)", "display-capture=()", "geolocation=()", "gyroscope=()",
    "magnetometer=()", "microphone=()", "midi=()", "payment=()", "usb=()",
))  # fmt: skip
"""Of the devices, the page may use the camera, for pictures in messages."""
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": _DEVICES,
    "Cross-Origin-Opener-Policy": "same-origin",
    # A browser keeps the file, and asks each time whether it has changed.
    "Cache-Control": "no-cache",
}
"""Headers of the page's files. A 304 has them too: it replaces the headers that a browser keeps."""
_MAX_NAME = 80
"""Characters of a file's name in a message."""


class PageOff(RequestError):
    """404: the page is turned off."""

    status = 404
    type = "invalid_request_error"
    code = "ui_off"

    def __init__(self) -> None:
        super().__init__(
            "The web page of this server is turned off; OFFGRID_UI=true (--ui) turns it on."
        )


class NoPageFile(RequestError):
    """404: the page has no such file."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"

    def __init__(self, name: str) -> None:
        super().__init__(f"The web page has no file {name[:_MAX_NAME]!r}. It begins at /ui/.")


class Page:
    """The page, and whether it is served.

    Attributes:
        files: its files.
    """

    def __init__(self, settings: Settings, files: PageFiles | None = None) -> None:
        self._on = settings.ui
        self.files = files or PageFiles()

    def prepare(self, settings: Settings) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`."""

        def commit() -> None:
            self._on = settings.ui

        return commit

    def is_wanted(self, req: falcon.Request) -> bool:
        """Whether a request for ``/`` is answered with the page."""
        return self._on and prefers_html(req.accept)

    def send(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
        """Answer with a file.

        Raises:
            PageOff: the page is turned off.
            NoPageFile: there is no such file.
        """
        file = self.file(name)
        version = file.plain
        resp.set_headers(HEADERS)
        if file.zipped is not None:
            resp.append_header("Vary", "Accept-Encoding")
            if accepts_gzip(req.get_header("Accept-Encoding", default="")):
                version = file.zipped
                resp.set_header("Content-Encoding", "gzip")
        resp.etag = version.etag
        resp.content_type = file.media_type
        # A weak comparison: a proxy that compresses makes weak ones of our ETags.
        known = req.if_none_match or ()
        if version.etag in known or "*" in known:
            resp.status = falcon.HTTP_304
        else:
            resp.data = version.data

    def file(self, name: str) -> PageFile:
        """Return a file.

        Raises:
            PageOff: the page is turned off.
            NoPageFile: there is no such file.
        """
        if not self._on:
            raise PageOff
        file = self.files.get(name)
        if file is None:
            raise NoPageFile(name)
        return file


class PageResource:
    """``GET /ui``: the page."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer ``/ui/`` with the page, and ``/ui`` with the way there."""
        # Falcon has removed the slash from req.path.
        if req.env.get("PATH_INFO", "").endswith("/"):
            self._page.send(req, resp, INDEX)
        else:
            self._page.file(INDEX)
            lead(resp, "ui/")

    on_head = on_get


class PageFileResource:
    """``GET /ui/{path}``: a file of the page."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def on_get(self, req: falcon.Request, resp: falcon.Response, path: str) -> None:
        """Answer with the file."""
        self._page.send(req, resp, path)

    on_head = on_get


class IconResource:
    """``GET /favicon.ico``: where browsers look for an icon of any page of the server."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the icon."""
        self._page.send(req, resp, ICON)

    on_head = on_get


class HomeResource(RootResource):
    """``GET /``: leads browsers to the page, and tells programs what this server is."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Lead to the page, or answer with name, version and status."""
        resp.append_header("Vary", "Accept")
        if self._page.is_wanted(req):
            lead(resp, "ui/")
        else:
            super().on_get(req, resp)

    on_head = on_get


def lead(resp: falcon.Response, where: str) -> None:
    """Answer with a redirection to a relative URL."""
    resp.status = falcon.HTTP_302
    resp.location = where


def page_routes(page: Page) -> dict[str, object]:
    """Return the resources of the page by the templates of their paths. They need no key."""
    return {
        "/": HomeResource(page),
        "/ui": PageResource(page),
        "/ui/{path:path}": PageFileResource(page),
        "/favicon.ico": IconResource(page),
    }
