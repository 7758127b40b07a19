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
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from namespaces import Link, Network, loopback_net, refusal
from processes import ONE_THREAD, Child, models_flags, program
from support import TIMEOUT


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
        with self.link.inside():
            yield

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
    with contextlib.ExitStack() as stack:
        made = _loopback(folder, number) if refusal() else _wired(folder, number, stack)
        for host in made.hosts:
            stack.callback(host.end)
        yield made


def _wired(folder: Path, number: int, stack: contextlib.ExitStack) -> Lan:
    network = Network()
    stack.callback(network.remove)
    made = []
    for name in _names(number):
        link, address = network.connect(name)
        made.append(Host(name, address, _home(folder, name), link))
    return Lan(made, network.here, links=True)


def _loopback(folder: Path, number: int) -> Lan:
    if sys.platform != "linux":
        pytest.skip("only Linux has more loopback addresses than one")
    net = loopback_net()
    made = [
        Host(name, f"{net}.{index}", _home(folder, name), None)
        for index, name in enumerate(_names(number), 1)
    ]
    return Lan(made, f"{net}.254", links=False)


def _names(number: int) -> list[str]:
    return [chr(ord("a") + index) if index < 26 else f"host{index}" for index in range(number)]


def _home(folder: Path, name: str) -> Path:
    home = folder / f"host-{name}"
    home.mkdir()
    return home


def needs_links() -> None:
    """Skip a test that loopback addresses cannot run, and say why."""
    if reason := refusal():
        pytest.skip(reason)


def _path(folder: str) -> str:
    others = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(part for part in (folder, others) if part)
