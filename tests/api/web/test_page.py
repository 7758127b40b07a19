"""The web page from a real server: files, headers, conditional requests, who gets it and when."""

from __future__ import annotations

import gzip
import http.client
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from keyed import bearer, new_key
from page_files import WEB
from support import STARTER, TIMEOUT, Response, Stream, endless, eventually, request

from offgrid.api.http.waitress import server as http_server
from offgrid.api.web.files import MEDIA_TYPES
from offgrid.app import build_app
from offgrid.config import load_settings
from offgrid.server import Server

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
GZIP = {"Accept-Encoding": "gzip, deflate, br"}
NAMES = sorted(
    path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.suffix in MEDIA_TYPES
)
POLICY = {
    "default-src": "'self'", "script-src": "'self'", "style-src": "'self'",
    "img-src": "'self' data: blob:", "media-src": "'self' blob:", "connect-src": "'self'",
    "font-src": "'self'", "object-src": "'none'", "base-uri": "'none'", "form-action": "'none'",
    "frame-ancestors": "'none'",
}  # fmt: skip
COMPLETIONS = "/v1/completions"


def get(url: str, path: str, **headers: str) -> Response:
    """Send a GET request; underscores in the names of headers stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return request(url, "GET", path, headers=named)


def check_headers(fields: dict[str, str]) -> None:
    """Check the headers of every file of the page."""
    policy = dict(
        part.strip().split(" ", 1) for part in fields["content-security-policy"].split(";")
    )
    assert policy == POLICY
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["referrer-policy"] == "no-referrer"
    assert fields["cross-origin-resource-policy"] == "same-origin"
    assert fields["cross-origin-opener-policy"] == "same-origin"
    assert fields["cache-control"] == "no-cache"
    devices = dict(part.strip().split("=") for part in fields["permissions-policy"].split(","))
    assert devices.pop("camera") == "(self)"
    assert set(devices.values()) == {"()"}
    assert devices.keys() >= {"geolocation", "microphone", "payment", "usb"}


# --- files ----------------------------------------------------------------------------------------


def test_every_file_as_it_is_and_compressed(base_url: str) -> None:
    assert len(NAMES) > 40
    for name in NAMES:
        data = (WEB / name).read_bytes()
        plain, small = get(base_url, f"/ui/{name}"), request(
            base_url, "GET", f"/ui/{name}", headers=GZIP
        )  # fmt: skip
        for answer in (plain, small):
            assert answer.status == 200, name
            check_headers(answer.headers)
            assert answer.headers["content-type"] == MEDIA_TYPES["." + name.rpartition(".")[2]]
            assert int(answer.headers["content-length"]) == len(answer.body)
        assert plain.body == data
        assert "content-encoding" not in plain.headers
        if "content-encoding" in small.headers:
            assert small.headers["content-encoding"] == "gzip"
            assert gzip.decompress(small.body) == data
            assert small.headers["etag"] != plain.headers["etag"]
            assert plain.headers["vary"] == small.headers["vary"] == "Accept-Encoding"
        else:
            assert small.body == data
            assert small.headers["etag"] == plain.headers["etag"]


def test_the_page_is_at_a_url_that_ends_with_a_slash(base_url: str) -> None:
    page = get(base_url, "/ui/")
    assert page.body == (WEB / "index.html").read_bytes()
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path in ("/ui", "/ui?a=b"):
        led = get(base_url, path)
        # Relative, so that it is right after a proxy with a path too.
        assert (led.status, led.headers["location"], led.body) == (302, "ui/", b"")


def test_scripts_and_fonts_have_the_types_that_browsers_need(base_url: str) -> None:
    for name, kind in (
        ("main.js", "text/javascript; charset=utf-8"),
        ("style/base.css", "text/css; charset=utf-8"),
        ("strings/en.json", "application/json"),
        ("vendor/Temml.woff2", "font/woff2"),
        ("icons/offgrid.svg", "image/svg+xml"),
        ("vendor/licences/htm.txt", "text/plain; charset=utf-8"),
    ):
        assert get(base_url, f"/ui/{name}").headers["content-type"] == kind


def test_a_small_icon_where_browsers_look_for_one(base_url: str) -> None:
    icon = get(base_url, "/favicon.ico")
    assert (icon.status, icon.headers["content-type"]) == (200, "image/x-icon")
    assert icon.body[:4] == b"\0\0\1\0"
    assert len(icon.body) < 4096


def test_an_unknown_file_and_folders(base_url: str) -> None:
    for name in ("no.js", "style", "style/", "vendor", "lib/", "vendor/vendor.json/"):
        answer = get(base_url, f"/ui/{name}")
        if name == "vendor/vendor.json/":  # a slash at the end of a path means nothing here
            assert answer.status == 200
            continue
        assert (answer.status, answer.json["error"]["code"]) == (404, "unknown_url")
        assert answer.json["error"]["message"].startswith("The web page has no file")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["cache-control"] == "no-store"


def test_only_reading(base_url: str) -> None:
    for path in ("/ui", "/ui/main.js", "/favicon.ico"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = request(base_url, method, path, b"x")
            assert (answer.status, answer.json["error"]["code"]) == (405, "method_not_allowed")


# --- conditional requests -------------------------------------------------------------------------


def test_a_file_that_the_browser_has_is_not_sent_again(base_url: str) -> None:
    for path in ("/ui/", "/ui/main.js", "/ui/vendor/Temml.woff2", "/favicon.ico"):
        for encoding in ("gzip", "identity"):
            first = get(base_url, path, Accept_Encoding=encoding)
            etag = first.headers["etag"]
            for known in (etag, f"W/{etag}", f'"x", {etag}', f'{etag} , W/"y"', "*"):
                again = get(base_url, path, Accept_Encoding=encoding, If_None_Match=known)
                assert (again.status, again.body) == (304, b""), known
                assert again.headers["etag"] == etag
                # Browsers take the headers of a 304 in place of those that they have kept.
                check_headers(again.headers)
                assert again.headers.get("vary") == first.headers.get("vary")


def test_another_version_is_sent(base_url: str) -> None:
    plain = get(base_url, "/ui/main.js")
    small = get(base_url, "/ui/main.js", Accept_Encoding="gzip")
    for known in (
        small.headers["etag"],
        '"x"',
        "x",
        "",
        '"',
        "W/",
        ",,",
        plain.headers["etag"] + "x",
    ):
        answer = get(base_url, "/ui/main.js", If_None_Match=known)
        assert (answer.status, answer.body) == (200, plain.body), known


def test_head_has_the_headers_of_get(base_url: str) -> None:
    for path in ("/ui/", "/ui/style/base.css", "/favicon.ico"):
        for headers in ({}, GZIP):
            whole = request(base_url, "GET", path, headers=headers)
            head = request(base_url, "HEAD", path, headers=headers)
            assert (head.status, head.body) == (200, b"")
            for name in ("etag", "content-length", "content-type", "vary", "content-encoding"):
                assert head.headers.get(name) == whole.headers.get(name)
            known = {**headers, "If-None-Match": whole.headers["etag"]}
            assert request(base_url, "HEAD", path, headers=known).status == 304
    assert request(base_url, "HEAD", "/ui/none.js").status == 404


def test_a_part_of_a_file_is_not_offered(base_url: str) -> None:
    """A Range may be ignored (RFC 9110, section 14.2)."""
    answer = get(base_url, "/ui/main.js", Range="bytes=0-9")
    assert (answer.status, answer.body) == (200, (WEB / "main.js").read_bytes())
    assert "content-range" not in answer.headers


def test_a_browser_asks_for_many_files_on_one_connection(base_url: str) -> None:
    """Also after responses without a body; waitress alone would close the connection."""
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=TIMEOUT)
    sockets = set()
    try:
        for known in ("", "*", "*", "", "*"):
            connection.request("GET", "/ui/main.js", headers={"If-None-Match": known})
            sockets.add(connection.sock)
            response = connection.getresponse()
            response.read()
            assert response.status == (304 if known else 200)
            assert response.getheader("Connection") is None
    finally:
        connection.close()
    assert len(sockets) == 1


def test_a_client_may_end_the_connection(base_url: str) -> None:
    """After a 304 as after any other response."""
    for known in ("*", ""):
        answer = get(base_url, "/ui/main.js", If_None_Match=known, Connection="close")
        assert answer.headers["connection"] == "close"


# --- who gets the page ----------------------------------------------------------------------------


def test_the_root_leads_browsers_to_the_page(base_url: str) -> None:
    led = request(base_url, "GET", "/", headers=BROWSER)
    assert (led.status, led.headers["location"]) == (302, "ui/")
    assert request(base_url, "HEAD", "/", headers=BROWSER).status == 302
    for accept in ("*/*", "application/json", "application/json, text/plain, */*", "nonsense"):
        answer = get(base_url, "/", Accept=accept)
        assert (answer.status, answer.json["status"]) == (200, "running")
        assert answer.headers["vary"] == led.headers["vary"] == "Accept"
    assert get(base_url, "/").json["name"] == "OffGrid LLM"


def test_a_cache_knows_that_the_root_differs_by_origin_too(
    make_server: Callable[..., Server],
) -> None:
    url = make_server(keep_alive=0, cors_origins="http://page.example").url
    assert get(url, "/").headers["vary"] == "Origin, Accept"
    assert get(url, "/ui/").headers["vary"] == "Origin, Accept-Encoding"


def test_links_and_typed_addresses(base_url: str) -> None:
    """A link of another site may lead to the page; another site may not embed its files."""
    link = {
        "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document",
    }  # fmt: skip
    for path, status in (("/", 302), ("/ui", 302), ("/ui/", 200)):
        assert request(base_url, "GET", path, headers={**BROWSER, **link}).status == status
        typed = {**BROWSER, "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
        assert request(base_url, "GET", path, headers=typed).status == status
        # Over plain HTTP to another machine, browsers tell nothing but where the link was.
        came = {**BROWSER, "Referer": "http://other.example/list"}
        assert request(base_url, "GET", path, headers=came).status == status
        frame = {**link, "Sec-Fetch-Dest": "iframe"}
        assert request(base_url, "GET", path, headers=frame).json["error"]["code"] == "cross_site"
    for site, status in (("same-origin", 200), ("cross-site", 403), ("same-site", 403)):
        for dest in ("script", "style", "image", "font", "empty"):
            part = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": dest}
            assert request(base_url, "GET", "/ui/main.js", headers=part).status == status


def test_the_page_needs_no_key_and_what_it_asks_does(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.sqlite3"
    _, secret = new_key(keys, "user")
    url = make_server(keep_alive=0, keys_file=keys).url
    for headers in ({}, bearer(secret), bearer("wrong")):
        assert request(url, "GET", "/ui/", headers=headers).status == 200
        assert request(url, "GET", "/ui/main.js", headers=headers).status == 200
        assert request(url, "GET", "/favicon.ico", headers=headers).status == 200
        assert request(url, "GET", "/", headers={**BROWSER, **headers}).status == 302
    # Without a key, nothing tells the version.
    assert get(url, "/").json["version"] is None
    assert get(url, "/v1/models").status == 401
    assert request(url, "GET", "/v1/models", headers=bearer(secret)).status == 200


def test_the_files_tell_no_version(base_url: str) -> None:
    from offgrid import __version__

    for name in (name for name in NAMES if not name.startswith("vendor/")):
        assert __version__.encode() not in (WEB / name).read_bytes(), name


# --- a busy server --------------------------------------------------------------------------------


@pytest.fixture
def busy(make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server all of whose threads for models are taken, by answers that do not go on."""
    monkeypatch.setattr(http_server, "places", lambda settings: 2)
    monkeypatch.setattr(http_server, "_SPARE_THREADS", 0)
    server = make_server(parallel=2, stall_timeout=600)
    worker = server.pool.engine(STARTER).pid
    assert worker is not None
    with ExitStack() as streams:
        for _ in range(2):
            stream = streams.enter_context(
                Stream(server.url, COMPLETIONS, endless(max_tokens=1900))
            )
            assert stream.read_some()
        os.kill(worker, signal.SIGSTOP)
        streams.callback(os.kill, worker, signal.SIGCONT)
        yield server.url


def test_a_busy_server_shows_the_page(busy: str) -> None:
    for path in ("/ui/", "/ui/main.js", "/favicon.ico"):
        assert get(busy, path).status == 200
    assert request(busy, "GET", "/", headers=BROWSER).status == 302


def test_files_do_not_count_as_requests(make_server: Callable[..., Server]) -> None:
    url = make_server(keep_alive=0, requests_per_minute=1).url
    text = {"model": STARTER, "prompt": "a", "max_tokens": 1}
    for path in ("/ui/", "/ui/main.js", "/favicon.ico", "/ui/none.js", "/"):
        for _ in range(3):
            answer = request(url, "GET", path, headers=BROWSER)
            assert answer.status in (200, 302, 404)
            assert not any(name.startswith("x-ratelimit") for name in answer.headers)
    assert request(url, "POST", COMPLETIONS, text).status == 200
    assert request(url, "POST", COMPLETIONS, text).status == 429
    assert get(url, "/ui/main.js").status == 200


def test_a_visit_is_one_line_in_the_log(
    make_server: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    # Not the server that tests share: lines like those of the last ten seconds are counted there.
    url = make_server(keep_alive=0).url
    caplog.set_level(logging.INFO, "offgrid.requests")
    paths = ("/ui/", "/ui/main.js", "/ui/style/base.css", "/favicon.ico", "/ui/none.js")
    own = [get(url, path).headers["x-request-id"] for path in paths]
    # The line of a request follows its response, also that of an earlier test. Other threads write
    # those of the next requests.
    for id in (own[0], own[-1]):
        eventually(lambda id=id: id in caplog.text, "the request is logged")  # type: ignore[misc]
    lines = [
        message.split(" ")[:3] for message in caplog.messages if any(id in message for id in own)
    ]
    assert sorted(lines) == [["GET", "/ui", "200"], ["GET", "/ui/{path}", "404"]]


# --- the setting ----------------------------------------------------------------------------------


def test_the_page_can_be_turned_off(make_server: Callable[..., Server]) -> None:
    url = make_server(keep_alive=0, ui=False).url
    for path in ("/ui", "/ui/", "/ui/main.js", "/ui/none.js", "/favicon.ico"):
        answer = request(url, "GET", path, headers=BROWSER)
        assert (answer.status, answer.json["error"]["code"]) == (404, "ui_off")
        assert "OFFGRID_UI=true (--ui)" in answer.json["error"]["message"]
    assert request(url, "GET", "/", headers=BROWSER).json["status"] == "running"


def test_the_setting_changes_while_the_server_runs(tmp_path: Path) -> None:
    flags = {
        "port": 0, "models_dir": tmp_path, "import_roots": "none", "default_model": STARTER,
        "responses_file": tmp_path / "responses.sqlite3", "drain_timeout": 0, "threads": 1,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.start()
    try:
        assert get(server.url, "/ui/").status == 200
        for on in (False, True):
            done = server.reloads.reload(load_settings({**flags, "ui": on}, environ={}))
            assert "ui" in done.changed
            assert get(server.url, "/ui/").status == (200 if on else 404)
            root = request(server.url, "GET", "/", headers=BROWSER)
            assert root.status == (302 if on else 200)
    finally:
        server.stop()


def test_under_another_wsgi_server_and_below_a_path(server: Server) -> None:
    """The path of the application is in SCRIPT_NAME then."""
    from falcon.testing import create_environ

    app = build_app(server.settings, server.catalogue, server.pool, server.responses)
    told: list[object] = []
    for path, status, location in (
        ("/ui/", "200 OK", None), ("/ui", "302 Found", "ui/"), ("/ui/main.js", "200 OK", None),
    ):  # fmt: skip
        environ = create_environ(path=path, host="localhost", root_path="/llm")
        told.clear()
        b"".join(app(environ, lambda *arguments: told.extend(arguments)))
        fields = {name.lower(): value for name, value in told[1]}  # type: ignore[attr-defined]
        assert (told[0], fields.get("location")) == (status, location)
