"""Many streaming clients in one thread, and their readings.

One thread serves all connections, so that readers take little processor time from the server.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

from servers import Program

_EVENT = re.compile(rb"data: (.*?)\r?\n\r?\n")
WORDS = (
    "once upon a time there was small otter who lived beside the wide river and every morning it "
    "swam to far bank where its friends were waiting for news of sea they told each other stories "
    "about boats fish storms quiet islands old lighthouse until sun went down behind blue hills"
).split()


class Reading:
    """One request: the time of sending, and the data with their arrival times.

    Attributes:
        left: whether the client hung up before the end.
        ended: when the connection was closed, by either side.
    """

    def __init__(self, label: Any = None) -> None:
        self.label = label
        self.sent = 0.0
        self.ended = 0.0
        self.left = False
        self.chunks: list[tuple[float, bytes]] = []

    @property
    def status(self) -> int:
        """The HTTP status; 0 if nothing arrived."""
        head = self.chunks[0][1][:12].split(b" ") if self.chunks else []
        return int(head[1]) if len(head) > 1 else 0

    @property
    def started(self) -> bool:
        """Whether a second event has arrived: the first may be a role without text."""
        return sum(chunk.count(b"data: ") for _, chunk in self.chunks) > 1

    def parse(self) -> tuple[list[float], list[dict[str, Any]]]:
        """Return the arrival times and contents of all events.

        Raises:
            SystemExit: the stream ended without ``[DONE]`` although the client stayed.
        """
        data = b"".join(chunk for _, chunk in self.chunks)
        ends = list(itertools.accumulate(len(chunk) for _, chunk in self.chunks))
        times, events, at, finished = [], [], 0, False
        for match in _EVENT.finditer(data):
            while ends[at] < match.end():
                at += 1
            finished = match[1] == b"[DONE]"
            if not finished:
                times.append(self.chunks[at][0])
                events.append(json.loads(match[1]))
        if not finished and not self.left:
            raise SystemExit(f"a stream ended without [DONE]: {data[-300:]!r}")
        return times, events

    def tokens(self) -> dict[int, list[float]]:
        """Return the arrival times of each choice's tokens."""
        found: dict[int, list[float]] = {}
        for when, event in zip(*self.parse(), strict=True):
            for choice in event["choices"]:
                if _has_token(choice):
                    found.setdefault(choice["index"], []).append(when)
        return found

    def first(self) -> float:
        """Seconds from sending to the first token."""
        times = [when for tokens in self.tokens().values() for when in tokens]
        if not times:
            raise SystemExit("a stream brought no token")
        return min(times) - self.sent

    def usage(self) -> dict[str, Any]:
        """The token counts in the last event."""
        usage = self.parse()[1][-1].get("usage")
        if not usage:
            raise SystemExit("a stream ended without usage")
        result: dict[str, Any] = usage
        return result

    def text(self) -> str:
        """The whole text of the first choice."""
        return "".join(
            choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            for event in self.parse()[1]
            for choice in event["choices"]
            if choice["index"] == 0
        )


def _has_token(choice: dict[str, Any]) -> bool:
    """Whether an event contains a token, even with empty text, and not only a role or an end."""
    if "delta" in choice:
        return "content" in choice["delta"] and "role" not in choice["delta"]
    return bool(choice.get("text")) or choice.get("finish_reason") is None


class Clients:
    """Sends requests and reads their streams until they end or the client leaves."""

    def __init__(self, server: Program) -> None:
        self._server = server
        self._selector = selectors.DefaultSelector()
        self._leaving: dict[socket.socket, float] = {}

    @property
    def open(self) -> int:
        """The number of open requests."""
        return len(self._selector.get_map())

    def send(
        self,
        body: dict[str, Any],
        path: str = "/v1/completions",
        *,
        leave_after: float | None = None,
        label: Any = None,
    ) -> Reading:
        """Send a request; with ``leave_after``, hang up that many seconds later."""
        return self.send_all([body], path, leave_after=leave_after, label=label)[0]

    def send_all(
        self,
        bodies: list[dict[str, Any]],
        path: str = "/v1/completions",
        *,
        leave_after: float | None = None,
        label: Any = None,
    ) -> list[Reading]:
        """Send requests at once: all connections are open before the first byte is sent."""
        address = ("127.0.0.1", self._server.port)
        sockets = [socket.create_connection(address) for _ in bodies]
        payloads = [self._payload(body, path) for body in bodies]
        readings = [Reading(label) for _ in bodies]
        for sock, payload, reading in zip(sockets, payloads, readings, strict=True):
            reading.sent = time.perf_counter()
            sock.sendall(payload)
            self._selector.register(sock, selectors.EVENT_READ, reading)
            if leave_after is not None:
                self._leaving[sock] = reading.sent + leave_after
        return readings

    def _payload(self, body: dict[str, Any], path: str) -> bytes:
        content = json.dumps({"model": self._server.model, "stream": True, **body}).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._server.port}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    def poll(self, timeout: float | None = None) -> None:
        """Read arrived data; wait for it at most ``timeout`` seconds."""
        if self._leaving:
            until = max(0.0, min(self._leaving.values()) - time.perf_counter())
            timeout = until if timeout is None else min(timeout, until)
        for key, _ in self._selector.select(timeout):
            sock: socket.socket = key.fileobj  # type: ignore[assignment]
            try:
                chunk = sock.recv(1 << 16)
            except ConnectionError:
                chunk = b""
            if chunk:
                key.data.chunks.append((time.perf_counter(), chunk))
            else:
                self._close(sock, left=False)
        now = time.perf_counter()
        for sock in [sock for sock, when in self._leaving.items() if when <= now]:
            self._close(sock, left=True)

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Read until all streams have ended or ``until`` returns true."""
        while self.open and not until():
            self.poll()

    def leave(self) -> None:
        """Close all connections."""
        for key in list(self._selector.get_map().values()):
            self._close(key.fileobj, left=True)  # type: ignore[arg-type]

    def _close(self, sock: socket.socket, *, left: bool) -> None:
        reading: Reading = self._selector.unregister(sock).data
        reading.left, reading.ended = left, time.perf_counter()
        self._leaving.pop(sock, None)
        sock.close()


def read_all(
    server: Program, bodies: list[dict[str, Any]], path: str = "/v1/completions"
) -> list[Reading]:
    """Send all at once and read them to the end."""
    clients = Clients(server)
    readings = clients.send_all(bodies, path)
    clients.run()
    return readings


class Prompts:
    """New texts of a given number of tokens; no two begin alike."""

    def __init__(self, server: Program, seed: int) -> None:
        self._numbers = itertools.count(100_000 * seed + 10_000)
        self._head, self._tokens_a_word = 0.0, 1.0
        head = _tokens(server, self._begin(next(self._numbers)))
        every = _tokens(server, self._begin(next(self._numbers)) + " ".join(["", *WORDS]))
        # Words are tokenised one by one, and drawn with equal probability.
        self._head, self._tokens_a_word = head, (every - head) / len(WORDS)

    @staticmethod
    def _begin(number: int) -> str:
        return f"{number} {number * 7919 % 9000 + 1000} story:"

    def text(self, tokens: int) -> str:
        """A text of about ``tokens`` tokens."""
        number = next(self._numbers)
        words = max(1, round((tokens - self._head) / self._tokens_a_word))
        return " ".join([self._begin(number), *random.Random(number).choices(WORDS, k=words)])


def _tokens(server: Program, text: str) -> int:
    """The number of tokens of a text on this server."""
    usage = server.ask("/v1/completions", {"prompt": text, "max_tokens": 1})["usage"]
    return int(usage["prompt_tokens"])
