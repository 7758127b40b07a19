"""Two servers pair over their peers ports."""

from __future__ import annotations

from collections.abc import Callable

from machines import Machine
from support import request

Make = Callable[..., Machine]
PAIR = "/v1/peers/pair"


def open_code(machine: Machine) -> str:
    answer = request(machine.server.url, "POST", PAIR, {})
    assert answer.status == 200, answer.text
    return str(answer.json["code"])


def pair(machine: Machine, other: Machine, code: str):
    body = {"address": f"127.0.0.1:{other.peers.port}", "code": code}
    return request(machine.server.url, "POST", PAIR, body)


def test_two_machines_pair(make_machine: Make) -> None:
    near, far = make_machine("near"), make_machine("far")
    answer = pair(near, far, open_code(far))
    assert answer.status == 201, answer.text
    assert near.ask(far, "GET", "/peer/alive").status == 204
    assert far.ask(near, "GET", "/peer/alive").status == 204
