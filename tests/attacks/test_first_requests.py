"""The first requests of a fresh server arrive at the same moment.

If threads built objects on first use, all of them would then build at once. The server runs with
``tests/hurried``, which makes threads disturb each other.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from processes import Child
from support import STARTER, TIMEOUT, chat_body, request

from offgrid.api.openapi.operations import OPERATIONS

pytestmark = pytest.mark.usefixtures("access")
Serve = Callable[..., Child]

TOGETHER = 16
SERVERS = 10
HURRIED = Path(__file__).parents[1] / "hurried"
TOOL = {"type": "object", "properties": {"place": {"type": "string"}}}
TALK: dict[str, Any] = {
    "max_tokens": 4, "stop": ["@@"], "logprobs": True,
    "tools": [{"type": "function", "function": {"name": "look", "parameters": TOOL}}],
}  # fmt: skip
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat_body(**TALK),
    "/v1/chat/completions/input_tokens": chat_body(**TALK),
    "/v1/completions": {"prompt": "Once", "max_tokens": 4, "logprobs": 2},
    "/v1/embeddings": {"input": ["Once", "twice"]},
    "/v1/rerank": {"query": "Once", "documents": ["once", "twice"]},
    "/v1/decisions": {
        "input": "Once", "questions": [{"type": "predicate", "instructions": "Twice."}],
    },
    "/v1/lab/distribution": {"prompt": "Once", "continuation": [5], "mirostat": 2},
    "/v1/moderations": {"input": "Once"},
    "/v1/score": {"text_1": "Once", "text_2": ["once", "twice"]},
    "/score": {"text_1": "Once", "text_2": ["once", "twice"]},
    "/completion": {"prompt": "Once", "n_predict": 4},
    "/completions": {"prompt": "Once", "n_predict": 4},
    "/infill": {"input_prefix": "Once", "input_suffix": "time", "n_predict": 4},
    "/apply-template": chat_body(),
    "/props": {},
    "/slots/{id}": {},
    "/api/chat": {**chat_body(), "stream": False},
    "/api/generate": {"prompt": "Once", "options": {"num_predict": 4}},
    "/api/embed": {"input": ["Once", "twice"]},
    "/api/embeddings": {"prompt": "Once"},
    "/api/show": {}, "/api/pull": {}, "/api/create": {}, "/api/copy": {}, "/api/push": {},
    "/api/delete": {}, "/api/blobs/{digest}": {},
    "/tokenize": {"content": "Once"},
    "/detokenize": {"tokens": [1, 2]},
    "/v1/messages": {
        "messages": [{"role": "user", "content": "Once"}], "max_tokens": 4,
        "tools": [{"name": "look", "input_schema": TOOL}],
    },
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Once"}]},
    "/v1/responses": {
        "input": "Once", "max_output_tokens": 4,
        "tools": [{"type": "function", "name": "look", "parameters": TOOL}],
    },
    "/v1/responses/input_tokens": {"input": "Once"},
    "/v1/responses/compact": {"input": "Once"},
    "/v1/responses/{id}/cancel": {},
    "/v1/import": {"paths": ["/"]},
    "/v1/import/{id}/cancel": {},
    "/v1/export": {"path": "/"},
    "/v1/export/{id}/cancel": {},
    "/v1/models/{model}/pin": {},
    "/v1/models/{model}/unpin": {},
    "/v1/models/{model}/default": {},
    "/v1/models/{model}/remove": {"confirm": ""},
    "/v1/models/{model}/load": {},
    "/v1/models/{model}/unload": {},
    "/v1/conversations": {"metadata": {"trip": "1"}},
    "/v1/conversations/{id}": {"metadata": {"trip": "2"}},
    "/v1/conversations/{id}/items": {"items": [{"role": "user", "content": "Once"}]},
    "/v1/history": {"title": "Once"},
    "/v1/history/{id}": {"title": "Twice"},
    "/v1/history/{id}/messages": {"messages": [{"id": "a", "role": "user", "content": "Once"}]},
    "/v1/history/import": {"format": "markdown", "text": ""},
    "/v1/keys": {"name": "no/name"},  # refused: with a key, the other requests would be
    "/v1/keys/{id}": {"expires_at": None},
    "/v1/keys/{id}/rotate": {},
    "/v1/peers/{id}": {"models": []},
    "/v1/peers/pair": {},
}  # fmt: skip


def body_of(path: str) -> dict[str, Any]:
    """The body for an endpoint; only those that name no stored object name a model."""
    without = (
        "/v1/conversations", "/v1/export", "/v1/history", "/v1/import", "/v1/keys", "/v1/peers",
    )  # fmt: skip
    stored = "{" in path or path.startswith(without)
    return BODIES[path] if stored else {"model": STARTER, **BODIES[path]}


CALLS = [
    (
        operation.method.upper(),
        operation.path.format(
            model=STARTER, id="resp_1", item_id="msg_1", digest="sha256:0", path="main.js"
        ),
        body_of(operation.path) if operation.method == "post" else None,
    )
    for operation in OPERATIONS
]  # a new endpoint without a body here is a KeyError
HARMLESS = {200, 302, 400, 403, 404, 409, 501, 503}
"""The starter cannot rerank, no response is stored, a queue may be full, the folder of an import or
export is below no root, one of each runs at a time, and some endpoints of other APIs are not
offered. The page is led to its own address."""

Call = tuple[str, str, dict[str, Any] | None]


@pytest.fixture
def start(serve: Serve) -> Callable[[], Child]:
    """Start a server whose threads disturb each other as often as they can."""
    path = os.pathsep.join([str(HURRIED), *filter(None, [os.environ.get("PYTHONPATH")])])
    return lambda: serve("--queue-size", "64", "--threads", "1", PYTHONPATH=path)


def attack(server: Child, calls: list[Call]) -> None:
    """Send requests at the same moment; check that all are answered and the server still runs."""
    parts = urlsplit(server.url)
    assert parts.hostname is not None
    with contextlib.ExitStack() as open_sockets:
        # The head of a request must arrive within ten seconds, so all are connected before.
        sockets = [
            open_sockets.enter_context(
                socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT)
            )
            for _ in calls
        ]
        messages = [message_of(*call) for call in calls]
        for sock, message in zip(sockets, messages, strict=True):
            sock.sendall(message[:-1])
        for sock, message in zip(sockets, messages, strict=True):
            sock.sendall(message[-1:])
        statuses = [status_of(sock) for sock in sockets]
    assert set(statuses) <= HARMLESS, statuses
    assert request(server.url, "GET", "/health").status == 200
    assert server.process.poll() is None


def message_of(method: str, path: str, body: dict[str, Any] | None) -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


def status_of(sock: socket.socket) -> int:
    with http.client.HTTPResponse(sock) as response:
        response.begin()
        response.read()
        return response.status


def test_sixteen_first_requests_to_one_endpoint(start: Callable[[], Child]) -> None:
    """Each converts its body into types that no thread has used before."""
    attack(start(), [call for call in CALLS if call[:2] == ("POST", "/v1/responses")] * TOGETHER)


@pytest.mark.slow
def test_the_first_requests_to_all_endpoints(start: Callable[[], Child]) -> None:
    attack(start(), CALLS * 2)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call[0]} {call[1]}")
def test_ten_servers_survive_their_first_requests(
    start: Callable[[], Child], call: Call, access: str
) -> None:
    """The default run covers one server for the largest endpoint, and one for all. With keys, the
    requests are converted by the same code, so two servers are enough."""
    for _ in range(SERVERS // 2 if access == "open" else 1):
        for server in (start(), start()):  # both start at the same time
            attack(server, [call] * TOGETHER)
            server.end()
