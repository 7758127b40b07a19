"""A model divided between two hosts, and what a third host finds there.

The hosts are network namespaces with a bridge between them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import hosts
import pytest
from hosts import Host, Lan
from processes import program
from rpc_library import rpc_library
from rpc_workers import peer_of
from support import Stream, endless, eventually, request

from offgrid.errors import RpcError
from offgrid.peers.book import Book
from offgrid.peers.identity import load_identity
from offgrid.peers.rpc import server_of
from offgrid.rpc.connection import status

pytestmark = pytest.mark.slow

PORT = 11613
SCAN = """
import socket, sys
for port in range(1, 65536):
    with socket.socket() as one:
        one.settimeout(2)
        if one.connect_ex((sys.argv[1], port)) == 0:
            print(port)
"""
"""Prints the open ports of a host."""
GGML = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 60) as one:
    one.sendall(bytes([14, 24, 0, 0, 0, 0, 0, 0, 0]) + bytes(24))
    try:
        print(len(one.recv(1024)) >= 36)
    except ConnectionResetError:
        print(False)
"""
"""Says hello to ggml's RPC, and prints whether the answer is one of ggml."""


def peers(host: Host) -> Path:
    """Where the programs of a host keep what belongs to peers."""
    return host.folder / ".offgrid-llm" / "peers"


def pair(one: Host, other: Host) -> None:
    """Let two hosts know each other, as pairing does."""
    identities = {
        host.name: load_identity(peers(host), f"host-{host.name}") for host in (one, other)
    }
    for own, far in ((one, other), (other, one)):
        Book(peers(own)).add(peer_of(identities[far.name], far.address))


def test_two_hosts_divide_a_model_and_a_third_one_reaches_nothing(
    make_lan: Callable[[int], Lan],
) -> None:
    hosts.needs_links()
    lender, borrower, third = make_lan(3).hosts
    pair(lender, borrower)
    library = ("--rpc-library", rpc_library(), "--threads", "1")
    worker = lender.start(
        program("offgrid"), "rpc-worker", "--peers-name", f"host-{lender.name}", *library
    )
    worker.out.find(r"RPC worker \S+ at 0.0.0.0:11613")
    name = f"host-{lender.name}"
    server = borrower.serve("--rpc-servers", name, "--rpc-layers", "all", *library)
    server.err.find(f"layers on {name}")
    assert complete(server.url) == 200

    # During a session, only the port with TLS is open, and it answers strangers nothing.
    assert third.python(SCAN, lender.address).stdout.split() == [str(PORT)]
    assert third.python(GGML, lender.address, str(PORT)).stdout.strip() == "False"
    stranger = load_identity(peers(third), "stranger")
    Book(peers(third)).add(peer_of(load_identity(peers(lender)), lender.address))
    known = Book(peers(third)).all()[0]
    with third.inside(), pytest.raises(RpcError, match=r"cannot be (used|reached)"):
        status(server_of(stranger, known, PORT), 60.0)

    # A cable that is pulled ends the answer; the model returns with the cable.
    with Stream(server.url, "/v1/completions", endless(stream=True)) as stream:
        assert stream.read_some()
        lender.cut()
        events = [*stream.events()]
    assert f"The RPC worker {name} does not answer" in json.loads(events[-1])["error"]["message"]
    assert complete(server.url) == 500
    lender.restore()
    eventually(lambda: complete(server.url) == 200, "the model answers again")


def complete(url: str) -> int:
    body = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    return request(url, "POST", "/v1/completions", body).status
