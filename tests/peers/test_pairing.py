"""Two servers pair: their APIs, their peers ports, and machines in between."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from documented import Documented
from full_requests import peer_requests
from keyed import bearer, new_key
from machines import REFUSED, Machine, ask
from middle import in_between, with_certificate
from pairings import identity_of, wrong
from support import TIMEOUT, Response, request

from offgrid.config import load_settings
from offgrid.peers import joining
from offgrid.peers.contexts import pairing_context
from offgrid.peers.desk import MAX_OF_ADDRESS, PairingDesk
from offgrid.peers.joining import Initiator, Line
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_ID

Make = Callable[..., Machine]
PAIR = "/v1/peers/pair"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, Machine]]:
    """Two servers; each test begins with empty books and no code."""
    with contextlib.ExitStack() as stack:
        made = []
        for name in ("near", "far"):
            folder = tmp_path_factory.mktemp(name)
            given = {
                "port": 0, "models_dir": folder, "default_model": STARTER_ID, "threads": 1,
                "responses_file": folder / "responses.sqlite3", "drain_timeout": 0,
                "import_roots": "none", "peers": True, "peers_host": "127.0.0.1",
                "peers_port": 0, "peers_name": name, "peers_discovery": False,
            }  # fmt: skip
            server = Server(load_settings(given, environ={}))
            server.start()
            stack.callback(server.stop)
            made.append(Machine(server))
        yield made[0], made[1]


@pytest.fixture
def both(servers: tuple[Machine, Machine]) -> tuple[Machine, Machine]:
    for machine in servers:
        machine.peers.desk.close()
        machine.peers.desk._attempts._wrong.clear()
        for peer in machine.peers.book.all():
            machine.peers.book.remove(peer.fingerprint)
    return servers


def open_code(machine: Machine) -> str:
    answer = request(machine.server.url, "POST", PAIR, {})
    assert answer.status == 200, answer.body
    return str(answer.json["code"])


def pair(machine: Machine, port: int, code: str) -> Response:
    body = {"address": f"127.0.0.1:{port}", "code": code}
    return request(machine.server.url, "POST", PAIR, body)


def code_of(response: Response) -> tuple[int, str]:
    return response.status, response.json["error"]["code"]


def assert_strangers(*machines: Machine) -> None:
    assert [machine.peers.book.all() for machine in machines] == [[]] * len(machines)


def test_two_machines_pair_and_forget(both: tuple[Machine, Machine]) -> None:
    near, far = both
    opened = request(far.server.url, "POST", PAIR)
    assert opened.status == 200
    assert opened.headers["cache-control"] == "no-store"
    state = request(far.server.url, "GET", PAIR).json
    assert opened.json == {
        **state, "code": opened.json["code"], "addresses": [f"127.0.0.1:{far.peers.port}"]
    }  # fmt: skip
    assert (state["state"], state["open"], state["locked_for"], state["peer"]) == (
        "open", True, 0, None,
    )  # fmt: skip
    answer = pair(near, far.peers.port, opened.json["code"])
    assert answer.status == 200
    (known,) = near.peers.book.all()
    assert answer.json == {
        "object": "peer", "id": far.peers.identity.id, "name": "far",
        "fingerprint": far.peers.identity.fingerprint, "addresses": ["127.0.0.1"],
        "port": far.peers.port, "paired_at": known.paired_at,
    }  # fmt: skip
    after = request(far.server.url, "GET", PAIR).json
    assert (after["state"], after["open"], after["peer"]["name"]) == ("paired", False, "near")
    assert after["peer"]["addresses"] == ["127.0.0.1"]
    assert after["peer"]["port"] == near.peers.port
    assert near.ask(far, "GET", "/peer/alive").status == 204
    assert far.ask(near, "GET", "/peer/alive").status == 204
    # The door is closed again.
    with pytest.raises(OSError, match=REFUSED):
        ask(far, pairing_context(), "POST", "/peer/pair", b"{}")
    gone = request(far.server.url, "DELETE", f"/v1/peers/{near.peers.identity.id}")
    assert gone.json == {
        "object": "peer", "id": near.peers.identity.id, "name": "near", "deleted": True
    }  # fmt: skip
    with pytest.raises(OSError, match=REFUSED):
        near.ask(far, "GET", "/peer/alive")
    assert code_of(request(far.server.url, "DELETE", "/v1/peers/near")) == (404, "not_found")
    # The side that still has the other in its book can pair again.
    assert pair(near, far.peers.port, open_code(far)).status == 200
    assert near.ask(far, "GET", "/peer/alive").status == 204


def test_responses_match_the_document(both: tuple[Machine, Machine]) -> None:
    near, far = both
    documented = Documented.of(near.server.url)
    opened = request(far.server.url, "POST", PAIR, {})
    documented.check(opened, "post", PAIR)
    full, _ = peer_requests(f"127.0.0.1:{far.peers.port}", opened.json["code"], "", "")
    for body in full.bodies():
        documented.body("post", PAIR).validate(body)
        documented.check(request(near.server.url, "POST", PAIR, body), "post", PAIR)
    assert near.peers.book.all()
    for method in ("GET", "DELETE"):
        documented.check(request(far.server.url, method, PAIR), method.lower(), PAIR)
    for _ in range(2):
        gone = request(near.server.url, "DELETE", "/v1/peers/far")
        documented.check(gone, "delete", "/v1/peers/{id}")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # it does not listen
        documented.check(pair(near, sock.getsockname()[1], "12345678"), "post", PAIR)


def test_a_wrong_code(both: tuple[Machine, Machine]) -> None:
    near, far = both
    code = open_code(far)
    typed = wrong(code.replace("-", ""))
    answer = pair(near, far.peers.port, typed)
    assert code_of(answer) == (403, "pairing_failed")
    assert typed not in answer.body.decode()
    assert_strangers(near, far)
    assert pair(near, far.peers.port, code).status == 200


def test_five_wrong_codes_lock_the_pairing(both: tuple[Machine, Machine]) -> None:
    near, far = both
    code = open_code(far)
    for _ in range(5):
        assert pair(near, far.peers.port, wrong(code.replace("-", ""))).status == 403
    # The door is closed, so the machine that types it does not learn why.
    assert code_of(pair(near, far.peers.port, code)) == (409, "pairing_closed")
    locked = request(far.server.url, "POST", PAIR, {})
    assert code_of(locked) == (429, "pairing_locked")
    assert 0 < int(locked.headers["retry-after"]) <= 600
    state = request(far.server.url, "GET", PAIR).json
    assert state["state"] == "locked"
    assert 0 < state["locked_for"] <= 600
    assert_strangers(near, far)


def test_without_a_code_nothing_can_be_tried(both: tuple[Machine, Machine]) -> None:
    near, far = both
    answer = pair(near, far.peers.port, "12345678")
    assert code_of(answer) == (409, "pairing_closed")
    assert "offgrid peers pair" in answer.json["error"]["message"]
    open_code(far)
    assert request(far.server.url, "DELETE", PAIR).json["state"] == "closed"
    assert code_of(pair(near, far.peers.port, "12345678")) == (409, "pairing_closed")
    assert far.peers.desk._attempts.left == 5


def test_a_code_closes_the_door_when_it_expires(
    both: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = both
    code = open_code(far)
    assert ask(far, pairing_context(), "POST", "/peer/pair", b"{}").status == 400
    line = Line("127.0.0.1", far.peers.port)
    monkeypatch.setattr(PairingDesk, "is_open", property(lambda desk: False))
    with pytest.raises(OSError, match=REFUSED):
        ask(far, pairing_context(), "POST", "/peer/pair", b"{}")
    # A connection that began before stays, and gets nothing.
    with contextlib.closing(line):
        begun = Initiator(near.peers.identity, 1, line.certificate, code.replace("-", ""))
        with pytest.raises(Exception, match="shows no pairing code"):
            line.send("/peer/pair", begun.hello)
    assert request(far.server.url, "GET", PAIR).json["state"] == "expired"


def test_a_paired_machine_reaches_the_pairing_too(both: tuple[Machine, Machine]) -> None:
    """It has a certificate, and is told the reason."""
    near, far = both
    near.know(far)
    assert near.ask(far, "POST", "/peer/pair", b"{}").status == 409
    open_code(far)
    assert near.ask(far, "POST", "/peer/pair", b"{}").status == 400


def test_two_machines_at_once(both: tuple[Machine, Machine], make_machine: Make) -> None:
    """One of them gets the code."""
    near, far = both
    third = make_machine("third")
    code = open_code(far)
    together, answers = threading.Barrier(2), []

    def race(machine: Machine) -> None:
        together.wait(TIMEOUT)
        answers.append((pair(machine, far.peers.port, code).status, machine))

    threads = [threading.Thread(target=race, args=(machine,)) for machine in (near, third)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    statuses = sorted(status for status, _ in answers)
    assert statuses == [200, 409]
    (winner,) = (machine for status, machine in answers if status == 200)
    (peer,) = far.peers.book.all()
    assert peer.fingerprint == winner.peers.identity.fingerprint
    assert sum(len(machine.peers.book.all()) for machine in (near, third)) == 1


def test_unfinished_exchanges_are_few(both: tuple[Machine, Machine]) -> None:
    near, far = both
    code = open_code(far)
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_OF_ADDRESS):
            line = stack.enter_context(contextlib.closing(Line("127.0.0.1", far.peers.port)))
            begun = Initiator(near.peers.identity, 1, line.certificate, "00000000")
            line.send("/peer/pair", begun.hello)
        answer = pair(near, far.peers.port, code)
    assert code_of(answer) == (503, "server_busy")
    assert answer.headers["retry-after"]


# --- what is not a machine with a code ------------------------------------------------------------


def test_nothing_answers(both: tuple[Machine, Machine]) -> None:
    near, _ = both
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # it does not listen
        answer = pair(near, sock.getsockname()[1], "12345678")
    assert code_of(answer) == (502, "peer_unreachable")
    assert "connection refused" in answer.json["error"]["message"]
    for address in ("name.invalid", f"{'a' * 70}.example", "[fe80::1%none0]:5", "::1", "ü.invalid"):
        body = {"address": address, "code": "12345678"}
        unknown = request(near.server.url, "POST", PAIR, body)
        assert code_of(unknown) == (502, "peer_unreachable"), address


def test_the_port_of_the_api_is_not_the_peers_port(
    both: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = both
    monkeypatch.setattr(joining, "_CONNECT", 0.5)  # plain HTTP waits for more bytes
    answer = pair(near, far.server.port, "12345678")
    assert code_of(answer) == (502, "peer_unreachable")
    assert "not that of the API" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"hello"), (200, b"{}"), (200, b"x" * 9000), (404, b""), (500, b"[1]"),
        (403, b'{"error":{"code":"nonsense","message":"\x1b[31m"}}'), (200, b"\xff\xfe"),
    ],
)  # fmt: skip
def test_another_tls_server_answers(
    both: tuple[Machine, Machine], status: int, body: bytes
) -> None:
    """Its texts are not repeated: nothing is proved about it."""
    near, _ = both
    third = identity_of("third")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with tls_server(third, Handler) as port:
        answer = pair(near, port, "12345678")
    assert code_of(answer) in ((502, "peer_unreachable"), (400, "invalid_value"))
    assert "nonsense" not in answer.body.decode()
    assert_strangers(near)


@contextlib.contextmanager
def tls_server(identity: Any, handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield server.server_port
        thread.join(TIMEOUT)


def test_a_machine_does_not_pair_with_itself(both: tuple[Machine, Machine]) -> None:
    near, _ = both
    code = open_code(near)
    answer = pair(near, near.peers.port, code)
    assert code_of(answer) == (400, "invalid_value")
    assert "same machine" in answer.json["error"]["message"]
    assert_strangers(near)


def test_a_machine_in_between_reads_and_changes_nothing(both: tuple[Machine, Machine]) -> None:
    """It passes the messages on, first unchanged, then with its certificate instead of theirs."""
    near, far = both
    third = identity_of("third")
    code = open_code(far)
    with in_between(third, far.peers.port) as port:
        answer = pair(near, port, code)
    assert code_of(answer) == (403, "pairing_failed")
    assert "in between" in answer.json["error"]["message"]
    own = with_certificate(third)
    with in_between(third, far.peers.port, answer=own) as port:
        assert code_of(pair(near, port, code)) == (403, "pairing_failed")
    with in_between(third, far.peers.port, ask=own, answer=own) as port:
        assert code_of(pair(near, port, code)) == (403, "pairing_failed")
    assert_strangers(near, far)
    assert pair(near, far.peers.port, code).status == 200


def test_a_lost_last_message_leaves_one_side_that_can_pair_again(
    both: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = both
    code = open_code(far)

    def lose(line: Line, path: str, body: bytes) -> bytes:
        answer = send(line, path, body)
        if path.endswith("/confirm"):
            raise line._ended(ConnectionResetError(errno.ECONNRESET, "reset"), path)
        return answer

    send = Line.send
    with monkeypatch.context() as patched:
        patched.setattr(Line, "send", lose)
        answer = pair(near, far.peers.port, code)
    assert code_of(answer) == (502, "peer_unreachable")
    assert "pair them again" in answer.json["error"]["message"]
    assert (len(far.peers.book.all()), len(near.peers.book.all())) == (1, 0)
    # The side that has the other in its book is refused, which it shows.
    with pytest.raises(OSError, match=REFUSED):
        far.ask(near, "GET", "/peer/alive")
    assert pair(near, far.peers.port, open_code(far)).status == 200
    assert far.ask(near, "GET", "/peer/alive").status == 204


def test_a_full_disk_where_the_code_is_typed_leaves_neither(
    both: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = both
    code = open_code(far)
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).parent == near.server.settings.peers_dir:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    answer = pair(near, far.peers.port, code)
    assert code_of(answer) == (500, "store_failed")
    assert_strangers(near, far)
    assert request(far.server.url, "GET", PAIR).json["state"] == "closed"


def test_a_full_disk_where_the_code_is_shown_leaves_neither(
    both: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = both
    code = open_code(far)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    answer = pair(near, far.peers.port, code)
    assert code_of(answer) == (500, "store_failed")
    assert "its log says why" in answer.json["error"]["message"]
    assert_strangers(near, far)


@contextlib.contextmanager
def hidden_key(machine: Machine) -> Iterator[None]:
    """A machine whose key cannot be read while the block runs."""
    key = machine.peers.identity.key_file
    hidden = key.rename(key.with_suffix(".hidden"))
    try:
        yield
    finally:
        hidden.rename(key)


def test_a_peer_is_forgotten_whether_or_not_the_key_can_be_read(
    both: tuple[Machine, Machine],
) -> None:
    near, far = both
    near.know(far)
    assert near.ask(far, "GET", "/peer/alive").status == 204  # so far has let it in before
    with hidden_key(far):
        gone = request(far.server.url, "DELETE", f"/v1/peers/{near.peers.identity.id}")
        assert gone.status == 200
        assert far.peers.book.all() == []
        assert near.ask(far, "GET", "/peer/alive").status == 401
    with pytest.raises(OSError, match=REFUSED):
        near.ask(far, "GET", "/peer/alive")


def test_the_door_is_closed_after_a_code_whether_or_not_the_key_can_be_read(
    both: tuple[Machine, Machine],
) -> None:
    near, far = both
    code = open_code(far)
    with hidden_key(far):
        assert pair(near, far.peers.port, code).status == 200
        assert request(far.server.url, "GET", PAIR).json["state"] == "paired"
        with pytest.raises(OSError, match=REFUSED):
            ask(far, pairing_context(), "POST", "/peer/pair", b"{}")
    assert near.ask(far, "GET", "/peer/alive").status == 204
    with pytest.raises(OSError, match=REFUSED):
        ask(far, pairing_context(), "POST", "/peer/pair", b"{}")


def test_no_code_is_opened_if_the_key_cannot_be_read(both: tuple[Machine, Machine]) -> None:
    near, far = both
    before = request(far.server.url, "GET", PAIR).json
    with hidden_key(far):
        answer = request(far.server.url, "POST", PAIR, {})
        assert code_of(answer) == (500, "store_failed")
        assert request(far.server.url, "GET", PAIR).json == before
        assert not far.peers.desk.is_open
    assert pair(near, far.peers.port, open_code(far)).status == 200


# --- what a machine without a certificate can send ------------------------------------------------


@pytest.mark.parametrize("path", ["/peer/pair", "/peer/pair/confirm"])
def test_large_bodies_are_refused(both: tuple[Machine, Machine], path: str) -> None:
    _, far = both
    open_code(far)
    assert ask(far, pairing_context(), "POST", path, b" " * 8192).status == 400
    assert ask(far, pairing_context(), "POST", path, b" " * 8193).status == 413


@pytest.mark.parametrize("path", ["/peer/pair", "/v1/chat/completions"])
def test_a_body_without_a_certificate_is_refused_by_its_headers(
    both: tuple[Machine, Machine], path: str
) -> None:
    """Before it arrives, so that it takes no memory; also in chunks, and also on other paths."""
    _, far = both
    open_code(far)
    for headers in ({"Content-Length": str(1 << 20)}, {"Transfer-Encoding": "chunked"}):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", far.peers.port, timeout=TIMEOUT, context=pairing_context()
        )
        with contextlib.closing(connection):
            connection.putrequest("POST", path)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            if "Transfer-Encoding" in headers:
                chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
                connection.send(chunk * 5)
            assert connection.getresponse().status == 413


def test_a_machine_with_a_certificate_may_send_more(both: tuple[Machine, Machine]) -> None:
    near, far = both
    near.know(far)
    open_code(far)
    body = json.dumps({"prompt": "x " * 8000, "max_tokens": 1}).encode()
    assert near.ask(far, "POST", "/v1/completions", body).status != 413


@pytest.mark.parametrize("path", ["/peer/pair", "/peer/pair/confirm"])
def test_the_api_port_has_no_pairing_between_machines(
    both: tuple[Machine, Machine], path: str
) -> None:
    _, far = both
    open_code(far)
    assert request(far.server.url, "POST", path, {}).status == 404


@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/ui", "/v1/peers/pair", "/v1/models"])
def test_nothing_else_is_reached_without_a_certificate(
    both: tuple[Machine, Machine], path: str
) -> None:
    _, far = both
    open_code(far)
    assert ask(far, pairing_context(), "GET", path).status == 401
    assert ask(far, pairing_context(), "POST", path, b"{}").status == 401


# --- requests of people ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"code": "12345678"}, "address"),
        ({"address": "10.0.0.1"}, "code"),
        ({"address": "10.0.0.1", "code": "1234"}, "code"),
        ({"address": "a b", "code": "12345678"}, "address"),
        ({"address": "10.0.0.1:0", "code": "12345678"}, "address"),
        ({"address": "[::1", "code": "12345678"}, "address"),
        ({"address": "", "code": "12345678"}, "address"),
        ({"adress": "10.0.0.1"}, "adress"),
    ],
)
def test_wrong_requests(both: tuple[Machine, Machine], body: Any, param: str) -> None:
    near, _ = both
    answer = request(near.server.url, "POST", PAIR, body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == param
    assert not near.peers.desk.is_open


@pytest.mark.parametrize(
    ("method", "path"), [("GET", PAIR), ("POST", PAIR), ("DELETE", PAIR), ("DELETE", "/v1/peers/x")]
)
def test_peers_may_be_off(base_url: str, method: str, path: str) -> None:
    answer = request(base_url, method, path)
    assert code_of(answer) == (403, "peers_disabled")
    assert "OFFGRID_PEERS=true" in answer.json["error"]["message"]


def test_a_key_needs_the_scope(make_machine: Make, tmp_path: Path) -> None:
    keys = tmp_path / "keys.sqlite3"
    secrets = {
        scope: new_key(keys, scope, scope)[1]  # type: ignore[arg-type]
        for scope in ("inference", "models", "peers", "admin")
    }
    machine = make_machine("near", keys_file=keys)
    for scope, secret in secrets.items():
        for method, path in (("POST", PAIR), ("DELETE", PAIR), ("DELETE", "/v1/peers/none")):
            answer = request(machine.server.url, method, path, headers=bearer(secret))
            assert (answer.status == 403) == (scope in ("inference", "models")), (scope, method)
    assert request(machine.server.url, "POST", PAIR, {}).status == 401


def test_the_end_of_the_server_closes_the_code(make_machine: Make) -> None:
    machine = make_machine("near")
    open_code(machine)
    machine.server.stop()
    assert machine.peers.desk.state().state == "closed"
