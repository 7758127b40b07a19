"""Which machines the setting ``rpc_servers`` names."""

from __future__ import annotations

from pathlib import Path

import pytest
from rpc_workers import pair

from offgrid.collaborators import make_collaborators
from offgrid.config import Settings, load_settings
from offgrid.errors import ConfigError
from offgrid.peers.book import Book
from offgrid.peers.identity import load_identity
from offgrid.peers.rpc import rpc_servers, warn_of_rpc_servers


def settings(folder: Path, *servers: str) -> Settings:
    flags = {"peers_dir": str(folder / "here" / "peers"), "rpc_servers": ",".join(servers)}
    return load_settings(flags, config_file="")


def test_a_peer_is_reached_with_the_certificates_of_the_pairing(tmp_path: Path) -> None:
    here, far = tmp_path / "here" / "peers", tmp_path / "far" / "peers"
    pair(here, far)
    identity = load_identity(here)
    peer = Book(here).find("far")
    assert peer is not None
    for text, port in (("far", 11613), (peer.id, 11613), ("far:4711", 4711)):
        [server] = rpc_servers(settings(tmp_path, text))
        assert (server.name, server.port, server.addresses) == ("far", port, ("127.0.0.1",))
        assert server.is_peer
        assert server.certificate == load_identity(far).certificate
        assert Path(server.cert_file) == identity.certificate_file
        assert Path(server.key_file) == identity.key_file


def test_all_peers_can_be_named_together(tmp_path: Path) -> None:
    assert rpc_servers(settings(tmp_path, "peers")) == []
    for name in ("far", "near"):
        pair(tmp_path / "here" / "peers", tmp_path / name / "peers")
    found = rpc_servers(settings(tmp_path, "peers", "127.0.0.1:50052"))
    assert [one.name for one in found] == ["far", "near", "127.0.0.1:50052"]


def test_a_server_that_is_named_twice_is_one(tmp_path: Path) -> None:
    pair(tmp_path / "here" / "peers", tmp_path / "far" / "peers")
    names = ("peers", "far", "FAR:11613", "127.0.0.1:50052", "localhost:50052")
    found = rpc_servers(settings(tmp_path, *names))
    assert [(one.is_peer, one.port) for one in found] == [(True, 11613), (False, 50052)]
    # Another port is another program.
    assert len(rpc_servers(settings(tmp_path, "peers", "far:4711"))) == 2


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_the_port_of_a_peer_must_exist(tmp_path: Path, port: str) -> None:
    pair(tmp_path / "here" / "peers", tmp_path / "far" / "peers")
    with pytest.raises(ConfigError, match=f"'far:{port}' has no port from 1 to 65535"):
        rpc_servers(settings(tmp_path, f"far:{port}"))


def test_a_port_of_this_machine_is_used_without_tls(tmp_path: Path) -> None:
    names = ("127.0.0.1:50052", "localhost:50053", "127.8.0.1:1")
    found = rpc_servers(settings(tmp_path, *names))
    assert [(one.name, one.addresses, one.port, one.is_peer) for one in found] == [
        ("127.0.0.1:50052", ("127.0.0.1",), 50052, False),
        ("localhost:50053", ("127.0.0.1",), 50053, False),
        ("127.8.0.1:1", ("127.8.0.1",), 1, False),
    ]


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("192.168.1.7:50052", "is not on this machine"),
        ("strong.example:50052", "is not on this machine"),
        ("0.0.0.0:50052", "is not on this machine"),
        ("127.0.0.1:0", "no port from 1 to 65535"),
        ("127.0.0.1:x", "no port from 1 to 65535"),
        ("strong", "is not a peer"),
    ],
)
def test_others_are_refused_with_the_reason(tmp_path: Path, server: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rpc_servers(settings(tmp_path, server))


@pytest.mark.parametrize("server", ["strong", "192.168.1.7:50052", "127.0.0.1:x"])
def test_the_log_tells_what_is_wrong_although_no_model_needs_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    given = settings(tmp_path, server)
    reloads = make_collaborators(given).reloads
    reloads.reload(given)
    [started, reloaded] = [one.message for one in caplog.records if "rpc_servers" in one.message]
    assert started == reloaded
    assert f"rpc_servers: '{server}'" in started
    caplog.clear()
    warn_of_rpc_servers(settings(tmp_path, "127.0.0.1:50052"))
    assert not caplog.records


def test_more_than_llama_cpp_takes_are_refused(tmp_path: Path) -> None:
    names = [f"127.0.0.1:{port}" for port in range(1, 18)]
    assert len(rpc_servers(settings(tmp_path, *names[:16]))) == 16
    with pytest.raises(ConfigError, match="at most 16"):
        rpc_servers(settings(tmp_path, *names))


def test_none_are_read_without_the_setting(tmp_path: Path) -> None:
    assert rpc_servers(settings(tmp_path)) == []
    assert not (tmp_path / "here").exists()
