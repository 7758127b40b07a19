"""The peers port: who connects, and what can be reached through it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Callable

import pytest
from machines import REFUSED, Machine, ask
from support import TIMEOUT, request

from offgrid.api.http.waitress.acceptor import Acceptor
from offgrid.peers.contexts import client_context, pairing_context


def test_peers_reach_inference_and_what_is_made_for_them(
    make_machine: Callable[..., Machine],
) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    assert near.ask(far, "GET", "/peer/alive").status == 204
    body = {"prompt": "Once", "max_tokens": 2, "temperature": 0}
    answer = near.ask(far, "POST", "/v1/completions", json.dumps(body).encode())
    assert answer.status == 200
    assert json.loads(answer.content)["usage"]["completion_tokens"] == 2


def test_peers_reach_nothing_else(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    for path in (
        "/", "/ui", "/health", "/v1/models", "/v1/stats", "/v1/keys", "/v1/history", "/none"
    ):  # fmt: skip
        assert near.ask(far, "GET", path).status == 404, path


@pytest.mark.slow
def test_other_clients_do_not_reach_what_is_made_for_peers(
    make_machine: Callable[..., Machine],
) -> None:
    machine = make_machine("near")
    assert request(machine.server.url, "GET", "/peer/alive").status == 404


def test_a_machine_that_is_not_paired_finishes_no_handshake(
    make_machine: Callable[..., Machine],
) -> None:
    near, far = make_machine("near"), make_machine("far")
    far.know(make_machine("third"))
    with pytest.raises(OSError, match=REFUSED):
        near.ask(far, "GET", "/peer/alive")
    with pytest.raises(OSError, match=REFUSED):
        ask(far, pairing_context(), "GET", "/peer/alive")


def test_a_peer_must_have_the_certificate_of_its_pairing(
    make_machine: Callable[..., Machine],
) -> None:
    near, far, third = (make_machine(name) for name in ("near", "far", "third"))
    near.know(third)
    context = client_context(near.peers.identity, third.as_peer())
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(far, context, "GET", "/peer/alive")


def test_a_forgotten_peer_is_refused_also_on_its_open_connection(
    make_machine: Callable[..., Machine],
) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    context = client_context(near.peers.identity, far.as_peer())
    with (
        socket.create_connection(("127.0.0.1", far.peers.port), TIMEOUT) as plain,
        context.wrap_socket(plain) as sock,
    ):
        sock.sendall(b"GET /peer/alive HTTP/1.1\r\nHost: far\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 204")
        far.peers.book.remove(near.peers.identity.fingerprint)
        sock.sendall(b"GET /peer/alive HTTP/1.1\r\nHost: far\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 401")
    with pytest.raises(OSError, match=REFUSED):
        near.ask(far, "GET", "/peer/alive")


def test_plain_http_on_the_peers_port_gets_no_answer(make_machine: Callable[..., Machine]) -> None:
    machine = make_machine("near")
    with socket.create_connection(("127.0.0.1", machine.peers.port), TIMEOUT) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: near\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1000) == b""


def test_a_machine_without_certificate_reaches_only_the_pairing(
    make_machine: Callable[..., Machine],
) -> None:
    machine = make_machine("near")
    machine.peers.contexts.open_pairing(True)
    assert ask(machine, pairing_context(), "GET", "/peer/alive").status == 401
    assert ask(machine, pairing_context(), "POST", "/v1/completions", b"{}").status == 401
    machine.peers.contexts.open_pairing(False)
    with pytest.raises(OSError, match=REFUSED):
        ask(machine, pairing_context(), "GET", "/peer/alive")


def test_a_peer_at_a_link_local_address_is_noted_with_its_zone(
    make_machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    number, name = socket.if_nameindex()[0]

    def accepted(acceptor: Acceptor, address: object) -> object:
        return "fe80::1", 5, 0, number

    monkeypatch.setattr(Acceptor, "fix_addr", accepted)
    assert near.ask(far, "GET", "/peer/status?port=4711").status == 200
    places = far.peers.connections.places(near.peers.identity.id)
    # The port is that of the latest question: the machine itself asks too.
    assert f"fe80::1%{name}" in [address for address, _ in places]
