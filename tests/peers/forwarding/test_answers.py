"""Requests that are forwarded are answered as the far machine answers them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from forwarded import MODEL, Pair
from support import Stream, request, text_of, together

CHAT = {"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0, "max_tokens": 8}
TEXT = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 8}
WHOLE: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", TEXT),
    ("/v1/messages", CHAT),
    ("/v1/responses", {"input": "Hello!", "temperature": 0, "max_output_tokens": 8}),
    ("/api/chat", {"messages": CHAT["messages"], "options": {"temperature": 0, "num_predict": 8},
                   "stream": False}),
    ("/api/generate", {"prompt": "Hello!", "options": {"temperature": 0, "num_predict": 8},
                       "stream": False}),
    ("/completion", {"prompt": "Once", "temperature": 0, "n_predict": 8}),
    ("/tokenize", {"content": "Once upon a time"}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
    ("/apply-template", {"messages": CHAT["messages"]}),
    ("/v1/chat/completions/input_tokens", CHAT),
    ("/v1/messages/count_tokens", {"messages": CHAT["messages"]}),
    ("/v1/responses/input_tokens", {"input": "Hello!"}),
    ("/v1/lab/distribution", {"prompt": "Once"}),
    ("/v1/embeddings", {"input": ["Once", "twice"]}),
    ("/v1/score", {"text_1": "Once", "text_2": ["once", "twice"]}),
    ("/v1/decisions", {"input": "Once", "questions": [
        {"type": "predicate", "instructions": "Twice."}]}),
    ("/api/embed", {"input": ["Once", "twice"]}),
    ("/v1/moderations", {"input": "Once"}),
]  # fmt: skip


def masked(value: Any) -> Any:
    """Parsed JSON without ids, times and durations."""
    if isinstance(value, dict):
        changing = ("id", "created", "created_at", "completed_at", "timings", "id_slot", "seed")
        return {
            name: masked(inner) for name, inner in value.items()
            if name not in changing and "duration" not in name and "cache" not in name
        }  # fmt: skip
    return [masked(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("path", "body"), WHOLE, ids=[path for path, _ in WHOLE])
def test_answers_are_those_of_the_far_machine(
    lasting_pair: Pair, path: str, body: dict[str, Any]
) -> None:
    body = {"model": MODEL, **body}
    direct = request(lasting_pair.far.server.url, "POST", path, body)
    relayed = request(lasting_pair.near.server.url, "POST", path, body)
    assert direct.status == relayed.status == 200, relayed.body
    if path == "/v1/responses":  # the far machine stores no responses of others
        assert relayed.json["store"] is False
        body["store"] = False
        direct = request(lasting_pair.far.server.url, "POST", path, body)
    assert masked(relayed.json) == masked(direct.json)
    assert relayed.headers["content-type"] == direct.headers["content-type"]
    assert relayed.headers["x-offgrid-peer"] == "far"


def test_a_body_reaches_the_far_machine_as_it_is(lasting_pair: Pair) -> None:
    body = json.dumps({"model": MODEL, **TEXT}).encode()
    spaced = b" \n" + body.replace(b'"max_tokens"', b'\t"max_\\u0074okens"')
    assert request(lasting_pair.near.server.url, "POST", "/v1/completions", spaced).status == 200


STREAMS = [
    ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/completions", {**TEXT, "stream": True}),
    ("/v1/messages", {**CHAT, "stream": True}),
    ("/v1/responses", {"input": "Hello!", "temperature": 0, "max_output_tokens": 8,
                       "stream": True, "store": False, "stream_options":
                       {"include_obfuscation": False}}),
    ("/api/chat", {"messages": CHAT["messages"], "options": {"temperature": 0, "num_predict": 8}}),
    ("/completion", {"prompt": "Once", "temperature": 0, "n_predict": 8, "stream": True}),
]  # fmt: skip
_CHANGING = re.compile(
    rb'"(id|created|created_at|completed_at|item_id|timings|[a-z_]*duration|[a-z_]*_ms'
    rb'|[a-z_]*per_second|id_slot|seed|[a-z_]*cache[a-z_]*)":("[^"]*"|[\d.]+|\{[^{}]*\})'
)


def plain(stream: bytes) -> bytes:
    """The bytes of a stream without ids, times and numbers of cached tokens."""
    return _CHANGING.sub(rb'"\1":0', stream)


@pytest.mark.parametrize(("path", "body"), STREAMS, ids=[path for path, _ in STREAMS])
def test_streams_are_those_of_the_far_machine(
    lasting_pair: Pair, path: str, body: dict[str, Any]
) -> None:
    body = {"model": MODEL, **body}
    direct = request(lasting_pair.far.server.url, "POST", path, body)
    relayed = request(lasting_pair.near.server.url, "POST", path, body)
    assert relayed.status == 200
    assert plain(relayed.body) == plain(direct.body)
    for name in ("content-type", "cache-control", "x-accel-buffering"):
        assert relayed.headers[name] == direct.headers[name]


def test_ids_of_both_machines_are_told(lasting_pair: Pair) -> None:
    body = {"model": MODEL, **TEXT}
    url, given = lasting_pair.near.server.url, {"X-Request-Id": "from-the-client"}
    answer = request(url, "POST", "/v1/completions", body, given)
    assert answer.headers["x-request-id"] == "from-the-client"
    assert answer.headers["x-offgrid-peer-request-id"] == "from-the-client"
    assert answer.headers["x-offgrid-seed"]


def test_errors_are_those_of_the_far_machine(lasting_pair: Pair) -> None:
    body = {"model": MODEL, **TEXT, "temperature": -1}
    direct = request(lasting_pair.far.server.url, "POST", "/v1/completions", body)
    relayed = request(lasting_pair.near.server.url, "POST", "/v1/completions", body)
    assert direct.status == relayed.status == 400
    assert relayed.json == direct.json


def test_eight_at_once_get_their_own_answers(lasting_pair: Pair) -> None:
    prompts = [
        "Once upon a time", "The river is", "A machine that", "In winter the", "My name is",
        "Two and two", "Water and", "She said that",
    ]  # fmt: skip

    def ask(url: str, prompt: str) -> str:
        body = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 24}
        with Stream(url, "/v1/completions", {**body, "stream": True}) as stream:
            return text_of([*stream.events()])

    direct = [ask(lasting_pair.far.server.url, prompt) for prompt in prompts]
    url = lasting_pair.near.server.url
    relayed = together([lambda prompt=prompt: ask(url, prompt) for prompt in prompts])
    assert relayed == direct
    assert len(set(relayed)) > 1
