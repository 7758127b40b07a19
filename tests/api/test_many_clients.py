"""Several clients at once: all are served, and a client that leaves frees its place at once."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lasting import LASTING, SETTINGS, Running, lasting, write_lasting
from support import (
    STARTER,
    Json,
    Response,
    Stream,
    chat_body,
    endless,
    eventually,
    request,
    text_of,
    together,
)

from offgrid.engine.client.client import EngineClient
from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MakeServer = Callable[..., Server]


def engine_of(server: Server) -> EngineClient:
    return server.pool.engine(server.catalogue.default or STARTER)


def lasting_chat(**fields: Any) -> Json:
    return {**chat_body(**fields), "model": LASTING}


@pytest.fixture
def make_lasting(make_server: MakeServer, tmp_path: Path) -> MakeServer:
    """Start servers with a model whose answers last until the test ends them."""
    write_lasting(tmp_path)
    return lambda **flags: make_server(**SETTINGS, **flags)


def answer(url: str, **fields: Any) -> str:
    with Stream(url, CHAT, chat_body(stream=True, **fields)) as stream:
        assert stream.response.status == 200
        return text_of(list(stream.events()))


def test_eight_clients_stream_to_the_end(server: Server) -> None:
    """Twice as many clients as slots; each gets the same answer as alone."""
    seeds = range(8)
    fields = {"temperature": 1.0, "max_tokens": 80}
    alone = [answer(server.url, seed=seed, **fields) for seed in seeds]
    at_once = together(
        [lambda seed=seed: answer(server.url, seed=seed, **fields) for seed in seeds]
    )
    assert at_once == alone
    eventually(lambda: engine_of(server).in_flight == 0, "no sequence is left")


# A chat stream sends its role at once; a text stream starts with its first token.


def test_a_client_that_leaves_a_stream_frees_its_slot(make_server: MakeServer) -> None:
    server = make_server(parallel=1)
    with Stream(server.url, TEXT, endless(max_tokens=1900)) as first:
        assert first.read_some()
        with Stream(server.url, CHAT, chat_body(stream=True, max_tokens=4)) as second:
            first.leave()
            # With one slot, this can be computed only after the first stream has left it.
            assert text_of(list(second.events()))
    eventually(lambda: engine_of(server).in_flight == 0, "no sequence is left")


def test_more_choices_than_slots(make_server: MakeServer) -> None:
    """All running choices end in one step while others wait; no arrival would wake the loop."""
    server = make_server(parallel=2)
    body = chat_body(max_tokens=3, ignore_eos=True, n=7)
    response = request(server.url, "POST", CHAT, body)
    assert response.status == 200
    assert len(response.json["choices"]) == 7
    assert response.json["usage"]["completion_tokens"] == 21


def test_a_client_that_leaves_the_queue_frees_its_place(make_lasting: MakeServer) -> None:
    server = make_lasting(parallel=1, queue_size=1)
    engine = engine_of(server)
    with Running(server.url, TEXT, lasting()) as first:
        assert first.read_some()
        with Stream(server.url, CHAT, lasting_chat(stream=True)) as waiting:
            eventually(lambda: engine.in_flight == 2, "one runs and one waits")
            full = request(server.url, "POST", CHAT, lasting_chat())
            assert full.status == 503
            assert int(full.headers["retry-after"]) >= 1
            assert full.json["error"]["code"] == "server_busy"
            waiting.leave()
        eventually(lambda: engine.in_flight == 1, "the one that waited is gone")
        # Its place in the queue is free again while the first stream still runs.
        with Stream(server.url, CHAT, lasting_chat(stream=True, max_tokens=4)) as third:
            assert third.response.status == 200
            first.leave()
            assert text_of(list(third.events()))


@pytest.mark.slow
def test_a_client_that_waits_too_long_is_told_so(make_lasting: MakeServer) -> None:
    server = make_lasting(parallel=1)
    engine = engine_of(server)
    with Running(server.url, TEXT, lasting(n=8)) as first:
        assert first.read_some()
        engine.queue_timeout = 0.2  # not before: a busy machine may take longer to begin
        whole = request(server.url, "POST", CHAT, lasting_chat())
        assert whole.status == 503
        assert whole.json["error"]["code"] == "server_busy"
        assert "retry-after" in whole.headers
        with Stream(server.url, CHAT, lasting_chat(stream=True)) as waiting:
            events = list(waiting.events())
        assert json.loads(events[-1])["error"]["code"] == "server_busy"
        # A request with a slot may take any time, and so may its other choices.
        eventually(lambda: engine.in_flight == 8, "only the first request is left")
        engine.queue_timeout = 0.0
        first.leave()
    eventually(lambda: engine.in_flight == 0, "all are gone")
    assert request(server.url, "POST", CHAT, lasting_chat(max_tokens=4)).status == 200


@pytest.mark.slow
def test_a_client_that_leaves_during_prefill_frees_its_slot(make_server: MakeServer) -> None:
    server = make_server(parallel=1, batch_size=32)
    engine = engine_of(server)
    for _ in range(3):
        # The headers are sent when the prompt is accepted, before its 60 batches are computed.
        stream = Stream(server.url, CHAT, chat_body("once upon a time " * 400, stream=True))
        assert stream.response.status == 200
        stream.leave()
        eventually(lambda: engine.in_flight == 0, "its sequence is gone")
        assert answer(server.url, temperature=0)


def test_an_unstreamed_answer_is_cancelled_when_its_client_leaves(make_lasting: MakeServer) -> None:
    server = make_lasting(parallel=1)
    engine = engine_of(server)
    body = lasting(stream=False)
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("POST", TEXT, json.dumps(body).encode())
    eventually(lambda: engine.in_flight == 1, "it runs")
    connection.close()
    eventually(lambda: engine.in_flight == 0, "it is given up")


@pytest.mark.slow
def test_an_idle_model_makes_room_for_another(
    make_server: MakeServer, starter_path: Any, tmp_path: Any
) -> None:
    """The default run covers two models in turn (tests/attacks/test_models.py) and the order of
    unloading (tests/engine/client/test_pool.py)."""
    for name in ("a", "b/c"):
        target = tmp_path / f"{name}.gguf"
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(starter_path)
    write_lasting(tmp_path)
    server = make_server(max_models=1, default_model="a", **SETTINGS)
    body = {"prompt": "Once", "max_tokens": 3, "temperature": 0}
    for model in ("a", "b/c", "a"):
        response = request(server.url, "POST", TEXT, {**body, "model": model})
        assert response.status == 200
        assert response.json["model"] == model
    assert len(server.pool.loaded()) == 1
    assert request(server.url, "GET", "/v1/models/b/c").json["id"] == "b/c"
    with Running(server.url, TEXT, lasting()) as stream:
        assert stream.read_some()

        def ask() -> Response:
            return request(server.url, "POST", TEXT, {**body, "model": "b/c"})

        def leave() -> None:
            eventually(lambda: server.pool.waiting() != [], "b/c waits for the other to be idle")
            stream.leave()

        response, _ = together([ask, leave])
        assert response.status == 200
