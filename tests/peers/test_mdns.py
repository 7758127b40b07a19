"""Real mDNS between machines on a network: they find each other, move, and survive a flood."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import hosts
import pytest
from hosts import Host, Lan
from processes import Child
from support import eventually, request

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("links")]

FLOOD = """
import random, socket, sys, zeroconf
from zeroconf import DNSOutgoing, DNSPointer, DNSService, DNSText, DNSAddress, const
address, seconds = sys.argv[1], float(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
kind, number, unique = "_offgrid._tcp.local.", 0, const._CLASS_IN | const._CLASS_UNIQUE
sock.sendto(b"\\xff" * 900, ("224.0.0.251", 5353))
for number in range(20000):
    name, server = f"fake {number}.{kind}", f"fake-{number}.local."
    text = b"".join(
        bytes([len(one)]) + one for one in (b"id=%016x" % number, b"port=1", b"v=1")
    ) if number % 3 else bytes(random.randrange(256) for _ in range(40))
    out = DNSOutgoing(const._FLAGS_QR_RESPONSE | const._FLAGS_AA)
    out.add_answer_at_time(DNSPointer(kind, const._TYPE_PTR, const._CLASS_IN, 4500, name), 0)
    out.add_answer_at_time(DNSService(name, const._TYPE_SRV, unique, 120, 0, 0, 1, server), 0)
    out.add_answer_at_time(DNSText(name, const._TYPE_TXT, unique, 4500, text), 0)
    packed = socket.inet_aton(address)
    out.add_answer_at_time(DNSAddress(server, const._TYPE_A, unique, 120, packed), 0)
    for packet in out.packets():
        sock.sendto(packet, ("224.0.0.251", 5353))
"""
"""Announces many machines that do not exist, a third of them with a TXT record of random bytes."""


@pytest.fixture
def links() -> None:
    hosts.needs_links()


def serve(host: Host, **variables: str) -> Child:
    return host.serve("--peers", "--peers-name", f"host-{host.name}", **variables)


def rows(child: Child) -> dict[str, Any]:
    answer = request(child.url, "GET", "/v1/peers")
    return {row["name"]: row for row in answer.json["data"]}


def pair(one: Host, first: Child, other: Host, second: Child) -> None:
    code = request(first.url, "POST", "/v1/peers/pair", {}).json["code"]
    body = {"address": one.address, "code": code}
    assert request(second.url, "POST", "/v1/peers/pair", body).status == 200


def test_machines_find_each_other_and_notice_the_end(make_lan: Callable[[int], Lan]) -> None:
    one, other = make_lan(2).hosts
    first, second = serve(one), serve(other)
    eventually(lambda: "host-b" in rows(first) and "host-a" in rows(second), "both are found")
    found = rows(first)["host-b"]
    own = request(second.url, "GET", "/v1/peers").json["self"]
    assert (found["id"], found["addresses"], found["port"]) == (own["id"], [other.address], 11612)
    assert (found["version"], found["paired"]) == (own["version"], False)
    pair(one, first, other, second)
    eventually(lambda: rows(first)["host-b"]["state"] == "connected", "it is connected")
    assert len(rows(first)) == 1
    second.end()
    eventually(lambda: rows(first)["host-b"]["state"] == "unreachable", "it is off")


def test_a_machine_with_mdns_turned_off_is_not_found(make_lan: Callable[[int], Lan]) -> None:
    one, other, third = make_lan(3).hosts
    first, _ = serve(one), serve(third)
    second = serve(other, OFFGRID_PEERS_DISCOVERY="false", OFFGRID_PEER_ADDRESSES=one.address)
    eventually(lambda: "host-c" in rows(first), "the third one is found")
    assert "host-b" not in rows(first)
    eventually(lambda: rows(second).get(one.address, {}).get("id"), "the first one is found")
    own = request(first.url, "GET", "/v1/peers").json["self"]
    assert rows(second)[one.address]["id"] == own["id"]


def test_a_peer_is_found_again_at_another_address(make_lan: Callable[[int], Lan]) -> None:
    one, other = make_lan(2).hosts
    first, second = serve(one), serve(other)
    pair(one, first, other, second)
    eventually(lambda: rows(first)["host-b"]["state"] == "connected", "it is connected")
    net, _, last = other.address.rpartition(".")
    after = f"{net}.{int(last) + 100}"
    for words in (
        ("addr", "flush", "dev", "eth0"), ("addr", "add", f"{after}/24", "dev", "eth0"),
        ("route", "replace", "default", "dev", "eth0"),
    ):  # fmt: skip
        done = other.run("ip", *words)
        assert done.returncode == 0, done.stderr

    def at_new_address() -> bool:
        row = rows(first)["host-b"]
        return row["state"] == "connected" and row["addresses"][0] == after

    eventually(at_new_address, "it is connected at its new address")


def test_a_flood_of_false_machines_disturbs_no_peer(make_lan: Callable[[int], Lan]) -> None:
    one, other, third = make_lan(3).hosts
    first, second = serve(one), serve(other)
    pair(one, first, other, second)
    eventually(lambda: rows(first)["host-b"]["state"] == "connected", "it is connected")
    assert third.python(FLOOD, third.address, "10").returncode == 0
    listed = request(first.url, "GET", "/v1/peers").json["data"]
    assert len(listed) <= 257
    assert [row["name"] for row in listed if row["paired"]] == ["host-b"]
    eventually(lambda: rows(first)["host-b"]["state"] == "connected", "it is still connected")
    assert request(first.url, "GET", "/health").status == 200
    second.end()
    serve(other)
    eventually(lambda: rows(first)["host-b"]["state"] == "connected", "it is found again")


def test_a_port_of_mdns_that_is_taken_stops_no_server(make_lan: Callable[[int], Lan]) -> None:
    (one,) = make_lan(1).hosts
    with one.inside():
        blocker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with blocker:
        blocker.bind(("0.0.0.0", 5353))
        first = serve(one)
        assert request(first.url, "GET", "/v1/peers").status == 200
        first.err.find("other machines cannot be found by mDNS")
