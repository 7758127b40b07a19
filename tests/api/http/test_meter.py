"""Limits of requests, tokens and requests at once, through a real server and the openai client."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from keyed import bearer, new_key
from lasting import LASTING, SETTINGS, Running, lasting, write_lasting
from openai import OpenAI
from support import STARTER, TIMEOUT, Json, Stream, chat_body, eventually, request, together

from offgrid.api.http import meter
from offgrid.api.http.rates import Accounts, Bucket
from offgrid.caller import Caller, Limits
from offgrid.config import Settings
from offgrid.server import Server

TEXT = {"model": STARTER, "prompt": "Once", "max_tokens": 1}
COMPLETIONS = "/v1/completions"
IN_BACKGROUND: Json = {
    "model": LASTING, "input": "Hi", "background": True, "ignore_eos": True,
}  # fmt: skip
"""A response that is answered until it is cancelled."""
ME = "127.0.0.1"


class Clock:
    """A clock that stands still unless a test moves it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def kept(clock: Clock) -> Accounts:
    return Accounts(clock=clock)


@pytest.fixture
def accounts(kept: Accounts) -> Iterator[Accounts]:
    """The accounts of this module's server; nothing has been used and nothing runs."""
    with kept.lock:
        for address in (ME, "127.0.0.2"):
            account = kept.of(address)
            account.requests, account.tokens, account.refused = Bucket(), Bucket(), 0
    yield kept
    eventually(lambda: running(kept) == 0, "all requests of a test have ended")


@pytest.fixture(scope="module")
def limited(
    settings: Settings, kept: Accounts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server whose limits each test sets."""
    folder = tmp_path_factory.mktemp("limited")
    write_lasting(folder)
    own = dataclasses.replace(
        settings, responses_file=folder / "responses.sqlite3", models_dir=folder, max_models=2,
        cors_origins=("http://a.lan",), **SETTINGS,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "Accounts", lambda: kept)
        server = Server(own)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def serve(
    limited: Server, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Set the limits of the server, as its settings would; return its URL."""

    def serve(**limits: int) -> str:
        monkeypatch.setattr(meter, "of_settings", lambda settings: Limits(**limits))
        return limited.url

    return serve


def client(url: str, retries: int = 0) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=retries)


def running(accounts: Accounts) -> int:
    with accounts.lock:
        return accounts.of(ME).running


def tokens_used(accounts: Accounts) -> int:
    with accounts.lock:
        return round(accounts.of(ME).tokens.used(10**6, accounts.clock()))


# --- requests per minute --------------------------------------------------------------------------


def test_requests_per_minute(serve: Callable[..., str], clock: Clock) -> None:
    """E16: each request comes on a new connection, and the limit holds nevertheless."""
    url = serve(requests_per_minute=3)
    for left, reset in ((2, "20s"), (1, "40s"), (0, "1m0s")):
        response = request(url, "POST", COMPLETIONS, TEXT)
        assert response.status == 200
        assert limit_headers(response.headers) == ("3", str(left), reset)
    with client(url) as api, pytest.raises(openai.RateLimitError) as refused:
        api.completions.create(**TEXT)
    error = refused.value
    assert (error.status_code, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert "may use 3 requests per minute" in error.message
    headers = error.response.headers
    assert limit_headers(headers) == ("3", "0", "1m0s")
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("20", "20000")
    clock.now += 20
    assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    assert request(url, "POST", COMPLETIONS, TEXT).status == 429


def limit_headers(headers: Any, kind: str = "requests") -> tuple[str, ...]:
    return tuple(headers.get(f"x-ratelimit-{part}-{kind}") for part in
                 ("limit", "remaining", "reset"))  # fmt: skip


@pytest.mark.slow
def test_the_openai_client_waits_as_long_as_it_is_told(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = Accounts()
    monkeypatch.setattr(meter, "Accounts", lambda: accounts)
    url = make_server(requests_per_minute=600).url
    with accounts.lock:
        accounts.of(ME).requests.take(600, 600, accounts.clock())
    with client(url, retries=20) as api:
        response = api.completions.with_raw_response.create(**TEXT)
    assert response.status_code == 200


def test_requests_that_never_wait_do_not_count(serve: Callable[..., str]) -> None:
    url = serve(requests_per_minute=1)
    assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    for path in (
        "/health", "/v1/models", f"/v1/models/{STARTER}", "/v1/loaded", "/", "/v1/import",
        "/v1/export",
    ):  # fmt: skip
        response = request(url, "GET", path)
        assert response.status == 200
        assert not any(name.startswith("x-ratelimit") for name in response.headers)
    assert request(url, "POST", COMPLETIONS, TEXT).status == 429


def test_without_limits_there_are_no_headers(base_url: str) -> None:
    response = request(base_url, "POST", COMPLETIONS, TEXT)
    assert not any(name.startswith("x-ratelimit") for name in response.headers)


@pytest.mark.parametrize(
    ("method", "path", "version", "headers"),
    [
        ("POST", COMPLETIONS, 11, {}),
        ("POST", COMPLETIONS, 10, {}),
        ("HEAD", "/v1/responses/resp_1", 11, {}),
        ("HEAD", COMPLETIONS, 11, {}),
        ("POST", "/v1/completions/", 11, {}),
        ("POST", "//v1/completions", 11, {}),
        ("POST", COMPLETIONS, 11, {"X-Forwarded-For": "10.0.0.9", "FORWARDED": "for=10.0.0.9"}),
        ("POST", COMPLETIONS, 11, {"x-forwarded-for": "2001:db8::1", "AUTHORIZATION": "Bearer k"}),
        ("GET", "/v1/responses/resp_1", 11, {}),
    ],
)
def test_no_request_gets_around_the_limit(
    serve: Callable[..., str],
    method: str,
    path: str,
    version: int,
    headers: dict[str, str],
) -> None:
    """Neither another method or version of HTTP, nor another spelling, nor a header helps."""
    url = serve(requests_per_minute=1)
    assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc)) as connection:
        connection._http_vsn = version  # type: ignore[attr-defined]
        connection._http_vsn_str = f"HTTP/1.{version - 10}"  # type: ignore[attr-defined]
        connection.request(method, path, b"{}", headers)
        # Without keys, what a proxy forwards from elsewhere is refused before it is counted.
        forwarded = any("forwarded" in name.lower() for name in headers)
        assert connection.getresponse().status == (403 if forwarded else 429)


def test_a_preflight_is_answered_but_no_request_of_its_page(serve: Callable[..., str]) -> None:
    url = serve(requests_per_minute=1)
    assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    origin = {"Origin": "http://a.lan"}
    preflight = {**origin, "Access-Control-Request-Method": "POST"}
    assert request(url, "OPTIONS", COMPLETIONS, headers=preflight).status == 204
    response = request(url, "POST", COMPLETIONS, TEXT, origin)
    assert response.status == 429
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert {"retry-after", "x-ratelimit-reset-requests"} <= set(exposed)


def test_pipelined_requests_count_one_by_one(serve: Callable[..., str]) -> None:
    url = serve(requests_per_minute=2)
    head = b"GET /v1/responses/resp_1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as sock:
        sock.sendall(head * 5)
        answers = b""
        while answers.count(b"HTTP/1.1 ") < 5 or not answers.endswith(b"}"):
            answers += sock.recv(1 << 16)
    assert (answers.count(b"HTTP/1.1 404"), answers.count(b"HTTP/1.1 429")) == (2, 3)


def test_the_body_of_a_refused_request_is_not_parsed(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(requests_per_minute=1)
    assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    monkeypatch.setattr("offgrid.api.http.request.parse_object", lambda raw: pytest.fail("parsed"))
    assert request(url, "POST", COMPLETIONS, b"[" * 100_000).status == 429


def test_the_statistics_name_the_endpoint_of_a_refused_request(
    serve: Callable[..., str], limited: Server
) -> None:
    url, stats = serve(requests_per_minute=1), limited.observation.observer.stats
    row = ("POST", COMPLETIONS, "4xx")
    assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    before = stats.totals().requests[row]
    assert request(url, "POST", COMPLETIONS, TEXT).status == 429
    eventually(lambda: stats.totals().requests[row] == before + 1, "the refusal is counted")


def test_each_address_has_its_own_limit(serve: Callable[..., str]) -> None:
    url = serve(requests_per_minute=1)
    for address in ("127.0.0.1", "127.0.0.2"):
        parts = urlsplit(url)
        for status in (404, 429):
            connection = http.client.HTTPConnection(
                parts.hostname or "", parts.port, source_address=(address, 0)
            )
            connection.request("GET", "/v1/responses/resp_1")
            assert connection.getresponse().status == status
            connection.close()


# --- tokens per minute ----------------------------------------------------------------------------


def test_tokens_per_minute(serve: Callable[..., str], accounts: Accounts, clock: Clock) -> None:
    """The prompt and the answers of all choices are charged, as usage counts them."""
    url = serve(tokens_per_minute=60)
    with client(url) as api:
        raw = api.chat.completions.with_raw_response.create(
            model=STARTER, messages=[{"role": "user", "content": "Hello!"}], n=2, max_tokens=3,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        used = raw.parse().usage
        assert used is not None
        assert used.completion_tokens == 6
        left = 60 - used.total_tokens
        assert limit_headers(raw.headers, "tokens")[:2] == ("60", str(left))
        api.completions.create(
            model=STARTER, prompt="Once", max_tokens=left, extra_body={"ignore_eos": True}
        )
        with pytest.raises(openai.RateLimitError) as refused:
            api.completions.create(**TEXT)
        assert refused.value.type == "tokens"
        wait = int(refused.value.response.headers["retry-after"])
        clock.now += wait
        api.completions.create(**TEXT)


def test_a_stream_has_the_headers_at_its_start_and_is_charged_at_its_end(
    serve: Callable[..., str], accounts: Accounts
) -> None:
    url = serve(tokens_per_minute=1000, requests_per_minute=10)
    body = {**TEXT, "max_tokens": 20, "stream": True, "ignore_eos": True,
            "stream_options": {"include_usage": True}}  # fmt: skip
    with Stream(url, COMPLETIONS, body) as stream:
        headers = {name.lower(): value for name, value in stream.response.getheaders()}
        assert limit_headers(headers) == ("10", "9", "6s")
        assert int(headers["x-ratelimit-remaining-tokens"]) < 1000
        *_, usage, done = stream.events()
        assert done == "[DONE]"
    assert f'"total_tokens":{tokens_used_of(accounts, 1000)}' in usage


def tokens_used_of(accounts: Accounts, limit: int) -> int:
    with accounts.lock:
        return round(accounts.of(ME).tokens.used(limit, accounts.clock()))


def test_what_a_client_that_leaves_has_used_is_charged(
    serve: Callable[..., str], accounts: Accounts
) -> None:
    """Otherwise it would get answers for nothing. Streamed and whole; its place is free again."""
    url = serve(tokens_per_minute=10**6, concurrent_requests=1)
    with Running(url, COMPLETIONS, lasting()) as stream:
        stream.read_some()
    eventually(lambda: running(accounts) == 0, "the stream has ended")
    streamed = tokens_used(accounts)
    assert streamed >= 2
    parts = urlsplit(url)
    with contextlib.closing(http.client.HTTPConnection(parts.netloc)) as connection:
        connection.request(
            "POST", COMPLETIONS,
            b'{"model": "%s", "prompt": "Once", "ignore_eos": true}' % LASTING.encode(),
        )  # fmt: skip
        eventually(lambda: tokens_used(accounts) > streamed, "its prompt is charged")
    eventually(lambda: running(accounts) == 0, "the request has ended")


def test_a_batch_is_charged_prompt_by_prompt(serve: Callable[..., str], accounts: Accounts) -> None:
    url = serve(tokens_per_minute=10**6)
    body = {"model": STARTER, "prompt": ["Once upon"] * 20, "max_tokens": 2, "ignore_eos": True}
    usage = request(url, "POST", COMPLETIONS, body).json["usage"]
    assert usage["completion_tokens"] == 40
    assert tokens_used(accounts) == usage["total_tokens"]


def test_a_batch_that_has_begun_is_finished_and_owed(
    serve: Callable[..., str], accounts: Accounts
) -> None:
    url = serve(tokens_per_minute=30)
    body = {"model": STARTER, "prompt": ["Once upon"] * 20, "max_tokens": 2, "ignore_eos": True}
    response = request(url, "POST", COMPLETIONS, body)
    assert response.status == 200
    used = response.json["usage"]["total_tokens"]
    refused = request(url, "POST", COMPLETIONS, TEXT)
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) == 2 * (used - 30 + 1)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": STARTER, "input": ["one two three", "four"]}),
        (COMPLETIONS, {"model": STARTER, "prompt": "one two three four", "max_tokens": 0}),
    ],
)
def test_inputs_without_an_answer_are_charged(
    serve: Callable[..., str], accounts: Accounts, path: str, body: dict[str, Any]
) -> None:
    url = serve(tokens_per_minute=10**6)
    usage = request(url, "POST", path, body).json["usage"]
    assert tokens_used(accounts) == usage["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "word " * 50, "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 50}]}),
        ("/v1/responses", {"input": "word " * 50}),
        ("/v1/embeddings", {"input": "word " * 50}),
    ],
)
def test_a_prompt_that_does_not_fit(
    serve: Callable[..., str], accounts: Accounts, path: str, body: dict[str, Any]
) -> None:
    """It is refused before it is computed; one that never fits must not be repeated."""
    url = serve(tokens_per_minute=20)
    refused = request(url, "POST", path, {"model": STARTER, **body})
    error = refused.json["error"]
    assert (refused.status, error["type"]) == (429, "tokens")
    assert "the prompt alone has" in error["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert tokens_used_of(accounts, 20) == 0
    eventually(lambda: running(accounts) == 0, "it has ended")


# --- requests at once -----------------------------------------------------------------------------


def test_requests_at_once(serve: Callable[..., str], accounts: Accounts) -> None:
    url = serve(concurrent_requests=2)
    with Running(url, COMPLETIONS, lasting()) as one, Running(url, COMPLETIONS, lasting()) as two:
        one.read_some()
        two.read_some()
        waits = []
        for _ in range(9):
            refused = request(url, "POST", COMPLETIONS, TEXT)
            assert (refused.status, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")
            waits.append(int(refused.headers["retry-after"]))
        assert "may have 2 requests at once" in refused.json["error"]["message"]
        assert waits == sorted(waits)
        assert (waits[0], waits[-1]) == (1, 3)
        assert request(url, "GET", "/health").status == 200
        one.leave()
        eventually(lambda: running(accounts) == 1, "one has ended")
        assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    eventually(lambda: running(accounts) == 0, "all have ended")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", COMPLETIONS, TEXT),
        ("POST", COMPLETIONS, {"model": "no-such-model", "prompt": "x"}),
        ("POST", COMPLETIONS, b"not json"),
        ("POST", COMPLETIONS, {**TEXT, "stream": True}),
        ("HEAD", COMPLETIONS, {**TEXT, "stream": True}),
        ("HEAD", "/v1/responses/resp_1?stream=true", None),
        ("DELETE", COMPLETIONS, None),
        ("GET", "/no/such/path", None),
        ("BREW", COMPLETIONS, None),
    ],
)
def test_every_end_frees_the_place(
    serve: Callable[..., str], accounts: Accounts, method: str, path: str, body: Any
) -> None:
    """E13: also of requests that are refused, and of HEAD, whose stream is never read."""
    url = serve(concurrent_requests=1)
    for _ in range(3):
        assert request(url, method, path, body).status != 429
        eventually(lambda: running(accounts) == 0, "it has ended")


def test_the_head_of_a_background_stream_frees_the_place(
    serve: Callable[..., str], accounts: Accounts
) -> None:
    """E13: HEAD answers with a stream, which the framework drops without closing it."""
    url = serve(concurrent_requests=1)
    body = {"model": STARTER, "input": "Hi", "background": True, "max_output_tokens": 2}
    id = request(url, "POST", "/v1/responses", body).json["id"]
    eventually(lambda: running(accounts) == 0, "it is answered")
    for _ in range(3):
        assert request(url, "HEAD", f"/v1/responses/{id}?stream=true").status == 200
        eventually(lambda: running(accounts) == 0, "the stream is dropped")


def test_a_background_response_counts_until_it_is_answered(
    serve: Callable[..., str], accounts: Accounts
) -> None:
    url = serve(concurrent_requests=2)
    first = request(url, "POST", "/v1/responses", IN_BACKGROUND)
    assert first.status == 200, first.body
    assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    with Running(url, COMPLETIONS, lasting()) as stream:
        stream.read_some()
        assert request(url, "POST", COMPLETIONS, TEXT).status == 429
    eventually(lambda: running(accounts) == 1, "the stream has ended")
    cancelled = request(url, "POST", f"/v1/responses/{first.json['id']}/cancel")
    assert cancelled.json["status"] == "cancelled"
    eventually(lambda: running(accounts) == 0, "the response has ended")


def test_a_background_response_can_be_read_and_cancelled_at_the_limit(
    serve: Callable[..., str], accounts: Accounts
) -> None:
    url = serve(concurrent_requests=1)
    path = f"/v1/responses/{request(url, 'POST', '/v1/responses', IN_BACKGROUND).json['id']}"
    assert request(url, "POST", "/v1/responses/input_tokens", IN_BACKGROUND).status == 429
    with contextlib.closing(
        http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    ) as follows:
        follows.request("GET", f"{path}?stream=true")
        assert follows.getresponse().readline().startswith(b"event: ")
        assert running(accounts) == 1
        assert request(url, "GET", path).json["status"] in ("queued", "in_progress")
        assert request(url, "GET", f"{path}/input_items").status == 200
        assert request(url, "GET", "/v1/conversations/conv_1").status == 404
        assert request(url, "POST", f"{path}/cancel").json["status"] == "cancelled"
    assert request(url, "POST", COMPLETIONS, TEXT).status == 200
    assert request(url, "DELETE", path).status == 200
    eventually(lambda: running(accounts) == 0, "all have ended")


def test_many_at_the_same_moment(serve: Callable[..., str], accounts: Accounts) -> None:
    """No thread gets a request through between the check and the count of another."""
    url = serve(requests_per_minute=5)
    path = "/v1/responses/resp_1"
    statuses = together([lambda: request(url, "GET", path).status for _ in range(16)])
    assert sorted(statuses) == [404] * 5 + [429] * 11
    assert running(accounts) == 0


# --- keys -----------------------------------------------------------------------------------------


def test_the_smaller_limit_holds(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key's limits apply in addition to those of the settings."""
    limits = Limits(requests_per_minute=2, tokens_per_minute=500, max_tokens=3)

    who = Caller("key_1", name="ward 3", has_key=True, limits=limits)
    monkeypatch.setattr(meter, "caller", lambda: who)
    url = serve(requests_per_minute=5, tokens_per_minute=100, max_tokens=4)
    response = request(url, "POST", COMPLETIONS, {**TEXT, "max_tokens": 3})
    assert response.headers["x-ratelimit-limit-requests"] == "2"
    assert response.headers["x-ratelimit-limit-tokens"] == "100"
    refused = request(url, "POST", COMPLETIONS, {**TEXT, "max_tokens": 4})
    assert (refused.status, refused.json["error"]["param"]) == (400, "max_tokens")
    last = request(url, "POST", COMPLETIONS, TEXT)
    assert (last.status, last.json["error"]["message"][:8]) == (429, "This key")


def test_each_key_has_its_own_limits(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two keys of a store, a wrong key, and headers in other letters."""
    accounts = Accounts(clock=Clock())
    monkeypatch.setattr(meter, "Accounts", lambda: accounts)
    file = tmp_path / "keys.sqlite3"
    key, secret = new_key(file, "ward 3", limits=Limits(requests_per_minute=1, max_tokens=2))
    _, other = new_key(file, "ward 4")
    url = make_server(keys_file=file).url
    with OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as api:
        answer = api.completions.create(
            model=STARTER, prompt="Once", extra_body={"ignore_eos": True}
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 2
        with pytest.raises(openai.RateLimitError, match="This key may use 1 requests per minute"):
            api.completions.create(**TEXT)
    for name in ("x-api-key", "API-KEY", "X-Api-Key"):
        refused = request(url, "POST", COMPLETIONS, TEXT, {name: secret})
        assert refused.status == 429, name
    for _ in range(3):
        response = request(url, "POST", COMPLETIONS, TEXT, bearer(other))
        assert response.status == 200
        assert "x-ratelimit-limit-requests" not in response.headers
        assert request(url, "POST", COMPLETIONS, TEXT, bearer("wrong")).status == 401
    with accounts.lock:
        assert (len(accounts), accounts.of(key.id).running) == (1, 0)


def test_limits_that_are_not_set() -> None:
    found = meter.smaller(Limits(0, None, 7, 5), Limits(4, 0, 3))
    assert found == Limits(4, None, 3, 5)


def test_the_clock_of_the_system_may_jump(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault suite: clock jumps of a day; neither limits nor connections are affected."""
    url = serve(requests_per_minute=2, concurrent_requests=2)
    real = time.time
    with contextlib.closing(http.client.HTTPConnection(urlsplit(url).netloc)) as connection:
        for jump, status in ((0.0, 404), (86400.0, 404), (-86400.0, 429)):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            connection.request("GET", "/v1/responses/resp_1")
            response = connection.getresponse()
            response.read()
            assert response.status == status


@pytest.fixture(autouse=True)
def _no_limits_are_left() -> Iterator[None]:
    yield
    assert meter.meter() is meter.FREE


def test_a_chat_of_a_limited_caller(serve: Callable[..., str]) -> None:
    url = serve(requests_per_minute=10, tokens_per_minute=10**6, concurrent_requests=3)
    body = chat_body(max_tokens=2)
    statuses = together([lambda: request(url, "POST", "/v1/chat/completions", body).status] * 3)
    assert statuses == [200, 200, 200]
