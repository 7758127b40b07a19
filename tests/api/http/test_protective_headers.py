"""Headers that every response has, whichever part of the server makes it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from falcon.testing import create_environ
from support import TIMEOUT, Response, Stream, chat_body, request, response_on

from offgrid.api.http.headers import protective_headers
from offgrid.app import build_app
from offgrid.server import Server

ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}
CHAT = "/v1/chat/completions"


def raw(url: str, sent: bytes) -> Response:
    """Send bytes, and read the response."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), TIMEOUT) as client:
        client.sendall(sent)
        return response_on(client)


def check(fields: dict[str, str], cache: str = "no-store") -> None:
    assert fields.items() >= {**ALWAYS, "cache-control": cache}.items()
    assert fields["x-request-id"]
    # Only over TLS: see test_tls.py.
    assert "strict-transport-security" not in fields
    assert fields.keys().isdisjoint({"server", "via", "access-control-allow-origin"})


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/health", None, 200), ("HEAD", "/v1/models", None, 200), ("GET", "/", None, 200),
        ("GET", "/openapi.json", None, 200), ("OPTIONS", "/v1/models", None, 200),
        ("GET", "/nothing", None, 404), ("PUT", "/health", None, 405), ("BREW", "/", None, 405),
        ("POST", CHAT, {}, 400), ("POST", CHAT, b"{", 400),
        ("POST", CHAT, chat_body(max_tokens=1), 200),
    ],
)  # fmt: skip
def test_responses_of_the_application(
    base_url: str, method: str, path: str, body: Any, status: int
) -> None:
    answer = request(base_url, method, path, body)
    assert answer.status == status
    check(answer.headers)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nbroken\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 17_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["malformed", "two lengths", "headers", "body", "host", "no host"],
)
def test_responses_to_requests_that_are_refused(base_url: str, sent: bytes) -> None:
    """The first four never reach the application."""
    response = raw(base_url, sent)
    assert 400 <= response.status < 500
    check(response.headers)


def test_a_stream_may_be_read_only_once_and_is_not_buffered(base_url: str) -> None:
    """E18."""
    body = chat_body(max_tokens=2, stream=True)
    with Stream(base_url, CHAT, body) as stream:
        fields = {name.lower(): value for name, value in stream.response.getheaders()}
        check(fields, cache="no-cache")
        assert fields["x-accel-buffering"] == "no"
        assert list(stream.events())[-1] == "[DONE]"


def test_a_failure_of_the_application(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 too, from the application and from waitress if the application raises."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    told: list[Any] = []
    monkeypatch.setattr("offgrid.api.health.RootResource.on_get", fail)
    app = build_app(server.settings, server.catalogue, server.pool, server.responses)
    environ = create_environ(path="/", host="localhost")
    body = b"".join(app(environ, lambda *arguments: told.extend(arguments)))
    assert told[0].startswith("500")
    assert json.loads(body)["error"]["type"] == "server_error"
    check({name.lower(): value for name, value in told[1]})


def test_headers_that_a_response_has_stay() -> None:
    given = ["cache-control", "Content-Security-Policy"]
    names = [name for name, _ in protective_headers(given, secure=True)]
    assert {name.lower() for name in names}.isdisjoint({name.lower() for name in given})
    assert "Strict-Transport-Security" in names
    assert len(set(names)) == len(names)


def test_a_crash_outside_of_the_application(make_server: Callable[..., Server]) -> None:
    """waitress answers for an application that raises."""
    server = make_server()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    server.http._server.application = broken
    answer = request(server.url, "GET", "/health")
    assert answer.status == 500
    check(answer.headers)
