"""What a server knows of machines that lend: whom it asks, how often, and what it makes of it."""

from __future__ import annotations

import socket

import pytest
from pools import Clock

from offgrid.config import load_settings
from offgrid.engine.client.lenders import Lenders, ask_lender, local_servers
from offgrid.errors import ConfigError
from offgrid.rpc.endpoint import RpcServer


@pytest.fixture
def closed() -> RpcServer:
    """A server at a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return RpcServer(f"127.0.0.1:{port}", ("127.0.0.1",), port)


def test_an_answer_is_used_for_a_while() -> None:
    clock, asked = Clock(), list[int]()

    def servers() -> list[RpcServer]:
        asked.append(1)
        return []

    lenders = Lenders(servers, clock)
    for _ in range(3):
        lenders.refresh()
    assert len(asked) == 1
    clock.ahead += 11.0
    lenders.refresh()
    assert len(asked) == 2
    lenders.forget()
    lenders.refresh()
    assert len(asked) == 3


def test_settings_that_change_while_servers_are_asked_count(closed: RpcServer) -> None:
    """Not the servers that were in the settings when it began."""
    named: list[list[RpcServer]] = [[closed, closed], [closed]]

    def servers() -> list[RpcServer]:
        if len(named) == 2:
            lenders.forget()
        return named.pop(0)

    lenders = Lenders(servers)
    lenders.refresh()
    assert named == []
    assert [one.server for one in lenders.lent] == [closed]


def test_an_answer_is_not_used_that_is_too_old_for_the_question() -> None:
    clock, asked = Clock(), list[int]()

    def servers() -> list[RpcServer]:
        asked.append(1)
        return []

    lenders = Lenders(servers, clock)
    assert not lenders.knows()
    lenders.refresh()
    assert lenders.knows()
    loaded = clock()
    assert not lenders.knows(loaded)
    lenders.refresh(loaded)
    assert len(asked) == 2
    assert lenders.knows(loaded)
    lenders.refresh(loaded)
    assert len(asked) == 2
    lenders.forget()
    assert not lenders.knows()


def test_the_time_of_an_answer_is_that_of_the_question(closed: RpcServer) -> None:
    """A model that is loaded in between may not count in the answer."""
    clock = Clock()
    asked = list[float]()

    def servers() -> list[RpcServer]:
        clock.ahead += 1.0
        asked.append(clock())
        return [closed]

    lenders = Lenders(servers, clock)
    lenders.refresh()
    [one] = lenders.lent
    assert one.asked < asked[0]


def test_a_server_that_lends_nothing_is_asked_again_soon(closed: RpcServer) -> None:
    clock, asked = Clock(), list[int]()

    def servers() -> list[RpcServer]:
        asked.append(1)
        return [closed, closed]

    lenders = Lenders(servers, clock)
    lenders.refresh()
    assert [one.server for one in lenders.lent] == [closed, closed]
    for one in lenders.lent:
        assert one.free == 0
        assert one.problem.startswith(f"the RPC server {closed.name}: it cannot be reached")
    clock.ahead += 3.0
    lenders.refresh()
    assert len(asked) == 2


def test_a_setting_that_names_no_server_is_a_problem_and_no_crash() -> None:
    def servers() -> list[RpcServer]:
        raise ConfigError("rpc_servers: 'strong' is not a peer of this machine.")

    lenders = Lenders(servers)
    lenders.refresh()
    [one] = lenders.lent
    assert str(one) == "rpc_servers: 'strong' is not a peer of this machine"


def test_without_peers_only_ports_of_this_machine_are_servers() -> None:
    settings = load_settings({"rpc_servers": "127.0.0.1:50052"}, environ={}, config_file="")
    assert [one.port for one in local_servers(settings)] == [50052]
    settings = load_settings({"rpc_servers": "strong"}, environ={}, config_file="")
    with pytest.raises(ConfigError, match="'strong' is not host:port"):
        local_servers(settings)


def test_a_peer_whose_certificate_is_not_here_lends_nothing(closed: RpcServer) -> None:
    peer = RpcServer("strong", closed.addresses, closed.port, "PEM", "none.pem", "none.pem")
    assert "the RPC worker strong cannot be reached" in ask_lender(peer).problem
