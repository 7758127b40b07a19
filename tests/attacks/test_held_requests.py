"""Invalid and strange requests: an error that says what is wrong, and no harm."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from processes import Child
from served import connect, served, unharmed
from support import STARTER, chat_body, eventually, request

pytestmark = pytest.mark.usefixtures("access")
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SHORT = {"model": STARTER, "prompt": "Once", "max_tokens": 2}
NAMED = b'{"model":"offgrid-starter","prompt":"Once","max_tokens":1'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, access: str) -> Iterator[Child]:
    """A server that must stay unharmed; its short context bounds the work of changed requests."""
    folder = tmp_path_factory.mktemp("held")
    with served(folder, "--ctx-size", "128") as child, unharmed(child, SHORT):
        yield child


# --- bodies that are no JSON, or JSON with two meanings -------------------------------------------

BODIES: dict[str, tuple[bytes, str]] = {
    "lists 100,000 deep": (NAMED + b',"a":' + b"[" * 100_000, "nested"),
    "objects 100,000 deep": (b'{"a":' * 100_000, "nested"),
    "8 MB of digits": (b'{"model":' + b"9" * 8_000_000 + b"}", "JSON"),
    "half a surrogate pair": (b'{"model":"offgrid-starter","prompt":"\\ud800"}', "surrogate"),
    "NaN": (NAMED + b',"temperature":NaN}', "NaN"),
    "infinity": (NAMED + b',"temperature":-Infinity}', "Infinity"),
    "a number beyond all": (NAMED + b',"temperature":1e999}', "1e999"),
    "a key twice": (NAMED + b',"max_tokens":2}', "max_tokens"),
    "NUL outside of texts": (NAMED + b"\0}", "JSON"),
    "overlong UTF-8": (b'{"model":"\xc0\xaf"}', "UTF-8"),
    "UTF-16": ('{"model":"a"}'.encode("utf-16"), "JSON"),
    "gzip": (gzip.compress(NAMED + b"}"), "JSON"),
    "XML": (b"<request><model>a</model></request>", "JSON"),
    "a form": (b"model=a&prompt=b", "JSON"),
    "nothing": (b"", "JSON"),
    "no object": (b'["model"]', "object"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("path", [TEXT, CHAT])
def test_a_body_that_is_refused_with_a_reason(server: Child, path: str, name: str) -> None:
    body, reason = BODIES[name]
    response = request(server.url, "POST", path, body)
    error = response.json["error"]
    assert response.status == 400, error
    assert reason in error["message"]
    assert len(error["message"]) < 1000


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "\ufdd0\uffff\U0010ffff", "\x7f\x1b[2J", "\u202eabc"]
)
def test_odd_characters_are_text_like_any_other(server: Child, text: str) -> None:
    """NUL, noncharacters, control characters and direction marks."""
    assert request(server.url, "POST", TEXT, {**SHORT, "prompt": text}).status == 200
    assert request(server.url, "POST", CHAT, chat_body(text, max_tokens=1)).status == 200


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1.nip.io", "localhost.evil.example", "evil.example", "2130706433", "0x7f000001",
        "017700000001", "user@127.0.0.1@evil.example", "127.0.0.1:1@evil.example",
        "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54",
    ],
)  # fmt: skip
def test_host_names_that_only_look_like_this_machine(server: Child, host: str) -> None:
    """Another site can let its name resolve to 127.0.0.1 (DNS rebinding)."""
    with connect(server) as sock:
        sock.sendall(
            f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        assert status_of(sock) in (400, 403)


@pytest.mark.parametrize(
    "model",
    [
        "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
        "..%5c..%5cetc%5cpasswd", "%c0%ae%c0%ae/etc/passwd", "%252e%252e/etc/passwd", "%00",
        "offgrid-starter%00.gguf", "offgrid-starter/../offgrid-starter", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_a_model_id_leads_to_no_file(server: Child, model: str) -> None:
    answers = (
        request(server.url, "GET", f"/v1/models/{model}"),
        request(server.url, "POST", TEXT, {**SHORT, "model": model}),
    )
    for response in answers:
        assert response.status == 404
        assert response.json["error"]["code"] == "model_not_found"


# --- random changes -------------------------------------------------------------------------------

TOOL = {"name": "look", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
VALID: list[tuple[str, Any]] = [
    (TEXT, SHORT),
    (TEXT, {**SHORT, "stop": ["a", "b"], "logit_bias": {"1": 2}, "logprobs": 1, "echo": True}),
    (TEXT, {**SHORT, "n": 2, "best_of": 2, "stream": True, "stream_options": {}}),
    (TEXT, {**SHORT, "dry_multiplier": 0.8, "mirostat": 2, "xtc_probability": 0.5, "min_p": 0.1}),
    (CHAT, chat_body(max_tokens=2, temperature=0.5, top_p=0.9, seed=1)),
    (CHAT, chat_body(max_tokens=2, response_format={"type": "json_object"})),
    (CHAT, chat_body(max_tokens=2, tools=[{"type": "function", "function": TOOL}])),
    (CHAT, chat_body(max_tokens=2, logprobs=True, top_logprobs=2, stream=True)),
    (RESPONSES, {"model": STARTER, "input": "a", "max_output_tokens": 2, "store": False}),
    (RESPONSES, {
        "model": STARTER,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}],
        "max_output_tokens": 2, "store": False, "tools": [{"type": "function", **TOOL}],
    }),
    ("/v1/embeddings", {"model": STARTER, "input": ["a", [1, 2]], "dimensions": 8}),
    ("/tokenize", {"model": STARTER, "content": "a", "add_special": True}),
    ("/detokenize", {"model": STARTER, "tokens": [1, 2]}),
    (TEXT, {**SHORT, "banned_strings": ["a", "b"]}),
    (TEXT, {**SHORT, "prediction": {"type": "content", "content": "a"}}),
    ("/v1/messages", {
        "model": STARTER, "max_tokens": 2, "system": "a", "stop_sequences": ["b"],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        "tools": [{"name": "look", "input_schema": TOOL["parameters"]}],
    }),
    ("/v1/messages/count_tokens", {
        "model": STARTER, "messages": [{"role": "user", "content": "a"}],
    }),
    ("/completion", {
        "prompt": ["a", {"prompt_string": "b"}], "n_predict": 2, "n_probs": 1,
        "samplers": ["top_k", "temperature"],
    }),
    ("/api/chat", {
        "model": STARTER, "messages": [{"role": "user", "content": "a"}], "format": "json",
        "options": {"num_predict": 2, "stop": ["b"]},
    }),
    ("/api/generate", {
        "model": STARTER, "prompt": "a", "system": "b", "stream": False,
        "options": {"num_predict": 2, "temperature": 0.5},
    }),
    ("/api/embed", {"model": STARTER, "input": ["a", "b"], "dimensions": 8}),
    ("/v1/decisions", {
        "model": STARTER, "input": [{"role": "user", "content": "a"}],
        "questions": [
            {"type": "predicate", "name": "a", "instructions": "b"},
            {"type": "choice", "instructions": "a", "choices": [{"value": "a"}, {"value": True}]},
            {"type": "score", "instructions": "a", "levels": [{"label": "a"}, {"label": "b"}]},
        ],
    }),
    ("/v1/moderations", {"model": STARTER, "input": ["a", "b"]}),
    ("/v1/lab/distribution", {
        "model": STARTER, "prompt": "a", "continuation": [1, 2], "samples": 3, "top": 2,
        "mirostat": 2, "logit_bias": {"5": 1},
    }),
    ("/v1/score", {"model": STARTER, "text_1": "a", "text_2": ["b", "c"]}),
]  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 1e308, 2**31, 2**63, 2**64, "", "\0", "\ufdd0", "a" * 300, [], {}, [[]],
    [None], {"": 0}, {"type": "object"}, "json_object",
)  # fmt: skip


def changed(rng: random.Random, value: Any) -> Any:
    """Return a copy with one part replaced, removed or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        copy = dict(value)
        name = rng.choice(list(copy))
        if rng.random() < 0.15:
            del copy[name]
        else:
            copy[name] = changed(rng, value[name])
        return copy
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        more = rng.choices(value, k=rng.randrange(3))
        return [*value[:at], changed(rng, value[at]), *value[at + 1 :], *more]
    return rng.choice(ODD)


def change_requests(server: Child, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        path, valid = rng.choice(VALID)
        body = json.dumps(changed(rng, valid)).encode()
        if rng.random() < 0.1:
            at = rng.randrange(len(body))
            body = body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :]
        response = request(server.url, "POST", path, body)
        assert response.status < 500 or response.status == 503, (path, body, response.body)


def idle(server: Child) -> bool:
    """Whether no sequence runs or waits."""
    models = request(server.url, "GET", "/v1/stats").json["models"]
    return not any(model["running"] or model["waiting"] for model in models)


@pytest.mark.slow
def test_random_changes_of_valid_requests(server: Child) -> None:
    change_requests(server, 80, seed=1)
    eventually(lambda: idle(server), "all slots are free")


@pytest.mark.slow
def test_many_random_changes_of_valid_requests(server: Child) -> None:
    """The default run covers 80 of them."""
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(change_requests, server, 2500, seed) for seed in range(2, 6)]:
            done.result()
    eventually(lambda: idle(server), "all slots are free")


def status_of(sock: socket.socket) -> int | None:
    """The status of a response; None if there is none."""
    line = sock.recv(1 << 16).split(b" ", 2)
    return int(line[1]) if line[0].startswith(b"HTTP/") else None


UNKNOWN = {"model": "nothing", "prompt": "a"}


def status_in_turn(server: Child, sock: socket.socket) -> int | None:
    """The status of a response; None if later requests are answered first, since the server waits
    for the rest of this one."""
    for _ in range(3):
        with contextlib.suppress(TimeoutError):
            return status_of(sock)
        assert request(server.url, "POST", TEXT, UNKNOWN).status == 404
    return None


def change_bytes(server: Child, count: int, seed: int) -> None:
    """Send requests with changed bytes; a longer Content-Length gets spaces, or no response."""
    rng = random.Random(seed)
    body = json.dumps(UNKNOWN).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n"
        f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n"
    )
    whole = head.encode() + body
    answered = 0
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        with connect(server) as sock:
            sock.settimeout(0.1)
            status = None
            with contextlib.suppress(ConnectionError):  # the server has closed it
                sock.sendall(data + b" " * 2000)
                status = status_in_turn(server, sock)
        answered += status is not None
        # 501 and 505 mean an unknown transfer coding or version.
        assert status is None or status < 500 or status in (501, 505), bytes(data)
    assert answered > count // 2


def test_random_changes_of_the_bytes_of_http(server: Child) -> None:
    change_bytes(server, 50, seed=3)


@pytest.mark.slow
def test_many_random_changes_of_the_bytes_of_http(server: Child) -> None:
    """The default run covers 50 of them."""
    change_bytes(server, 1500, seed=4)


# --- schemas --------------------------------------------------------------------------------------


def members(count: int, **rest: Any) -> dict[str, Any]:
    properties = {f"m{number}": {"type": "integer"} for number in range(count)}
    return {"type": "object", "properties": properties, **rest}


SCHEMAS: dict[str, dict[str, Any]] = {
    "5,000 items": {"type": "array", "items": {"type": "integer"}, "minItems": 5000},
    "9,000 values": {"enum": [f"value {number}" for number in range(9000)]},
    "25 times 250 optional members": {
        "type": "object", "required": [f"o{number}" for number in range(25)],
        "properties": {f"o{number}": members(250) for number in range(25)},
    },
    "1,000 repetitions": {"type": "string", "pattern": "^([a-z]{1,3}[0-9]){1000}$"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_large_schema_is_honoured_or_refused_with_its_limit(server: Child, name: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMAS[name]}}
    body = chat_body(max_tokens=8, response_format=wanted)
    response = request(server.url, "POST", CHAT, body)
    if response.status != 200:
        error = response.json["error"]
        assert response.status == 400, error
        assert error["param"].startswith("response_format")
        assert any(character.isdigit() for character in error["message"]), error
