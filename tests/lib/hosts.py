"""Several machines on this one: network namespaces with a bridge between them.

    with hosts.lan(tmp_path, 3) as lan:
        one, two, three = lan.hosts
        child = one.serve()                  # a real ``offgrid serve``, ready
        request(child.url, "GET", "/ready")  # from the test's process, which is on the bridge too
        two.run("curl", child.url)           # from another host
        one.cut()

Each host is a namespace with one end of a veth pair, ``eth0``; the other end is a port of a bridge
in a further namespace, where no packet filter of this machine reaches it. The test's process has
a cable to the bridge too. The kernel passes multicast on, so real mDNS works.

Where the kernel refuses (``refusal`` says why), the hosts are addresses 127.x.y.z of this machine:
programs listen and connect there, but nothing can be cut or limited, and ``needs_links`` skips.

``tc`` limits rates. The kernels that tests run on do not all have ``netem``, so delays are made by
a relay (``delays.py``), which delays bytes of TCP connections and not their handshake.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import ONE_THREAD, Child, models_flags, program
from support import TIMEOUT

_CLONE_NEWNET = 0x40000000
_PREFIX = "offgrid"
_count = itertools.count()


@dataclass(frozen=True)
class Link:
    """The cable of a host.

    Args:
        namespace: the host's namespace.
        switch: the namespace of the bridge.
        port: the end of the cable there.
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
        for namespace, device in ((self.namespace, "eth0"), (self.switch, self.port)):
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, *how)

    def unlimit(self) -> None:
        """Let everything pass again."""
        for namespace, device in ((self.namespace, "eth0"), (self.switch, self.port)):
            _run("tc", "-n", namespace, "qdisc", "del", "dev", device, "root")


@dataclass
class Host:
    """One machine.

    Attributes:
        name: ``a``, ``b`` and so on.
        address: its IPv4 address, which all hosts and the test reach.
        folder: its home, and the working directory of its programs.
        link: its cable; None on a loopback address.
    """

    name: str
    address: str
    folder: Path
    link: Link | None
    _children: list[Child] = field(default_factory=list)

    @property
    def models(self) -> Path:
        """The models directory of its servers. Without files, they serve the starter."""
        folder = self.folder / "models"
        folder.mkdir(exist_ok=True)
        return folder

    def command(self, *words: str) -> list[str]:
        """The command line that runs a command in this host; its process becomes the command."""
        inside = [] if self.link is None else ["ip", "netns", "exec", self.link.namespace]
        return [*inside, *words]

    def environ(self) -> dict[str, str]:
        """The variables of its programs: every file of theirs is in its folder."""
        home = str(self.folder)
        names = ("CONFIG", "CACHE", "DATA", "STATE")
        own = {f"XDG_{name}_HOME": f"{home}/{name.lower()}" for name in names}
        return {**os.environ, **ONE_THREAD, "HOME": home, **own}

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(*words), cwd=self.folder, env={**self.environ(), **environ},
            stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=TIMEOUT,
        )  # fmt: skip

    def offgrid(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run ``offgrid`` to its end."""
        return self.run(program("offgrid"), *words, **environ)

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program in Python to its end. It can import the modules of this folder."""
        here = str(Path(__file__).parent)
        return self.run(sys.executable, "-c", code, *arguments, PYTHONPATH=_path(here))

    def start(self, *words: str, **environ: str) -> Child:
        """Start a program. It is ended with the LAN."""
        child = Child(*self.command(*words), cwd=self.folder, **{**self.environ(), **environ})
        self._children.append(child)
        return child

    def begin_serving(self, *flags: str, **environ: str) -> Child:
        """Start ``offgrid serve`` on a free port of its address, without keys unless flags say
        otherwise (``--no-insecure``). Its ``url`` is known soon, ``wait_ready`` waits longer."""
        return self.start(
            program("offgrid"), "serve", "--host", self.address, "--port", "0", "--insecure",
            *models_flags(self.models), *flags, **environ,
        )  # fmt: skip

    def serve(self, *flags: str, **environ: str) -> Child:
        """Start ``offgrid serve`` as ``begin_serving`` does, and wait until it is ready."""
        child = self.begin_serving(*flags, **environ)
        child.wait_ready()
        return child

    def delayed(self, target: str, milliseconds: float) -> str:
        """Start a relay in this host (``delays.py``).

        Args:
            target: the address and port that it passes connections on to.
            milliseconds: how much later everything arrives, in each direction.

        Returns:
            The relay's address and port.
        """
        script = str(Path(__file__).with_name("delays.py"))
        child = self.start(sys.executable, script, self.address, target, f"{milliseconds}")
        return f"{self.address}:{child.out.find(r'relay on port ([0-9]+)')[1]}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread open sockets in the host: they stay there after the block. Threads that
        begin in the block are in the host, too. On a loopback address nothing changes."""
        if self.link is None:
            yield
            return
        with open("/proc/thread-self/ns/net") as home, open(_file(self.link.namespace)) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def cut(self) -> None:
        """Pull its cable. Skips the test where there is none."""
        self._cable().cut()

    def restore(self) -> None:
        """Plug its cable in again."""
        self._cable().restore()

    def limit(self, rate: str) -> None:
        """Limit the rate of its cable in each direction, such as ``100mbit``."""
        self._cable().limit(rate)

    def unlimit(self) -> None:
        """Remove the limit of its cable."""
        self._cable().unlimit()

    def _cable(self) -> Link:
        if self.link is None:
            pytest.skip(refusal())
        return self.link

    def end(self) -> None:
        """End its programs."""
        for child in self._children:
            child.end()


@dataclass(frozen=True)
class Lan:
    """Hosts that reach each other.

    Attributes:
        hosts: the hosts.
        here: the address of the test's own process among them.
        links: whether there are cables, and multicast; otherwise all is loopback.
    """

    hosts: list[Host]
    here: str
    links: bool


@contextlib.contextmanager
def lan(folder: Path, number: int) -> Iterator[Lan]:
    """Make hosts; end their programs and remove them after the block.

    Args:
        folder: for the homes of the hosts.
        number: of hosts, 1 to 200.
    """
    made = _loopback(folder, number) if refusal() else _Wired(folder, number)
    try:
        yield made.lan
    finally:
        with contextlib.ExitStack() as stack:
            stack.callback(made.remove)
            for host in made.lan.hosts:
                stack.callback(host.end)


def needs_links() -> None:
    """Skip a test that loopback addresses cannot run, and say why."""
    if reason := refusal():
        pytest.skip(reason)


@functools.cache
def refusal() -> str:
    """Why this machine cannot have hosts with cables; "" if it can."""
    if sys.platform != "linux" or os.getuid() != 0:
        return "network namespaces need Linux and root; hosts are loopback addresses"
    if any(shutil.which(name) is None for name in ("ip", "tc")):
        return "needs the programs ip and tc (iproute2); hosts are loopback addresses"
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
                return f"{' '.join(words[:6])}: {done.stderr.strip()}; hosts are loopback addresses"
        return ""
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


class _Wired:
    """Hosts in namespaces."""

    def __init__(self, folder: Path, number: int) -> None:
        self._run = f"{_PREFIX}-{os.getpid()}-{next(_count)}"
        self._switch = f"{self._run}-switch"
        self._own = f"og{self._run.removeprefix(f'{_PREFIX}-')}"[:15]
        self._names: list[str] = []
        self._net = _free_net()
        self.lan = Lan([], f"{self._net}.254", links=True)
        try:
            self._make_switch()
            for index in range(number):
                self.lan.hosts.append(self._make_host(folder, index))
        except BaseException:
            self.remove()
            raise

    def _make_switch(self) -> None:
        self._make(self._switch)
        # Snooping needs a router that asks who listens; without one, some kernels drop multicast.
        _ip("-n", self._switch, "link", "add", "lan", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", self._switch, "link", "set", "lan", "up")
        own = self._own
        _ip("link", "add", own, "type", "veth", "peer", "name", "port", "netns", self._switch)
        self._plug("port")
        _ip("addr", "add", f"{self.lan.here}/24", "dev", own)
        _ip("link", "set", own, "up")

    def _make_host(self, folder: Path, index: int) -> Host:
        name = chr(ord("a") + index) if index < 26 else f"host{index}"
        link = Link(f"{self._run}-{name}", self._switch, f"port-{name}")
        address, home = f"{self._net}.{index + 1}", folder / f"host-{name}"
        home.mkdir()
        self._make(link.namespace)
        peer = ("peer", "name", link.port, "netns", self._switch)
        _ip("-n", link.namespace, "link", "add", "eth0", "type", "veth", *peer)
        self._plug(link.port)
        _ip("-n", link.namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", link.namespace, "link", "set", "eth0", "up")
        # Without a route for it, some programs send no multicast.
        _ip("-n", link.namespace, "route", "add", "default", "dev", "eth0")
        return Host(name, address, home, link)

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


class _Loopback:
    """Hosts on loopback addresses."""

    def __init__(self, hosts: list[Host], here: str) -> None:
        self.lan = Lan(hosts, here, links=False)

    def remove(self) -> None:
        """Nothing has been made."""


def _loopback(folder: Path, number: int) -> _Loopback:
    if sys.platform != "linux":
        pytest.skip("only Linux has more loopback addresses than one")
    run, made = (os.getpid() * 256 + next(_count)) % 65_000, []
    net = f"127.{run // 256 + 1}.{run % 256}"
    for index in range(number):
        name = chr(ord("a") + index) if index < 26 else f"host{index}"
        home = folder / f"host-{name}"
        home.mkdir()
        made.append(Host(name, f"{net}.{index + 1}", home, None))
    return _Loopback(made, f"{net}.254")


def _free_net() -> str:
    """The first three numbers of a network that this machine has no route to."""
    used = _run("ip", "-4", "route", "show", "table", "all")
    for _ in range(10_000):
        run = os.getpid() * 7 + next(_count)
        net = f"10.{run // 256 % 256}.{run % 256}"
        if f" {net}." not in f" {used}" and f"\n{net}." not in used:
            return net
    raise AssertionError("no free network 10.x.y.0/24")


def _sweep() -> None:
    """Remove what runs that were killed have left."""
    for name in re.findall(rf"^{_PREFIX}-\d+-\S+", _run("ip", "netns", "list"), re.M):
        if not Path(f"/proc/{name.split('-')[1]}").exists():
            _remove(name)


def _remove(namespace: str) -> None:
    """End what still runs in a namespace, and delete it."""
    listed = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True
    ).stdout.split()
    own = str(os.getpid())
    for pid in listed:
        if pid != own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)
    # Another process that sweeps at the same time may have been first.
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def _file(namespace: str) -> str:
    return f"/run/netns/{namespace}"


def _enter(descriptor: int) -> None:
    """Move this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns needs Python 3.12
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _path(folder: str) -> str:
    others = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(part for part in (folder, others) if part)


def _bits(rate: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([kmg])bit", rate).groups()  # type: ignore[union-attr]
    return int(number) * {"k": 10**3, "m": 10**6, "g": 10**9}[unit]


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
