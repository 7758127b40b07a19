"""How a forwarded request ends: its client leaves, or its peer is lost."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from forwarded import (
    LASTING,
    MODEL,
    FarModel,
    Pair,
    give_lasting_model,
    introduce,
    wait_for,
)
from machines import Machine
from support import TIMEOUT, Stream, eventually, request
from wire import Wire

from offgrid.peers.forwarding.watch import Pace

ENDLESS = {"model": MODEL, "prompt": "Once upon a time", "ignore_eos": True, "max_tokens": 200_000}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], "ignore_eos": True}


@pytest.fixture(scope="module")
def far_model() -> FarModel:
    """The answers of the far machines last."""
    return FarModel(give_lasting_model, LASTING)


def is_idle(machine: Machine) -> bool:
    """Whether no request runs on a machine."""
    return not any(client.in_flight for client in machine.server.pool.loaded())


def test_a_client_that_leaves_ends_the_answer_there(lasting_pair: Pair) -> None:
    near, far = lasting_pair
    with Stream(near.server.url, "/v1/completions", {**ENDLESS, "stream": True}) as stream:
        assert stream.read_some()
        assert not is_idle(far)
        stream.leave()
        eventually(lambda: is_idle(far), "the slot is free")
    assert request(near.server.url, "GET", "/v1/models").status == 200


@pytest.mark.slow
def test_a_forgotten_peer_gets_no_more_of_its_answer(pair: Pair) -> None:
    with Stream(pair.near.server.url, "/v1/completions", {**ENDLESS, "stream": True}) as stream:
        assert stream.read_some()
        pair.far.peers.book.remove(pair.near.peers.identity.fingerprint)
        assert json.loads([*stream.events()][-1])["error"]["code"] == "peer_lost"
    eventually(lambda: is_idle(pair.far), "the slot is free")


@pytest.mark.slow
def test_another_peer_that_is_forgotten_ends_no_answer(
    pair: Pair, make_machine: Callable[..., Machine]
) -> None:
    third = make_machine("third")
    third.know(pair.far)
    body = {**ENDLESS, "max_tokens": 50, "stream": True}
    with Stream(pair.near.server.url, "/v1/completions", body) as stream:
        assert stream.read_some()
        pair.far.peers.book.remove(third.peers.identity.fingerprint)
        assert [*stream.events()][-1] == "[DONE]"


def test_a_client_that_leaves_before_the_answer_ends_it_too(lasting_pair: Pair) -> None:
    near, far = lasting_pair
    netloc = urlsplit(near.server.url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=TIMEOUT)
    connection.request("POST", "/v1/completions", json.dumps(ENDLESS).encode())
    eventually(lambda: not is_idle(far), "the answer has begun")
    connection.close()
    eventually(lambda: is_idle(far), "the slot is free")


@pytest.fixture
def wire(lasting_pair: Pair) -> Iterator[Wire]:
    """The cable from the near machine to the far one."""
    near, far = lasting_pair
    cable = Wire(far.peers.port)

    def through(port: int) -> None:
        near.peers.book.remove(far.peers.identity.fingerprint)  # this ends its connections
        near.reach(far, port)  # and no other way
        wait_for(near, far.as_peer())
        eventually(lambda: is_idle(far), "the answer of an earlier test has ended")

    through(cable.port)
    yield cable
    cable.close()
    through(far.peers.port)


def openai(events: list[bytes]) -> Any:
    return json.loads(events[-1].removeprefix(b"data: "))["error"]


def anthropic(events: list[bytes]) -> Any:
    assert events[-1].startswith(b"event: error\ndata: ")
    return json.loads(events[-1].split(b"data: ")[1])["error"]


def llama_server(events: list[bytes]) -> Any:
    return openai(events)


def response(events: list[bytes]) -> Any:
    name, data = events[-1].split(b"\ndata: ")
    before = json.loads(events[-2].split(b"data: ")[1])
    event = json.loads(data)
    assert name == b"event: response.failed"
    assert event["sequence_number"] == before["sequence_number"] + 1
    assert event["response"]["status"] == "failed"
    assert event["response"]["id"]
    return event["response"]["error"]


def ollama(events: list[bytes]) -> Any:
    return {"message": json.loads(events[-1])["error"]}


SHAPES: list[tuple[str, dict[str, Any], Callable[[list[bytes]], Any]]] = [
    ("/v1/completions", ENDLESS, openai),
    ("/v1/chat/completions", {**CHAT, "max_tokens": 200_000}, openai),
    ("/v1/messages", {**CHAT, "max_tokens": 200_000}, anthropic),
    ("/v1/responses", {"model": MODEL, "input": "Hello!", "ignore_eos": True}, response),
    ("/completion", {"model": MODEL, "prompt": "Once", "ignore_eos": True}, llama_server),
    ("/api/generate", {"model": MODEL, "prompt": "Once", "options": {"ignore_eos": True}}, ollama),
]


def until_the_end(near: Machine, path: str, body: Any, do: Callable[[], None]) -> list[bytes]:
    """Read a stream to its end; do something after its first byte. Return its events."""
    netloc = urlsplit(near.server.url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=TIMEOUT)
    connection.request("POST", path, json.dumps({**body, "stream": True}).encode())
    with contextlib.closing(connection), connection.getresponse() as answer:
        data = answer.read(1)
        do()
        data += answer.read()
    events = data.split(b"\n" if path.startswith("/api/") else b"\n\n")
    assert events.pop() == b""
    assert len(events) > 1
    return [event for event in events if not event.startswith(b":")]


@pytest.mark.parametrize(("path", "body", "error_of"), SHAPES, ids=[one[0] for one in SHAPES])
def test_a_stream_whose_peer_is_gone_ends_with_an_error(
    lasting_pair: Pair, wire: Wire, path: str, body: Any, error_of: Callable[[list[bytes]], Any]
) -> None:
    events = until_the_end(lasting_pair.near, path, body, wire.cut)
    assert "far" in error_of(events)["message"]
    eventually(lambda: is_idle(lasting_pair.far), "the far machine has stopped")


@pytest.mark.slow
def test_a_stream_whose_peer_is_silent_ends_with_an_error(lasting_pair: Pair, wire: Wire) -> None:
    events = until_the_end(lasting_pair.near, "/v1/completions", ENDLESS, wire.hold_up)
    assert openai(events)["code"] == "peer_lost"
    assert "does not answer any more" in openai(events)["message"]


@pytest.mark.slow
def test_a_whole_answer_whose_peer_is_silent_is_an_error(lasting_pair: Pair, wire: Wire) -> None:
    near, far = lasting_pair
    netloc = urlsplit(near.server.url).netloc
    connection = http.client.HTTPConnection(netloc, timeout=TIMEOUT)
    connection.request("POST", "/v1/completions", json.dumps(ENDLESS).encode())
    eventually(lambda: not is_idle(far), "the answer has begun")
    wire.hold_up()
    with contextlib.closing(connection), connection.getresponse() as answer:
        assert answer.status == 502
        assert json.loads(answer.read())["error"]["code"] == "peer_lost"


@pytest.mark.slow
def test_a_long_wait_is_no_silence(lasting_pair: Pair, wire: Wire) -> None:
    """The peer answers the questions of the watch while it computes a whole answer."""
    near = lasting_pair.near
    watches = near.peers.forwarding.watches
    usual, watches.pace = watches.pace, Pace(every=0.001, patience=TIMEOUT, lingers=0.001)
    watches.close()  # one that lingers has the usual pace
    try:
        body = {**ENDLESS, "max_tokens": 300}
        assert request(near.server.url, "POST", "/v1/completions", body).status == 200
    finally:
        watches.pace = usual


def test_the_log_names_the_peer(lasting_pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "offgrid.requests")
    body = {"model": MODEL, "prompt": "a", "max_tokens": 1}
    request(lasting_pair.near.server.url, "POST", "/v1/completions", body)
    eventually(lambda: f"model={MODEL} peer=far" in caplog.text, "the line of the request")


def test_metrics_count_by_peer_and_tokens_count_where_they_are_computed(
    lasting_pair: Pair,
) -> None:
    body = {"model": MODEL, "prompt": "a", "max_tokens": 1}
    assert request(lasting_pair.near.server.url, "POST", "/v1/completions", body).status == 200

    def metrics(machine: Machine) -> str:
        return request(machine.server.url, "GET", "/metrics").body.decode()

    line = 'offgrid_forwarded_requests_total{peer="far",status="2xx"}'
    eventually(lambda: line in metrics(lasting_pair.near), "the request is counted")
    tokens = f'vllm:generation_tokens_total{{engine="0",model_name="{MODEL}"}}'
    assert tokens in metrics(lasting_pair.far)
    assert tokens not in metrics(lasting_pair.near)


@pytest.mark.slow
def test_a_server_that_stops_lets_forwarded_answers_finish(
    make_machine: Callable[..., Machine], make_far: Callable[..., Machine]
) -> None:
    near, far = make_machine("near", drain_timeout=TIMEOUT), make_far()
    introduce(near, far)
    body = {**ENDLESS, "max_tokens": 200, "stream": True}
    with Stream(near.server.url, "/v1/completions", body) as stream:
        assert stream.read_some()
        near.server.stop()
        assert [*stream.events()][-1] == "[DONE]"


@pytest.mark.slow
def test_a_server_that_stops_ends_answers_that_do_not_finish(pair: Pair) -> None:
    with Stream(pair.near.server.url, "/v1/completions", {**ENDLESS, "stream": True}) as stream:
        assert stream.read_some()
        pair.near.server.stop()
        error = json.loads([*stream.events()][-1])["error"]
    assert error["code"] == "server_shutting_down"
    eventually(lambda: is_idle(pair.far), "the slot is free")
