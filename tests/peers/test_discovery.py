"""mDNS through real sockets, and machines at addresses of the settings."""

from __future__ import annotations

import importlib.util
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zeroconf
from machines import Machine
from support import eventually

from offgrid.errors import ConfigError
from offgrid.peers import discovery
from offgrid.peers.addresses import Addresses, id_at, read_addresses
from offgrid.peers.discovery import TYPE, Discovery
from offgrid.peers.forwarding.watch import THREAD as WATCH
from offgrid.peers.found import FoundMachines
from offgrid.peers.identity import load_identity

HOST = "127.0.0.1"


def multicast() -> bool:
    try:
        with zeroconf.Zeroconf(interfaces=[HOST]) as made:
            made.register_service(
                zeroconf.ServiceInfo("_ogtest._tcp.local.", "x._ogtest._tcp.local.", port=1)
            )
        return True
    except (OSError, zeroconf.Error):
        return False


class Node:
    """A machine that announces itself on loopback and listens."""

    def __init__(self, folder: Path, name: str) -> None:
        self.identity = load_identity(folder / name, name)
        self.found = FoundMachines(self.identity.id, lambda id: False, loopback=True)
        self.appeared: list[str] = []
        self.discovery = Discovery(self.identity, HOST, self.found, self.appeared.append)

    def sees(self, other: Node) -> bool:
        return other.identity.id in {machine.id for machine in self.found.all()}


@pytest.fixture
def make_node(tmp_path: Path) -> Any:
    made: list[Node] = []

    def make(name: str) -> Node:
        made.append(Node(tmp_path, name))
        return made[-1]

    yield make
    for node in made:
        node.discovery.close()


def test_two_machines_find_each_other_and_notice_the_end(make_node: Callable[[str], Node]) -> None:
    if not multicast():
        pytest.skip("this system refuses multicast on the loopback interface")
    one, other = make_node("Galley (1)"), make_node("bridge.deck")
    one.discovery.start(1001)
    other.discovery.start(1002)
    eventually(lambda: one.sees(other) and other.sees(one), "both are found")
    (seen,) = (machine for machine in other.found.all() if machine.id == one.identity.id)
    assert (seen.name, seen.places) == ("Galley (1)", ((HOST, 1001),))
    eventually(lambda: other.identity.id in one.appeared, "that is told")
    assert not one.sees(one)
    other.discovery.close()
    eventually(lambda: not one.sees(other), "it has said goodbye")


def test_where_multicast_is_refused_the_server_goes_on(
    make_node: Callable[[str], Node],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(**_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(zeroconf, "Zeroconf", refuse)
    node = make_node("near")
    node.discovery.start(1001)
    eventually(lambda: "peer_addresses can name them" in caplog.text, "it is logged")
    node.discovery.close()
    assert "Traceback" not in caplog.text


def test_another_network_means_a_new_beginning(
    make_node: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[list[str]] = []

    class Silent:
        def __init__(self, interfaces: list[str], **_: object) -> None:
            opened.append(interfaces)

        def add_service_listener(self, *_: object) -> None: ...
        def register_service(self, info: zeroconf.ServiceInfo, **_: object) -> None:
            assert [socket.inet_ntoa(one) for one in info.addresses] == opened[-1]

        def close(self) -> None: ...

    here = [["10.0.0.2"], ["10.0.0.2"], [], ["10.9.0.2", "10.9.0.3"]]
    monkeypatch.setattr(zeroconf, "Zeroconf", Silent)
    monkeypatch.setattr(discovery, "LOOK_EVERY", 0.01)
    node = make_node("near")
    monkeypatch.setattr(
        node.discovery, "_own_addresses", lambda: here.pop(0) if len(here) > 1 else here[0]
    )
    text = {b"id": b"f" * 16, b"port": b"1"}
    node.found.hear("old", text, ["10.0.0.5"])
    node.discovery.start(1001)
    eventually(lambda: len(opened) == 2, "it begins anew")
    assert opened == [["10.0.0.2"], ["10.9.0.2", "10.9.0.3"]]
    assert node.found.all() == []


@pytest.mark.parametrize("records", [2000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_a_flood_of_incomplete_records_is_bounded(
    make_node: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    monkeypatch.setattr(
        zeroconf, "ServiceInfo", lambda *_: SimpleNamespace(load_from_cache=lambda _: False)
    )
    node, nothing = make_node("near"), SimpleNamespace()
    for number in range(records):
        node.discovery.add_service(nothing, TYPE, f"{number}.{TYPE}")  # type: ignore[arg-type]
    assert node.discovery._waiting.qsize() <= 64


def test_strange_names_of_records_are_left_out(make_node: Callable[[str], Node]) -> None:
    node, cache = make_node("near"), SimpleNamespace(cache=zeroconf.DNSCache())
    for name in ("", TYPE, "x", f"{'a' * 300}.{TYPE}", f"\x00.{TYPE}", "x._http._tcp.local."):
        node.discovery.add_service(cache, TYPE, name)  # type: ignore[arg-type]
    assert node.found.all() == []


def test_a_missing_library_ends_the_start(
    make_machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_machine("far")  # without discovery it is not needed
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'offgrid-llm[peers]'")):
        make_machine("near", peers_discovery=True)


def test_the_label_fits_and_tells_machines_apart(tmp_path: Path) -> None:
    for name in ("ü" * 63, "a" * 63, "x"):
        identity = load_identity(tmp_path / name[:3], name)
        label = discovery._label(identity.name, identity.id)
        assert len(label.encode()) <= 63
        assert label.endswith(identity.id[:6])
        assert identity.name.startswith(discovery._without_id(label))


@pytest.mark.slow
def test_the_machine_at_an_address_is_known_without_a_pairing(
    make_machine: Callable[..., Machine],
) -> None:
    far = make_machine("far")
    place = (HOST, far.peers.port)
    assert id_at(place) == far.peers.identity.id
    near = make_machine("near", peer_addresses=(f"{HOST}:{far.peers.port}", f"{HOST}:1"))
    eventually(lambda: near.peers.addresses.all()[0].answers, "it was tried")
    answering, silent = near.peers.addresses.all()
    assert answering.id == far.peers.identity.id
    assert (silent.id, silent.answers, silent.last_seen) == ("", False, None)
    far.server.stop()
    near.peers.addresses._tried_at = 0.0
    near.peers.addresses.look()
    eventually(lambda: not near.peers.addresses.all()[0].answers, "it was tried again")
    assert near.peers.addresses.all()[0].id == far.peers.identity.id


@pytest.mark.slow
def test_a_peer_is_looked_for_at_the_addresses_of_the_settings(
    make_machine: Callable[..., Machine],
) -> None:
    far = make_machine("far")
    near = make_machine("near", peer_addresses=(f"{HOST}:{far.peers.port}",))
    near.know(far)
    near.peers.book.found_at(far.peers.identity.fingerprint, HOST, 1)  # it has another port now
    status, _ = near.peers.connections.request(far.as_peer(), "GET", "/peer/alive")
    assert status == 204


def test_an_address_that_is_none_ends_the_start() -> None:
    assert read_addresses(["ship-2", "[::1]:5", "ship-2:11612"], 11612) == [
        ("ship-2", 11612), ("::1", 5),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="--peer-addresses"):
        read_addresses(["http://ship-2/"], 11612)
    with pytest.raises(ConfigError, match="most are 64"):
        read_addresses([f"10.0.0.{number}" for number in range(65)], 11612)


@pytest.mark.slow
def test_the_threads_are_those_of_the_architecture_page(
    make_machine: Callable[..., Machine],
) -> None:
    if not multicast():
        pytest.skip("this system refuses multicast on the loopback interface")
    page = Path(__file__).parents[2] / "docs" / "architecture.md"
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| server with peers \| `([^`]+)`", text, re.MULTILINE)
    patterns = {re.escape(row).replace("<n>", r"\d+") for row in rows if row != WATCH}
    before = set(threading.enumerate())
    far = make_machine("far")
    near = make_machine("near", peers_discovery=True, peer_addresses=(f"{HOST}:{far.peers.port}",))
    near.peers.book.add(far.as_peer())

    def named() -> set[str]:
        """The threads of peers and zeroconf; those of the server are named otherwise."""
        new = {thread.name for thread in threading.enumerate() if thread not in before}
        return {one for one in new if re.match("peer|zeroconf|Thread-", one)}

    def all_run() -> bool:
        return all(any(re.fullmatch(one, name) for name in named()) for one in patterns)

    eventually(all_run, "all threads of the page run")
    assert len(named()) == len(patterns)
    near.server.stop()
    eventually(lambda: named() == set(), "they end")  # a stop does not wait for a slow network


def test_the_threads_end(tmp_path: Path) -> None:
    made = Addresses("0" * 16, [(HOST, 1)])
    made.start()
    made.close()
    assert "peer-addresses" not in {thread.name for thread in threading.enumerate()}
