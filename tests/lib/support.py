"""Helpers of several test files: plain HTTP, event streams, and waiting for a condition."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

STARTER = "offgrid-starter"
TIMEOUT = 120.0
"""Seconds after which a waiting test fails. Nothing waits this long when all is well."""

Json = dict[str, Any]


class Response:
    """A whole HTTP response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    base_url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """Send one request; ``body`` is raw bytes or a value to be sent as JSON."""
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=TIMEOUT)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, data, headers or {})
        with connection.getresponse() as response:
            return whole(response)
    finally:
        connection.close()


def whole(response: http.client.HTTPResponse) -> Response:
    """Read a response to its end."""
    fields = {name.lower(): value for name, value in response.getheaders()}
    return Response(response.status, fields, response.read())


def response_on(sock: socket.socket, method: str = "GET") -> Response:
    """Read the next response on a connection to its end."""
    with http.client.HTTPResponse(sock, method=method) as response:
        response.begin()
        return whole(response)


def chat_body(text: str = "Hello!", **fields: Any) -> Json:
    """A chat request to the starter model."""
    return {"model": STARTER, "messages": [{"role": "user", "content": text}], **fields}


def endless(text: str = "Once upon a time", **fields: Any) -> Json:
    """A completion request that goes on until the context is full."""
    return {"model": STARTER, "prompt": text, "ignore_eos": True, "stream": True, **fields}


class Stream:
    """An open event stream, read as raw bytes."""

    def __init__(self, base_url: str, path: str, body: Json) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(base_url).netloc, timeout=TIMEOUT)
        self._connection.request("POST", path, json.dumps(body).encode())
        self._socket = self._connection.sock
        self.response = self._connection.getresponse()

    def events(self) -> Iterator[str]:
        """Yield the ``data`` of each event, ``[DONE]`` included."""
        while line := self.response.readline():
            if line.startswith(b"data: "):
                yield line[6:].decode().rstrip("\n")

    def read_some(self) -> str:
        """Return the first event that contains text."""
        for event in self.events():
            choices = json.loads(event)["choices"]
            text = choices[0].get("text") or choices[0].get("delta", {}).get("content")
            if text:
                return str(text)
        raise AssertionError("the stream ended without text")

    def leave(self) -> None:
        """Close the connection while the server is writing to it."""
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
        self.response.close()
        self._connection.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self._connection.close()


def text_of(events: list[str]) -> str:
    """The text of choice 0 of a finished stream."""
    assert events[-1] == "[DONE]"
    text = ""
    for event in map(json.loads, events[:-1]):
        for choice in event["choices"]:
            if choice["index"] == 0:
                text += (
                    choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
                )
    return text


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until another thread or process makes a condition true."""
    deadline = time.monotonic() + TIMEOUT
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not within {TIMEOUT:g} s: {what}"
        pause.wait(0.005)


def together(functions: list[Callable[[], Any]]) -> list[Any]:
    """Call functions at the same moment, each in a thread; return their results in order.

    An exception of one of them is raised here.
    """
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(functions))

    def call(index: int) -> None:
        try:
            barrier.wait(TIMEOUT)
            results[index] = functions[index]()
        except BaseException as ex:
            errors.append(ex)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
        assert not thread.is_alive(), "a call hangs"
    if errors:
        raise errors[0]
    return results


def no_threads(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make starting a thread of this name fail, as under a process limit."""
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name == name:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
