"""``GET /v1/stats/series`` and ``GET /v1/stats/slots``: how the load developed, and what each slot
does. Like the other statistics, they wait for nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import falcon

from offgrid.api.http.caller import caller
from offgrid.api.http.scopes import STATS
from offgrid.api.shapes import Json
from offgrid.api.stats.source import Source
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol.reports import SlotState
from offgrid.errors import InvalidParameter
from offgrid.stats.series import CAPACITY, COLUMNS, LONG_STEP, STEP, Points, Window

_STEPS: dict[Window, float] = {"hour": STEP, "day": LONG_STEP}
_DIGITS = 3
"""Digits after the point: a hundred thousand numbers are sent."""


class SeriesResource:
    """The load over time."""

    scopes = STATS

    def __init__(self, source: Source) -> None:
        self._source = source

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the points of the last hour or day, or only new ones."""
        window = _window(req)
        points = self._source.keeper.series.points(window, _after(req))
        resp.media = _described(window, points, int(self._source.stats.started))

    on_head = on_get


class SlotsOverviewResource:
    """The slots of all loaded models.

    Args:
        pool: the loaded models.
        names: returns the names of keys by their ids.
    """

    scopes = STATS

    def __init__(self, pool: EnginePool, names: Callable[[], Mapping[str, str]]) -> None:
        self._pool = pool
        self._names = names

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return what each slot does, without any text of a request."""
        names = self._names() if caller().has_key and caller().may("admin") else {}
        resp.media = {
            "object": "list",
            "data": [
                _slot(client, state, names)
                for client in self._pool.snapshot()
                for state in _states(client)
            ],
        }

    on_head = on_get


def _window(req: falcon.Request) -> Window:
    given = req.get_param("window", default="hour")
    if given not in CAPACITY:
        raise InvalidParameter(f"window must be {' or '.join(CAPACITY)}.", "window")
    return given


def _after(req: falcon.Request) -> int:
    given = req.get_param("after", default="-1")
    try:
        return max(-1, int(given))
    except ValueError:
        raise InvalidParameter(
            "after must be a whole number: last of an earlier response.", "after"
        ) from None


def _described(window: Window, points: Points, started: int) -> Json:
    now = time.time()
    columns = {name: [_number(row[n]) for row in points.rows] for n, name in enumerate(COLUMNS)}

    def some(*names: str) -> Json:
        return {name: columns[name] for name in names}

    return {
        "object": "stats.series",
        "window": window,
        "step": _STEPS[window],
        "started": started,
        "last": points.first + len(points.rows) - 1,
        "at": [round(now - age, 1) for age in points.ages],
        "tokens": some("prompt", "completion"),
        "requests": some("answered", "refused", "failed"),
        "sequences": some("running", "waiting", "slots"),
        "memory": some("available", "server", "workers"),
        "cpus": columns["cpus"],
        "temperature": columns["temperature"],
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, _DIGITS)


def _states(client: EngineClient) -> Sequence[SlotState]:
    """Return the states of a model's slots; none while it loads, or if it does not generate."""
    beat = client.latest
    if not client.ready or not client.info.generates:
        return ()
    said = {} if beat is None else {state.id: state for state in beat.figures.slots}
    # A slot that has not been used since the model was loaded is in no report.
    return [said.get(id, SlotState(id, False, 0)) for id in range(client.info.n_parallel)]


def _slot(client: EngineClient, state: SlotState, names: Mapping[str, str]) -> Json:
    answering = state.running and state.generated > 0
    return {
        "model": client.name,
        "slot": state.id,
        "state": "idle" if not state.running else "answer" if answering else "prompt",
        "context": client.info.n_ctx,
        "held": state.held,
        "prompt": state.prompt,
        "cached": state.cached,
        "completion": state.generated,
        "left": state.left if state.running else None,
        "key": names.get(state.owner) if state.running else None,
    }
