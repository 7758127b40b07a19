"""Machines that lend memory: real ``offgrid rpc-worker`` processes, paired with a folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
from processes import Child, program
from rpc_library import rpc_library
from support import eventually

from offgrid.errors import RpcError
from offgrid.peers.book import Book, Peer
from offgrid.peers.contexts import ServerContexts
from offgrid.peers.identity import Identity, load_identity
from offgrid.peers.rpc import server_of
from offgrid.rpc.child import Child as Computing
from offgrid.rpc.child import Started
from offgrid.rpc.endpoint import RpcServer
from offgrid.rpc.lender import Lender, Terms
from offgrid.rpc.messages import Device

ADDRESS = "127.0.0.1"


def pair(one: Path, other: Path) -> None:
    """Let two folders of peers know each other, as pairing does."""
    identities = {folder: load_identity(folder, folder.parent.name) for folder in (one, other)}
    for own, far in ((one, other), (other, one)):
        Book(own).add(peer_of(identities[far]))


def peer_of(identity: Identity, address: str = ADDRESS) -> Peer:
    """A machine as its peers have it in their books."""
    return Peer(
        name=identity.name,
        certificate=identity.certificate,
        addresses=(address,),
        port=1,
        paired_at=1,
    )


class RpcWorker:
    """A machine that lends memory to the one with a folder of peers.

    Attributes:
        name: its name among peers.
        peers: its folder of peers.
        child: the process.
        port: where it listens.
    """

    def __init__(self, folder: Path, name: str, borrower: Path, library: str) -> None:
        self.name = name
        self.peers = folder / name / "peers"
        self.rpc_library = library
        self.folder = folder
        pair(self.peers, borrower)
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before."""
        flags = (
            "--no-config", "--peers-dir", str(self.peers), "--peers-name", self.name,
            "--responses-file", str(self.folder / self.name / "responses.sqlite3"),
            "--rpc-host", ADDRESS, "--rpc-port", str(self.port), "--rpc-library", self.rpc_library,
            "--threads", "1", "--log-level", "debug",
        )  # fmt: skip
        self.child = Child(program("offgrid"), "rpc-worker", *flags, cwd=self.folder)
        self.port = int(self.child.out.find(r"OffGrid RPC worker \S+ at \S+:(\d+)\n")[1])

    @property
    def server(self) -> str:
        """What the setting ``rpc_servers`` names it."""
        return f"{self.name}:{self.port}"

    def lending(self) -> psutil.Process:
        """Wait for the process that computes for a session, and return it."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = psutil.Process(self.child.process.pid).children()
            return len(found) == 1

        eventually(look, f"{self.name} computes for one session")
        return found[0]

    def is_idle(self) -> bool:
        """Whether it computes for no machine."""
        return not psutil.Process(self.child.process.pid).children()

    def kill(self) -> None:
        """Kill it with the processes that compute, as a power cut would."""
        if self.child.process.poll() is None:
            self.child.workers()
        self.child.end()

    def stop_all(self) -> None:
        """Stop it and the processes that compute (SIGSTOP)."""
        os.killpg(self.child.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        os.killpg(self.child.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def lender_here(
    folder: Path,
    devices: Sequence[Device] = (Device("a processor", 1 << 30, 1 << 30),),
    look: Callable[[Callable[[], None]], tuple[Device, ...]] | None = None,
    free: Callable[[Sequence[Device]], int] = lambda devices: 1 << 30,
) -> Iterator[tuple[Lender, RpcServer]]:
    """A lender in this process, which starts none that computes; and the peer that it is for the
    machine ``here``.

    Args:
        folder: of the two machines.
        devices: what it lends.
        look: looks at the devices anew.
        free: how much of them it lends.
    """
    near, far = folder / "here" / "peers", folder / "far" / "peers"
    pair(near, far)
    book = Book(far)
    contexts = ServerContexts(load_identity(far), book)

    def name_of(fingerprint: str) -> str | None:
        peer = book.by_fingerprint(fingerprint)
        return None if peer is None else peer.name

    def start(folder: str) -> Computing:
        raise RpcError("this machine only tells what it lends")

    listener = socket.create_server((ADDRESS, 0), backlog=128)
    port = int(listener.getsockname()[1])
    terms = Terms(
        context=lambda: contexts.context,
        name_of=name_of,
        tensors=lambda *_: contextlib.nullcontext(""),
        start=start,
        devices=look or (lambda working: tuple(devices)),
        free=free,
        started=Started(1, "a build", tuple(devices)),
    )
    lender = Lender(listener, terms)
    thread = threading.Thread(target=lender.run, daemon=True)
    thread.start()
    peer = Book(near).find("far")
    assert peer is not None
    try:
        yield lender, server_of(load_identity(near), peer, port)
    finally:
        lender.close()
        thread.join()


MakeWorker = Callable[[str], RpcWorker]


@contextlib.contextmanager
def rpc_workers(folder: Path, borrower: Path) -> Iterator[MakeWorker]:
    """Start machines by name that lend to the machine with the folder of peers ``borrower``."""
    library, made = rpc_library(), list[RpcWorker]()

    def make(name: str) -> RpcWorker:
        made.append(RpcWorker(folder, name, borrower, library))
        return made[-1]

    try:
        yield make
    finally:
        for worker in made:
            worker.kill()
