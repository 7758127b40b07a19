"""``/v1/stats/series`` and ``/v1/stats/slots`` of real servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from documented import Documented
from keyed import bearer, new_key
from support import STARTER, Json, eventually, request

from offgrid.server import Server
from offgrid.stats.series import STEP, Series

SERIES = "/v1/stats/series"
SLOTS = "/v1/stats/slots"
TEXT = "/v1/completions"
Serve = Callable[..., Server]


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def checked(server: Server, path: str) -> Json:
    answer = request(server.url, "GET", path)
    Documented.of(server.url).check(answer, "get", path.partition("?")[0])
    return answer.json  # type: ignore[no-any-return]


def lists(value: object) -> list[list[object]]:
    """All lists in a JSON object."""
    if isinstance(value, dict):
        return [found for inner in value.values() for found in lists(inner)]
    return [value] if isinstance(value, list) else []


def test_a_request_is_in_the_series(make_server: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_server(parallel=2)
    keeper, clock = server.observation.keeper, Clock()
    keeper.close()  # its thread; the test looks instead
    keeper.series = Series(clock)
    keeper.look()
    body = {"model": STARTER, "prompt": "Once upon", "max_tokens": 10, "ignore_eos": True}
    assert request(server.url, "POST", TEXT, body).status == 200
    assert request(server.url, "POST", TEXT, {"model": STARTER}).status == 400
    assert request(server.url, "GET", "/v1/nothing").status == 404  # no POST
    engine = server.pool.engine(STARTER)
    eventually(
        lambda: engine.latest is not None and engine.latest.figures.generated == 10,
        "the worker has said what it has computed",
    )
    clock.now = STEP
    keeper.look()
    clock.now += 2
    series = checked(server, SERIES)
    assert (series["window"], series["step"], series["last"]) == ("hour", STEP, 0)
    assert series["tokens"]["completion"] == [2.0]
    assert series["tokens"]["prompt"][0] > 0
    assert series["requests"] == {"answered": [1], "refused": [1], "failed": [0]}
    assert series["sequences"]["slots"] == [2]
    memory = series["memory"]
    assert memory["available"][0] > memory["server"][0] > 1 << 20
    assert memory["workers"][0] > 1 << 20
    assert {len(each) for each in lists(series)} == {1}
    assert abs(series["at"][0] - (time.time() - 2)) < 60
    assert checked(server, f"{SERIES}?after=0")["at"] == []
    assert checked(server, f"{SERIES}?window=day")["last"] == -1


def test_points_move_with_the_clock_of_the_system(
    make_server: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_server()
    keeper, clock = server.observation.keeper, Clock()
    keeper.close()
    keeper.series = Series(clock)
    for _ in range(3):
        keeper.look()
        clock.now += STEP
    for wall in (5e8, 2e9):  # somebody sets the clock
        monkeypatch.setattr("offgrid.api.stats.developed.time.time", lambda wall=wall: wall)
        assert checked(server, SERIES)["at"] == [wall - 2 * STEP, wall - STEP]


@pytest.mark.slow
def test_slots_say_what_they_do_and_for_whom(make_server: Serve, tmp_path: Path) -> None:
    """The name of the key is for callers with admin only."""
    file = tmp_path / "keys.sqlite3"
    secrets = {
        "ward": new_key(file, "ward 4", "inference", "history")[1],
        "boss": new_key(file, "boss", "admin")[1],
        "watch": new_key(file, "watch", "stats")[1],
    }
    server = make_server(keys_file=file, parallel=2)

    def slots(name: str) -> list[Json]:
        answer = request(server.url, "GET", SLOTS, headers=bearer(secrets[name]))
        assert answer.status == 200
        return answer.json["data"]  # type: ignore[no-any-return]

    server.pool.engine(STARTER)
    idle = slots("boss")
    assert [(one["slot"], one["state"], one["key"]) for one in idle] == [
        (0, "idle", None), (1, "idle", None),
    ]  # fmt: skip
    body = {"model": STARTER, "input": "Once upon a time", "background": True,
            "max_output_tokens": 100_000, "ignore_eos": True}  # fmt: skip
    for _ in range(8):  # so many that one of them is seen
        started = request(server.url, "POST", "/v1/responses", body, bearer(secrets["ward"]))
        assert started.status == 200, started.body
    found: list[Json] = []

    def answers() -> bool:
        found[:] = [one for one in slots("boss") if one["state"] == "answer"]
        return bool(found)

    eventually(answers, "a slot answers")
    busy = found[0]
    assert busy["key"] == "ward 4"
    assert busy["model"] == STARTER
    assert busy["completion"] > 0
    assert 0 < busy["held"] <= busy["context"]
    assert busy["left"] > 0
    assert {one["key"] for one in slots("watch")} == {None}
