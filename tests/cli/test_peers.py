"""``offgrid peers pair`` and ``offgrid peers forget``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from keyed import new_key
from machines import Machine
from processes import Child, program

from offgrid.cli import main
from offgrid.cli.peers import pairing
from offgrid.server import Server

Make = Callable[..., Machine]


@pytest.fixture
def make(make_server: Callable[..., Server], tmp_path: Path) -> Make:
    """Start servers with peers."""

    def make(name: str, **flags: Any) -> Machine:
        folder = tmp_path / name
        (folder / "models").mkdir(parents=True)
        given = {
            "models_dir": folder / "models", "responses_file": folder / "responses.sqlite3",
            "peers": True, "peers_host": "127.0.0.1", "peers_port": 0, "peers_name": name,
            "peers_discovery": False, **flags,
        }  # fmt: skip
        return Machine(make_server(**given))

    return make


def call(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["peers", *arguments], env={"OFFGRID_PORT": "0", **environ})


@pytest.fixture
def shows(make: Make, tmp_path: Path) -> Iterator[Callable[[Machine], Child]]:
    """Start the command that shows a code, as a user does."""
    children = []

    def start(machine: Machine) -> Child:
        at = ("--url", machine.server.url)
        children.append(Child(program("offgrid"), "peers", "pair", *at, cwd=tmp_path))
        return children[-1]

    yield start
    for child in children:
        child.end()


def test_two_machines_pair(make: Make, shows: Callable[[Machine], Child]) -> None:
    near, far = make("near"), make("far")
    showing = shows(far)
    code = showing.out.find(r"^(\d{4}-\d{4})$")[1]
    address = f"127.0.0.1:{far.peers.port}"
    assert f"offgrid peers pair {address} {code}" in showing.err.find(r".*offgrid peers pair.*")[0]
    done = call("pair", address, code, "--url", near.server.url)
    assert (done.exit_code, done.stdout) == (0, f"paired with far ({far.peers.identity.id})\n")
    assert showing.wait() == 0
    assert f"paired with near ({near.peers.identity.id})" in showing.out.text
    assert far.peers.desk.state().state == "paired"
    gone = call("forget", "far", "--url", near.server.url)
    assert (gone.exit_code, gone.stdout) == (0, f"forgot far ({far.peers.identity.id})\n")
    again = call("forget", "far", "--url", near.server.url)
    assert again.exit_code == 1
    assert "No peer has this id or name" in again.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_ctrl_c_closes_the_code(make: Make, shows: Callable[[Machine], Child]) -> None:
    far = make("far")
    showing = shows(far)
    showing.err.find("Ctrl-C closes the code")
    assert far.peers.desk.is_open
    showing.process.send_signal(signal.SIGINT)
    assert showing.wait() == 130
    assert far.peers.desk.state().state == "closed"


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("close", "the code was closed; no machine was paired"),
        ("open", "has opened a newer code"),
        ("expire", "the code has expired"),
        ("lock", "pairing is locked for ten minutes"),
    ],
)
def test_a_code_that_ends(make: Make, monkeypatch: pytest.MonkeyPatch, end: str, said: str) -> None:
    far = make("far")
    desk = far.peers.desk

    def meanwhile(seconds: float) -> None:
        """Happens while the command waits."""
        if end == "close":
            desk.close()
        elif end == "open":
            desk.open()
        else:
            desk._end("expired" if end == "expire" else "locked")

    monkeypatch.setattr(pairing.time, "sleep", meanwhile)
    done = call("pair", "--url", far.server.url)
    assert done.exit_code == 1
    assert said in done.stderr


@pytest.mark.slow
def test_a_wrong_code(make: Make) -> None:
    near, far = make("near"), make("far")
    code, _ = far.peers.desk.open()
    typed = f"{(int(code) + 1) % 10**8:08}"
    address = f"127.0.0.1:{far.peers.port}"
    done = call("pair", address, typed, "--url", near.server.url)
    assert done.exit_code == 1
    assert "The code is wrong" in done.stderr
    assert typed not in done.stderr


@pytest.mark.parametrize("arguments", [("pair", "10.0.0.1"), ("forget",), ("pair", "a", "b", "c")])
def test_wrong_arguments(arguments: tuple[str, ...]) -> None:
    assert call(*arguments, "--url", "http://127.0.0.1:9").exit_code == 2


@pytest.mark.parametrize(
    "arguments", [("pair",), ("pair", "10.0.0.1", "12345678"), ("forget", "x")]
)
def test_what_prevents_it(
    base_url: str, make: Make, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    nothing = call(*arguments, "--url", "http://127.0.0.1:9")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert "no server answers at http://127.0.0.1:9; start one with offgrid serve" in nothing.stderr
    off = call(*arguments, "--url", base_url)
    assert (off.exit_code, off.stdout) == (1, "")
    assert "Peers are off on this server" in off.stderr
    assert "OFFGRID_PEERS=true" in off.stderr


@pytest.mark.slow
def test_keys(make: Make, tmp_path: Path) -> None:
    keys = tmp_path / "keys.sqlite3"
    small, right = new_key(keys, "small", "inference")[1], new_key(keys, "right", "peers")[1]
    url = make("near", keys_file=keys).server.url
    none = call("forget", "x", "--url", url)
    assert none.exit_code == 1
    assert "give a key with OFFGRID_API_KEY or --api-key" in none.stderr
    refused = call("forget", "x", "--url", url, "--api-key", small)
    assert "peers" in refused.stderr
    assert "No peer has this id" in call("forget", "x", "--url", url, OFFGRID_API_KEY=right).stderr


def test_an_older_server(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "PAIR", "/v1/none")
    done = call("pair", "--url", base_url)
    assert done.exit_code == 1
    assert "is older and has no peers" in done.stderr
