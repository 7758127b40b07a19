"""nginx, HAProxy and Caddy in front of the server, configured as in ``docs/deployment``.

A proxy that is not installed is skipped. The default run has the same requests without a proxy:
``tests/api/http/test_tls.py`` and ``test_forwarding.py``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import certificates
import lasting
import pytest
from certificates import Made
from front_proxies import CLIENT, DOCS, NAME, PROXIES, Proxy, in_front, installed
from lasting import write_lasting
from processes import comments_arrive
from support import STARTER, chat_body, endless, eventually, text_of

from offgrid.api.http.forwarding import Forwarding
from offgrid.server import Server

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
Seen = list[tuple[str, str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return certificates.make(tmp_path_factory.mktemp("tls"), NAME)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The client's address, method and path of each request that reaches the application."""
    requests: Seen = []
    real = Forwarding.process_request

    def record(self: Forwarding, req: Any, resp: Any) -> None:
        real(self, req, resp)
        requests.append((req.env["REMOTE_ADDR"], req.method, req.path))

    monkeypatch.setattr(Forwarding, "process_request", record)
    return requests


@pytest.fixture
def server(make_server: Callable[..., Server], seen: Seen, tmp_path: Path) -> Server:
    write_lasting(tmp_path)
    return make_server(
        trusted_proxies="127.0.0.1", allowed_hosts=NAME, parallel=1, sse_ping_interval=0.01,
        default_model=STARTER, ctx_size=lasting.CONTEXT, drafts=False,
    )  # fmt: skip


@pytest.fixture(params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, server: Server, files: Made, tmp_path: Path
) -> Iterator[Proxy]:
    name = str(request.param)
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    with in_front(name, server.port, files, tmp_path / "proxy") as running:
        yield running


def head(method: str, path: str, size: int | None = None, more: str = "") -> bytes:
    length = "" if size is None else f"Content-Length: {size}\r\n"
    return f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\n{length}{more}\r\n".encode()


def post(path: str, body: object, more: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head("POST", path, len(data), more) + data


def answer_of(client: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(client)
    response.begin()
    return response


def ask(proxy: Proxy, sent: bytes) -> tuple[int, Any]:
    with proxy.connect() as client:
        client.sendall(sent)
        response = answer_of(client)
        return response.status, json.loads(response.read())


def test_answers_streams_and_the_address_of_the_client(proxy: Proxy, seen: Seen) -> None:
    """What the client says about its own address is not believed."""
    lies = (
        "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Real-IP: 192.0.2.1\r\n"
        "X-Forwarded-Host: evil.example\r\nForwarded: for=192.0.2.1\r\n"
    )
    body = chat_body(temperature=0, max_tokens=8)
    status, answer = ask(proxy, post(CHAT, body, lies))
    assert status == 200
    with proxy.connect() as client:
        client.sendall(post(CHAT, {**body, "stream": True}, lies))
        lines = answer_of(client).read().decode().splitlines()
    events = [line[6:] for line in lines if line.startswith("data: ")]
    assert text_of(events) == answer["choices"][0]["message"]["content"]
    status, answer = ask(proxy, head("GET", "/wrong", more=lies))
    assert status == 404
    assert f"The base URL of the OpenAI API is https://{NAME}/v1." in answer["error"]["message"]
    assert {address for address, _, path in seen if path != "/health"} == {CLIENT}
    # A name that the server does not know, and the proxy passes on.
    with proxy.connect() as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        response = answer_of(client)
        assert response.status in (403, 200)
        assert b"offgrid-starter" not in response.read()


def get(proxy: Proxy, path: str, more: str = "") -> http.client.HTTPResponse:
    """Send a GET request, and read the head of the response."""
    with proxy.connect() as client:
        client.sendall(head("GET", path, more=f"Accept: text/html\r\n{more}"))
        response = answer_of(client)
        response.read()
        return response


def test_the_web_page(proxy: Proxy) -> None:
    """Its headers, its versions and its compressed files pass unchanged."""
    assert get(proxy, "/").getheader("Location") in ("ui/", f"https://{NAME}/ui/")
    page = get(proxy, "/ui/")
    assert page.status == 200
    policy = page.getheader("Content-Security-Policy") or ""
    assert policy.startswith("default-src 'self'; script-src 'self';")
    zipped = get(proxy, "/ui/main.js", "Accept-Encoding: gzip\r\n")
    assert zipped.getheader("Content-Encoding") == "gzip"
    known = f"Accept-Encoding: gzip\r\nIf-None-Match: {zipped.getheader('ETag')}\r\n"
    again = get(proxy, "/ui/main.js", known)
    assert (again.status, again.getheader("ETag")) == (304, zipped.getheader("ETag"))


def test_the_web_page_below_a_path(server: Server, files: Made, tmp_path: Path) -> None:
    if not installed("nginx"):
        pytest.skip("nginx is not installed")
    with in_front("nginx", server.port, files, tmp_path / "proxy", below="/llm/") as proxy:
        for path in ("/llm/", "/llm/ui"):
            led = get(proxy, path)
            assert urljoin(f"https://{NAME}{path}", led.getheader("Location")) == (
                f"https://{NAME}/llm/ui/"
            )
        for path in ("/llm/ui/", "/llm/ui/main.js"):
            assert get(proxy, path).status == 200
        assert get(proxy, "/llm/v1/models").status == 200
        assert get(proxy, "/ui/").status == 404


def test_a_stream_is_not_held_back(proxy: Proxy) -> None:
    """E18: comments arrive while the worker is stopped, so nothing waits for more bytes."""
    with proxy.connect() as busy, proxy.connect() as client:
        busy.sendall(post(TEXT, endless()))
        assert busy.recv(1)
        client.sendall(post(TEXT, endless(max_tokens=500)))
        response = answer_of(client)
        assert response.readline()  # now the worker has accepted it
        comments_arrive(response)
        busy.shutdown(socket.SHUT_RDWR)
        assert response.read().endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_its_slot(proxy: Proxy, server: Server, streamed: bool) -> None:
    engine = server.pool.engine("lasting")
    with proxy.connect() as client:
        client.sendall(post(TEXT, {**lasting.BODY, "stream": streamed}))
        if streamed:
            assert answer_of(client).readline()
        eventually(lambda: engine.in_flight == 1, "it is generated")
        client.shutdown(socket.SHUT_RDWR)
    eventually(lambda: engine.in_flight == 0, "the generation has ended")


def test_large_bodies(proxy: Proxy) -> None:
    body = json.dumps({"model": STARTER, "prompt": "a"}).encode()
    whole = body + b" " * ((8 << 20) - len(body))
    status, answer = ask(proxy, post("/tokenize", whole))
    assert (status, answer["count"]) == (200, 1)
    # Caddy ends the connection while the client is still sending.
    with proxy.connect() as client, contextlib.suppress(OSError):
        client.sendall(post("/tokenize", whole + b" "))
        response = answer_of(client)
        assert response.status == 413
        assert json.loads(response.read())["error"]["code"] == "request_too_large"


def test_connections_are_used_again(proxy: Proxy, server: Server) -> None:
    with proxy.connect() as client:
        for _ in range(5):
            client.sendall(head("GET", "/v1/models"))
            response = answer_of(client)
            assert response.status == 200
            response.read()
        # One of the proxy's health checks may be among them, and earlier ones are closed soon.
        eventually(lambda: len(server.http.channels) <= 2, "one connection has all requests")


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: llm.example\r\n\r\n"
BODY = b"0\r\n\r\n" + SMUGGLED
TRANSFER = (
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", b" Transfer-Encoding: chunked",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity, chunked",
    b"X: x\nTransfer-Encoding: chunked", b"Transfer-Encoding\n: chunked",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: \"chunked\"", b"Transfer-Encoding:\r\n chunked",
    b"TRANSFER-ENCODING: CHUNKED", b"Transfer_Encoding: chunked",
    b"Transfer-Encoding: chunked;a=b", b"Transfer-Encoding:",
)  # fmt: skip
LENGTHS = (
    b"Content-Length: %d", b"Content-Length: 5", b"Content-Length: +%d", b"Content-Length: %d, 5",
    b"Content-Length: 5\r\nContent-Length: %d", b"Content-Length: 0x5", b"Content-Length: -1",
    b"Content-Length : %d", b"Content_Length: %d", b"Content-Length: %d\x00",
    b"Content-Length: 0\r\n\tContent-Length: %d",
)  # fmt: skip
CHUNKS = (
    b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\n\r\n",
    b"05\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhelloX0\r\n\r\n",
    b"5\r\nhello\n0\n\n", b"0\n\r\n", b"0;\n\r\n",
    b"ffffffffffffffff5\r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"-1\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\nX: y\n\r\n",
    b"1;\n\r\na\r\n0\r\n\r\n",
)  # fmt: skip


def corpus() -> Iterator[bytes]:
    """Requests that proxies and servers may end at different bytes."""
    first = b"POST /attack HTTP/%s\r\nHost: llm.example\r\n"
    for transfer in TRANSFER:
        for length in LENGTHS:
            size = length % len(BODY) if b"%d" in length else length
            yield first % b"1.1" + transfer + b"\r\n" + size + b"\r\n\r\n" + BODY
    for transfer in TRANSFER[:4]:
        yield first % b"1.0" + transfer + b"\r\n\r\n" + BODY
        yield first % b"1.0" + b"Connection: keep-alive\r\n" + transfer + b"\r\n\r\n" + BODY
    for length in LENGTHS:
        size = length % len(BODY) if b"%d" in length else length
        yield first % b"1.1" + size + b"\r\n\r\n" + BODY
    # The rest of these is a part of the body only for a server that reads it in another way.
    for chunks in CHUNKS:
        held = b"%x\r\n%s\r\n" % (len(SMUGGLED), SMUGGLED)
        yield first % b"1.1" + b"Transfer-Encoding: chunked\r\n\r\n" + held + chunks


def test_no_request_hides_in_another(proxy: Proxy, seen: Seen) -> None:
    """E14: one response per request, and the next client's response is its own."""
    attacks = list(corpus())
    assert len(attacks) > 200
    passed_on = 0
    for number, attack in enumerate(attacks):
        del seen[:]
        # Where a body ends early, what follows is a second request for the proxy too: it may be
        # answered as such, but never to another client.
        own = attack.count(SMUGGLED)
        with proxy.connect() as client:
            client.sendall(attack)
            socket.socket.shutdown(client, socket.SHUT_WR)
            content = b""
            try:
                while piece := client.recv(1 << 16):
                    content += piece
            except OSError:  # the proxy resets the connection
                pass
        reached = [path for _, _, path in seen if path != "/health"]
        passed_on += len(reached)
        assert reached.count("/attack") <= 1, attack
        assert reached.count("/smuggled") <= own, attack
        # The proxy has sent no more responses than there are requests.
        assert content.count(b"HTTP/1.1 ") + content.count(b"HTTP/1.0 ") <= 1 + own, attack
        status, answer = ask(proxy, head("GET", f"/probe-{number}"))
        assert status == 404, attack
        assert f"Unknown URL: /probe-{number}." in answer["error"]["message"], attack
    assert passed_on


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg", "Caddyfile"])
def test_the_documents_have_the_same_files(name: str) -> None:
    page = (DOCS.parent / "DEPLOYMENT.md").read_text()
    assert f"deployment/{name}" in page
