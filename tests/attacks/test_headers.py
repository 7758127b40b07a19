"""Headers that break parsers, and pages of other sites that call the server of their visitor."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from processes import Child, serving
from support import TIMEOUT, Json, chat_body, eventually, request

from offgrid.store.catalogue import STARTER_PATH

pytestmark = pytest.mark.usefixtures("access")
CHAT = "/v1/chat/completions"
IMAGE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
MODELS = ("a", "b")
PAGE = "https://app.example"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, access: str) -> Iterator[Child]:
    """A server with two models; one is loaded at start, b with its first request."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "models").mkdir()
    for name in MODELS:
        (folder / "models" / f"{name}.gguf").symlink_to(STARTER_PATH)
    with serving(folder, "--cors-origins", PAGE, "--model", "a") as child:
        child.wait_ready()
        yield child


def ask(child: Child, headers: dict[str, str], path: str = "/health") -> tuple[int, Json]:
    answer = request(child.url, "GET", path, headers=headers)
    return answer.status, answer.json


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["http://[", "http://]", "http://.e]x", "http://[::1", "//["])
def test_an_origin_that_cannot_be_parsed(server: Child, origin: str) -> None:
    status, body = ask(server, {"Origin": origin})
    assert (status, body["error"]["code"]) == (403, "origin_not_allowed")
    assert ask(server, {"Host": origin})[0] in (400, 403)
    assert ask(server, {"Referer": origin})[0] in (200, 403)


def test_random_bytes_in_every_header(server: Child) -> None:
    """Each on a separate connection, as a broken client sends them."""
    address = urlsplit(server.url)
    rng = random.Random(5)
    names = (
        "Host", "Origin", "Referer", "Sec-Fetch-Site", "Content-Length", "Content-Type", "Expect",
        "Connection", "Accept", "Cookie", "Range", "X-Forwarded-For", "X-Forwarded-Host",
        "Forwarded", "Transfer-Encoding", "Access-Control-Request-Headers", "Upgrade", "Via",
    )  # fmt: skip
    parts = [b"[", b"]", b"http://", b":", b"@", b"%", b"\xff", b"\x80", b"127.0.0.1", b"9", b","]
    for name in names * 8:
        value = b"".join(rng.choices([*parts, rng.randbytes(2)], k=rng.randint(1, 6)))
        head = b"GET /health HTTP/1.1\r\n"
        head += b"" if name == "Host" else b"Host: localhost\r\n"
        head += name.encode() + b": " + value.replace(b"\r", b"").replace(b"\n", b"") + b"\r\n"
        connection = (address.hostname or "", address.port or 0)
        with socket.create_connection(connection, TIMEOUT) as client:
            client.sendall(head + b"\r\n")
            client.shutdown(socket.SHUT_WR)
            # If the server waits for a body that never comes, there is no response.
            assert client.recv(12) not in (b"HTTP/1.1 500", b"HTTP/1.0 500"), (name, value)
    assert "Traceback" not in server.err.text


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_an_image_of_another_site_loads_no_model(server: Child, site: str) -> None:
    path = "/tokenizer_info?model=b"
    status, body = ask(server, {**IMAGE, "Sec-Fetch-Site": site}, path)
    assert (status, body["error"]["code"]) == (403, "cross_site")
    assert ask(server, LINK, path)[0] == 403
    assert ask(server, {"Referer": "http://evil.example/"}, path)[0] == 403
    eventually(lambda: len(server.workers()) == 1, "only one model is loaded")


def test_requests_that_are_still_allowed(server: Child) -> None:
    """Links to the pages for people, typed addresses, pages that are allowed, and programs."""
    assert ask(server, LINK, "/")[0] == 200
    assert ask(server, {"Sec-Fetch-Site": "none"}, "/v1/responses/resp_none")[0] == 404
    cors = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    assert ask(server, cors, "/v1/models")[0] == 200
    answer = request(server.url, "POST", CHAT, chat_body(max_tokens=1, model="a"), cors)
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    foreign = request(server.url, "POST", CHAT, chat_body(max_tokens=1), IMAGE)
    assert foreign.status == 403
