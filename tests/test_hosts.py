"""``tests/lib/hosts.py``: several machines on this one."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import hosts
import namespaces
import pytest
from support import TIMEOUT, eventually, request

LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print("port", listener.getsockname()[1], flush=True)
    while True:
        client, (address, _) = listener.accept()
        with client:
            client.sendall(address.encode())
            while piece := client.recv(1 << 16):
                client.sendall(piece)
"""
"""Answers a connection with its address, and then with what it sends."""
HEAR = """
import socket, struct, sys
hearing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hearing.bind(("224.0.0.251", 0))
member = socket.inet_aton("224.0.0.251") + socket.inet_aton(sys.argv[1])
hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
print("port", hearing.getsockname()[1], flush=True)
print("heard", *hearing.recvfrom(100), flush=True)
"""


def listening(host: hosts.Host) -> tuple[str, int]:
    """Start the program that answers in a host; return its address."""
    child = host.start(sys.executable, "-c", LISTEN, host.address)
    return host.address, int(child.out.find(r"port (\d+)")[1])


def seen_from(host: hosts.Host, address: tuple[str, int]) -> str:
    """The address that a client in a host has for a server."""
    with host.inside(), socket.create_connection(address, TIMEOUT) as client:
        return client.recv(100).decode()


def test_hosts_reach_each_other(tmp_path: Path) -> None:
    with hosts.lan(tmp_path, 2) as lan:
        one, two = lan.hosts
        address = listening(one)
        assert one.address != two.address
        with socket.create_connection(address, TIMEOUT) as client:
            assert client.recv(100)
        assert one.run("true").returncode == 0
        if lan.links:
            assert seen_from(two, address) == two.address
            assert seen_from(one, address) == one.address
            # Another machine's loopback is not this machine's.
            code = "import socket, sys; print(socket.socket().connect_ex(('127.0.0.1', 1)))"
            assert two.python(code).stdout.strip() != "0"


def test_hosts_are_removed_after_a_failure(tmp_path: Path) -> None:
    hosts.needs_links()
    with pytest.raises(ZeroDivisionError), hosts.lan(tmp_path, 2) as lan:  # noqa: PT012
        child = lan.hosts[0].start("sleep", "1000")
        names = [host.link.namespace for host in lan.hosts if host.link]
        assert all(name in listed() for name in names)
        raise ZeroDivisionError
    assert child.process.returncode is not None
    assert not any(name in listed() for name in names)
    devices = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    assert names[0].split("-")[1] not in re.findall(r"og(\d+)-", devices)


def listed() -> str:
    return subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    hosts.needs_links()
    ended = subprocess.Popen(["true"])
    ended.wait()
    name = f"offgrid-{ended.pid}-0-a"
    subprocess.run(["ip", "netns", "add", name], check=True)
    namespaces.refusal.cache_clear()
    assert namespaces.refusal() == ""
    assert name not in listed()


def test_a_cable_that_is_cut(tmp_path: Path) -> None:
    hosts.needs_links()
    with hosts.lan(tmp_path, 2) as lan:
        one, two = lan.hosts
        address = listening(one)
        with two.inside():
            client = socket.create_connection(address, TIMEOUT)
        with client:
            assert client.recv(100).decode() == two.address
            one.cut()
            client.sendall(b"kept by TCP")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(100)
            client.settimeout(TIMEOUT)
            one.restore()
            assert client.recv(100) == b"kept by TCP"


def test_multicast_reaches_other_hosts(tmp_path: Path) -> None:
    hosts.needs_links()
    with hosts.lan(tmp_path, 2) as lan:
        one, two = lan.hosts
        child = one.start(sys.executable, "-c", HEAR, one.address)
        group = ("224.0.0.251", int(child.out.find(r"port (\d+)")[1]))
        with two.inside():
            saying = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with saying:
            own = socket.inet_aton(two.address)
            saying.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)

            def heard() -> bool:
                saying.sendto(b"hello", group)  # a bridge that is new may lose some
                return "heard" in child.out.text

            eventually(heard, "a packet arrives")
        assert f"b'hello' ('{two.address}'" in child.out.find("heard .*\n")[0]


def test_a_limited_rate_and_a_delay(tmp_path: Path) -> None:
    """What passes is slow, but complete. How slow is not asserted: no test measures time."""
    hosts.needs_links()
    with hosts.lan(tmp_path, 2) as lan:
        one, two = lan.hosts
        host, port = listening(one)
        one.limit("10mbit")
        limits = subprocess.run(
            ["tc", "-n", one.link.namespace, "qdisc"], capture_output=True, text=True
        )  # fmt: skip
        assert "rate 10Mbit" in limits.stdout
        relay, _, relayed = two.delayed(f"{host}:{port}", 1).partition(":")
        with two.inside():
            client = socket.create_connection((relay, int(relayed)), TIMEOUT)
        data = bytes(range(256)) * 400
        with client, client.makefile("rb") as reading:
            assert reading.read(len(two.address)).decode() == two.address
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert reading.read() == data
        one.unlimit()


@pytest.mark.slow
def test_a_server_in_a_host(tmp_path: Path) -> None:
    """On loopback addresses too."""
    with hosts.lan(tmp_path, 2) as lan:
        one, two = lan.hosts
        child = one.serve()
        assert child.url.startswith(f"http://{one.address}:")
        assert request(child.url, "GET", "/ready").status == 200
        shown = two.offgrid("ps", "--url", child.url)
        assert "offgrid-starter" in shown.stdout, shown.stderr
        one.end()
        eventually(lambda: child.process.poll() is not None, "it has ended")


@pytest.mark.slow
def test_loopback_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine without namespaces runs."""
    monkeypatch.setattr(hosts, "refusal", lambda: "no namespaces here")
    with hosts.lan(tmp_path, 2) as lan:
        one, two = lan.hosts
        assert not lan.links
        assert {one.address.split(".")[0], two.address.split(".")[0]} == {"127"}
        child = one.serve()
        assert child.url.startswith(f"http://{one.address}:")
        assert two.offgrid("ps", "--url", child.url).returncode == 0
        with pytest.raises(pytest.skip.Exception, match="no namespaces here"):
            one.cut()
