"""Network namespaces with cables to a bridge: what ``hosts.py`` makes machines of."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support import TIMEOUT

_CLONE_NEWNET = 0x40000000
_PREFIX = "offgrid"
_INSTEAD = "; hosts are loopback addresses"
_count = itertools.count()


@dataclass(frozen=True)
class Link:
    """The cable of a namespace.

    Args:
        namespace: its name. This end of the cable is ``eth0``.
        switch: the namespace of the bridge.
        port: the other end of the cable, there.
    """

    namespace: str
    switch: str
    port: str

    def cut(self) -> None:
        """Pull the cable: both sides see no carrier, and no packet passes."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def restore(self) -> None:
        """Plug the cable in again."""
        _ip("-n", self.switch, "link", "set", self.port, "up")

    def limit(self, rate: str) -> None:
        """Limit what passes in each direction.

        Args:
            rate: such as ``100mbit``.
        """
        # A bucket holds what comes in 4 ms, the longest time between two ticks of the kernel.
        burst = max(16 << 10, _bits(rate) // 8 // 250)
        how = ("root", "tbf", "rate", rate, "burst", str(burst), "latency", "100ms")
        for namespace, device in self._ends():
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, *how)

    def unlimit(self) -> None:
        """Let everything pass again."""
        for namespace, device in self._ends():
            _run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")

    def _ends(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.namespace, "eth0"), (self.switch, self.port)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread into the namespace until the block ends."""
        there = Path("/run/netns") / self.namespace
        with open("/proc/thread-self/ns/net") as home, there.open() as away:
            _enter(away.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())


class Network:
    """A bridge in a namespace, where no packet filter of this machine reaches it, and a cable from
    there to this process.

    Attributes:
        here: the address of this process, the last one of a free network 10.x.y.0/24.
    """

    def __init__(self) -> None:
        number = next(_count)
        self._run = f"{_PREFIX}-{os.getpid()}-{number}"
        self._own = f"og{os.getpid()}-{number}"[:15]
        self._switch = f"{self._run}-switch"
        self._names: list[str] = []
        self._net = _free_net()
        self.here = f"{self._net}.254"
        try:
            self._make_switch()
        except BaseException:
            self.remove()
            raise

    def _make_switch(self) -> None:
        self._make(self._switch)
        # Snooping needs a router that asks who listens; without one, some kernels drop multicast.
        _ip("-n", self._switch, "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self._switch, "link", "set", "lan", "up")
        _ip("link", "add", self._own, "type", "veth", "peer", "name", "port",
            "netns", self._switch)  # fmt: skip
        self._plug("port")
        _ip("addr", "add", f"{self.here}/24", "dev", self._own)
        _ip("link", "set", self._own, "up")

    def connect(self, name: str) -> tuple[Link, str]:
        """Make a namespace with a cable; return the cable and the namespace's address."""
        link = Link(f"{self._run}-{name}", self._switch, f"port-{name}")
        self._make(link.namespace)
        address = f"{self._net}.{len(self._names) - 1}"  # the switch has none
        _ip("-n", link.namespace, "link", "add", "eth0", "type", "veth",
            "peer", "name", link.port, "netns", self._switch)  # fmt: skip
        self._plug(link.port)
        _ip("-n", link.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", link.namespace, "link", "set", "eth0", "up")
        # Without a route for it, some programs send no multicast.
        _ip("-n", link.namespace, "route", "add", "default", "dev", "eth0")
        return link, address

    def _make(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._names.append(namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _plug(self, port: str) -> None:
        _ip("-n", self._switch, "link", "set", port, "master", "lan")
        _ip("-n", self._switch, "link", "set", port, "up")

    def remove(self) -> None:
        """Remove the namespaces; the cables go with them. The kernel does that later, so the cable
        to this process, whose addresses would still count, goes first."""
        subprocess.run(["ip", "link", "del", self._own], capture_output=True)
        for name in reversed(self._names):
            _remove(name)
        self._names.clear()


@functools.cache
def refusal() -> str:
    """Why this machine cannot have namespaces with cables; "" if it can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return f"network namespaces need Linux and root{_INSTEAD}"
    if any(shutil.which(name) is None for name in ("ip", "tc")):
        return f"needs the programs ip and tc (iproute2){_INSTEAD}"
    _sweep()
    name = f"{_PREFIX}-{os.getpid()}-try"
    tries = (
        ("ip", "netns", "add", name),
        ("ip", "-n", name, "link", "add", "lan", "type", "bridge"),
        ("ip", "-n", name, "link", "add", "port", "type", "veth", "peer", "name", "end"),
        ("tc", "-n", name, "qdisc", "add", "dev", "end", "root", "tbf", "rate", "1mbit",
         "burst", "16kb", "latency", "50ms"),
    )  # fmt: skip
    try:
        for words in tries:
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                return f"{' '.join(words[:6])}: {done.stderr.strip()}{_INSTEAD}"
        return ""
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def loopback_net() -> str:
    """The first three numbers of a network of loopback addresses for one test."""
    run = (os.getpid() * 256 + next(_count)) % 65_000
    return f"127.{run // 256 + 1}.{run % 256}"


def _free_net() -> str:
    """The first three numbers of a network that this machine has no route to."""
    used = _run("ip", "-4", "route", "show", "table", "all").split()
    for _ in range(10_000):
        run = os.getpid() * 7 + next(_count)
        net = f"10.{run // 256 % 256}.{run % 256}"
        if not any(word.startswith(f"{net}.") for word in used):
            return net
    raise AssertionError("no free network 10.x.y.0/24")


def _sweep() -> None:
    """Remove what runs that were killed have left."""
    for name in re.findall(rf"^{_PREFIX}-\d+-\S+", _run("ip", "netns", "list"), re.M):
        if not Path(f"/proc/{name.split('-')[1]}").exists():
            _remove(name)


def _remove(namespace: str) -> None:
    """End what still runs in a namespace, and delete it. Another process that sweeps at the same
    time may be first."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    for pid in map(int, listed.stdout.split()):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns needs Python 3.12
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _bits(rate: str) -> int:
    found = re.fullmatch(r"(\d+)([kmg])bit", rate)
    assert found, f"no rate such as 100mbit: {rate}"
    return int(found[1]) * {"k": 10**3, "m": 10**6, "g": 10**9}[found[2]]


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
