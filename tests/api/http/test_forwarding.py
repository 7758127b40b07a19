"""X-Forwarded-For, -Proto and -Host: used from trusted proxies, removed from all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon
import pytest
from falcon.testing import create_environ

from offgrid.api.http.access import Access
from offgrid.api.http.forwarding import Forwarding, foreign_sender
from offgrid.api.http.machines import OnlyThisMachine, RemoteRefused
from offgrid.config import load_settings
from offgrid.errors import ConfigError, InvalidParameter
from offgrid.store.key_ring import KeyRing

PROXY = "10.0.0.1"


def seen(peer: str, trusted: str = PROXY, **headers: str) -> dict[str, Any]:
    """The environment that the application sees."""
    environ = create_environ(headers={name.replace("_", "-"): v for name, v in headers.items()})
    environ["REMOTE_ADDR"] = peer
    req = falcon.Request(environ)
    settings = load_settings({"trusted_proxies": trusted}, environ={})
    Forwarding(settings).process_request(req, falcon.Response())
    assert not [name for name in environ if "FORWARDED" in name or name == "HTTP_X_REAL_IP"]
    return environ


def address(peer: str, sent: str, trusted: str = PROXY) -> str:
    return str(seen(peer, trusted, X_Forwarded_For=sent)["REMOTE_ADDR"])


@pytest.mark.parametrize(
    ("sent", "trusted", "client"),
    [
        ("192.0.2.7", PROXY, "192.0.2.7"),
        # What the client sent itself is to the left, and proves nothing.
        ("127.0.0.1, 192.0.2.7", PROXY, "192.0.2.7"),
        ("nonsense, 192.0.2.7", PROXY, "192.0.2.7"),
        # Two proxies, one after the other.
        ("127.0.0.1, 192.0.2.7, 10.0.0.2", "10.0.0.0/24", "192.0.2.7"),
        ("192.0.2.7, 10.0.0.2", PROXY, "10.0.0.2"),
        # The proxy itself asks.
        ("10.0.0.3, 10.0.0.2", "10.0.0.0/24", "10.0.0.3"),
        ("192.0.2.7:4711", PROXY, "192.0.2.7"), ("2001:db8::7", PROXY, "2001:db8::7"),
        ("[2001:db8::7]:80", PROXY, "2001:db8::7"), ("[2001:db8::7]", PROXY, "2001:db8::7"),
        ("::ffff:192.0.2.7", PROXY, "192.0.2.7"),
    ],
)  # fmt: skip
def test_the_last_address_that_is_no_proxy_is_the_client(
    sent: str, trusted: str, client: str
) -> None:
    assert address(PROXY, sent, trusted) == client
    assert address(f"::ffff:{PROXY}", sent, trusted) == client


@pytest.mark.parametrize("peer", ["192.0.2.9", "127.0.0.1", "::1", "10.0.0.11"])
def test_headers_of_others_have_no_effect(peer: str) -> None:
    environ = seen(
        peer, X_Forwarded_For="127.0.0.1", X_Forwarded_Proto="https", X_Forwarded_Host="localhost",
        X_Forwarded_Port="1", X_Real_IP="127.0.0.1", Forwarded="for=127.0.0.1", Host="a.example",
    )  # fmt: skip
    assert environ["REMOTE_ADDR"] == peer
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("http", "a.example")


def test_scheme_and_host_of_a_trusted_proxy() -> None:
    environ = seen(
        PROXY, X_Forwarded_For="192.0.2.7", X_Forwarded_Proto="https",
        X_Forwarded_Host="llm.example",
    )  # fmt: skip
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("https", "llm.example")
    # A list has a value for each address; those to the left came from the client.
    environ = seen(
        PROXY, X_Forwarded_For="127.0.0.1, 192.0.2.7", X_Forwarded_Proto="http, https",
        X_Forwarded_Host="localhost, llm.example",
    )  # fmt: skip
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("https", "llm.example")
    environ = seen(PROXY, X_Forwarded_Proto="gopher", Host="a.example")
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("http", "a.example")


@pytest.mark.parametrize("sent", ["", "unknown", "192.0.2.7, nonsense", "_hidden", "192.0.2.7,"])
def test_a_proxy_that_sends_no_address_is_told(sent: str) -> None:
    """Its own address must not stand for all its clients: it may be one of this machine."""
    with pytest.raises(InvalidParameter) as refused:
        address(PROXY, sent)
    assert refused.value.code == "invalid_forwarding"


@pytest.mark.parametrize("peer", ["", "localhost", "unix"])
def test_a_unix_socket_is_trusted_only_if_it_is_listed(peer: str) -> None:
    assert address(peer, "192.0.2.7", "unix") == "192.0.2.7"
    assert address(peer, "192.0.2.7", PROXY) == "unix"
    assert address("127.0.0.1", "192.0.2.7", "unix") == "127.0.0.1"


@pytest.mark.parametrize("wrong", ["*", "0.0.0.0/0", "::/0", "proxy.lan", "10.0.0.1/33"])
def test_everybody_cannot_be_trusted(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"OFFGRID_TRUSTED_PROXIES \(--trusted-proxies\)"):
        load_settings({"trusted_proxies": wrong}, environ={})


@pytest.mark.parametrize(
    ("peer", "sent", "sender"),
    [
        ("127.0.0.1", "192.0.2.7", "192.0.2.7"), ("unix", "127.0.0.1, 192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "192.0.2.7, 127.0.0.1", "192.0.2.7"),
        # A proxy for this machine only, as those of development servers.
        ("127.0.0.1", "127.0.0.1", None), ("127.0.0.1", "::1, unknown", None),
        (PROXY, "192.0.2.7", None),
    ],
)  # fmt: skip
def test_an_unknown_proxy_for_another_machine_is_noticed(
    peer: str, sent: str, sender: str | None
) -> None:
    assert foreign_sender(seen(peer, X_Forwarded_For=sent)) == sender


@pytest.mark.parametrize(
    ("header", "text", "sender"),
    [
        ("X_Real_IP", "192.0.2.7", "192.0.2.7"), ("X_Real_IP", "127.0.0.1", None),
        ("Forwarded", "for=192.0.2.7;proto=http;by=10.0.0.1", "192.0.2.7"),
        ("Forwarded", 'for=127.0.0.1, For="[2001:db8::7]:4711"', "2001:db8::7"),
        ("Forwarded", "for=_hidden, for=unknown", None), ("Forwarded", "by=192.0.2.7", None),
    ],
)  # fmt: skip
def test_it_is_noticed_in_each_header_that_proxies_send(
    header: str, text: str, sender: str | None
) -> None:
    """E5."""
    assert foreign_sender(seen("127.0.0.1", **{header: text})) == sender


@pytest.mark.parametrize(
    ("peer", "headers", "insecure", "served"),
    [
        ("127.0.0.1", {}, "no", True), ("127.9.9.9", {}, "no", True), ("::1", {}, "no", True),
        ("::ffff:127.0.0.1", {}, "no", True), ("unix", {}, "no", True), ("", {}, "no", True),
        ("192.0.2.7", {}, "no", False), ("::ffff:192.0.2.7", {}, "no", False),
        ("fe80::1%eth0", {}, "no", False), (PROXY, {}, "no", False),
        ("192.0.2.7", {}, "yes", True),
        # The rule holds for the client of a proxy, whether the proxy is trusted or not.
        (PROXY, {"X-Forwarded-For": "192.0.2.7"}, "no", False),
        (PROXY, {"X-Forwarded-For": "127.0.0.1"}, "no", True),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.7"}, "no", False),
        ("127.0.0.1", {"X-Forwarded-For": "192.0.2.7"}, "yes", True),
    ],
)  # fmt: skip
def test_without_keys_only_this_machine_is_served(
    tmp_path: Path, peer: str, headers: dict[str, str], insecure: str, served: bool
) -> None:
    """E5: also under a server that does not tell the application on which address it listens."""
    environ = create_environ(headers=headers)
    environ["REMOTE_ADDR"] = peer
    flags = {"trusted_proxies": PROXY, "insecure": insecure}
    settings = load_settings(flags, environ={})
    req, resp = falcon.Request(environ), falcon.Response()
    Forwarding(settings).process_request(req, resp)
    guard = OnlyThisMachine(settings, Access(KeyRing(tmp_path / "keys.sqlite3")))
    if served:
        guard.process_request(req, resp)
        return
    with pytest.raises(RemoteRefused, match=r"offgrid keys create.*--insecure") as refused:
        guard.process_request(req, resp)
    assert (refused.value.status, refused.value.code) == (403, "remote_not_allowed")
