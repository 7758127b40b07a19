"""Keys over HTTP: who passes, with which headers, scopes and addresses.

The entries of the list of faults that a test covers are named in its docstring.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from keyed import bearer, new_key
from openai import AuthenticationError, OpenAI, PermissionDeniedError
from support import STARTER, TIMEOUT, Response, chat_body, request, response_on
from variants import few

from offgrid.api.http import access
from offgrid.api.http.access import Authorize, Failures, needs_of
from offgrid.api.http.waitress import parser
from offgrid.app import App, build_app
from offgrid.config import load_settings
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_ID
from offgrid.store.keys import KeyFile

CHAT = "/v1/chat/completions"
PUBLIC = {"/", "/health", "/ready", "/ui", "/ui/{path:path}", "/favicon.ico"}
"""Templates of the routes that anybody may use."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Keyed(NamedTuple):
    """A server with keys."""

    server: Server
    file: Path
    secrets: dict[str, str]

    @property
    def url(self) -> str:
        return self.server.url


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A server with a key for each scope, and keys that are not valid any more."""
    folder = tmp_path_factory.mktemp("keyed")
    file = folder / "keys.sqlite3"
    secrets = {
        scope: new_key(file, scope, scope)[1]  # type: ignore[arg-type]
        for scope in ("inference", "history", "models", "import", "stats", "peers", "admin")
    }
    secrets["expired"] = new_key(file, "expired", "admin", expires=time.time() - 1)[1]
    secrets["revoked"] = new_key(file, "revoked", "admin")[1]
    secrets["replaced"] = new_key(file, "replaced", "admin")[1]
    keys = KeyFile(file)
    keys.revoke("revoked")
    keys.rotate("replaced")
    keys.close()
    settings = load_settings(
        {
            "port": 0, "models_dir": folder, "default_model": STARTER_ID, "threads": 1,
            "import_roots": "none", "responses_file": folder / "responses.sqlite3",
            "keys_file": file, "drain_timeout": 0,
        },
        environ={},
    )  # fmt: skip
    server = Server(settings)
    server.access.failures = Failures(most=1_000_000)
    server.start()
    yield Keyed(server, file, secrets)
    server.stop()


def raw(url: str, *lines: str) -> Response:
    """Send a request whose header lines are given as they are."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as sock:
        head = "\r\n".join((*lines, f"Host: {parts.netloc}", "Connection: close", "", ""))
        sock.sendall(head.encode("latin-1"))
        return response_on(sock)


# --- every route ----------------------------------------------------------------------------------


def routes(app: App) -> Iterator[tuple[str, Any]]:
    """Template and resource of every route of Falcon's router."""

    def walk(nodes: Any) -> Iterator[tuple[str, Any]]:
        for node in nodes:
            if node.resource is not None:
                yield node.uri_template, node.resource
            yield from walk(node.children)

    return walk(app._router._roots)


def app_of(server: Server) -> App:
    return build_app(server.settings, server.catalogue, server.pool, server.responses)


def test_every_route_needs_a_key_but_a_short_list(keyed: Keyed) -> None:
    """E1: the route table is walked, and each resource is asked by itself."""
    app = app_of(keyed.server)
    found = dict(routes(app))
    assert len(found) > 20
    for template in found:
        path = template.replace("{", "").replace("}", "").replace(":path", "")
        for method in METHODS:
            answer = request(keyed.url, method, path)
            if template in PUBLIC:
                # The model may not be loaded yet; the page is at /ui/, and has no file "path".
                also = {"/ready": 503, "/ui": 302, "/ui/{path:path}": 404}.get(template, 200)
                allowed = (200, 405, also)
                assert answer.status in allowed, (method, template)
                continue
            assert answer.status == 401, (method, template)
            assert answer.headers["www-authenticate"] == 'Bearer realm="offgrid"'
            if method != "HEAD":
                error = answer.json["error"]
                if not template.startswith("/api/"):  # Ollama's errors are only a message
                    assert error["type"] == "authentication_error"


def test_every_resource_says_what_it_needs(keyed: Keyed) -> None:
    """Without a declaration, only admin may; that is for mistakes, so every resource has one."""
    for template, resource in routes(app_of(keyed.server)):
        if template in PUBLIC:
            continue
        for method in METHODS:
            if hasattr(resource, f"on_{method.lower()}"):
                declared = resource.scopes
                assert ("GET" if method == "HEAD" else method) in declared, (template, method)


def test_a_resource_without_a_declaration_needs_admin() -> None:
    class Forgotten:
        def on_get(self) -> None: ...

    assert needs_of(Forgotten(), "GET") == ("admin",)
    assert needs_of(Forgotten(), "HEAD") == ()  # 405
    assert needs_of(Forgotten(), "POST") == ()


def test_a_public_resource_is_that_object_and_no_other() -> None:
    """E1: not its class, its path or its name."""

    class Health:
        def on_get(self) -> None: ...

    one, other = Health(), Health()
    authorize = Authorize(public=[one])

    class Context:
        caller = access.Caller("10.0.0.1", scopes=frozenset())
        refusal = access.NotAuthenticated("no", wrong=False)

    class Request:
        context = Context
        method = "GET"

    authorize.process_resource(Request, None, one, {})  # type: ignore[arg-type]
    with pytest.raises(access.NotAuthenticated):
        authorize.process_resource(Request, None, other, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["localhost/health?y=", "x/health?y=", "localhost/health#"])
def test_a_host_opens_no_route(keyed: Keyed, host: str) -> None:
    """E1: vLLM once took the path from the Host header."""
    for template, _ in routes(app_of(keyed.server)):
        if template not in PUBLIC:
            path = template.replace("{", "").replace("}", "").replace(":path", "")
            answer = request(keyed.url, "GET", path, headers={"Host": host})
            assert answer.status in (400, 401, 403), template


@pytest.mark.parametrize(
    "path",
    ["/health/", "//health", "/health/../v1/models", "/v1/models/../../health", "/%2e%2e/v1/models",
     "/v1/models?x=/health", "/v1//models", "/V1/models", "/health;/../v1/models"],
)  # fmt: skip
def test_an_odd_path_opens_nothing(keyed: Keyed, path: str) -> None:
    answer = request(keyed.url, "GET", path)
    assert answer.status == 401 or answer.json == {"status": "healthy"}


def test_an_unknown_path_tells_nothing_without_a_key(keyed: Keyed) -> None:
    assert request(keyed.url, "GET", "/nothing").status == 401
    known = request(keyed.url, "GET", "/nothing", headers=bearer(keyed.secrets["inference"]))
    assert known.status == 404
    assert known.json["error"]["code"] == "unknown_url"


def test_health_and_root_say_little_without_a_key(keyed: Keyed) -> None:
    assert request(keyed.url, "GET", "/health").json == {"status": "healthy"}
    anonymous = request(keyed.url, "GET", "/").json
    assert anonymous == {"name": "OffGrid LLM", "version": None, "status": "running"}
    answer = request(keyed.url, "GET", "/", headers=bearer(keyed.secrets["stats"]))
    assert answer.json["version"]


# --- the matrix -----------------------------------------------------------------------------------

GOOD = {
    "bearer": ("Authorization: Bearer {key}",),
    "lower case": ("Authorization: bearer {key}",),
    "upper case": ("authorization: BEARER {key}",),
    "spaces": ("Authorization: Bearer   {key}  ",),
    "x-api-key": ("X-Api-Key: {key}",),
    "api-key": ("api-key: {key}",),
    "the same key twice": ("Authorization: Bearer {key}", "X-Api-Key: {key}"),
    "an empty bearer": ("Authorization: Bearer ", "X-Api-Key: {key}"),
}
BAD = {
    "none": (),
    "empty": ("Authorization: Bearer ",),
    "wrong": ("Authorization: Bearer sk-offgrid-wrong",),
    "longer": ("Authorization: Bearer {key}x",),
    "shorter": ("Authorization: Bearer {cut}",),
    "other case": ("Authorization: Bearer {upper}",),
    "revoked": ("Authorization: Bearer {revoked}",),
    "expired": ("Authorization: Bearer {expired}",),
    "replaced": ("Authorization: Bearer {replaced}",),
    "no scheme": ("Authorization: {key}",),
    "basic": ("Authorization: Basic {key}",),
    "tab": ("Authorization: Bearer\t{key}",),
    "two headers": ("Authorization: Bearer {key}", "Authorization: Bearer {key}"),
    "two keys in one": ("Authorization: Bearer {key}, Bearer {key}",),
    "two different keys": ("Authorization: Bearer {key}", "X-Api-Key: {other}"),
    "right and wrong": ("Authorization: Bearer {key}", "api-key: wrong"),
    "in the query": (),
    "not ascii": ("Authorization: Bearer \u00e4\u00ff",),
    "long": ("X-Api-Key: " + "x" * 8000,),
}


def lines_of(keyed: Keyed, lines: tuple[str, ...]) -> list[str]:
    key, other = keyed.secrets["admin"], keyed.secrets["inference"]
    names = {**keyed.secrets, "key": key, "other": other, "cut": key[:-1], "upper": key.upper()}
    return [line.format(**names) for line in lines]


@pytest.mark.parametrize("case", GOOD)
def test_a_key_in_each_form_passes(keyed: Keyed, case: str) -> None:
    answer = raw(keyed.url, "GET /v1/models HTTP/1.1", *lines_of(keyed, GOOD[case]))
    assert answer.status == 200, answer.body


@pytest.mark.parametrize("case", few(5, BAD))
def test_no_route_passes_without_a_valid_key(keyed: Keyed, case: str) -> None:
    """The matrix of routes, methods and bad keys; each cell is 401."""
    lines = lines_of(keyed, BAD[case])
    query = f"?api_key={keyed.secrets['admin']}" if case == "in the query" else ""
    for template, _ in routes(app_of(keyed.server)):
        if template in PUBLIC:
            continue
        path = template.replace("{", "").replace("}", "").replace(":path", "")
        for method in ("GET", "POST", "DELETE"):
            answer = raw(keyed.url, f"{method} {path}{query} HTTP/1.1", *lines)
            assert answer.status == 401, (method, path, answer.body)
            error = answer.json["error"]
            if path.startswith("/api/"):  # Ollama's errors are only a message
                error = {"type": "authentication_error", "code": 401, "param": None}
            assert error["type"] == "authentication_error"
            if not path.startswith("/v1/messages"):  # the errors of that API have neither
                assert error["code"] in ("invalid_api_key", 401)  # llama-server's is the status
                assert error["param"] is None
            assert answer.headers["www-authenticate"].startswith("Bearer realm=")
            for secret in keyed.secrets.values():
                assert secret not in answer.body.decode()


SCOPES_OF = {
    ("GET", "/v1/models"): {"inference", "models", "stats"},
    ("GET", f"/v1/models/{STARTER}"): {"inference", "models", "stats"},
    ("POST", f"/v1/models/{STARTER}/load"): {"models"},
    ("POST", f"/v1/models/{STARTER}/unload"): {"models"},
    ("GET", "/v1/loaded"): {"models", "stats"},
    ("GET", "/v1/stats"): {"stats"},
    ("GET", "/v1/stats/series"): {"stats"},
    ("GET", "/v1/stats/slots"): {"stats"},
    ("GET", "/metrics"): {"stats"},
    ("GET", "/v1/import"): {"import"},
    ("POST", "/v1/import"): {"import"},
    ("GET", "/v1/import/x"): {"import"},
    ("DELETE", "/v1/import/x"): {"import"},
    ("POST", "/v1/import/x/cancel"): {"import"},
    ("GET", "/v1/export"): {"import"},
    ("POST", "/v1/export"): {"import"},
    ("GET", "/v1/export/x"): {"import"},
    ("DELETE", "/v1/export/x"): {"import"},
    ("POST", "/v1/export/x/cancel"): {"import"},
    ("POST", f"/v1/models/{STARTER}/pin"): {"models"},
    ("POST", f"/v1/models/{STARTER}/unpin"): {"models"},
    ("POST", f"/v1/models/{STARTER}/default"): {"models"},
    ("POST", f"/v1/models/{STARTER}/remove"): {"models"},
    ("POST", CHAT): {"inference"},
    ("POST", "/v1/completions"): {"inference"},
    ("POST", "/v1/embeddings"): {"inference"},
    ("POST", "/v1/rerank"): {"inference"},
    ("POST", "/v1/score"): {"inference"},
    ("POST", "/completion"): {"inference"},
    ("POST", "/infill"): {"inference"},
    ("POST", "/apply-template"): {"inference"},
    ("GET", "/props"): {"inference", "models", "stats"},
    ("POST", "/props"): {"models"},
    ("GET", "/slots"): {"models", "stats"},
    ("POST", "/slots/0"): {"models"},
    ("POST", "/v1/decisions"): {"inference"},
    ("POST", "/v1/lab/distribution"): {"inference"},
    ("POST", "/v1/moderations"): {"inference"},
    ("POST", "/tokenize"): {"inference"},
    ("POST", "/detokenize"): {"inference"},
    ("GET", "/tokenizer_info"): {"inference"},
    ("POST", "/v1/messages"): {"inference"},
    ("POST", "/v1/messages/count_tokens"): {"inference"},
    ("POST", "/v1/responses"): {"inference"},
    ("POST", "/v1/responses/input_tokens"): {"inference"},
    ("GET", "/v1/responses/x"): {"history"},
    ("DELETE", "/v1/responses/x"): {"history"},
    ("POST", "/v1/responses/x/cancel"): {"history"},
    ("GET", "/v1/responses/x/input_items"): {"history"},
    ("POST", "/v1/conversations"): {"history"},
    ("GET", "/v1/conversations/x"): {"history"},
    ("POST", "/v1/conversations/x/items"): {"history"},
    ("DELETE", "/v1/conversations/x/items/y"): {"history"},
    ("GET", "/v1/peers"): {"peers"},
    ("GET", "/v1/peers/x"): {"peers"},
    ("POST", "/v1/peers/x"): {"peers"},
    ("DELETE", "/v1/peers/x"): {"peers"},
    ("POST", "/v1/peers/pair"): {"peers"},
    ("GET", "/v1/keys"): set(),
    ("POST", "/v1/keys"): set(),
    ("GET", "/v1/keys/x"): set(),
    ("POST", "/v1/keys/x"): set(),
    ("DELETE", "/v1/keys/x"): set(),
    ("POST", "/v1/keys/x/rotate"): set(),
    ("GET", "/v1/keys/self"): {"inference", "history", "models", "import", "stats", "peers"},
    ("GET", "/openapi.json"): {"inference", "history", "models", "import", "stats", "peers"},
}


@pytest.mark.parametrize(("method", "path"), SCOPES_OF)
def test_each_scope_opens_its_routes_only(keyed: Keyed, method: str, path: str) -> None:
    allowed = SCOPES_OF[method, path] | {"admin"}
    body = {} if method == "POST" else None
    for scope in ("inference", "history", "models", "import", "stats", "peers", "admin"):
        answer = request(keyed.url, method, path, body, bearer(keyed.secrets[scope]))
        if scope in allowed:
            # The server of these tests works alone.
            alone = b'"peers_disabled"' in answer.body
            assert alone or answer.status not in (401, 403), (scope, answer.body)
            continue
        assert answer.status == 403
        error = answer.json["error"]
        assert error["type"] == "permission_error"
        if not path.startswith("/v1/messages"):  # the errors of that API have none
            assert error["code"] in ("missing_scope", 403)  # llama-server's is the status
        wanted = sorted(SCOPES_OF[method, path])
        assert all(name in error["message"] for name in wanted)
        # The advice adds a scope and drops none: otherwise the next key would lack the present one.
        assert f"offgrid keys create NAME --scope {scope} --scope " in error["message"]
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


def test_a_method_that_does_not_exist_is_405_with_any_key(keyed: Keyed) -> None:
    answer = request(keyed.url, "DELETE", "/v1/models", headers=bearer(keyed.secrets["peers"]))
    assert answer.status == 405


def test_the_openai_client_sends_the_key(keyed: Keyed) -> None:
    with OpenAI(base_url=f"{keyed.url}/v1", api_key=keyed.secrets["inference"]) as client:
        assert [model.id for model in client.models.list()] == [STARTER]
        with pytest.raises(PermissionDeniedError):
            client.conversations.create()
    with (
        OpenAI(base_url=f"{keyed.url}/v1", api_key="sk-none") as client,
        pytest.raises(AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


# --- changes while the server runs ----------------------------------------------------------------


def test_a_server_without_keys_is_as_before_until_one_is_created(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "keys.sqlite3"
    url = make_server(keys_file=file).url
    assert request(url, "GET", "/v1/models").status == 200
    assert request(url, "GET", "/v1/models", headers=bearer("anything")).status == 200
    assert not file.exists()
    _, secret = new_key(file, "first")
    assert request(url, "GET", "/v1/models").status == 401
    assert request(url, "GET", "/v1/models", headers=bearer(secret)).status == 200
    _, second = new_key(file, "second", "stats")
    assert request(url, "GET", "/v1/models", headers=bearer(second)).status == 200
    keys = KeyFile(file)
    keys.revoke("first")
    assert request(url, "GET", "/v1/models", headers=bearer(secret)).status == 401
    keys.revoke("second")
    # No key is left, and still no request passes without one.
    assert request(url, "GET", "/v1/models", headers=bearer(second)).status == 401
    assert request(url, "GET", "/v1/models").status == 401
    keys.close()


def test_a_removed_file_opens_nothing(make_server: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "keys.sqlite3"
    _, secret = new_key(file, "ward")
    url = make_server(keys_file=file).url
    content = file.read_bytes()
    file.unlink()
    for headers in ({}, bearer(secret)):
        answer = request(url, "GET", "/v1/models", headers=headers)
        assert answer.status == 503
        assert answer.json["error"]["code"] == "keys_unavailable"
        assert answer.headers["retry-after"]
        assert str(tmp_path) not in answer.body.decode()
    assert request(url, "GET", "/health").status == 200
    file.write_bytes(content)
    assert request(url, "GET", "/v1/models", headers=bearer(secret)).status == 200


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_a_damaged_file_opens_nothing_and_stays(
    make_server: Callable[..., Server], tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "keys.sqlite3"
    _, secret = new_key(file, "ward")
    url = make_server(keys_file=file).url
    assert request(url, "GET", "/v1/models", headers=bearer(secret)).status == 200
    file.write_bytes(content)
    assert request(url, "GET", "/v1/models", headers=bearer(secret)).status == 503
    assert request(url, "GET", "/v1/models").status == 503
    assert file.read_bytes() == content
    assert not list(tmp_path.glob("*.damaged"))


# --- large bodies and many attempts ---------------------------------------------------------------


def test_a_large_body_without_a_key_is_refused_after_its_headers(keyed: Keyed) -> None:
    """E11: none of it is kept, in memory or on the disk."""
    size = 8 << 20
    budget = keyed.server.http.parser.budget
    for lines in ((), ("Authorization: Bearer wrong",)):
        answer = raw(
            keyed.url, f"POST {CHAT} HTTP/1.1", f"Content-Length: {size}", "Expect: 100-continue",
            *lines,
        )  # fmt: skip
        assert answer.status == 401, answer.body
        assert answer.json["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert budget.left == budget.limit


def test_a_chunked_body_without_a_key_is_refused_when_it_is_large(keyed: Keyed) -> None:
    """E11."""
    parts = urlsplit(keyed.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), TIMEOUT) as sock:
        sock.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: {parts.netloc}\r\nTransfer-Encoding: chunked\r\n\r\n"
            .encode()
        )  # fmt: skip
        block = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        sock.sendall(block * 2)
        assert response_on(sock).status == 401


def test_a_large_body_with_a_key_arrives(keyed: Keyed) -> None:
    body = b'{"content": "Hello!"' + b" " * 2 * parser._FREE + b"}"
    answer = request(keyed.url, "POST", "/tokenize", body, bearer(keyed.secrets["inference"]))
    assert answer.status == 200


def test_many_wrong_keys_of_an_address_have_to_wait(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "keys.sqlite3"
    _, secret = new_key(file, "ward")
    server = make_server(keys_file=file)
    server.access.failures = Failures(most=3, seconds=3600.0, monotonic=lambda: 1000.0)
    url = server.url
    statuses = [
        request(url, "GET", "/v1/models", headers=bearer(f"wrong{n}")).status for n in range(4)
    ]
    assert statuses == [401, 401, 401, 429]
    late = request(url, "GET", "/v1/models", headers=bearer("wrong"))
    assert late.json["error"]["code"] == "too_many_attempts"
    assert late.headers["retry-after"] == "3600"
    # A request without a key guesses nothing, and a valid key passes: the address may be shared.
    assert request(url, "GET", "/v1/models").status == 401
    assert request(url, "GET", "/v1/models", headers=bearer(secret)).status == 200
    large = raw(url, f"POST {CHAT} HTTP/1.1", "Content-Length: 1000000", "X-Api-Key: wrong")
    assert large.status == 429
    assert large.headers["retry-after"]


def test_wrong_keys_with_large_bodies_count_for_the_client_of_a_proxy(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    """Otherwise one client would make all others of the proxy wait."""
    file = tmp_path / "keys.sqlite3"
    new_key(file, "ward")
    server = make_server(keys_file=file, trusted_proxies=("127.0.0.1",))
    server.access.failures = Failures(monotonic=lambda: 1000.0)
    for _ in range(access.MOST_FAILURES):
        server.access.failures.add("192.0.2.7")

    def status(*headers: str) -> int:
        length = f"Content-Length: {8 << 20}"
        wrong = "Authorization: Bearer wrong"
        return raw(server.url, f"POST {CHAT} HTTP/1.1", length, wrong, *headers).status

    assert status("X-Forwarded-For: 127.0.0.1, 192.0.2.7") == 429
    assert status("X-Forwarded-For: 192.0.2.7, 192.0.2.8") == 401
    assert status("X-Forwarded-For: nonsense") == 401
    assert status() == 401


def test_failures_are_counted_by_address_in_a_bounded_table() -> None:
    """E16."""
    now = 1000.0
    failures = Failures(monotonic=lambda: now)
    assert [failures.add("10.0.0.1") for _ in range(access.MOST_FAILURES)] == [0] * 20
    assert failures.add("10.0.0.1") >= 1
    assert failures.add("10.0.0.2") == 0
    now += 2 * access.FAILURE_SECONDS
    assert [failures.add("10.0.0.1") for _ in range(2)] == [0, 0]
    assert failures.add("10.0.0.1") >= 1
    for number in range(10_000):
        failures.add(f"2001:db8:{number:x}::")
    assert len(failures) == access._MOST_ADDRESSES


# --- browsers -------------------------------------------------------------------------------------


def test_a_preflight_needs_no_key_and_errors_are_readable(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    file = tmp_path / "keys.sqlite3"
    new_key(file, "page")
    url = make_server(keys_file=file, cors_origins="http://page.lan").url
    page = {"Origin": "http://page.lan"}
    asks = {"Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    preflight = request(url, "OPTIONS", CHAT, headers={**page, **asks})
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
    refused = request(url, "POST", CHAT, chat_body(), page)
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == "http://page.lan"
    assert (
        request(url, "OPTIONS", CHAT, headers={"Origin": "http://evil.lan", **asks}).status == 403
    )
    assert request(url, "OPTIONS", CHAT).status == 401
