"""Three machines on a network: two that pair, and a third one that is not paired with either.

The third one sees the port of the API, which needs a key, and the peers port, which needs a
certificate that is known.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import hosts
import pytest
from hosts import Host, Lan
from keyed import bearer
from processes import Child, program
from support import TIMEOUT, Response, request

from offgrid.peers.contexts import pairing_context
from offgrid.peers.identity import Identity, load_identity

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("links")]

LISTENING = """
import psutil
for one in psutil.net_connections("inet"):
    if one.status == psutil.CONN_LISTEN and not one.laddr.ip.startswith(("127.", "::1")):
        print(one.laddr.port)
"""
"""Prints the ports of a machine that others reach."""
CHAT = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 2}


@pytest.fixture
def links() -> None:
    hosts.needs_links()


def serve(host: Host) -> tuple[Child, dict[str, str]]:
    """A server with peers and a key; the header with the key."""
    made = host.offgrid("keys", "create", "boss", "--scope", "admin")
    assert made.returncode == 0, made.stderr
    child = host.serve("--no-insecure", "--peers", "--no-peers-discovery", "--peers-name",
                       f"host-{host.name}")  # fmt: skip
    return child, bearer(made.stdout.strip())


def command(host: Host, child: Child, key: dict[str, str], *words: str) -> Any:
    secret = key["Authorization"].removeprefix("Bearer ")
    return host.offgrid(*words, "--url", child.url, OFFGRID_API_KEY=secret)


def shows_code(host: Host, child: Child, key: dict[str, str]) -> tuple[Child, str, str]:
    """Start the command that shows a code; also the code, and the address to type."""
    secret = key["Authorization"].removeprefix("Bearer ")
    showing = host.start(
        program("offgrid"), "peers", "pair", "--url", child.url, OFFGRID_API_KEY=secret
    )
    code = showing.out.find(r"(?m)^(\d{4}-\d{4})$")[1]
    return showing, code, showing.err.find(r"offgrid peers pair (\S+) \d{4}-\d{4}")[1]


def test_an_unpaired_machine_reaches_nothing(make_lan: Callable[[int], Lan]) -> None:
    one, two, three = make_lan(3).hosts
    (first, key), (second, other_key) = serve(one), serve(two)
    showing, code, address = shows_code(one, first, key)
    assert address == one.address
    with three.inside():
        sees_little(first.url)
        assert ask(one, None, "POST", "/v1/chat/completions", b"{}").status == 401
    paired = command(two, second, other_key, "peers", "pair", address, code)
    assert (paired.returncode, paired.stdout[:18]) == (0, "paired with host-a"), paired.stderr
    assert showing.wait() == 0
    with three.inside():
        for url, host in ((first.url, one), (second.url, two)):
            sees_little(url)
            for identity in (None, load_identity(three.folder / "own", "third")):
                for path in ("/peer/alive", "/peer/pair", "/v1/chat/completions"):
                    assert refuses_the_handshake(host, identity, path), path
    ports = {urlsplit(first.url).port, 11612}
    assert {int(port) for port in one.python(LISTENING).stdout.split()} == ports
    # The two use each other, and the API of each still needs its key.
    book = one.folder.rglob("peers.json")
    assert [path.stat().st_mode & 0o777 for path in book] == [0o600]
    assert request(second.url, "POST", "/v1/chat/completions", CHAT, other_key).status == 200
    gone = command(one, first, key, "peers", "forget", "host-b")
    assert (gone.returncode, gone.stdout[:13]) == (0, "forgot host-b"), gone.stderr
    with two.inside():
        own = load_identity(next(two.folder.rglob("key.pem")).parent)
        assert refuses_the_handshake(one, own, "/peer/alive")


def test_a_third_machine_locks_the_pairing_and_learns_nothing(
    make_lan: Callable[[int], Lan],
) -> None:
    one, three = make_lan(2).hosts
    (first, key), (third, third_key) = serve(one), serve(three)
    showing, code, address = shows_code(one, first, key)
    typed = f"{(int(code.replace('-', '')) + 1) % 10**8:08}"
    for _ in range(5):
        tried = command(three, third, third_key, "peers", "pair", address, typed)
        assert tried.returncode == 1
        assert "The code is wrong" in tried.stderr
    assert showing.wait() == 1
    assert "locked for ten minutes" in showing.err.text
    late = command(three, third, third_key, "peers", "pair", address, code)
    assert "shows no pairing code now" in late.stderr
    locked = command(one, first, key, "peers", "pair")
    assert locked.returncode == 1
    assert "Too many wrong pairing codes were typed" in locked.stderr
    # Also after a restart of the server.
    first.end()
    again = one.serve("--no-insecure", "--peers", "--no-peers-discovery")
    locked = command(one, again, key, "peers", "pair")
    assert "Too many wrong pairing codes were typed" in locked.stderr
    assert not [*one.folder.rglob("peers.json"), *three.folder.rglob("peers.json")]


def sees_little(url: str) -> None:
    """The API answers /health, and everything else with 401."""
    health = request(url, "GET", "/health")
    assert (health.status, health.json) == (200, {"status": "healthy"})
    for method, path in (
        ("GET", "/v1/models"), ("GET", "/v1/peers/pair"), ("POST", "/v1/peers/pair"),
        ("DELETE", "/v1/peers/host-b"), ("POST", "/v1/chat/completions"), ("GET", "/v1/import"),
        ("POST", "/v1/import"), ("GET", "/v1/history"), ("GET", "/metrics"), ("GET", "/v1/stats"),
        ("GET", "/peer/alive"), ("POST", "/peer/pair"), ("GET", "/peer/models"), ("GET", "/none"),
    ):  # fmt: skip
        answer = request(url, method, path, {} if method == "POST" else None)
        assert answer.status == 401, (method, path, answer.body)


def ask(
    host: Host, identity: Identity | None, method: str, path: str, body: bytes | None = None
) -> Response:
    """A request to the peers port, perhaps with a certificate."""
    context = pairing_context()
    if identity is not None:
        context.load_cert_chain(identity.certificate_file, identity.key_file)
    connection = http.client.HTTPSConnection(host.address, 11612, timeout=TIMEOUT, context=context)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return Response(response.status, dict(response.getheaders()), response.read())
    finally:
        connection.close()


def refuses_the_handshake(host: Host, identity: Identity | None, path: str) -> bool:
    """Whether a connection ends before any answer. How it ends depends on the moment."""
    try:
        ask(host, identity, "GET", path)
    except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
        return True
    return False
