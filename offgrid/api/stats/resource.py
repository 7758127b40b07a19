"""``GET /ready``, ``GET /v1/stats`` and ``GET /metrics``: none of them waits for anything."""

from __future__ import annotations

import falcon

from offgrid.api.http.scopes import STATS
from offgrid.api.stats.metrics import Metrics
from offgrid.api.stats.source import Source
from offgrid.stats.ready import Readiness


class ReadyResource:
    """Says whether the server can answer requests now, for proxies and Kubernetes."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """200 if the server is ready, else 503 with the reason in one word."""
        reason = self._readiness.obstacle()
        if reason is None:
            resp.media = {"status": "ready"}
            return
        resp.status = 503
        resp.set_header("Retry-After", "1")
        resp.media = {"status": "not ready", "reason": reason}

    on_head = on_get


class StatsResource:
    """The statistics as JSON; ``offgrid stats`` prints them."""

    scopes = STATS

    def __init__(self, source: Source) -> None:
        self._source = source

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All statistics."""
        resp.media = self._source.snapshot()

    on_head = on_get


class MetricsResource:
    """The metrics for Prometheus."""

    scopes = STATS

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """All metrics, in the text format or in that of OpenMetrics, as ``Accept`` asks."""
        resp.data, resp.content_type = self._metrics.text(req.get_header("Accept") or "")
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get
