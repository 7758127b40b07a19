"""Which thread makes and writes the frames of a stream: its own, or the one that brings events."""

from __future__ import annotations

import contextlib
import io
import json
import queue
import socket
import threading
import wsgiref.util
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import TIMEOUT, Stream, chat_body, endless, eventually, text_of

from offgrid.api.generation import Signal
from offgrid.api.http.framing import NAMED, PING, UNNAMED
from offgrid.api.http.sse import Chunk, EventStream
from offgrid.app import build_app
from offgrid.server import Server

DONE = UNNAMED.end


class Fake:
    """Takes the place of both the generations and the socket, and records listeners and writes."""

    lost = False
    waits = ""

    def __init__(self) -> None:
        self.said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.listener: Callable[[], None] | None = None
        self.written: list[bytes] = []
        self.writers: set[int] = set()
        self.backlog = 0
        self.failed = False
        self.broken = False
        self.cancelled = 0
        self.patience = 0.01
        self.slow_in: int | None = None

    # methods of GenerationGroup
    def listen(self, listener: Callable[[], None] | None) -> None:
        self.listener = listener

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        self.patience, before = 0.0, self.patience
        yield
        self.patience = before

    def cancel(self) -> None:
        self.cancelled += 1

    def chunks(self) -> Iterator[Chunk]:
        while True:
            try:
                said = self.said.get(self.patience > 0, self.patience)
            except queue.Empty:
                yield None
                continue
            if said == "end":
                return
            if said == "slow":
                yield Signal.MAY_BLOCK
                self.slow_in = threading.get_ident()
                continue
            yield {"said": said}

    # methods of Output
    def write(self, data: bytes) -> None:
        self.writers.add(threading.get_ident())
        if self.broken:
            raise ConnectionError("the client is gone")
        self.written.append(data)

    # called by the thread that brings events
    def say(self, *texts: str) -> None:
        for text in texts:
            self.said.put(text)
        if self.listener is not None:
            self.listener()

    def stream(self, ping_interval: float = 0.0) -> EventStream:
        return EventStream(self.chunks(), self, ping_interval, lambda: self)  # type: ignore[arg-type]


def frame(text: str) -> bytes:
    return f'data: {{"said":"{text}"}}\n\n'.encode()


class Reader(threading.Thread):
    """The server's own thread for a stream."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(daemon=True)
        self.stream = stream
        self.frames: list[bytes] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.frames += self.stream
        except BaseException as ex:
            self.error = ex

    def end(self) -> None:
        self.join(TIMEOUT)
        assert not self.is_alive()


@pytest.fixture
def fake() -> Fake:
    return Fake()


def listening(fake: Fake) -> Reader:
    """A stream whose own thread has sent the first frame."""
    reader = Reader(fake.stream())
    fake.said.put("first")
    reader.start()
    eventually(lambda: fake.listener is not None, "the stream listens")
    assert reader.frames == [frame("first")]
    return reader


def test_the_thread_that_brings_events_writes_them(fake: Fake) -> None:
    reader = listening(fake)
    fake.say("a")
    fake.say("b", "c")
    assert b"".join(fake.written) == frame("a") + frame("b") + frame("c")
    assert fake.writers == {threading.get_ident()}
    fake.say("d", "end")
    reader.end()
    assert b"".join([*fake.written, *reader.frames[1:]]) == b"".join([*map(frame, "abcd"), DONE])
    assert fake.listener is None


def test_events_that_came_before_it_listened_are_sent(fake: Fake) -> None:
    fake.say("first", "second", "end")
    reader = Reader(fake.stream())
    reader.start()
    reader.end()
    assert b"".join([*reader.frames[:1], *fake.written, *reader.frames[1:]]) == b"".join(
        [frame("first"), frame("second"), DONE]
    )


def test_slow_reader_falls_back_to_its_own_thread(fake: Fake) -> None:
    reader = listening(fake)
    fake.say("a")
    fake.backlog = 1 << 20
    fake.say("b")
    eventually(lambda: frame("b") in reader.frames, "its own thread goes on")
    fake.say("c")
    eventually(lambda: frame("c") in reader.frames, "and again")
    fake.backlog = 0
    fake.say("end")
    reader.end()
    assert fake.written[0] == frame("a")
    assert reader.frames[1:3] == [frame("b"), frame("c")]


def test_the_thread_that_brings_events_never_waits_for_the_streams_own(fake: Fake) -> None:
    """The stream's own thread has the turn and nothing to send; the other thread must continue."""
    reader = listening(fake)
    pump = fake.listener
    assert pump is not None
    fake.backlog = 1 << 20
    fake.say()
    eventually(lambda: fake.listener is None, "its own thread goes on")
    fake.patience = TIMEOUT  # the own thread holds the turn until there is an event
    fake.say("a")
    eventually(lambda: frame("a") in reader.frames, "it sends and comes back for more")
    eventually(lambda: reader.stream.turn.locked() or fake.listener is not None, "it waits again")
    pump()  # as a thread would that read the listener a moment too early
    fake.backlog = 0
    fake.patience = 0.01
    fake.say("b", "end")
    reader.end()
    assert b"".join([*reader.frames, *fake.written]).count(b"data: ") == 4


def test_a_failure_is_left_to_the_streams_own_thread(fake: Fake) -> None:
    reader = listening(fake)
    fake.failed = True
    fake.say("a", "end")
    reader.end()
    assert fake.written == []
    assert reader.frames == [frame("first"), frame("a"), DONE]


def test_a_disconnected_client_ends_only_the_streams_own_thread(fake: Fake) -> None:
    reader = listening(fake)
    fake.broken = True
    fake.say("a")
    reader.end()
    assert isinstance(reader.error, ConnectionError)
    assert reader.frames == [frame("first")]
    reader.stream.close()
    reader.stream.close()
    assert fake.cancelled == 1
    fake.say("b")
    assert fake.written == []


def test_slow_steps_are_left_to_the_streams_own_thread(fake: Fake) -> None:
    reader = listening(fake)
    fake.say("a", "slow", "b")
    eventually(lambda: frame("b") in reader.frames, "its own thread goes on")
    assert fake.written == [frame("a")]
    assert fake.slow_in == reader.ident
    fake.say("c", "end")
    reader.end()
    assert b"".join([*fake.written[1:], *reader.frames[2:]]) == frame("c") + DONE


def test_named_events() -> None:
    chunks: list[Chunk] = [{"type": "a.b", "n": 1}, None, Signal.MAY_BLOCK, {"type": "c", "n": 2}]
    stream = EventStream(iter(chunks), Fake(), 0.0, framing=NAMED)  # type: ignore[arg-type]
    assert list(stream) == [
        b'event: a.b\ndata: {"type":"a.b","n":1}\n\n',
        b'event: c\ndata: {"type":"c","n":2}\n\n',
    ]


def test_pings_are_written_directly_too(fake: Fake) -> None:
    fake.said.put("first")
    reader = Reader(fake.stream(ping_interval=0.001))
    reader.start()
    eventually(lambda: PING in fake.written, "a ping")
    fake.say("end")
    reader.end()


def test_a_stream_that_waits_says_how_far_it_is(fake: Fake) -> None:
    """In comments: clients of the API skip them."""
    fake.waits = "queued 3 of 7, about 12 s"
    fake.said.put("first")
    reader = Reader(fake.stream(ping_interval=0.001))
    reader.start()
    eventually(lambda: b": queued 3 of 7, about 12 s\n\n" in fake.written, "a comment")
    fake.waits = ""
    eventually(lambda: PING in fake.written, "a ping")
    fake.say("end")
    reader.end()


@pytest.mark.slow
def test_a_client_that_does_not_read_delays_no_other(server: Server) -> None:
    """Half a megabyte waits for a client that does not read, while another stream ends.

    Later the slow client gets all of it.
    """
    body = endless(max_tokens=400, n=2, logprobs=5, seed=1)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(TIMEOUT)
        slow.connect((urlsplit(server.url).hostname, urlsplit(server.url).port))
        data = json.dumps({**body, "stream_options": {"include_usage": True}}).encode()
        head = f"POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: {len(data)}"
        slow.sendall(head.encode() + b"\r\n\r\n" + data)
        assert slow.recv(1, socket.MSG_PEEK)  # it runs
        with Stream(server.url, "/v1/chat/completions", chat_body(stream=True)) as other:
            assert text_of(list(other.events()))
        came = b""
        while part := slow.recv(1 << 16):
            came += part
    assert came.endswith(DONE)
    *events, usage, done = came.split(b"\r\n\r\n", 1)[1].split(b"\n\n")[:-1]
    assert done == DONE.strip()
    assert json.loads(usage[6:])["usage"]["completion_tokens"] == 2 * 400
    tokens = [0] * 2
    for event in events:
        for choice in json.loads(event[6:])["choices"]:
            tokens[choice["index"]] += len((choice["logprobs"] or {"tokens": ()})["tokens"])
    assert tokens == [400] * 2


def test_another_wsgi_server_iterates_over_the_stream(server: Server) -> None:
    app = build_app(server.settings, server.catalogue, server.pool, server.responses)
    env: dict[str, Any] = {}
    wsgiref.util.setup_testing_defaults(env)
    body = json.dumps(endless(max_tokens=5)).encode()
    with io.BytesIO(body) as stream:
        env |= {
            "REQUEST_METHOD": "POST", "PATH_INFO": "/v1/completions", "wsgi.input": stream,
            "CONTENT_LENGTH": str(len(body)), "HTTP_HOST": "localhost",
        }  # fmt: skip
        status: list[str] = []

        def start_response(line: str, headers: list[tuple[str, str]]) -> Callable[[bytes], None]:
            status.append(line)
            return lambda data: pytest.fail("write() was called")

        frames = app(env, start_response)
        data = b"".join(frames)
        frames.close()
    assert status == ["200 OK"]
    assert data.count(b"data: ") >= 2
    assert data.endswith(DONE)
