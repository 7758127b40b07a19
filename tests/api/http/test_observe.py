"""Ids, headers and log lines of real requests, also of those that end early."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI
from support import STARTER, TIMEOUT, Stream, chat_body, endless, eventually, request

from offgrid.record import Record
from offgrid.server import Server

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Record]:
    """Returns the record of a request that has ended, by the end of its path or its id."""
    records: list[Record] = []
    log = server.observation.observer.log
    logged = log.ended

    def ended(record: Record) -> None:
        records.append(record)
        logged(record)

    monkeypatch.setattr(log, "ended", ended)

    def find(what: str) -> Record:
        def matches() -> list[Record]:
            return [one for one in records if what == one.id or one.path.endswith(what)]

        eventually(lambda: bool(matches()), f"the request {what} has ended")
        return matches()[-1]

    return find


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO, "offgrid.requests"):
        yield


def test_the_id_of_a_client_is_returned(base_url: str) -> None:
    mine = request(base_url, "GET", "/health", headers={"X-Request-ID": "trace-7"})
    assert mine.headers["x-request-id"] == "trace-7"
    for wrong in ("a b", "x" * 200, "\xe9"):
        other = request(base_url, "GET", "/health", headers={"X-Request-ID": wrong})
        assert other.headers["x-request-id"].startswith("req_")


def test_the_openai_client_shows_the_id(client: OpenAI) -> None:
    headers = {"X-Request-ID": "mine-1"}
    answer = client.with_options(default_headers=headers).completions.create(
        model=STARTER, prompt="Once", max_tokens=1
    )
    assert answer._request_id == "mine-1"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nothing")
    assert (caught.value.request_id or "").startswith("req_")


def test_headers_of_openai(base_url: str) -> None:
    headers = request(base_url, "POST", CHAT, chat_body(max_tokens=2)).headers
    assert headers["openai-version"] == "2020-10-01"
    assert 0 <= int(headers["openai-processing-ms"]) < 1000 * TIMEOUT
    with Stream(base_url, CHAT, chat_body(max_tokens=2, stream=True)) as stream:
        assert stream.response.getheader("openai-processing-ms") is not None
        list(stream.events())


def test_answers_and_streams(base_url: str, ends: Callable[[str], Record]) -> None:
    for body in (chat_body(max_tokens=4), chat_body(max_tokens=4, stream=True)):
        response = request(base_url, "POST", CHAT, body)
        record = ends(response.headers["x-request-id"])
        assert (record.status, record.endpoint, record.code) == (200, CHAT, "")
        (outcome,) = record.outcomes
        assert outcome.completion_tokens == outcome.steps + 1 > 1
        assert outcome.first_token is not None
        assert record.began < outcome.first_token <= record.began + record.seconds


def test_a_client_that_leaves_a_stream(base_url: str, ends: Callable[[str], Record]) -> None:
    with Stream(base_url, TEXT, endless()) as stream:
        id = stream.response.getheader("x-request-id")
        stream.read_some()
        stream.leave()
    assert id is not None
    record = ends(id)
    assert (record.status, record.code) == (499, "client_gone")
    (outcome,) = record.outcomes
    assert outcome.finished == (("abort", 1),)
    assert outcome.completion_tokens > 0


def test_a_client_that_leaves_before_its_answer(
    server: Server, ends: Callable[[str], Record]
) -> None:
    parts = urlsplit(server.url)
    engine = server.pool.engine(STARTER)
    eventually(lambda: engine.in_flight == 0, "nothing of earlier tests runs")
    body = b'{"prompt": "Once", "ignore_eos": true}'
    head = f"POST {TEXT} HTTP/1.1\r\nHost: {parts.netloc}\r\nX-Request-ID: gone-1\r\n"
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        eventually(lambda: engine.in_flight > 0, "its prompt is being answered")
    record = ends("gone-1")
    assert (record.status, record.code) == (499, "client_gone")


def test_a_client_that_leaves_after_the_end(base_url: str, ends: Callable[[str], Record]) -> None:
    """It has everything, so its request counts as answered."""
    with Stream(base_url, TEXT, endless(max_tokens=3)) as stream:
        id = stream.response.getheader("x-request-id") or ""
        assert list(stream.events())[-1] == "[DONE]"
    assert ends(id).status == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "endpoint"),
    [
        (TEXT, {"model": STARTER}, 400, "missing_required_parameter", TEXT),
        (TEXT, {"model": "nothing", "prompt": "a"}, 404, "model_not_found", TEXT),
        ("/v1/nothing", {}, 404, "unknown_url", ""),
        (CHAT, b"{", 400, "invalid_json", CHAT),
        ("/health", {}, 405, "method_not_allowed", "/health"),
    ],
)
def test_refusals(
    base_url: str, ends: Callable[[str], Record], path: str, body: object, status: int, code: str,
    endpoint: str,
) -> None:  # fmt: skip
    response = request(base_url, "POST", path, body)
    record = ends(response.headers["x-request-id"])
    assert response.status == record.status == status
    assert (record.code, record.endpoint) == (code, endpoint)


def test_a_request_that_the_application_never_sees(
    base_url: str, ends: Callable[[str], Record]
) -> None:
    response = request(base_url, "GET", "/health", headers={"X": "y" * 20_000})
    record = ends(response.headers["x-request-id"])
    assert (record.status, record.code) == (431, "headers_too_large")


def test_the_endpoint_of_a_request_that_is_refused_early(
    base_url: str, ends: Callable[[str], Record]
) -> None:
    """By a host name, or for its length, before a route is looked up: the statistics name it."""
    foreign = request(base_url, "POST", TEXT, {}, headers={"Host": "evil.example"})
    large = request(base_url, "POST", f"{CHAT}?a=1", b" " * (9 << 20))
    for response, status, endpoint in ((foreign, 403, TEXT), (large, 413, CHAT)):
        record = ends(response.headers["x-request-id"])
        assert (record.status, record.endpoint) == (status, endpoint)


def test_a_stream_that_ends_with_an_error(base_url: str, ends: Callable[[str], Record]) -> None:
    """Its response has status 200, and the log and the statistics have that of the error."""
    dead_end = chat_body(
        stream=True, grammar='start: "a" /[^\\s\\S]/', grammar_type="lark", max_tokens=5
    )
    bias = endless(max_tokens=5, logit_bias={}, grammar='start: "a" "b"', grammar_type="lark")
    for path, body in ((CHAT, dead_end), (TEXT, bias)):
        with Stream(base_url, path, body) as stream:
            id = stream.response.getheader("x-request-id") or ""
            shown = stream.response.status
            events = list(stream.events())
        failed = shown == 200 and bool(events) and '"error"' in events[-1]
        record = ends(id)
        assert (record.status >= 400) is (failed or shown >= 400), (path, events)
