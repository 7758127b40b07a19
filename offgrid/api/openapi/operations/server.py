"""The server itself: its page, health, figures and document."""

from __future__ import annotations

from typing import Any, Literal

from offgrid.api import health
from offgrid.api.openapi.operations.operation import Operation
from offgrid.api.shapes import Answer
from offgrid.api.stats import shapes as stats
from offgrid.api.web.files import MEDIA_TYPES


class OpenApi(Answer):
    """This document."""

    openapi: Literal["3.1.1"]
    info: dict[str, str]
    paths: dict[str, dict[str, Any]]
    components: dict[str, dict[str, Any]]
    security: list[dict[str, list[str]]]


OPERATIONS = (
    Operation(
        "get",
        "/",
        "Name and version of the server",
        (health.Root,),
        public=True,
        leads="The client prefers HTML, as browsers do: the page is at `/ui/`.",
    ),
    Operation(
        "get",
        "/ui",
        "The web page",
        (),
        errors=(404,),
        public=True,
        texts=("text/html",),
        leads="The page is at `/ui/`, to which its URLs are relative.",
    ),
    Operation(
        "get",
        "/ui/{path}",
        "A file of the web page",
        (),
        errors=(404,),
        public=True,
        files=tuple(sorted({kind.partition(";")[0] for kind in MEDIA_TYPES.values()})),
    ),
    Operation(
        "get",
        "/favicon.ico",
        "The icon of the server for browsers",
        (),
        errors=(404,),
        public=True,
        files=("image/x-icon",),
    ),
    Operation("get", "/health", "Health of the server", (health.Health,), public=True),
    Operation(
        "get",
        "/ready",
        "Whether the server can answer requests now",
        (stats.Ready,),
        errors=(503,),
        failures={503: stats.NotReady},
        public=True,
    ),
    Operation(
        "get",
        "/metrics",
        "Metrics for Prometheus",
        (),
        texts=("text/plain", "application/openmetrics-text"),
    ),
    Operation("get", "/openapi.json", "This document", (OpenApi,)),
    Operation("get", "/v1/stats", "Statistics of the server", (stats.StatsObject,)),
    Operation(
        "get",
        "/v1/stats/series",
        "The load of the last hour or day",
        (stats.StatsSeries,),
        query=("window", "after"),
    ),
    Operation("get", "/v1/stats/slots", "What the slots of all models do", (stats.StatsSlots,)),
)
