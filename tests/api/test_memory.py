"""A model that does not fit into memory, and what the API and the command line say of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import Json, request

from offgrid.engine.client.budget import Budget
from offgrid.engine.memory import MIB
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_ID

TEXT = "/v1/completions"
MakeServer = Callable[..., Server]


def memory(server: Server) -> Json:
    found: Json = request(server.url, "GET", f"/v1/models/{STARTER_ID}").json["memory"]
    return found


def ask(server: Server) -> Any:
    body = {"model": STARTER_ID, "prompt": "Once", "max_tokens": 1}
    return request(server.url, "POST", TEXT, body)


def test_a_model_that_does_not_fit_fails_before_it_is_loaded(make_server: MakeServer) -> None:
    before = set(psutil.Process().children())
    server = make_server(memory_budget="50MiB")
    answer = ask(server)
    assert answer.status == 500
    error = answer.json["error"]
    assert error["code"] == "model_load_failed"
    assert "offgrid-starter cannot be loaded: it needs " in error["message"]
    assert "and 50 MiB of memory is free. Free memory, or use a smaller model" in error["message"]
    assert not set(psutil.Process().children()) - before
    found = memory(server)
    assert not found["fits"]
    assert found["free"] == 50 * MIB
    # As soon as there is memory, the next request loads the model.
    server.pool.roster.budget = Budget(None)
    assert ask(server).status == 200


@pytest.mark.slow
def test_settings_that_do_not_fit_are_named_with_values_that_do(make_server: MakeServer) -> None:
    probe = make_server(parallel=1, ctx_size=2048)
    limit = memory(probe)["needs"] // MIB + 5
    server = make_server(parallel=64, ctx_size=2048, memory_budget=limit)
    message = ask(server).json["error"]["message"]
    assert "for 64 slots of 2,048 tokens" in message
    fits = message.partition("It fits with --parallel ")[2]
    slots = int(fits.split()[0])
    assert 1 <= slots < 64
    assert ask(make_server(parallel=slots, ctx_size=2048, memory_budget=limit)).status == 200


@pytest.mark.slow
def test_defaults_that_do_not_fit_are_lowered(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    one = memory(make_server(parallel=1))["needs"]
    server = make_server(memory_budget=one // MIB + 1)
    assert ask(server).status == 200
    found = memory(server)
    assert found["fits"]
    assert (found["slots"], found["context"], found["lowered"]) == (1, 2048, ["parallel"])
    assert server.pool.engine(STARTER_ID).info.n_parallel == 1
    assert "1 slot of 2,048 tokens, 3 MiB of cache (f16) (lowered to fit: parallel)" in caplog.text


def test_the_estimate_says_what_takes_memory(make_server: MakeServer, starter_path: Path) -> None:
    server = make_server(cache_ram_mb=64)
    found = memory(server)
    assert sum(found["parts"].values()) == found["estimate"] == found["needs"]
    assert found["slots"] == 4
    assert 0.9 < found["parts"]["weights"] / starter_path.stat().st_size < 1
    pool = server.pool
    pool.engine(STARTER_ID)
    loaded = memory(server)
    assert loaded["estimate"] == found["estimate"]
    assert replace(pool.fit(server.catalogue.get(STARTER_ID)), free=0).fits is False


def test_nothing_is_said_of_models_on_a_gpu(make_server: MakeServer) -> None:
    assert memory(make_server(gpu_layers=-1)) is None
