"""Which requests are allowed: Host, Origin and Sec-Fetch-Site. No header breaks the check."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offgrid.app import App, build_app
from offgrid.config import load_settings
from offgrid.server import Server

HOST = "127.0.0.1:11611"
OWN = f"http://{HOST}"
ALLOWED = "https://app.example"
FOREIGN = "http://evil.example"
PLACES = ("Host", "Origin", "Referer")
CHECKED = (
    *PLACES, "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Content-Length",
    "Content-Type", "Accept", "Cookie", "Range", "If-Modified-Since", "Expect", "Forwarded",
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
    "Transfer-Encoding", "Access-Control-Request-Method", "Access-Control-Request-Headers",
    "Access-Control-Request-Private-Network", "X-HTTP-Method-Override", "Authorization",
)  # fmt: skip
ODD = (
    "http://[", "http://]", "http://.e]x", "http://[::1", "[", "]", "[]", "[::1]:x", "//", "http:",
    "http://\xe2\x84\x80", "http://\u212a".encode().decode("latin-1"), "http://a:99999999999",
    "http://127.0.0.1:-1", "http://xn--\xff", "xn--a" * 60, "." * 300, "a" * 70 + ".b", "%", "%zz",
    "9" * 5000, "-1", "+1", "0x10", "1e3", "1, 1", "\xb2", "text/html; charset=\xff", "=;\"",
    "null",
    "http://[v1.x]", "http://[::1%25]", "http://[fe80::1%\xff]", "same-origin, cross-site", "",
    "\x00", "\x7f", "\r\n", "\x85", " ", "\xa0", OWN, ALLOWED, "cross-site", "same-origin",
)  # fmt: skip


def build(server: Server, folder: Path) -> App:
    """The application with the engines of a server and pages that may call it."""
    flags = {"cors_origins": f"{ALLOWED},http://b.example", "allowed_hosts": "offgrid.lan"}
    settings = load_settings({**flags, "models_dir": folder}, environ={})
    return build_app(settings, server.catalogue, server.pool, server.responses)


Ask = Callable[..., tuple[int, dict[str, str], Any]]


@pytest.fixture(scope="module")
def call(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Call the application directly, with the given headers unchanged."""
    app = build(server, tmp_path_factory.mktemp("app"))

    def send(
        method: str = "GET", path: str = "/v1/models", query: str = "", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query,
            "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": HOST, "wsgi.input": io.BytesIO(b"{}"),
        }  # fmt: skip
        for name, value in headers.items():
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else f"HTTP_{key}"] = value
        setup_testing_defaults(environ)
        told: list[Any] = []
        content = b"".join(app(environ, lambda *arguments: told.extend(arguments)))
        status, fields = told[0], {name.lower(): value for name, value in told[1]}
        return int(status[:3]), fields, json.loads(content) if content else None

    return send


def code(answer: tuple[int, dict[str, str], Any]) -> str | int:
    """The error code of a response, or its status if there is none."""
    return str(answer[2]["error"]["code"]) if answer[0] >= 400 else answer[0]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: ascii(odd[:24]))
def test_odd_hosts_and_origins_are_foreign(call: Ask, odd: str) -> None:
    assert call(Origin=odd)[0] == (200 if odd in (OWN, ALLOWED) else 403)
    assert call(Host=odd)[0] in (400, 403)
    assert call(Referer=odd)[0] in (200, 403)


TEXTS = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(max_codepoint=255), max_size=40),
    st.tuples(st.sampled_from(ODD), st.text(st.characters(max_codepoint=255), max_size=8)).map(
        "".join
    ),
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "\xff", ""]),
    st.one_of(
        st.sampled_from(["/", "/health", "/v1/models", "/v1/models/x", "/v1/responses/x", "*"]),
        TEXTS,
    ),
    TEXTS,
    st.dictionaries(st.sampled_from(CHECKED), TEXTS, max_size=5),
)
def test_no_header_breaks_the_application(
    call: Ask, method: str, path: str, query: str, headers: dict[str, str]
) -> None:
    status, fields, answer = call(method, path, query, **headers)
    assert 200 <= status < 500
    assert all(name.isascii() and value.isprintable() for name, value in fields.items())
    if status >= 400 and answer is not None:
        assert answer["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost", True), ("LOCALHOST:1", True), ("127.0.0.1", True), ("[::1]:11611", True),
        ("offgrid.lan:80", True), ("127.1.2.3:", True), ("offgrid.lan.evil.example", False),
        ("127.0.0.1.nip.io", False), ("2130706433", False), ("0x7f.1", False), ("::1", False),
        ("evil.example@127.0.0.1", False), ("127.0.0.1@evil.example", False),
        ("127.0.0.1/evil.example", False), ("127.0.0.1:80:80", False), ("127.0.0.1:x", False),
        ("127.0.0.1#", False), ("localhost\\evil.example", False), ("[127.0.0.1", False),
        ("\uff4cocalhost".encode().decode("latin-1"), False), ("192.168.1.2", False),
    ],
)  # fmt: skip
def test_names_of_this_server(call: Ask, host: str, known: bool) -> None:
    assert code(call(Host=host)) == (200 if known else "host_not_allowed")


SITE, MODE, DEST = "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"
IMAGE = {SITE: "cross-site", MODE: "no-cors", DEST: "image"}
LINK = {SITE: "cross-site", MODE: "navigate", DEST: "document"}


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "", "same-origin, none"])
@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/tokenizer_info", "/nothing"])
def test_resources_that_a_page_of_another_site_embeds(call: Ask, path: str, site: str) -> None:
    assert code(call("GET", path, "model=x", **{**IMAGE, SITE: site})) == "cross_site"
    frame = {SITE: site, MODE: "navigate", DEST: "iframe"}
    assert code(call("GET", path, **frame)) == "cross_site"


def test_links_may_lead_only_to_pages_for_people(call: Ask) -> None:
    for path in ("/", "/health", "/openapi.json", "/v1/models"):
        assert call("GET", path, **LINK)[0] == 200
    assert call("GET", "/ui", **LINK)[0] == 302
    assert code(call("GET", "/ui/main.js", **LINK)) == "cross_site"
    assert code(call("GET", "/tokenizer_info", "model=x", **LINK)) == "cross_site"
    assert code(call("GET", "/v1/responses/x", **LINK)) == "cross_site"
    for method in ("POST", "DELETE", "OPTIONS"):
        assert code(call(method, "/v1/models", **LINK)) == "cross_site"


def test_own_pages_typed_addresses_and_programs(call: Ask) -> None:
    path, query = "/v1/responses/none", ""
    for headers in (
        {}, {SITE: "same-origin"}, {SITE: "none"}, {MODE: "cors"}, {"Origin": OWN},
        {"Origin": OWN, SITE: "same-origin"}, {"Referer": f"{OWN}/page"},
        {"Referer": f"{ALLOWED}/page"}, {"Referer": "unknown"},
    ):  # fmt: skip
        assert code(call("GET", path, query, **headers)) == "not_found"


def test_a_page_that_may_call_is_cross_site_with_its_origin(call: Ask) -> None:
    headers = {SITE: "cross-site", MODE: "cors", DEST: "empty"}
    status, fields, _ = call(**headers, Origin=ALLOWED)
    assert (status, fields["access-control-allow-origin"]) == (200, ALLOWED)
    assert code(call(**headers, Origin=FOREIGN)) == "origin_not_allowed"
    assert code(call(**headers, Origin="null")) == "origin_not_allowed"
    preflight = {"Access-Control-Request-Method": "POST", "Origin": ALLOWED, SITE: "cross-site"}
    wanted = {"Access-Control-Request-Headers": "content-type, x-a"}
    status, fields, _ = call("OPTIONS", **preflight, **wanted)
    assert (status, fields["access-control-allow-headers"]) == (204, "content-type, x-a")
    odd = {"Access-Control-Request-Headers": "a\xff"}
    assert "access-control-allow-headers" not in call("OPTIONS", **preflight, **odd)[1]


def test_browsers_that_send_only_the_referring_page(call: Ask) -> None:
    """Browsers omit Sec-Fetch-Site over plain HTTP to another machine."""
    headers = {"Referer": f"{FOREIGN}/page"}
    assert code(call("GET", "/tokenizer_info", "model=x", **headers)) == "cross_site"
    assert call("GET", "/", **headers)[0] == 200


def test_two_lengths_of_a_body(call: Ask) -> None:
    """Another WSGI server might let such a request through."""
    both = {"Transfer-Encoding": "chunked", "Content-Length": "2"}
    assert code(call("POST", "/tokenize", **both)) == "invalid_length"
    assert code(call("POST", "/tokenize", **{"Transfer-Encoding": "chunked"})) != "invalid_length"


# --- CORS -----------------------------------------------------------------------------------------

ASKED = (
    "authorization, content-type, x-api-key, api-key, x-stainless-lang, x-stainless-os, "
    "x-stainless-retry-count, x-stainless-timeout, openai-organization, openai-beta"
)
"""What the openai client for browsers sends."""
READABLE = (
    "x-request-id", "openai-processing-ms", "retry-after", "x-should-retry",
    "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens",
)  # fmt: skip
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ASKED}


def cors(fields: dict[str, str]) -> set[str]:
    return {name for name in fields if name.startswith("access-control")}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/responses/x", "/no"])
def test_preflight_requests_of_an_allowed_origin(call: Ask, path: str) -> None:
    """E3."""
    status, fields, answer = call("OPTIONS", path, Origin=ALLOWED, **PREFLIGHT)
    assert (status, answer) == (204, None)
    assert fields["access-control-allow-origin"] == ALLOWED
    assert fields["access-control-allow-headers"] == ASKED
    assert {"GET", "POST", "DELETE"} <= {*fields["access-control-allow-methods"].split(", ")}
    assert fields["vary"] == "Origin"
    assert cors(fields).isdisjoint(
        {"access-control-allow-credentials", "access-control-allow-private-network"}
    )
    private = {"Access-Control-Request-Private-Network": "true"}
    fields = call("OPTIONS", path, Origin=ALLOWED, **PREFLIGHT, **private)[1]
    assert fields["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize(
    "origin", [FOREIGN, "null", "*", "", f"{ALLOWED}.evil.example", f"{ALLOWED}:444", "https://app"]
)
def test_preflight_requests_of_other_origins(call: Ask, origin: str) -> None:
    """E3: no permission, and 403."""
    private = {"Access-Control-Request-Private-Network": "true"}
    status, fields, answer = call("OPTIONS", Origin=origin, **PREFLIGHT, **private)
    assert (status, answer["error"]["code"]) == (403, "origin_not_allowed")
    assert "--cors-origins" in answer["error"]["message"]
    assert cors(fields) == set()
    assert fields["vary"] == "Origin"


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/no", 404)])
def test_a_page_of_an_allowed_origin_reads_the_headers(call: Ask, path: str, status: int) -> None:
    answer, fields, _ = call("GET", path, Origin=ALLOWED)
    assert answer == status
    assert {*READABLE} <= {*fields["access-control-expose-headers"].split(", ")}
    assert "access-control-allow-credentials" not in fields
    assert (fields["access-control-allow-origin"], fields["vary"]) == (ALLOWED, "Origin")
    assert cors(call("GET", path)[1]) == set()
    assert call("GET", path)[1]["vary"] == "Origin"


SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/v1/models/x/unload"])
@pytest.mark.parametrize("kind", SIMPLE)
def test_forms_of_other_sites(call: Ask, kind: str, path: str) -> None:
    """E4: browsers send these without a preflight request."""
    for headers in (
        {"Origin": FOREIGN}, {"Origin": "null"}, {"Origin": FOREIGN, SITE: "cross-site"},
        {SITE: "cross-site"}, {SITE: "same-site"}, {"Referer": f"{FOREIGN}/form"},
        {"Origin": OWN.replace("11611", "80")},
    ):  # fmt: skip
        assert call("POST", path, Content_Type=kind, **headers)[0] == 403, headers


HOSTS = {
    HOST: True, "localhost": True, "LocalHost:11611": True, "[::1]": True, "offgrid.lan": True,
    "evil.example": False, "offgrid.lan.evil.example": False, "127.0.0.1.nip.io": False,
    "192.168.1.2": False, "a, b": None, "": None, "localhost, localhost": None,
}  # fmt: skip
"""Host -> whether it is known; None for no or several."""
ORIGINS = {
    None: True, ALLOWED: True, "http://b.example": True, f"{ALLOWED}/": True, FOREIGN: False,
    "null": False, "http://localhost.evil.example": False, "https://127.0.0.1:11611.evil": False,
    "app.example": False, "*": False, "http://[": False, "file://": False,
    f"{ALLOWED}, {FOREIGN}": False, "http://xapp.example": False,
}  # fmt: skip
"""Origin -> whether its pages may call, besides the server's own."""


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("origin", ORIGINS)
def test_every_host_with_every_origin(call: Ask, host: str, origin: str | None) -> None:
    """E3, E4: 168 pairs, and 48 with the origin that the host stands for."""
    known = HOSTS[host]
    status, fields, answer = call(Host=host, **({} if origin is None else {"Origin": origin}))
    if known is None:
        assert (status, answer["error"]["code"]) == (400, "invalid_host")
    elif not known:
        assert (status, answer["error"]["code"]) == (403, "host_not_allowed")
    elif not ORIGINS[origin]:
        assert (status, answer["error"]["code"]) == (403, "origin_not_allowed")
    else:
        assert status == 200
    allowed = origin if known and origin is not None and ORIGINS[origin] else None
    assert fields.get("access-control-allow-origin") == allowed
    assert fields.get("access-control-allow-origin") != "*"


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "HTTP"])
def test_every_host_with_its_own_origin(call: Ask, host: str, scheme: str) -> None:
    status = call(Host=host, Origin=f"{scheme}://{host}")[0]
    own = scheme.lower() in ("http", "https")
    assert status == (400 if HOSTS[host] is None else 200 if HOSTS[host] and own else 403)
