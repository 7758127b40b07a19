"""What passes between a client and a peer that a test plays: bytes, headers, order and speed."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import falcon.testing
import pytest
from fake_peer import STREAM, Answer, FakePeer, chunk, whole
from forwarded import MODEL, report_of, wait_for
from machines import Machine
from support import TIMEOUT, eventually, request

from offgrid.peers import table
from offgrid.peers.forwarding.watch import Pace

BODY = {"model": MODEL, "prompt": "Once", "stream": True}
TEXT = "/v1/completions"
MakePeer = Callable[..., FakePeer]


@pytest.fixture
def near(lasting_near: Machine) -> Machine:
    return lasting_near


@pytest.fixture
def make_peer(near: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePeer]:
    """Let the machine know peers that have the model and answer what a test says. The first one is
    asked first. Each is asked once for its report: the next one would count no requests, and its
    question would take the connection of a request."""
    for name in ("USUAL", "LOOKED_AT"):
        monkeypatch.setattr(table, name, 10 * TIMEOUT)
    made: list[FakePeer] = []

    def make(answer: Answer, name: str = "fake", *others: str, **report: Any) -> FakePeer:
        report.setdefault("free", 100 - len(made))
        says = report_of(MODEL, *others, **report)
        peer = FakePeer(tmp_path / f"peer-{name}", near.as_peer(), says, answer, name)
        made.append(peer)
        near.peers.book.add(peer.as_peer())
        wait_for(near, peer.as_peer())
        return peer

    yield make
    for peer in made:
        peer.close()
        near.peers.book.remove(peer.as_peer().fingerprint)


def streamed(*pieces: bytes) -> Answer:
    """A stream that comes in these chunks."""
    raw = b"".join(map(chunk, pieces)) + chunk(b"")
    return lambda sock, asked: sock.sendall(STREAM + raw)


def test_the_request_arrives_as_it_was_sent(near: Machine, make_peer: MakePeer) -> None:
    peer = make_peer(whole(200, b"{}"))
    raw = json.dumps(BODY).encode() + b" \n"
    given = {
        "Authorization": "Bearer secret", "X-Api-Key": "secret", "Cookie": "a=secret",
        "Content-Type": "text/odd", "anthropic-version": "1", "X-Request-Id": "mine",
    }  # fmt: skip
    request(near.server.url, "POST", f"{TEXT}?beta=true", raw, given)
    (asked,) = peer.requests
    head, _, body = asked.partition(b"\r\n\r\n")
    assert body == raw
    assert head.startswith(b"POST /v1/completions?beta=true HTTP/1.1\r\n")
    lines = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert lines["content-type"] == "text/odd"
    assert lines["anthropic-version"] == "1"
    assert lines["x-offgrid-forwarded"] == near.peers.identity.id
    assert lines["x-request-id"] == "mine"
    assert b"secret" not in head


def test_headers_of_the_connection_and_of_the_peer_stay_there(
    near: Machine, make_peer: MakePeer
) -> None:
    make_peer(
        whole(418, b"short and stout", "Content-Type: text/tea", "Connection: close", "Server: x",
              "Set-Cookie: a=b", "X-Request-Id: theirs", "Retry-After: 7", "X-Other: y")
    )  # fmt: skip
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert (answer.status, answer.body) == (418, b"short and stout")
    assert answer.headers["content-type"] == "text/tea"
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["x-offgrid-peer"] == "fake"
    assert answer.headers["x-offgrid-peer-request-id"] == "theirs"
    assert answer.headers["x-request-id"] != "theirs"
    assert not {"server", "set-cookie", "x-other"} & answer.headers.keys()


def has_ended(near: Machine) -> None:
    """Wait until no forwarded request is left."""
    forwarding = near.peers.forwarding
    eventually(lambda: not forwarding._running, "the forwarded request has ended")


@pytest.mark.parametrize(
    "header",
    [
        "x-offgrid-seed: 1\r\n 2",
        "x-request-id: 1\r\n\t2",
        "retry-after: 1\0",
        "x-offgrid-warning: \x7f",
    ],
)
def test_headers_with_control_characters_are_left_out(
    near: Machine, make_peer: MakePeer, header: str
) -> None:
    head = STREAM.removesuffix(b"\r\n") + header.encode() + b"\r\n\r\n"
    make_peer(lambda sock, asked: sock.sendall(head + chunk(b"data: a\n\n") + chunk(b"")))
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert (answer.status, answer.body) == (200, b"data: a\n\n")
    left_out = {"x-offgrid-seed", "x-offgrid-peer-request-id", "retry-after", "x-offgrid-warning"}
    assert not left_out & answer.headers.keys()
    has_ended(near)


@pytest.mark.parametrize("status", [101, 103, 199, 600, 999])
def test_a_status_that_ends_no_response_is_an_error(
    near: Machine, make_peer: MakePeer, status: int
) -> None:
    """A client takes one below 200 for the beginning of what comes next."""
    make_peer(whole(status, b"{}"))
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert (answer.status, answer.json["error"]["code"]) == (502, "peer_lost")
    assert f"status {status}" in answer.json["error"]["message"]
    has_ended(near)


@pytest.mark.parametrize("status", [204, 304])
def test_a_stream_without_a_body_ends(near: Machine, make_peer: MakePeer, status: int) -> None:
    make_peer(whole(status, b"", "Content-Type: text/event-stream"))
    assert request(near.server.url, "POST", TEXT, BODY).status == status
    has_ended(near)


def test_a_response_that_the_server_refuses_to_begin_ends(
    near: Machine, make_peer: MakePeer
) -> None:
    def refuse(status: str, headers: object, *rest: object) -> None:
        raise ValueError(status)

    make_peer(streamed(b"data: a\n\n"))
    raw = json.dumps(BODY).encode()
    environ = falcon.testing.create_environ(TEXT, method="POST", body=raw, host="localhost")
    with pytest.raises(ValueError, match="200"):
        near.server.http._server.application(environ, refuse)
    assert not near.peers.forwarding._running


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: a\n\n", b"data: b\n\n"],
        [b"data: a\n\ndata: b\n\n"],
        [b"dat", b"a: \xc3", b"\xa9\n", b"\ndata: b\n\n: ping\n\n"],
        [b"data: no end"],
        [],
    ],
)
def test_streams_are_equal_however_they_are_cut(
    near: Machine, make_peer: MakePeer, pieces: list[bytes]
) -> None:
    make_peer(streamed(*pieces))
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert answer.body == b"".join(pieces)
    assert answer.headers["content-type"] == "text/event-stream"


def test_each_event_is_sent_at_once(near: Machine, make_peer: MakePeer) -> None:
    """The peer sends the next event only after the client has read the one before."""
    read = threading.Semaphore(0)

    def answer(sock: ssl.SSLSocket, asked: bytes) -> None:
        sock.sendall(STREAM)
        for number in range(20):
            sock.sendall(chunk(b"data: %d\n\n" % number))
            assert read.acquire(timeout=TIMEOUT)
        sock.sendall(chunk(b""))

    make_peer(answer)
    connection = http.client.HTTPConnection(urlsplit(near.server.url).netloc, timeout=TIMEOUT)
    connection.request("POST", TEXT, json.dumps(BODY).encode())
    response = connection.getresponse()
    for number in range(20):
        assert response.readline() == b"data: %d\n" % number
        assert response.readline() == b"\n"
        read.release()
    assert response.read() == b""
    connection.close()


def test_connections_are_used_again(
    near: Machine, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near.peers.forwarding.watches, "pace", Pace(every=TIMEOUT))  # asks nothing
    ports: set[Any] = set()

    def answer(sock: ssl.SSLSocket, asked: bytes) -> None:
        ports.add(sock.getpeername())
        streamed(b"data: a\n\n")(sock, asked)

    make_peer(answer)
    for _ in range(3):
        assert request(near.server.url, "POST", TEXT, BODY).status == 200
        has_ended(near)  # the client may have the end of the answer before
    assert len(ports) == 1
    near.peers.forwarding.close()


def test_a_connection_that_the_peer_has_closed_is_opened_again(
    near: Machine, make_peer: MakePeer
) -> None:
    def answer(sock: ssl.SSLSocket, asked: bytes) -> None:
        whole(200, b"{}")(sock, asked)
        sock.shutdown(socket.SHUT_RDWR)

    peer = make_peer(answer)
    for _ in range(3):
        assert request(near.server.url, "POST", TEXT, BODY).status == 200
    assert len(peer.requests) == 3


@pytest.mark.slow
def test_a_client_that_does_not_read_holds_up_its_peer(near: Machine, make_peer: MakePeer) -> None:
    held_up = threading.Event()
    sent = 0

    def answer(sock: ssl.SSLSocket, asked: bytes) -> None:
        nonlocal sent
        sock.settimeout(2)
        sock.sendall(STREAM)
        frame = chunk(b"data: " + b"x" * 60_000 + b"\n\n")
        try:
            while sent < 1 << 27:
                sock.sendall(frame)
                sent += len(frame)
        except TimeoutError:
            held_up.set()
            raise

    make_peer(answer)
    where = urlsplit(near.server.url)
    with socket.create_connection((where.hostname, where.port or 0), TIMEOUT) as client:
        raw = json.dumps(BODY).encode()
        client.sendall(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
                       % (TEXT.encode(), len(raw), raw))  # fmt: skip
        assert held_up.wait(TIMEOUT)
        # What the systems keep for two connections, and what this machine does.
        assert sent < 1 << 26
        assert max(one.total_outbufs_len for one in near.server.http.channels) < 1 << 20


BUSY = whole(503, b'{"error": {"message": "busy"}}', "Retry-After: 3", "Content-Type: a/b")


def test_a_busy_peer_sends_the_request_to_the_next(near: Machine, make_peer: MakePeer) -> None:
    first, second = make_peer(BUSY, "first"), make_peer(whole(200, b"{}"), "second")
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert (answer.status, answer.headers["x-offgrid-peer"]) == (200, "second")
    assert len(first.requests) == len(second.requests) == 1


def test_if_all_are_busy_the_last_says_so(near: Machine, make_peer: MakePeer) -> None:
    make_peer(BUSY, "first")
    make_peer(BUSY, "second")
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert (answer.status, answer.headers["x-offgrid-peer"]) == (503, "second")
    assert answer.headers["retry-after"] == "3"
    assert answer.json == {"error": {"message": "busy"}}


@pytest.mark.parametrize(
    "refusal", [whole(503, b"{}", "x-should-retry: false"), whole(429, b"{}"), whole(400, b"{}")]
)
def test_other_refusals_are_not_repeated_elsewhere(
    near: Machine, make_peer: MakePeer, refusal: Answer
) -> None:
    make_peer(refusal, "first")
    second = make_peer(whole(200, b"{}"), "second")
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert answer.headers["x-offgrid-peer"] == "first"
    assert not second.requests


def test_a_peer_that_cannot_be_reached_is_passed_over(near: Machine, make_peer: MakePeer) -> None:
    make_peer(whole(200, b"{}"), "first").close()
    make_peer(whole(200, b"{}"), "second")
    assert request(near.server.url, "POST", TEXT, BODY).headers["x-offgrid-peer"] == "second"


@pytest.mark.slow
def test_a_peer_that_ends_before_its_answer_is_passed_over(
    near: Machine, make_peer: MakePeer
) -> None:
    def leave(sock: ssl.SSLSocket, asked: bytes) -> None:
        sock.shutdown(socket.SHUT_RDWR)

    make_peer(leave, "first")
    make_peer(whole(200, b"{}"), "second")
    assert request(near.server.url, "POST", TEXT, BODY).headers["x-offgrid-peer"] == "second"


def test_nothing_is_repeated_after_the_first_byte(near: Machine, make_peer: MakePeer) -> None:
    def begin(sock: ssl.SSLSocket, asked: bytes) -> None:
        sock.sendall(STREAM + chunk(b"data: a\n\n") + b"ff\r\ndata: half")
        sock.shutdown(socket.SHUT_RDWR)

    make_peer(begin, "first")
    second = make_peer(whole(200, b"{}"), "second")
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert answer.status == 200
    begun, error, rest = answer.body.split(b"\n\n")
    assert (begun, rest) == (b"data: a", b"")
    assert json.loads(error.removeprefix(b"data: "))["error"] == {
        "message": "The connection to the peer first was lost while it answered: it has ended the "
        "connection. Send the request again.",
        "type": "server_error", "param": None, "code": "peer_lost",
    }  # fmt: skip
    assert not second.requests


def test_whole_answers_that_end_early_are_errors(near: Machine, make_peer: MakePeer) -> None:
    def begin(sock: ssl.SSLSocket, asked: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        sock.shutdown(socket.SHUT_RDWR)

    make_peer(begin)
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert (answer.status, answer.json["error"]["code"]) == (502, "peer_lost")
    assert "fake" in answer.json["error"]["message"]


def test_long_answers_that_end_early_are_cut_off(near: Machine, make_peer: MakePeer) -> None:
    def begin(sock: ssl.SSLSocket, asked: bytes) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + b"x" * 3_000_000)
        sock.shutdown(socket.SHUT_RDWR)

    make_peer(begin)
    with pytest.raises(http.client.IncompleteRead):
        request(near.server.url, "POST", TEXT, BODY)


def test_long_answers_are_whole(near: Machine, make_peer: MakePeer) -> None:
    body = bytes(range(256)) * 20_000
    make_peer(whole(200, body))
    assert request(near.server.url, "POST", TEXT, BODY).body == body


def test_if_no_peer_can_be_reached_the_error_names_them(near: Machine, make_peer: MakePeer) -> None:
    for name in ("first", "second"):
        make_peer(whole(200, b"{}"), name).close()
    answer = request(near.server.url, "POST", TEXT, BODY)
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (503, "peer_unreachable")
    assert answer.headers["retry-after"] == "5"
    assert "first" in error["message"]
    assert "second" in error["message"]
    assert "offgrid import" in error["message"]


def test_a_peer_that_has_forgotten_this_machine_is_named(
    near: Machine, make_peer: MakePeer
) -> None:
    make_peer(whole(401, b"{}"))
    answer = request(near.server.url, "POST", TEXT, BODY)
    assert answer.status == 503
    assert "has forgotten it" in answer.json["error"]["message"]


def test_free_slots_and_queues_decide_who_is_asked_first(
    near: Machine, make_peer: MakePeer
) -> None:
    make_peer(whole(200, b"{}"), "queue", free=0, queue=3)
    make_peer(whole(200, b"{}"), "free", free=2)
    make_peer(whole(200, b"{}"), "full", free=0)
    order = [one.peer.name for one in near.peers.forwarding.where.find(MODEL)]
    assert order == ["free", "full", "queue"]


def test_requests_since_the_report_count_as_load(near: Machine, make_peer: MakePeer) -> None:
    make_peer(whole(200, b"{}"), "one", free=2)
    make_peer(whole(200, b"{}"), "other", free=1)
    where = near.peers.forwarding.where
    first = where.find(MODEL)[0].peer
    for _ in range(2):
        where.sent(first, 1)
    assert where.find(MODEL)[0].peer.name == "other"
    where.sent(first, -1)
    where.sent(first, -1)
    assert where.find(MODEL)[0].peer.name == first.name


def test_a_name_is_sent_only_where_it_means_the_model(near: Machine, make_peer: MakePeer) -> None:
    """Each peer finds the model by the name in the body."""
    answer = whole(200, b"{}")
    other = make_peer(answer, "other", "quasar", aliases={"quasar": ("Beacon",)})
    without = make_peer(answer, "without")
    named = make_peer(answer, "named", aliases={MODEL: ("Beacon",)}, queue=9)
    for name in ("Beacon", "BEACON"):
        relayed = request(near.server.url, "POST", TEXT, {**BODY, "model": name})
        assert (relayed.status, relayed.headers["x-offgrid-peer"]) == (200, "named")
    assert len(named.requests) == 2
    assert not other.requests + without.requests
    where = near.peers.forwarding.where
    assert [one.peer.name for one in where.find(MODEL)] == ["other", "without", "named"]


def test_an_exact_name_on_one_peer_comes_before_others_elsewhere(
    near: Machine, make_peer: MakePeer
) -> None:
    answer = whole(200, b"{}")
    make_peer(answer, "alias", aliases={MODEL: ("quasar",)})
    make_peer(answer, "case", "quasar", aliases={MODEL: ("Quasar",)})
    where = near.peers.forwarding.where

    def found(name: str) -> list[tuple[str, str]]:
        return [(one.model.id, one.peer.name) for one in where.find(name)]

    assert found("quasar") == [("quasar", "case")]
    assert found("Quasar") == found("QUASAR") == [(MODEL, "alias"), (MODEL, "case")]
    assert found("quasar.gguf") == [("quasar", "case")]
    assert set(where.names()) == {MODEL, "Quasar", "quasar"}
