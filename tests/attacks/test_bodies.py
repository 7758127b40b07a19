"""Bodies made to keep a server busy: other requests are answered in the meantime."""

from __future__ import annotations

import functools
import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from processes import Child
from support import STARTER, TIMEOUT, Stream, chat_body, endless, eventually, request, together
from tiny_models import make_many_controls

pytestmark = pytest.mark.usefixtures("access")
Serve = Callable[..., Child]
CHAT = "/v1/chat/completions"
MIB = 1 << 20


class Attack:
    """A request that has been sent completely; its response has not been read."""

    def __init__(self, url: str, path: str, body: bytes) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
        self._connection.request("POST", path, body)

    def error(self) -> dict[str, Any]:
        """Wait for the response with status 400; return its error object."""
        response = self._connection.getresponse()
        body = response.read()
        self._connection.close()
        assert response.status == 400, body[:500]
        error: dict[str, Any] = json.loads(body)["error"]
        return error


def refused(url: str, stream: Stream, path: str, body: bytes) -> dict[str, Any]:
    """Attack; check ``/health`` and another client's stream before reading the response."""
    attack = Attack(url, path, body)
    assert request(url, "GET", "/health").status == 200
    stream.read_some()
    return attack.error()


@pytest.mark.slow
def test_a_message_of_beginnings_of_control_texts(serve: Serve, models: Path) -> None:
    """``<`` begins each of 6,400 control texts.

    Trying them all at every place takes minutes for two megabytes, and one minute for the longest
    text that is searched.
    """
    model = make_many_controls(models).stem
    child = serve("--parallel", "2")
    url = child.wait_ready()
    worker = child.worker().pid
    with Stream(url, "/v1/completions", {**endless(), "model": model}) as stream:
        stream.read_some()
        body = {"model": model, "messages": [{"role": "user", "content": "<" * (2 * MIB)}]}
        error = refused(url, stream, CHAT, json.dumps(body).encode())
        assert error == {
            "message": "The prompt has 2097152 bytes and may have at most 65536. This model's "
            "maximum context length is 4096 tokens. Shorten messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
        body = {"model": model, "input": "<" * (2 * MIB)}
        error = refused(url, stream, "/v1/responses", json.dumps(body).encode())
        assert (error["param"], error["code"]) == ("input", "context_length_exceeded")
        # As long as is searched: the message alone has more tokens than the context.
        body = {"model": model, "messages": [{"role": "user", "content": "<unused" * 9000}]}
        error = refused(url, stream, CHAT, json.dumps(body).encode())
        assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
        stream.read_some()
    assert child.worker().pid == worker


@pytest.mark.slow
def test_many_bodies_of_many_small_messages(serve: Serve) -> None:
    """No body is large, and each message costs as much work as a short conversation."""
    child = serve("--parallel", "2", "--queue-size", "62")
    url = child.wait_ready()
    worker = child.worker().pid
    small = many(b'{"role":"user","content":""}', 4000)
    body = b'{"model":"%b","messages":%b}' % (STARTER.encode(), small)
    assert len(body) < 1 << 17
    with Stream(url, "/v1/completions", endless()) as stream:
        stream.read_some()
        attacks = [Attack(url, CHAT, body) for _ in range(32)]
        assert request(url, "GET", "/health").status == 200
        stream.read_some()
        for attack in attacks:
            error = attack.error()
            assert error["code"] == "context_length_exceeded"
            assert "4000 messages" in error["message"]
    assert child.worker().pid == worker


def many(item: bytes, n: int) -> bytes:
    return b"[" + b",".join([item] * n) + b"]"


MESSAGE = b'{"role":"user","content":"x"}'
HOSTILE = [
    (CHAT, b'"messages":' + many(b"[]", 2_700_000), "2700002 lists and objects; the maximum"),
    (CHAT, b'"messages":' + many(MESSAGE, 90_000), "90002 lists and objects; the maximum"),
    ("/v1/responses", b'"input":' + many(MESSAGE, 90_000), "90002 lists and objects"),
    ("/v1/completions", b'"prompt":' + many(b"1", 3_900_000), "3900005 values; the maximum"),
    ("/v1/embeddings", b'"input":' + many(b"1", 3_900_000), "3900005 values; the maximum"),
    ("/tokenize", b'"messages":' + many(b'"x"', 1_900_000), "1900003 texts and keys; the maximum"),
]


@pytest.mark.slow
def test_bodies_of_millions_of_values(serve: Serve) -> None:
    """Eight megabytes of empty lists, ids or messages take seconds and a gigabyte to parse."""
    child = serve()
    url = child.wait_ready()
    with Stream(url, "/v1/completions", endless()) as stream:
        stream.read_some()
        for path, field, words in HOSTILE:
            body = b'{"model":"' + STARTER.encode() + b'",' + field + b"}"
            assert len(body) < 8 * MIB
            error = refused(url, stream, path, body)
            assert error["code"] == "too_many_values"
            assert words in error["message"]


def peak_memory(process: psutil.Process) -> int:
    """The peak memory of a process, in bytes."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        pytest.skip("the system does not tell the peak of a process")
    (line,) = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.mark.slow
def test_large_bodies_at_once_take_little_memory_and_give_it_back(serve: Serve) -> None:
    """Six bodies, two of them within the limits: parsed at the same time, they take a gigabyte."""
    child = serve()
    url = child.wait_ready()
    server = psutil.Process(child.process.pid)
    model = b'{"model":"' + STARTER.encode() + b'",'
    ids = b",".join(b"%d" % (1000 + n % 1000) for n in range(1_000_000))
    bodies = [
        ("/v1/completions", model + b'"prompt":[' + ids + b"]}", "context_length_exceeded"),
        (CHAT, model + b'"messages":' + many(b"[]", 2_700_000) + b"}", "too_many_values"),
    ]
    request(url, "POST", CHAT, chat_body(max_tokens=1))
    before = server.memory_info().rss

    def attack(path: str, body: bytes, code: str) -> None:
        answer = request(url, "POST", path, body)
        assert answer.json["error"]["code"] == code, answer.body

    together([functools.partial(attack, *bodies[n % 3 > 0]) for n in range(6)])
    assert peak_memory(server) < before + 400 * MIB
    eventually(lambda: server.memory_info().rss < before + 100 * MIB, "the memory is back")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ '\U0001f600' * 1000000 }}" * 16, "handles more than"),
        # Refused like the message that is too long in the first test of this file.
        pytest.param("{{ 'x' * 1000000 }}", "The prompt has 1000000 bytes", marks=pytest.mark.slow),
    ],
    ids=["64 MB", "1 MB"],
)
def test_a_chat_template_that_writes_megabytes(
    serve: Serve, models: Path, template: str, words: str
) -> None:
    """The text is too large for the pipe, and so must not be sent, or only for the context."""
    model = make_many_controls(models, 2, template).stem
    child = serve()
    url = child.wait_ready()
    worker = child.worker().pid
    with Stream(url, "/v1/completions", {**endless(), "model": model}) as stream:
        stream.read_some()
        body = {**chat_body(), "model": model}
        error = refused(url, stream, CHAT, json.dumps(body).encode())
        assert words in error["message"]
        assert error["param"] == "messages"
        stream.read_some()
    assert child.worker().pid == worker
