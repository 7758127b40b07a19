"""``GET /v1/peers``, ``/v1/peers/{id}``, and ``offgrid peers list``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from documented import Documented
from full_requests import peer_requests
from machines import Machine
from support import STARTER, eventually, request

from offgrid import __version__
from offgrid.api.openapi.document import document
from offgrid.cli import main
from offgrid.server import Server

SCHEMAS = Documented(document())
FALSE = "f" * 16


def listed(machine: Machine) -> dict[str, Any]:
    answer = request(machine.server.url, "GET", "/v1/peers")
    assert answer.status == 200
    SCHEMAS.check(answer, "get", "/v1/peers")
    return answer.json


def connected(machine: Machine) -> dict[str, Any]:
    """The list, as soon as its first peer is connected."""
    eventually(lambda: listed(machine)["data"][0]["state"] == "connected", "the peer is connected")
    return listed(machine)


def test_a_peer_is_listed_with_all_that_it_says(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far", parallel=3)
    near.know(far)
    answer = connected(near)
    own = near.peers.identity
    assert answer["self"] == {
        "id": own.id, "name": "near", "version": __version__, "addresses": ["127.0.0.1"],
        "port": near.peers.port, "fingerprint": own.fingerprint,
    }  # fmt: skip
    (row,) = answer["data"]
    (entry,) = far.server.catalogue.entries()
    assert (row["id"], row["name"]) == (far.peers.identity.id, "far")
    assert (row["version"], row["paired"], row["problem"]) == (__version__, True, None)
    assert [(model["id"], model["size"]) for model in row["models"]] == [(entry.id, entry.size)]
    assert row["slots"]["free"] <= row["slots"]["total"] <= 3
    assert (row["addresses"], row["port"]) == (["127.0.0.1"], far.peers.port)
    assert (row["models_allowed"], row["limits"]["max_tokens"]) == (None, None)
    assert answer["pairing"] == {"open": False, "expires_at": None}
    one = request(near.server.url, "GET", f"/v1/peers/{row['id']}")
    SCHEMAS.check(one, "get", "/v1/peers/{id}")
    assert one.json["models"] == row["models"]
    assert request(near.server.url, "GET", "/v1/peers/none").status == 404


def test_an_open_code_is_told(make_machine: Callable[..., Machine]) -> None:
    near = make_machine("near")
    opened = request(near.server.url, "POST", "/v1/peers/pair", {}).json
    assert listed(near)["pairing"] == {"open": True, "expires_at": opened["expires_at"]}
    request(near.server.url, "DELETE", "/v1/peers/pair")
    assert listed(near)["pairing"] == {"open": False, "expires_at": None}


@pytest.mark.slow
def test_found_machines_are_listed_and_not_paired(make_machine: Callable[..., Machine]) -> None:
    far, third = make_machine("far"), make_machine("third")
    places = [f"127.0.0.1:{port}" for port in (far.peers.port, third.peers.port, 1)]
    near = make_machine("near", peer_addresses=tuple(places))
    near.know(far)
    text = {b"id": FALSE.encode(), b"port": b"5", b"v": b"9.9"}
    near.peers.found.hear("x", text, ["127.0.0.9"], "gal\x1bley")
    text[b"id"] = far.peers.identity.id.encode()
    near.peers.found.hear("y", text, ["127.0.0.9"], "far")  # a peer is listed once
    eventually(lambda: len(near.peers.addresses.all()) == 3 and all(
        one.last_seen or one.place[1] == 1 for one in near.peers.addresses.all()
    ), "all addresses were tried")  # fmt: skip
    where = near.peers.connections.places(third.peers.identity.id)
    assert where[0] == ("127.0.0.1", third.peers.port)  # its id was seen there
    rows = listed(near)["data"]
    assert [row["paired"] for row in rows] == [True, False, False, False]
    heard, addressed, silent = rows[1:]
    assert (heard["id"], heard["name"], heard["version"]) == (FALSE, "galley", "9.9")
    assert (heard["addresses"], heard["port"], heard["state"]) == (["127.0.0.9"], 5, "unknown")
    assert (addressed["id"], addressed["name"]) == (third.peers.identity.id, places[1])
    assert (silent["id"], silent["state"]) == (None, "unreachable")


@pytest.mark.slow
def test_what_a_peer_may_do_is_changed_at_once(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    id = near.peers.identity.id
    _, full = peer_requests("", "", id, STARTER)
    path = f"/v1/peers/{id}"
    for body in full.bodies():
        answer = request(far.server.url, "POST", path, body)
        SCHEMAS.check(answer, "post", "/v1/peers/{id}")
        assert answer.json["models_allowed"] == [STARTER]
        assert answer.json["limits"] == body["limits"]
    (grant,) = (one.grant for one in far.peers.book.all())
    assert grant.models == (STARTER,)
    only = request(far.server.url, "POST", path, {"limits": {"max_tokens": 3}}).json
    assert only["models_allowed"] == [STARTER]
    assert only["limits"]["requests_per_minute"] is None
    body = {"prompt": "Once", "max_tokens": 4, "temperature": 0}
    refused = near.ask(far, "POST", "/v1/completions", json.dumps(body).encode())
    assert refused.status == 400
    assert request(far.server.url, "POST", path, {"models": []}).json["models_allowed"] is None


def test_a_change_that_is_wrong_changes_nothing(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    before = far.peers.book.all()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"models": ["none"]}, "models"), ({"limits": {"max_tokens": 0}}, "limits.max_tokens"),
        ({"rpc": True}, "rpc"), ({"models": "x"}, "models"),
    ]  # fmt: skip
    for body, param in wrong:
        answer = request(far.server.url, "POST", f"/v1/peers/{near.peers.identity.id}", body)
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
        assert far.peers.book.all() == before


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/v1/peers"), ("GET", "/v1/peers/x"), ("POST", "/v1/peers/x"),
])  # fmt: skip
def test_without_peers_the_answer_says_how_to_turn_them_on(
    server: Server, method: str, path: str
) -> None:
    answer = request(server.url, method, path, {} if method == "POST" else None)
    assert (answer.status, answer.json["error"]["code"]) == (403, "peers_disabled")
    assert "OFFGRID_PEERS=true" in answer.json["error"]["message"]


def test_the_command_lists_peers_and_found_machines(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    command = ["peers", "list", "--url", near.server.url]
    alone = CliRunner().invoke(main, command)
    assert alone.exit_code == 0
    assert f"This machine: near ({near.peers.identity.id})" in alone.output
    assert "offgrid peers pair" in alone.output
    near.know(far)
    text = {b"id": FALSE.encode(), b"port": b"11612"}
    near.peers.found.hear("x", text, ["127.0.0.9"], "galley")
    connected(near)
    shown = CliRunner().invoke(main, command).output
    _, row, _ = shown.split("NAME")[1].split("\n", 2)
    assert row.split()[:4] == ["far", far.peers.identity.id, "connected", __version__]
    assert "not paired" in shown
    assert shown.rstrip().endswith("127.0.0.9")
    as_json = json.loads(CliRunner().invoke(main, [*command, "--json"]).output)
    assert [one["name"] for one in as_json["data"]] == ["far", "galley"]


def test_the_command_shows_what_is_wrong(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    connected(near)
    far.peers.book.remove(near.peers.identity.fingerprint)
    eventually(lambda: listed(near)["data"][0]["state"] == "refused", "it is refused")
    shown = CliRunner().invoke(main, ["peers", "list", "--url", near.server.url]).output
    assert "refused" in shown
    assert "Pair them again: offgrid peers pair." in shown


@pytest.mark.slow
def test_another_version_is_marked(
    make_machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    monkeypatch.setattr("offgrid.api.peers.own.__version__", "9.9.9")
    eventually(lambda: connected(near)["data"][0]["version"] == "9.9.9", "its version is known")
    shown = CliRunner().invoke(main, ["peers", "list", "--url", near.server.url]).output
    assert "9.9.9 (differs)" in shown


def test_the_command_says_that_peers_are_off(server: Server) -> None:
    done = CliRunner().invoke(main, ["peers", "list", "--url", server.url])
    assert done.exit_code == 1
    assert "OFFGRID_PEERS=true" in done.output
