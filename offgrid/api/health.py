"""``GET /`` and ``GET /health``: they never wait for a model."""

from __future__ import annotations

from typing import Literal

import falcon

from offgrid import __version__
from offgrid.api.shapes import Answer


class Root(Answer):
    """What this server is."""

    name: str
    version: str
    status: Literal["running"]


class Health(Answer):
    """The server is there."""

    status: Literal["healthy"]


class RootResource:
    """``GET /``: what is this server?"""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Name, version and status."""
        resp.media = {"name": "OffGrid LLM", "version": __version__, "status": "running"}

    on_head = on_get


class HealthResource:
    """``GET /health``: is the server there? Says nothing of models."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The server process answers, so it is healthy."""
        resp.media = {"status": "healthy"}

    on_head = on_get
