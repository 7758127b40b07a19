"""Limits of size and time of a request, through a real server."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from support import STARTER, Stream, chat_body, eventually, request

from offgrid.api.fields import bounds
from offgrid.config import Settings
from offgrid.server import Server

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "description": "x" * 2000}}}


@pytest.fixture(scope="module")
def small(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with low limits."""
    file = tmp_path_factory.mktemp("small") / "responses.sqlite3"
    server = Server(
        dataclasses.replace(
            settings, responses_file=file, max_tokens=5, max_messages=3, max_json_depth=10,
            max_schema_kb=1,
        )
    )  # fmt: skip
    server.start()
    yield server
    server.stop()


def text(**fields: Any) -> dict[str, Any]:
    return {"model": STARTER, "prompt": "Once", "ignore_eos": True, **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return chat_body(ignore_eos=True, **fields)


def response(**fields: Any) -> dict[str, Any]:
    return {"model": STARTER, "input": "Hello!", "ignore_eos": True, **fields}


# --- tokens of an answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (TEXT, text(max_tokens=6), "max_tokens"),
        (TEXT, text(max_tokens=(1 << 31) - 1), "max_tokens"),
        (TEXT, text(n_predict=6), "n_predict"),
        (TEXT, text(min_tokens=6), "min_tokens"),
        (CHAT, chat(max_tokens=6), "max_tokens"),
        (CHAT, chat(max_completion_tokens=6), "max_completion_tokens"),
        (CHAT, chat(max_completion_tokens=6, max_tokens=1), "max_completion_tokens"),
        (CHAT, chat(max_tokens=6, stream=True), "max_tokens"),
        (RESPONSES, response(max_output_tokens=16), "max_output_tokens"),
    ],
)
def test_a_request_for_more_tokens_is_refused(
    small: Server, path: str, body: dict[str, Any], field: str
) -> None:
    refused = request(small.url, "POST", path, body)
    error = refused.json["error"]
    assert (refused.status, error["param"], error["code"]) == (400, field, "invalid_value")
    value = body.get(field)
    assert f"{field} must be at most 5 on this server, not {value}" in error["message"]


@pytest.mark.parametrize("limit", [{}, {"max_tokens": 5}, {"max_tokens": -1}])
def test_an_answer_ends_at_the_limit(small: Server, limit: dict[str, int]) -> None:
    for path, body in ((TEXT, text(**limit)), (CHAT, chat(**limit)), (CHAT, chat(n=2, **limit))):
        answer = request(small.url, "POST", path, body).json
        assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
        assert answer["usage"]["completion_tokens"] == 5 * len(answer["choices"])


def test_a_stream_and_a_response_end_at_the_limit(small: Server) -> None:
    with Stream(small.url, CHAT, chat(stream=True)) as stream:
        *_, last, done = stream.events()
    assert (json.loads(last)["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
    answer = request(small.url, "POST", RESPONSES, response()).json
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["usage"]["output_tokens"] == 5


# --- sizes ----------------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    return [] if levels == 1 else [nested(levels - 1)]


def test_levels_of_a_body(small: Server, base_url: str) -> None:
    """E12: the depth is checked before the body is parsed."""
    for levels, code in ((9, "unknown_parameter"), (10, "invalid_json")):
        refused = request(small.url, "POST", TEXT, {**text(), "deep": nested(levels)})
        assert (refused.status, refused.json["error"]["code"]) == (400, code)
    assert "more than 10 levels" in refused.json["error"]["message"]
    other = request(base_url, "POST", TEXT, {**text(), "deep": nested(10)})
    assert other.json["error"]["code"] == "unknown_parameter"


@pytest.mark.parametrize(("path", "field"), [(CHAT, "messages"), (RESPONSES, "input")])
def test_messages_of_a_conversation(small: Server, path: str, field: str) -> None:
    for count, status in ((3, 200), (4, 400)):
        messages = [{"role": "user", "content": "Hi"}] * count
        answer = request(small.url, "POST", path, {"model": STARTER, field: messages})
        assert answer.status == status, answer.body
    error = answer.json["error"]
    assert (error["param"], error["code"]) == (field, "invalid_value")
    assert "at most 3 messages on this server, not 4" in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (
            CHAT,
            {"response_format": {
                "type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
            "response_format.json_schema.schema",
        ),
        (CHAT, {"json_schema": json.dumps(SCHEMA)}, "json_schema"),
        (TEXT, {"guided_json": SCHEMA}, "guided_json"),
        (
            CHAT,
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]},
            "tools[0].function.parameters",
        ),
    ],
)  # fmt: skip
def test_the_size_of_a_schema(
    small: Server, base_url: str, path: str, fields: dict[str, Any], param: str
) -> None:
    body = {**(text() if path == TEXT else chat()), **fields}
    refused = request(small.url, "POST", path, body)
    error = refused.json["error"]
    assert (refused.status, error["param"]) == (400, param)
    assert "bytes, at most 1024" in error["message"]
    allowed = request(base_url, "POST", path, {**body, "max_tokens": 1})
    assert b"bytes, at most" not in allowed.body


def test_the_limits_end_with_the_request(small: Server) -> None:
    """The threads of this process serve several servers and programs."""
    assert request(small.url, "POST", TEXT, text(max_tokens=5)).status == 200
    assert bounds.bounds() is bounds.NO_BOUNDS


# --- time -----------------------------------------------------------------------------------------


@pytest.fixture
def late(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Server]:
    """Start a server whose requests are late as soon as :attr:`Late.now` is set."""

    def start() -> Server:
        monkeypatch.setattr(bounds.Bounds, "late", property(lambda self: Late.now))
        return make_server(request_timeout=3600)

    Late.now = False
    return start


class Late:
    """Whether requests have taken too long."""

    now = False


def test_a_stream_that_takes_too_long(late: Callable[[], Server]) -> None:
    """It ends with an error event, never silently."""
    server = late()
    with Stream(server.url, TEXT, text(stream=True)) as stream:
        stream.read_some()
        Late.now = True
        *_, last = stream.events()
    error = json.loads(last)["error"]
    assert error["code"] == "request_timeout"
    assert "longer than 3600 seconds" in error["message"]
    eventually(lambda: not any(c.in_flight for c in server.pool.loaded()), "its places are free")


def test_an_answer_that_takes_too_long(late: Callable[[], Server]) -> None:
    """The client does not repeat it by itself."""
    server = late()
    (engine,) = server.pool.loaded()
    engine.wait_ready()
    Late.now = True
    with OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=5) as client:
        for call in (
            lambda: client.chat.completions.create(**chat_body()),
            lambda: client.completions.create(model=STARTER, prompt="Once"),
            lambda: client.responses.create(model=STARTER, input="Hi"),
            lambda: client.embeddings.create(model=STARTER, input="Hi"),
        ):
            with pytest.raises(openai.InternalServerError) as ended:
                call()
            assert ended.value.status_code == 504
            assert ended.value.code == "request_timeout"
            assert ended.value.response.headers["x-should-retry"] == "false"
    eventually(lambda: not engine.in_flight, "its places are free")


@pytest.mark.slow
def test_a_background_response_that_takes_too_long(late: Callable[[], Server]) -> None:
    server = late()
    body = response(background=True, max_output_tokens=4000)
    id = request(server.url, "POST", RESPONSES, body).json["id"]
    Late.now = True
    states: list[Any] = []

    def failed() -> bool:
        states.append(request(server.url, "GET", f"{RESPONSES}/{id}").json)
        return bool(states[-1]["status"] == "failed")

    eventually(failed, "it has failed")
    assert "longer than 3600 seconds" in states[-1]["error"]["message"]


def test_the_deadline_is_one_of_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault suite: a jump of the system's clock makes no request late."""
    now = time.monotonic()
    limits = bounds.Bounds(timeout=5.0, deadline=now + 5.0)
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: real + 86400)
    assert not limits.late
    monkeypatch.setattr(time, "monotonic", lambda: now + 6.0)
    assert limits.late
    assert limits.within(lambda: True) is not None
    assert not bounds.NO_BOUNDS.late
