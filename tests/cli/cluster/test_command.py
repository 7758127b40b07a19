"""``offgrid cluster haproxy``: addresses, options and errors. ``test_keys.py``,
``test_names.py`` and ``test_replicas.py`` run HAProxy."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from processes import run_offgrid

from offgrid.api.openapi.operations import OPERATIONS
from offgrid.cli.cluster import haproxy as text
from offgrid.cli.cluster.haproxy import Machine, Options, configuration
from offgrid.cli.cluster.machines import NoMachines, given, known, parsed

DOCS = Path(__file__).parents[3] / "docs"
THREE = ("10.0.0.1", "10.0.0.2:11700", "[fd00::3]:11611")


def written(*arguments: str) -> str:
    """What the command prints."""
    done = run_offgrid("cluster", "haproxy", "--no-config", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def servers(config: str, backend: str) -> list[str]:
    """The addresses of a backend."""
    section = config.split(f"backend {backend}\n")[1].split("\n\n")[0]
    return re.findall(r"^    server \S+ (\S+) id \d+", section, re.MULTILINE)


def test_the_machines_are_those_that_are_given() -> None:
    config = written(*THREE)
    addresses = ["10.0.0.1:11611", "10.0.0.2:11700", "[fd00::3]:11611"]
    assert servers(config, "spread") == addresses
    assert servers(config, "first") == addresses
    assert "@" not in re.sub(r"^ *#.*", "", config, flags=re.MULTILINE)
    assert max(map(len, re.findall("#.*", config))) <= 100


def test_the_options_are_in_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    config = written(
        "ship.local", "10.0.0.2", "--bind", "10.0.0.9:443", "--balance", "130", "--slots", "7",
        "--tls-cert", str(tmp_path / "a b.pem"), "--machine-ca", "/ca.pem",
        "--admin-socket", "/run/haproxy/admin.sock", "--no-stored-responses",
    )  # fmt: skip
    assert f'bind 10.0.0.9:443 ssl crt "{tmp_path}/a b.pem"' in config
    assert "hash-balance-factor 130" in config
    assert "int(7) if { var(txn.most) -m int lt 7 }" in config
    assert 'ssl verify required ca-file "/ca.pem"' in config
    # Names are compared with the certificate; HAProxy cannot do that with addresses.
    assert config.count("verifyhost ship.local") == 2
    assert config.count("verifyhost") == 2
    assert 'stats socket "/run/haproxy/admin.sock"' in config
    assert "$.store" not in config
    assert "$.store" in written("10.0.0.1")
    done = run_offgrid("cluster", "haproxy", "10.0.0.1", "-o", str(file))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.endswith(": 1 machine\n")
    assert file.read_text() == written("10.0.0.1")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("10.0.0.1:x",), 2, "'10.0.0.1:x' is no address; give one like 10.0.0.1:11611"),
        (("10.0.0.1:70000",), 2, "is no address"),
        (("a\nserver x",), 2, "is no address"),
        (("10.0.0.1", "10.0.0.1:11611"), 2, "10.0.0.1:11611 is given twice"),
        (("[1234]",), 2, "'[1234]' is no address"),
        (("10.0.0.1", "--admin-socket", "/a,b"), 2, "takes no path with a comma: /a,b"),
        (("10.0.0.1", "--dns"), 2, "--dns is for machines with names"),
        (("10.0.0.1", "--bind", "x"), 2, "--bind: 'x' is no address"),
        (("fd00::1",), 2, "is no address; give one like 10.0.0.1:11611 or [fd00::1]:11611"),
        (("10.0.0.1", "--bind", ":70000"), 2, "--bind: ':70000' is no address"),
        (("10.0.0.1", "--api-port", "80"), 2, "--api-port is for peers; give the port with each"),
        (("10.0.0.1", "--balance", "100"), 2, "100 is not in the range"),
        (("10.0.0.1", "--machine-ca", "a\nb"), 2, "--machine-ca: a path with control characters"),
        (("10.0.0.1", "-o", "/no/such/folder"), 1, "No such file or directory"),
        (("--url", "http://127.0.0.1:1"), 1, "no server answers at http://127.0.0.1:1"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], status: int, said: str) -> None:
    done = run_offgrid("cluster", "haproxy", *arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_dns_is_asked_for_names_only() -> None:
    config = written("ship.local", "10.0.0.2", "--dns")
    lines = re.findall(r"^    server (\S+) .* resolvers dns ", config, re.MULTILINE)
    assert lines == ["ship.local:11611"] * 2
    # A name server that does not answer takes no machine away.
    assert "\nresolvers dns\n    parse-resolv-conf\n    hold timeout 20d\n" in config
    assert "resolvers" not in written("ship.local", "10.0.0.2")


def test_a_place_on_the_ring_depends_on_the_address_only() -> None:
    machines = given(THREE)
    ids = dict(zip(machines, text._ids(machines), strict=True))
    for order in (machines[::-1], machines[1:]):
        assert text._ids(order) == [ids[machine] for machine in order]
    # HAProxy multiplies each by 4,096, in 32 bits.
    assert all(0 < id * 4096 < 2**32 for id in ids.values())
    twins = [machines[0], Machine("other", machines[0].host, machines[0].port)]
    assert len(set(text._ids(twins))) == 2


def test_paths_cannot_change_the_configuration() -> None:
    config = configuration([parsed("10.0.0.1")], Options(certificate='/a"b\\c$HOME@tls@.pem'))
    assert '"/a\\"b\\\\c\\$HOME@tls@.pem"' in config


def test_every_endpoint_is_spread_or_for_one_machine() -> None:
    """A new one has to be added to a list of the module, or here."""
    spread = {
        *text.CHATS, *text.INPUTS, *text.RESPONSES, *text.TEXTS, *text.EDITORS, *text.SINGLES,
    }  # fmt: skip
    posts = {one.path for one in OPERATIONS if one.method.upper() == "POST"}
    assert spread <= posts
    one_machine = (
        "/api/(blobs/.*|copy|create|delete|pull|push|show)", "/props", "/slots/.*",
        "/v1/(conversations|export|history|import|keys|models|peers)(/.*)?",
        "/v1/responses/(compact|.*/cancel)",
    )  # fmt: skip
    assert [
        path for path in posts - spread
        if not any(re.fullmatch(pattern, path) for pattern in one_machine)
    ] == []  # fmt: skip


def test_the_page_says_what_the_configuration_does() -> None:
    page = " ".join((DOCS / "CLUSTER.md").read_text(encoding="utf-8").split())
    table = page.split("| Requests | Recognised by |")[1].split("**What is stored**")[0]
    named = set(re.findall(r"`(/[^`]+)`", table))
    for paths in (text.CHATS, text.RESPONSES, text.INPUTS, text.TEXTS, text.EDITORS):
        assert named & set(paths)
    assert set(text.TEXTS) | set(text.INPUTS) | set(text.EDITORS) <= named
    assert f"the first {text.TEXT:,} bytes" in table
    assert f"the first {text.BUFFER // 1024} KiB of a request" in page
    assert f"the first {text.RAW // 1024} KiB of the messages" in page
    assert text.MESSAGES == 3
    assert "at most the first three" in page
    assert text.RETRIES == 2
    assert "sent to another machine, up to twice" in page
    assert text.EXPIRE == "2h"
    assert "remembers this for two hours" in page


def test_the_service_uses_the_files_of_the_page() -> None:
    page = (DOCS / "CLUSTER.md").read_text(encoding="utf-8")
    unit = (DOCS / "deployment" / "offgrid-cluster.service").read_text(encoding="utf-8")
    assert "deployment/offgrid-cluster.service" in page
    assert "-o /etc/offgrid/cluster.cfg" in page
    assert unit.count("-f /etc/offgrid/cluster.cfg") == 3
    assert "--admin-socket /run/offgrid-cluster/admin.sock" in page
    assert "RuntimeDirectory=offgrid-cluster\n" in unit


@pytest.mark.slow
def test_systemd_accepts_the_service() -> None:
    if shutil.which("systemd-analyze") is None or not Path("/usr/sbin/haproxy").exists():
        pytest.skip("needs systemd-analyze and haproxy")
    unit = DOCS / "deployment" / "offgrid-cluster.service"
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


PEER = {
    "id": "b" * 8, "name": "Ship's box", "addresses": ["127.0.0.1"], "port": 11612,
    "paired": True, "version": "1", "models": [{"id": "one"}, {"id": "two"}],
}  # fmt: skip


def answer(*peers: dict[str, Any]) -> dict[str, Any]:
    """An answer of ``GET /v1/peers``."""
    return {
        "self": {"id": "a" * 8, "name": "home", "addresses": [], "port": 11612},
        "data": [*peers],
    }


def test_the_peers_of_the_running_server() -> None:
    warnings: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as api:
        port = api.getsockname()[1]
        told = answer(PEER, {**PEER, "paired": False})
        told["self"]["addresses"] = ["fe80::1%lo", "127.0.0.1"]
        machines = known(told, f"http://localhost:{port}", None, warnings.append)
    assert machines == [
        Machine("home", "127.0.0.1", port),
        Machine("Ship-s-box", "127.0.0.1", port),
    ]
    assert warnings == []


def test_the_peers_have_another_port() -> None:
    """Which is not that of the running server."""
    warnings: list[str] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as own,
        socket.create_server(("127.0.0.1", 0)) as api,
    ):
        port, peers_port = own.getsockname()[1], api.getsockname()[1]
        told = answer(PEER)
        told["self"]["addresses"] = ["127.0.0.1"]
        machines = known(told, f"http://127.0.0.1:{port}", peers_port, warnings.append)
    assert [machine.port for machine in machines] == [port, peers_port]
    assert warnings == []
    url = "https://ship.example"
    assert [machine.port for machine in known(answer(PEER), url, peers_port, warnings.append)] == [
        443, peers_port,
    ]  # fmt: skip


def test_a_server_that_answers_on_loopback_only() -> None:
    warnings: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as api:
        port = api.getsockname()[1]
        machines = known(answer(PEER), f"http://localhost:{port}", None, warnings.append)
    assert [machine.host for machine in machines] == ["localhost", "127.0.0.1"]
    assert len(warnings) == 1
    assert f"the running server answers only at localhost, port {port}, so" in warnings[0]
    assert "run 'offgrid serve' with --host 0.0.0.0" in warnings[0]


def test_addresses_with_a_zone_are_left_out() -> None:
    """Also if nothing answers at the others."""
    warnings: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    peer = {**PEER, "addresses": ["fe80::1%lo", "127.0.0.1", "fe80::2%lo"]}
    machines = known(answer(peer), f"http://home.example:{port}", None, warnings.append)
    assert [machine.host for machine in machines] == ["home.example", "127.0.0.1"]
    assert len(warnings) == 1
    assert f"no API answers at 127.0.0.1, port {port}, of the peer" in warnings[0]


def test_peers_whose_api_does_not_answer() -> None:
    warnings: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    other = {**PEER, "id": "c" * 8, "name": "home", "models": [{"id": "one"}]}
    unknown = {**PEER, "id": "d" * 8, "name": "away", "models": [], "version": None}
    machines = known(answer(PEER, other, unknown), "http://127.0.0.1:11611", port, warnings.append)
    # Two have the same name, so their addresses are their names.
    assert "home" not in [machine.name for machine in machines]
    assert sum("run 'offgrid serve' there with --host 0.0.0.0" in one for one in warnings) == 3
    assert sum("the running server answers only at 127.0.0.1" in one for one in warnings) == 1
    assert [one for one in warnings if "models" in one] == [
        "the peer home has not all models of the others: two"
    ]


@pytest.mark.parametrize(
    ("peers", "url", "said"),
    [
        (answer(), "http://127.0.0.1:1", "has no peers"),
        (answer(PEER), "unix:/run/offgrid.sock", "has no TCP port"),
        (answer({**PEER, "addresses": []}), "http://127.0.0.1:1", "no address of the peer"),
        (answer({**PEER, "addresses": ["fe80::1%lo"]}), "http://127.0.0.1:1", "HAProxy can use"),
        (answer(PEER), "http://[fe80::1%25lo]:1", "because it has a zone"),
    ],
)
def test_peers_that_cannot_be_used(peers: dict[str, Any], url: str, said: str) -> None:
    with pytest.raises(NoMachines, match=said):
        known(peers, url, None, lambda message: None)
