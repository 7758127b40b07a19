"""Messages to systemd, received by a socket like systemd's."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import serving
from support import TIMEOUT, eventually, request

from offgrid.service import notify

if sys.platform == "win32":
    pytest.skip("no such sockets", allow_module_level=True)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket that gets the messages. A path of pytest may be too long for one."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        sock.bind(f"{folder}/notify")
        sock.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        yield sock


def next_of(manager: socket.socket) -> list[str]:
    return manager.recv(4096).decode().split("\n")


def test_messages(manager: socket.socket) -> None:
    notify.ready()
    assert next_of(manager) == ["READY=1"]
    notify.reloading()
    first, second = next_of(manager)
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdigit()
    notify.stopping()
    assert next_of(manager) == ["STOPPING=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
def test_an_abstract_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"offgrid-test-{os.getpid()}"
        sock.bind(f"\0{name}")
        sock.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify.notify("READY=1")
        assert next_of(sock) == ["READY=1"]


@pytest.mark.parametrize("name", ["", "relative", "vsock:1:2", "/no/such/socket"])
def test_without_a_manager(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing is sent, and nothing fails."""
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not notify.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert not notify.notify("READY=1")


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({}, None),
    ],
)
def test_how_often_systemd_wants_a_sign_of_life(
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    seconds: float | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_interval() == seconds
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert notify.watchdog_interval() is None


def test_a_loop_that_hangs_gives_no_sign_of_life(manager: socket.socket) -> None:
    """A5: the signs stop with the loop, and come again when it goes on."""
    hangs = threading.Event()
    kept: list[Callable[[], None]] = []

    def in_loop(function: Callable[[], None]) -> None:
        if hangs.is_set():
            kept.append(function)
        else:
            function()

    beat = notify.Heartbeat(in_loop, 0.01)
    beat.start()
    try:
        for _ in range(3):
            assert next_of(manager) == ["WATCHDOG=1"]
        hangs.set()
        eventually(lambda: bool(kept), "the loop is asked")
        manager.setblocking(False)
        while True:  # what was sent before it hung
            try:
                next_of(manager)
            except BlockingIOError:
                break
        asked = len(kept)
        eventually(lambda: len(kept) > asked + 3, "it is asked again and again")
        with pytest.raises(BlockingIOError):
            next_of(manager)
        hangs.clear()
        manager.settimeout(TIMEOUT)
        assert next_of(manager) == ["WATCHDOG=1"]
    finally:
        beat.stop()


@pytest.mark.slow
def test_a_server_tells_what_it_does(manager: socket.socket, tmp_path: Path) -> None:
    with serving(tmp_path, WATCHDOG_USEC="100000") as child:
        url = child.url
        assert next_of(manager) == ["READY=1"]
        assert request(url, "GET", "/health").status == 200
        assert next_of(manager) == ["WATCHDOG=1"]
        os.kill(child.process.pid, signal.SIGHUP)
        seen: list[str] = []
        eventually(lambda: seen.extend(next_of(manager)) or "READY=1" in seen, "it has reloaded")  # type: ignore[func-returns-value]
        assert seen.index("RELOADING=1") < seen.index("READY=1")
        child.process.terminate()
        eventually(lambda: "STOPPING=1" in next_of(manager), "it says that it ends")
        assert child.wait() == 0
