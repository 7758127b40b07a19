"""Hostile requests for the files of the web page: other files, giant names and headers, floods."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from page_files import WEB
from processes import Child, serving
from support import TIMEOUT, Response, request, response_on

import offgrid

pytestmark = pytest.mark.usefixtures("access")
SECRET = b"a secret beside the models"
UPWARDS = (
    "..", ".", "%2e%2e", "%2E.", ".%2e", "..%2f", "..%5c", "..\\", "....", "...", "%252e%252e",
    "%c0%ae%c0%ae", "..;", "..%00", "%2e%2e%2f", "..%c0%af", "\\..", "/..", "//..", "vendor/..",
    "vendor/%2e%2e", "%ef%bc%8e%ef%bc%8e",
)  # fmt: skip
TARGETS = (
    "errors.py", "__init__.py", "models/README.md", "etc/passwd", "web/index.html", "secret.txt",
    "secret.js",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, access: str) -> Iterator[Child]:
    """A server with files in its folder that no user may read."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "models").mkdir()
    for name in ("secret.txt", "secret.js", "models/secret.js"):
        (folder / name).write_bytes(SECRET)
    with serving(folder) as child:
        child.wait_ready()
        yield child


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A connection on which bytes can be sent as they are."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as sock:
        yield sock


def raw(url: str, path: str, *headers: str, method: str = "GET") -> Response:
    """Send a request with a path and headers that no library changes."""
    with connected(url) as sock:
        lines = (f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers)
        sock.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
        return response_on(sock, method)


def contents(url: str) -> bytes:
    """The page, to show that the server still answers."""
    answer = request(url, "GET", "/ui/")
    assert answer.status == 200
    return answer.body


# --- other files ----------------------------------------------------------------------------------


def test_no_path_leads_out_of_the_folder(server: Child) -> None:
    page = (WEB / "index.html").read_bytes()
    package = Path(offgrid.__file__).parent
    forbidden = (
        SECRET, b"root:", (package / "errors.py").read_bytes()[:60],
        (package / "models/README.md").read_bytes()[:60],
    )  # fmt: skip
    for up in UPWARDS:
        for target in TARGETS:
            for path in (f"/ui/{up}/{target}", f"/ui/{up}/{up}/{up}/{up}/{up}/{target}"):
                answer = raw(server.url, path)
                assert answer.status in (400, 404), path
                assert not any(text in answer.body for text in forbidden), path
                assert answer.body != page, path


@pytest.mark.parametrize(
    "path",
    [
        f"/ui/{quote(str(WEB / 'index.html'))}", f"/ui/{quote(str(WEB / 'index.html'), safe='')}",
        "/ui//etc/passwd", "/ui/C:/Windows/win.ini", "/ui/C:%5CWindows%5Cwin.ini", "/ui/~/.profile",
        "/ui/file:///etc/passwd", "/ui/main.js%00.css", "/ui/main.js%00", "/ui/main.js::$DATA",
        "/ui/main.js.", "/ui/main.js%20", "/ui/MAIN.JS", "/ui/main.js%0a", "/ui/CON", "/ui/nul.js",
        "/ui/%ff%fe.js", "/ui/.git/config", "/ui/.", "/ui/lib", "/ui/style/*", "/ui/vendor/%2e",
        "/ui/__pycache__", "/ui/main.js/..", "/ui/main%252ejs",
    ],
)  # fmt: skip
def test_names_that_file_systems_read_differently(server: Child, path: str) -> None:
    answer = raw(server.url, path)
    assert answer.status in (400, 404)
    assert answer.json["error"]["code"] in ("unknown_url", "invalid_value", None)


def test_no_folder_is_listed(server: Child) -> None:
    for folder in ("vendor", "vendor/", "lib/", "style", "strings/", "vendor/highlight/languages/"):
        answer = raw(server.url, f"/ui/{folder}")
        assert answer.status == 404
        assert b".js" not in answer.body


# --- giant and odd requests -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [200, 4000, 15_000, 100_000, 2_000_000])
def test_giant_names(server: Child, length: int) -> None:
    with contextlib.suppress(ConnectionError):  # it may be refused before all was sent
        answer = raw(server.url, "/ui/" + "a/" * (length // 2))
        assert answer.status in (404, 431)
        assert len(answer.body) < 1000
    assert contents(server.url)


@pytest.mark.parametrize(
    "header",
    [
        "If-None-Match: " + ", ".join(f'"{n}"' for n in range(2000)),
        "If-None-Match: " + ", " * 7000,
        "If-None-Match: " + '"' * 15_000,
        "If-None-Match: " + "W/" * 7000,
        'If-None-Match: "' + "a" * 15_000,
        "If-None-Match: " + "\xff" * 15_000,
        "If-Modified-Since: Fri, 31 Dec 9999 23:59:59 GMT",
        "If-Modified-Since: nonsense",
        "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT",
        "Range: bytes=0-0",
        "Range: bytes=" + ",".join(f"{n}-{n}" for n in range(1500)),
        "Range: bytes=-1",
        "Range: bytes=9999999999999999999999-",
        "Range: lines=1-2",
        "Accept-Encoding: " + "gzip;q=0," * 1500,
        "Accept-Encoding: " + ";" * 15_000,
        "Accept-Encoding: gzip;q=" + "9" * 15_000,
        "Accept-Encoding: identity;q=0, *;q=0",
    ],
    ids=lambda header: header[:36],
)
def test_odd_headers_of_a_file(server: Child, header: str) -> None:
    """Each gets the whole file, since no Range is offered and no version was named."""
    whole = (WEB / "main.js").read_bytes()
    answer = raw(server.url, "/ui/main.js", header)
    assert (answer.status, answer.body) == (200, whole)
    head = raw(server.url, "/ui/main.js", header, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(whole))


def test_the_version_at_the_end_of_many(server: Child) -> None:
    etag = request(server.url, "GET", "/ui/main.js").headers["etag"]
    many = ", ".join([*(f'W/"{n}"' for n in range(1500)), etag])
    assert raw(server.url, "/ui/main.js", f"If-None-Match: {many}").status == 304


@pytest.mark.parametrize(
    "accept",
    [
        "text/html;q=0." + "9" * 15_000,
        ",".join(f"text/x{n};q=0.{n}" for n in range(900)),
        "text/html" + ";a=b" * 3500,
        "text/html;q=nan",
        "text/html;q=1e999",
        'text/html;a="' + "\\" * 15_000,
        "/" * 15_000,
        "\xff/\xff",
        "*" * 15_000,
    ],
    ids=lambda accept: accept[:24],
)
def test_odd_wishes_at_the_root(server: Child, accept: str) -> None:
    answer = raw(server.url, "/", f"Accept: {accept}")
    assert answer.status in (200, 302)
    if answer.status == 200:
        assert answer.json["status"] == "running"
    else:
        assert answer.headers["location"] == "ui/"


def test_random_headers(server: Child) -> None:
    rng = random.Random(9)
    names = ("If-None-Match", "Accept-Encoding", "Accept", "Range", "If-Range", "If-Match")
    parts = ['"', "W/", ",", ";q=", "0.5", "gzip", "*", "text/html", "=", "bytes", "-", "\xe9", " "]
    for _ in range(60):
        headers = [f"{name}: {''.join(rng.choices(parts, k=rng.randint(0, 9)))}" for name in names]
        for path in ("/", "/ui/", "/ui/main.js"):
            assert raw(server.url, path, *headers).status in (200, 302, 304), headers
    assert "Traceback" not in server.err.text


def test_a_body_with_a_request_for_a_file(server: Child) -> None:
    answer = request(server.url, "GET", "/ui/main.js", b"x" * 100_000)
    assert answer.status == 200
    assert request(server.url, "POST", "/ui/main.js", b"x" * 100_000).status == 405


# --- floods ---------------------------------------------------------------------------------------


def test_many_unknown_names_leave_nothing_behind(server: Child) -> None:
    """They count as one endpoint in the statistics, and their refusals are a few lines."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT)
    for number in range(300):
        connection.request("GET", f"/ui/none{number}.js")
        response = connection.getresponse()
        response.read()
        assert response.status == 404
    connection.close()
    metrics = request(server.url, "GET", "/metrics").body.decode()
    assert "none1" not in metrics
    assert server.err.text.count("GET /ui/{path} 404") < 20


def test_clients_that_ask_for_all_files_and_read_nothing(server: Child) -> None:
    """Their answers wait for them, and no thread does."""
    names = [path.relative_to(WEB).as_posix() for path in WEB.rglob("*.js")]
    sent = "".join(f"GET /ui/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n" for name in names * 3)
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(connected(server.url)).sendall(sent.encode())
        assert contents(server.url) == (WEB / "index.html").read_bytes()
        assert request(server.url, "GET", "/ui/vendor/temml.js").status == 200
    assert contents(server.url)
