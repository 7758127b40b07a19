"""Copies between peers of which one side is killed again and again, or whose link is cut."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disturbed_relay import Relay, relay
from hosts import Host, Lan, needs_links
from machines import Machine
from paired_hosts import pair as pair_hosts
from paired_hosts import peer_flags
from processes import Child, program
from sticks import content, hidden, put, split_model, visible
from support import Json, eventually, request

from offgrid.peers import source
from offgrid.peers.book import Book, Peer
from offgrid.peers.identity import load_identity

MIB = 1 << 20
SIZE = 12 * MIB
OLD, NEW = content(1, SIZE), content(2, SIZE)
FEW_OR_MANY = [3, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.long])]
"""A few kills find an import that is not careful; many reach every moment of a careful one."""

IMPORT = """
import sys
from pathlib import Path
from offgrid.peers import source
from offgrid.peers.book import Book
from offgrid.peers.connection import PeerConnections
from offgrid.peers.identity import load_identity
from offgrid.store import copying
from offgrid.store.imports import import_found

source.PART, copying._FLUSH = 2**20, 2**18
folder, models_dir = map(Path, sys.argv[1:3])
book = Book(folder)
(peer,) = book.all()
models = source.PeerModels(PeerConnections(load_identity(folder), book), peer)

def report(name, phase, done, total):
    print(phase, done, flush=True)

found = import_found(
    lambda: models.search(sys.argv[3:], report), models_dir, replace=True, report=report,
    checkpoint=2**19,
)
print("end", *(one.status for one in found), flush=True)
"""


@pytest.fixture
def disturbed(pair: tuple[Machine, Machine]) -> Iterator[Relay]:
    """A relay through which near reaches far."""
    near, far = pair
    with relay(far.peers.port) as made:
        near.reach(far, made.port)
        yield made


class Importer:
    """A process that imports models, and tells how far it is."""

    def __init__(self, near: Machine, *ids: str) -> None:
        folder = near.server.settings.peers_dir
        self._child = subprocess.Popen(
            [sys.executable, "-c", IMPORT, str(folder), str(near.models), *ids],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/",
        )  # fmt: skip

    def run(self, most: int) -> bool:
        """Run until it has copied this many bytes, then kill it; return whether it ended before."""
        assert self._child.stdout is not None
        begin: int | None = None
        with self._child as child:
            for line in self._child.stdout:
                phase, *words = line.split()
                if phase == "copying":
                    begin = int(words[0]) if begin is None else begin
                    if int(words[0]) - begin >= most:
                        child.kill()
                if phase == "end":
                    assert set(words) <= {"imported", "identical"}
                    return True
            if child.wait() != -9:
                assert child.stderr is not None
                raise AssertionError(child.stderr.read())
        return False


@pytest.mark.parametrize("kills", FEW_OR_MANY)
def test_the_side_that_imports_is_killed(
    pair: tuple[Machine, Machine], disturbed: Relay, kills: int
) -> None:
    """No attempt lasts long enough for a whole file, so only resumed ones ever end."""
    near, far = pair
    put(near.models / "a.gguf", OLD)
    dice, killed, copied = random.Random(kills), 0, 0
    wanted, other = NEW, OLD
    put(far.models / "a.gguf", wanted)
    parts = split_model(far.models, 5)
    while killed < kills or wanted is NEW:
        if not Importer(near, "a", "big-00001-of-00003").run(dice.randrange(MIB, 5 * MIB)):
            killed += 1
            found = visible(near.models)
            assert found.pop("a.gguf") in (OLD, NEW)
            assert found in ({}, parts) or "big-00001-of-00003.gguf" not in found
            continue
        assert visible(near.models) == {"a.gguf": wanted, **parts}
        assert hidden(near.models) == []
        copied += SIZE
        wanted, other = other, wanted
        put(far.models / "new", wanted).rename(far.models / "a.gguf")
    # What a kill costs is a part on its way, and what was not yet on the disk and in the journal.
    assert disturbed.sent < 1.05 * (copied + SIZE) + (killed + 2) * 3 * MIB


class FarProcess:
    """``offgrid serve`` that is killed and started again; a relay leads to it."""

    def __init__(self, folder: Path, friend: Machine) -> None:
        self.models = folder / "models"
        self.models.mkdir(parents=True)
        self._folder = folder
        identity = load_identity(folder / "peers", "far")
        self.relay = Relay(1)
        peer = Peer(
            name="far", certificate=identity.certificate, addresses=("127.0.0.1",),
            port=self.relay.port, paired_at=0,
        )  # fmt: skip
        Book(folder / "peers").add(friend.as_peer())
        friend.reach_peer(peer, self.relay.port)  # not where it asks from
        self._child: Child | None = None
        self.dead = threading.Event()

    def start(self) -> None:
        """Start it; it loads no model."""
        self._child = Child(
            program("offgrid"), "serve", "--port", "0", "--models-dir", str(self.models),
            "--responses-file", str(self._folder / "responses.sqlite3"), "--peers",
            "--peers-host", "127.0.0.1", "--peers-port", "0", "--no-peers-discovery",
            "--peers-dir", str(self._folder / "peers"), "--no-config", cwd=self._folder,
        )  # fmt: skip
        self.relay.target = self._child.other_port()
        self.dead.clear()

    def kill_after(self, size: int) -> None:
        """Kill it when it has sent this many more bytes."""
        self.relay.disturb(size, self._kill)

    def _kill(self, data: bytes) -> bytes:
        assert self._child is not None
        self.dead.set()  # first: the import fails as soon as it is dead
        self._child.process.kill()
        return b""

    def end(self) -> None:
        """End it, whatever it does."""
        if self._child is not None:
            self._child.end()


@pytest.fixture
def far_process(shared_pair: tuple[Machine, Machine], tmp_path: Path) -> Iterator[FarProcess]:
    near, _ = shared_pair
    for peer in near.peers.book.all():
        near.peers.book.remove(peer.fingerprint)
    made = FarProcess(tmp_path / "far", near)
    yield made
    made.end()
    made.relay.close()
    near.peers.book.remove(next(p.fingerprint for p in near.peers.book.all() if p.name == "far"))


def imported(near: Machine) -> Json:
    body = {"peer": "far", "ids": ["a"], "replace": True}
    made: Json = request(near.server.url, "POST", "/v1/import", body).json
    return made


@pytest.mark.slow
@pytest.mark.parametrize("kills", FEW_OR_MANY)
def test_the_side_that_serves_is_killed(
    shared_pair: tuple[Machine, Machine], far_process: FarProcess, kills: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    near, far = shared_pair[0], far_process
    monkeypatch.setattr(source, "PART", MIB)
    for path in near.models.iterdir():
        path.unlink()
    put(near.models / "a.gguf", OLD)
    put(far.models / "other.gguf", content(3, 1000))
    put(far.models / "a.gguf", NEW)
    dice, killed, copied, wanted, other = random.Random(kills), 0, 0, NEW, OLD
    far.start()
    while killed < kills:
        far.kill_after(dice.randrange(MIB, 5 * MIB))
        made = imported(near)
        if made["status"] == "failed":
            assert far.dead.is_set(), made
            killed += 1
            far.end()
            assert visible(near.models)["a.gguf"] in (OLD, NEW)
            assert visible(near.models)["a.gguf"] != wanted
            far.start()
            continue
        assert visible(near.models) == {"a.gguf": wanted}
        assert hidden(near.models) == []
        copied += SIZE
        wanted, other = other, wanted
        put(far.models / "new", wanted).rename(far.models / "a.gguf")
    far.relay.disturb(1 << 60, far._kill)
    assert imported(near)["status"] == "completed"
    assert visible(near.models) == {"a.gguf": wanted}
    assert far.relay.sent < 1.05 * (copied + SIZE) + killed * MIB


def begun(url: str) -> str:
    """Begin an import from the other host; return its path."""
    body = {"peer": "b", "ids": ["a"], "background": True}
    made: Json = request(url, "POST", "/v1/import", body).json
    return f"/v1/import/{made['id']}"


def state(url: str, path: str) -> Any:
    return request(url, "GET", path).json


def received(host: Host) -> int:
    """Bytes that a host's cable has brought."""
    return int(host.run("cat", "/sys/class/net/eth0/statistics/rx_bytes").stdout)


@pytest.mark.slow
def test_a_link_that_is_cut(make_lan: Callable[[int], Lan]) -> None:
    """A short cut delays the copy; a long one ends it, and the next import continues."""
    needs_links()
    near, far = make_lan(2).hosts
    pair_hosts(near, far)
    size = 60 * MIB
    data = content(4, size)
    put(far.models / "a.gguf", data)
    far.serve(*peer_flags(far), "--model", "offgrid-starter")
    url = near.serve(*peer_flags(near)).url
    near.limit("50mbit")  # so that the second cut comes long before the end
    path = begun(url)

    def copied() -> int:
        progress = state(url, path)["progress"]
        return int(progress["all_done"]) if progress else 0

    eventually(lambda: copied() > 5 * MIB, "it copies")
    far.cut()
    far.restore()
    eventually(lambda: copied() > 30 * MIB, "it goes on")
    far.cut()
    eventually(lambda: state(url, path)["status"] == "failed", "it gives up")
    (failed,) = state(url, path)["files"]
    assert (failed["code"], "continues" in failed["reason"]) == ("source", True)
    assert visible(near.models) == {}
    far.restore()
    near.unlimit()
    before = received(near)
    path = begun(url)
    eventually(lambda: state(url, path)["status"] == "completed", json.dumps(state(url, path)))
    assert received(near) - before < 35 * MIB
    assert visible(near.models) == {"a.gguf": data}
    assert hidden(near.models) == []
