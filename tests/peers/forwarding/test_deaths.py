"""The far machine is a process that is killed, or stopped, while it answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from forwarded import LASTING, MODEL, give_lasting_model, wait_for
from machines import Machine
from processes import Child, serving
from support import TIMEOUT, Stream, eventually, request

from offgrid.peers.book import Book, Peer
from offgrid.peers.forwarding.watch import Pace
from offgrid.peers.identity import load_identity

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no such signals"),
]
ENDLESS = {"model": MODEL, "prompt": "Once upon a time", "ignore_eos": True, "max_tokens": 200_000}
TEXT = "/v1/completions"


class Pair(NamedTuple):
    """A machine in this process, and another one that is a child."""

    near: Machine
    far: Child


@pytest.fixture
def pair(make_machine: Callable[..., Machine], tmp_path: Path) -> Iterator[Pair]:
    near = make_machine("near")
    folder = tmp_path / "far-peers"
    identity = load_identity(folder, "far")
    Book(folder).add(near.as_peer())
    (tmp_path / "far-models").mkdir()
    give_lasting_model(tmp_path / "far-models")
    flags = (
        "--peers", "--peers-dir", str(folder), "--peers-host", "127.0.0.1", "--peers-port", "0",
        "--peers-name", "far", "--no-peers-discovery", "--models-dir", str(tmp_path / "far-models"),
        "--ctx-size", str(LASTING["ctx_size"]), "--parallel", "1", "--no-drafts",
    )  # fmt: skip
    with serving(tmp_path, *flags) as far:
        far.wait_ready()
        peer = Peer(
            name="far", certificate=identity.certificate, addresses=("127.0.0.1",),
            port=far.other_port(), paired_at=1,
        )  # fmt: skip
        near.peers.book.add(peer)
        wait_for(near, peer)
        try:
            yield Pair(near, far)
        finally:
            far.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_streams_end_with_an_error(pair: Pair, number: signal.Signals) -> None:
    streams = [Stream(pair.near.server.url, TEXT, {**ENDLESS, "stream": True}) for _ in range(2)]
    for stream in streams[:1]:  # the far machine has one slot
        assert stream.read_some()
    pair.far.process.send_signal(number)
    began = time.monotonic()
    for stream in streams:
        last = [*stream.events()][-1]
        assert json.loads(last)["error"]["code"] == "peer_lost"
    print(f"{number.name}: {time.monotonic() - began:.2f} s until both streams had ended")


def test_a_silent_peer_counts_as_lost_within_two_seconds() -> None:
    """Nothing here measures time: this is the promise, and the test before shows the event."""
    pace = Pace()
    assert 2 * pace.every < pace.patience < 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_whole_answers_are_errors(pair: Pair, number: signal.Signals) -> None:
    netloc = urlsplit(pair.near.server.url).netloc
    with contextlib.closing(http.client.HTTPConnection(netloc, timeout=TIMEOUT)) as connection:
        connection.request("POST", TEXT, json.dumps(ENDLESS).encode())
        eventually(lambda: runs(pair.far), "the far machine answers")
        pair.far.process.send_signal(number)
        with connection.getresponse() as answer:
            assert answer.status == 502
            assert json.loads(answer.read())["error"]["code"] == "peer_lost"


def runs(far: Child) -> bool:
    """Whether a request runs on a machine."""
    loaded = request(far.url, "GET", "/v1/loaded").json["data"]
    return any(model["sequences"] for model in loaded)


def test_new_requests_learn_that_the_peer_is_gone(pair: Pair) -> None:
    assert ask(pair.near).status == 200
    pair.far.process.kill()
    pair.far.process.wait(TIMEOUT)
    answer = ask(pair.near)
    assert (answer.status, answer.json["error"]["code"]) == (503, "peer_unreachable")


def test_a_peer_that_goes_on_is_used_again(pair: Pair) -> None:
    with Stream(pair.near.server.url, TEXT, {**ENDLESS, "stream": True}) as stream:
        assert stream.read_some()
        pair.far.process.send_signal(signal.SIGSTOP)
        assert "peer_lost" in [*stream.events()][-1]
    pair.far.process.send_signal(signal.SIGCONT)
    assert ask(pair.near).status == 200


def ask(machine: Machine) -> Any:
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 2}
    return request(machine.server.url, "POST", TEXT, body)
