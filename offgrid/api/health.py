"""``GET /`` and ``GET /health``: they never wait for a model."""

from __future__ import annotations

from typing import Annotated, Literal

import falcon
from msgspec import Meta

from offgrid import __version__
from offgrid.api.shapes import Answer


class Root(Answer):
    """Name, version and status of this server."""

    name: str
    version: Annotated[
        str | None, Meta(description="Null if the server has keys, and the request none.")
    ]
    status: Literal["running"]


class Health(Answer):
    """The server is running."""

    status: Literal["healthy"]


class RootResource:
    """``GET /``: describes this server."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Name, version and status."""
        known = req.context.refusal is None
        version = __version__ if known else None
        resp.media = {"name": "OffGrid LLM", "version": version, "status": "running"}

    on_head = on_get


class HealthResource:
    """``GET /health``: says whether the server runs, and nothing about models."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer: a server process that answers is healthy."""
        resp.media = {"status": "healthy"}

    on_head = on_get
