"""Where the server listens: Unix sockets, sockets of systemd, addresses of this machine."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import lasting
import pytest
from click.testing import CliRunner
from lasting import write_lasting
from processes import Child, models_flags, program
from support import STARTER, TIMEOUT, chat_body, eventually
from variants import few

from offgrid import __version__, addresses, listening
from offgrid.cli import main
from offgrid.config import load_settings
from offgrid.errors import ConfigError
from offgrid.listening import ListeningSocket, PortTaken, listen, listen_unix
from offgrid.server import Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no Unix sockets")
Make = Callable[..., Server]


def client(path: Path | str) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(path))
    return httpx.Client(transport=transport, base_url="http://localhost", timeout=TIMEOUT)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- Unix sockets ---------------------------------------------------------------------------------


def test_a_server_on_a_unix_socket(make_server: Make, tmp_path: Path) -> None:
    path = tmp_path / "offgrid.sock"
    server = make_server(socket=str(path))
    assert (server.url, server.port, mode(path)) == (f"unix:{path}", 0, 0o600)
    assert server.other_urls() == []
    assert server.page_urls() == []  # no browser opens a Unix socket
    with client(path) as asking:
        assert asking.get("/health").status_code == 200
        answer = asking.post("/v1/chat/completions", json=chat_body(max_tokens=2))
        assert answer.status_code == 200
        body = chat_body(max_tokens=2, stream=True)
        with asking.stream("POST", "/v1/chat/completions", json=body) as stream:
            assert list(stream.iter_lines())[-2] == "data: [DONE]"
        assert asking.get("/health", headers={"Host": "evil.example"}).status_code == 403
    config = tmp_path / "offgrid.toml"
    config.write_text(f'socket = "{path}"\n')
    for flags in (["--config", str(config)], ["--no-config", "--url", f"unix:{path}"]):
        shown = CliRunner().invoke(main, ["ps", "--json", *flags])
        assert json.loads(shown.output)["models"][0]["id"] == STARTER
    launched = CliRunner().invoke(main, ["launch", "aider", "--config", str(config)])
    assert launched.exit_code == 2
    assert "cannot use a Unix socket" in launched.output
    server.stop()
    assert not path.exists()


def test_the_server_notices_that_a_client_of_a_unix_socket_has_left(
    make_server: Make, tmp_path: Path
) -> None:
    write_lasting(tmp_path)
    server = make_server(
        socket=str(tmp_path / "offgrid.sock"), ctx_size=lasting.CONTEXT, drafts=False, parallel=1
    )
    with (
        client(tmp_path / "offgrid.sock") as asking,
        asking.stream("POST", "/v1/completions", json=lasting.BODY) as stream,
    ):
        next(stream.iter_lines())
    engine = server.pool.engine("lasting")
    eventually(lambda: engine.in_flight == 0, "the generation has ended")


@pytest.mark.parametrize(("wanted", "given"), [("600", 0o600), ("660", 0o660), ("666", 0o666)])
def test_who_may_connect(tmp_path: Path, wanted: str, given: int) -> None:
    before = os.umask(0o077)
    try:
        flags = {"socket": str(tmp_path / "a.sock"), "socket_mode": wanted}
        listener = ListeningSocket(load_settings(flags, environ={}))
        assert mode(tmp_path / "a.sock") == given
        listener.close()
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)


def test_the_file_of_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    listen_unix(path, 0o600).close()
    assert path.exists()
    with listen_unix(path, 0o600), pytest.raises(PortTaken, match="listens there already"):
        listen_unix(path, 0o600)
    assert path.exists()


@pytest.mark.parametrize("backlog", [0, 1])
def test_a_server_that_is_too_busy_to_accept_is_not_replaced(tmp_path: Path, backlog: int) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(backlog)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(backlog + 1)]
        for one in clients:
            one.connect(str(path))
        with pytest.raises(PortTaken, match="listens there already"):
            listen_unix(path, 0o600)
        for one in clients:
            one.close()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("text")
    with pytest.raises(PortTaken, match="a file with this name exists"):
        listen_unix(file, 0o600)
    (tmp_path / "link").symlink_to(file)
    with pytest.raises(PortTaken, match="a file with this name exists"):
        listen_unix(tmp_path / "link", 0o600)
    assert file.read_text() == "text"
    with pytest.raises(PortTaken, match="No such file or directory"):
        listen_unix(tmp_path / "absent" / "a.sock", 0o600)
    with pytest.raises(PortTaken, match="choose a shorter path"):
        listen_unix(tmp_path / ("long" * 40), 0o600)


def test_the_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    settings = load_settings({"socket": str(tmp_path / "a.sock")}, environ={})
    first = ListeningSocket(settings)
    (tmp_path / "a.sock").rename(tmp_path / "old.sock")
    second = ListeningSocket(settings)
    first.close()
    assert (tmp_path / "a.sock").exists()
    second.close()
    assert not (tmp_path / "a.sock").exists()


@pytest.mark.slow
def test_the_banner_of_a_unix_socket_and_its_end(tmp_path: Path) -> None:
    models, path = tmp_path / "models", tmp_path / "off grid.sock"
    models.mkdir()
    child = Child(
        program("offgrid"), "serve", "--socket", str(path), *models_flags(models), cwd=tmp_path
    )
    try:
        assert child.url == f"unix:{path}"
        shown = child.out.find(r"try +curl (.*)\n")[1]
        assert shown.startswith(f"--unix-socket '{path}' http://localhost/v1/chat/completions -d ")
        with client(path) as asking:
            assert asking.get("/health").status_code == 200
        child.process.terminate()
        assert child.wait() == 0
        assert not path.exists()
    finally:
        child.end()


# --- sockets that are passed on -------------------------------------------------------------------

SERVE = """
import os, socket, subprocess, sys
kind, *command = sys.argv[1:]
if kind == "unix":
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("passed.sock")
else:
    sock = socket.socket()
    sock.bind((kind, 0))
sock.listen()
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.execv(command[0], command)
"""
"""Starts a program as systemd does, with a listening socket as descriptor 3."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", few(1, ["127.0.0.1", "unix"]))
def test_a_socket_of_systemd(tmp_path: Path, kind: str) -> None:
    models = tmp_path / "models"
    models.mkdir()
    served = (program("offgrid"), "serve", "--socket", "fd:3", *models_flags(models))
    child = Child(sys.executable, "-c", SERVE, kind, *served, cwd=tmp_path)
    try:
        url = child.wait_ready()
        if kind == "unix":
            with client(tmp_path / "passed.sock") as asking:
                assert asking.get("/health").status_code == 200
        else:
            assert httpx.get(f"{url}/health", timeout=TIMEOUT).status_code == 200
        child.process.terminate()
        assert child.wait() == 0
        # It belongs to systemd, which keeps it.
        assert kind != "unix" or (tmp_path / "passed.sock").exists()
    finally:
        child.end()


def test_a_socket_of_systemd_that_others_reach_needs_permission(tmp_path: Path) -> None:
    """E5: the address of the socket counts, not the setting host."""
    models = tmp_path / "models"
    models.mkdir()
    served = (program("offgrid"), "serve", "--socket", "fd:3", *models_flags(models))
    ended = subprocess.run(
        [sys.executable, "-c", SERVE, "0.0.0.0", *served],
        cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "'0.0.0.0' would let other machines use this server without" in ended.stderr


def test_descriptors_that_are_no_listening_sockets(tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file, socket.socket() as idle:
        for number in (file.fileno(), idle.fileno(), 12345, "x", "-1", "9" * 30, ""):
            with pytest.raises(ConfigError, match=r"OFFGRID_SOCKET \(--socket\)"):
                ListeningSocket(load_settings({"socket": f"fd:{number}"}, environ={}))
        file.write("still open")
        assert idle.fileno() >= 0
        idle.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)


# --- addresses ------------------------------------------------------------------------------------


def test_a_remote_address_without_a_key_is_refused(tmp_path: Path) -> None:
    """E5: exit status 2, and the message names both ways."""
    models = tmp_path / "models"
    models.mkdir()
    for host in ("0.0.0.0", "::"):
        command = [program("offgrid"), "serve", "--port", "0", "--host", host]
        ended = subprocess.run(
            [*command, *models_flags(models)], capture_output=True, text=True, timeout=TIMEOUT
        )
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "offgrid keys create" in ended.stderr
        assert "--insecure" in ended.stderr


def test_a_remote_address_shows_its_urls_and_knows_its_names(make_server: Make) -> None:
    server = make_server(host="0.0.0.0", insecure=True)
    assert server.url == f"http://127.0.0.1:{server.port}"
    name = socket.gethostname()
    for host, status in (
        (name, 200), (f"{name.partition('.')[0]}.local", 200), ("192.0.2.9", 200),
        (name.upper(), 200), ("evil.example", 403), (f"{name}.evil.example", 403),
    ):  # fmt: skip
        answer = httpx.get(f"{server.url}/health", headers={"Host": host}, timeout=TIMEOUT)
        assert answer.status_code == status, host
        assert status == 200 or "--allowed-hosts" in answer.json()["error"]["message"]
    others = server.other_urls()
    if others:  # a machine without a network has none
        assert others[-1] == f"http://{name.partition('.')[0].lower()}.local:{server.port}"
    assert not any("127.0.0.1" in other for other in others)
    assert server.page_urls() == [f"{address}/ui" for address in (server.url, *others)]
    assert make_server(ui=False).page_urls() == []


def test_a_server_for_this_machine_knows_no_other_names(make_server: Make) -> None:
    server = make_server()
    assert server.other_urls() == []
    for host in (socket.gethostname(), "192.0.2.9"):
        if host != "localhost":
            answer = httpx.get(f"{server.url}/health", headers={"Host": host}, timeout=TIMEOUT)
            assert answer.status_code == 403


def test_interfaces_of_containers_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    class State:
        isup = True

    def address(text: str, family: int = socket.AF_INET) -> object:
        return type("Address", (), {"family": family, "address": text})()

    six = socket.AF_INET6
    found = {
        "lo": [address("127.0.0.1"), address("::1", six)],
        "docker0": [address("172.17.0.1")],
        "br-1a2b": [address("172.18.0.1")],
        "wlan0": [address("192.0.2.5"), address("fe80::1%wlan0", six), address("2001:db8::5", six)],
        "eth1": [address("198.51.100.7")],
        "down0": [address("203.0.113.1")],
    }
    monkeypatch.setattr(addresses.psutil, "net_if_addrs", lambda: found)
    up = {name: State() for name in found if name != "down0"}
    monkeypatch.setattr(addresses.psutil, "net_if_stats", lambda: up)
    monkeypatch.setattr(addresses.socket, "gethostname", lambda: "Ship.Example")
    assert addresses.own_names() == {"ship.example", "ship", "ship.local"}
    assert addresses.urls("http", "0.0.0.0", 1) == [
        "http://192.0.2.5:1", "http://198.51.100.7:1", "http://172.17.0.1:1",
        "http://172.18.0.1:1", "http://ship.local:1",
    ]  # fmt: skip
    assert "https://[2001:db8::5]:2" in addresses.urls("https", "::", 2)
    assert addresses.urls("http", "192.0.2.5", 3) == ["http://192.0.2.5:3"]


def test_the_port_of_a_tcp_socket() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port)


# --- Ollama's port --------------------------------------------------------------------------------


@pytest.fixture
def free_port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port in place of Ollama's: a program of the person who runs the tests may use that."""
    with listen("127.0.0.1", 0) as sock:
        port = int(sock.getsockname()[1])
    monkeypatch.setattr(listening, "OLLAMA_PORT", port)
    return port


def test_a_server_on_the_port_of_ollama_too(make_server: Make, free_port: int) -> None:
    server = make_server(ollama=True)
    assert server.ollama_url == f"http://127.0.0.1:{free_port}"
    assert server.port != free_port
    for url in (server.url, server.ollama_url):
        assert httpx.get(f"{url}/api/version").json() == {"version": __version__}
        body = chat_body(options={"num_predict": 1})
        lines = httpx.post(f"{url}/api/chat", json=body, timeout=TIMEOUT).text.splitlines()
        assert json.loads(lines[-1])["done_reason"] == "length"
    evil = httpx.get(f"{server.ollama_url}/api/tags", headers={"Host": "evil.example"})
    assert evil.status_code == 403
    assert evil.json().keys() == {"error"}
    server.stop()
    for url in (server.url, server.ollama_url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)


def test_the_port_of_ollama_beside_a_unix_socket(
    make_server: Make, tmp_path: Path, free_port: int
) -> None:
    server = make_server(ollama=True, socket=str(tmp_path / "a.sock"))
    assert server.url.startswith("unix:")
    assert httpx.get(f"http://127.0.0.1:{free_port}/health").json() == {"status": "healthy"}


def test_the_port_of_ollama_is_taken(tmp_path: Path, free_port: int) -> None:
    flags = {"port": 0, "models_dir": tmp_path, "default_model": STARTER, "ollama": True}
    with listen("127.0.0.1", free_port), pytest.raises(PortTaken) as refused:
        Server(load_settings(flags, environ={}))
    assert f"cannot listen on 127.0.0.1:{free_port}" in str(refused.value)
    assert "leave out --ollama" in str(refused.value)


def test_the_usual_port_may_be_that_of_ollama(make_server: Make, free_port: int) -> None:
    server = make_server(port=free_port, ollama=True)
    assert server.ollama_url is None
    assert httpx.get(f"{server.url}/api/version").status_code == 200


def test_the_port_of_ollama_needs_a_key_for_other_machines(tmp_path: Path) -> None:
    flags = {"host": "0.0.0.0", "socket": str(tmp_path / "a.sock"), "ollama": True}
    given = {"models_dir": tmp_path, "default_model": STARTER, **flags}
    with pytest.raises(ConfigError, match="offgrid keys create"):
        Server(load_settings(given, environ={}))
