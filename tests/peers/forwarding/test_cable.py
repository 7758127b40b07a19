"""Two hosts with a cable between them: it is cut while an answer is forwarded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import hosts
import pytest
from forwarded import LASTING, MODEL, give_lasting_model
from support import STARTER, Stream, eventually, request

from offgrid.peers.book import Book, Peer
from offgrid.peers.identity import load_identity

pytestmark = pytest.mark.slow
PORT = 11612
ENDLESS = {"model": MODEL, "prompt": "Once upon a time", "ignore_eos": True, "max_tokens": 200_000}


def pair(one: hosts.Host, other: hosts.Host) -> None:
    """Write two hosts into each other's books, before their servers are started."""
    for mine, theirs in ((one, other), (other, one)):
        identity = load_identity(theirs.folder / "peers", theirs.name)
        peer = Peer(
            name=theirs.name, certificate=identity.certificate, addresses=(theirs.address,),
            port=PORT, paired_at=1,
        )  # fmt: skip
        load_identity(mine.folder / "peers", mine.name)
        Book(mine.folder / "peers").add(peer)


def flags(host: hosts.Host) -> tuple[str, ...]:
    """How a host serves with peers."""
    return (
        "--peers", "--peers-dir", str(host.folder / "peers"), "--peers-port", str(PORT),
        "--peers-name", host.name, "--no-peers-discovery",
    )  # fmt: skip


def test_a_cut_cable_ends_the_stream_and_a_restored_one_serves_again(
    make_lan: Callable[[int], hosts.Lan],
) -> None:
    hosts.needs_links()
    lan = make_lan(2)
    near, far = lan.hosts
    pair(near, far)
    give_lasting_model(far.models)
    lasting = ("--ctx-size", str(LASTING["ctx_size"]), "--parallel", "1", "--no-drafts")
    far.serve(*flags(far), *lasting)
    server = near.serve("--model", STARTER, *flags(near))

    def is_listed() -> bool:
        models = request(server.url, "GET", "/v1/models").json["data"]
        return any(one["id"] == MODEL and one["status"] != "failed" for one in models)

    eventually(is_listed, "the far model is listed")
    with Stream(server.url, "/v1/completions", {**ENDLESS, "stream": True}) as stream:
        assert stream.read_some()
        far.cut()
        began = time.monotonic()
        last = [*stream.events()][-1]
        print(f"cut: {time.monotonic() - began:.2f} s until the stream had ended")
    assert json.loads(last)["error"]["code"] == "peer_lost"
    far.restore()
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 2}
    eventually(
        lambda: request(server.url, "POST", "/v1/completions", body).status == 200,
        "the far model answers again",
    )
