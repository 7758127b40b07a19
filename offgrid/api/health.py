"""``GET /`` and ``GET /health``: they never wait for a model."""

from __future__ import annotations

from typing import Literal

import falcon

from offgrid import __version__
from offgrid.api.shapes import Answer


class Root(Answer):
    """Name, version and status of this server."""

    name: str
    version: str
    status: Literal["running"]


class Health(Answer):
    """The server is running."""

    status: Literal["healthy"]


class RootResource:
    """``GET /``: describes this server."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Name, version and status."""
        resp.media = {"name": "OffGrid LLM", "version": __version__, "status": "running"}

    on_head = on_get


class HealthResource:
    """``GET /health``: says whether the server runs, and nothing about models."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer: a server process that answers is healthy."""
        resp.media = {"status": "healthy"}

    on_head = on_get
