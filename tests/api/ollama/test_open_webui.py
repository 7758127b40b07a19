"""Requests in the shape that Open WebUI sends to Ollama, and what it reads in the answers.

Written after its ``routers/ollama.py`` and ``utils/payload.py``; :data:`MADE` are bodies that the
code of version 0.12.4 made.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from ollama_calls import lines_of
from support import STARTER, Json, request

NAME = f"{STARTER}:latest"
USER = {
    "Content-Type": "application/json",
    "X-OpenWebUI-User-Name": "Ann",
    "X-OpenWebUI-User-Id": "7",
    "X-OpenWebUI-User-Email": "ann@example.org",
    "X-OpenWebUI-User-Role": "admin",
}
OPTIONS: Json = {
    "temperature": 0.2, "top_p": 0.9, "seed": 7, "mirostat": 0, "mirostat_eta": 0.1,
    "mirostat_tau": 5, "num_ctx": 2048, "num_batch": 512, "num_keep": 24, "num_predict": 8,
    "repeat_last_n": 64, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1,
    "presence_penalty": 0.1, "frequency_penalty": 0.1, "stop": ["###"], "use_mmap": True,
    "use_mlock": False, "num_thread": 2, "num_gpu": 0, "tfs_z": 1,
}  # fmt: skip
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]
        },
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def url(base_url: str) -> str:
    body = {"model": STARTER, "keep_alive": "1h"}
    assert request(base_url, "POST", "/api/generate", body).status == 200
    return base_url


def post(url: str, path: str, body: Json) -> Any:
    return request(url, "POST", path, body, USER)


def test_the_connection_is_verified(url: str) -> None:
    answer = request(url, "GET", "/api/version", None, USER)
    assert (answer.status, answer.json.keys()) == (200, {"version"})


def test_models_and_when_they_expire(url: str) -> None:
    models = request(url, "GET", "/api/tags", None, USER).json["models"]
    by_model = {model["model"]: model for model in models}
    # A name without a tag is looked up with :latest.
    assert NAME in by_model
    assert by_model[NAME]["name"] == NAME
    assert by_model[NAME]["details"]["parameter_size"]
    expires = {m["name"]: m["expires_at"] for m in request(url, "GET", "/api/ps").json["models"]}
    moment = datetime.datetime.fromisoformat(expires[NAME].replace("Z", "+00:00"))
    assert int(moment.timestamp()) > 0


def test_a_model_is_shown(url: str) -> None:
    for body in ({"model": NAME, "name": NAME}, {"model": NAME}):
        assert "completion" in post(url, "/api/show", body).json["capabilities"]


def test_a_chat(url: str) -> None:
    body = {
        "model": NAME,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello!", "images": []},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "And now?"},
        ],
        "stream": True, "options": OPTIONS, "keep_alive": "5m", "think": False,
    }  # fmt: skip
    lines = lines_of(post(url, "/api/chat", body))
    usage = lines[-1]
    for name in ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration",
                 "eval_count", "eval_duration"):  # fmt: skip
        assert usage[name] >= 0
    assert usage["eval_duration"] > 0
    assert usage["prompt_eval_duration"] > 0


def test_a_chat_with_tools(url: str) -> None:
    asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
    body = {"model": NAME, "messages": asked, "stream": True, "tools": [TOOL],
            "options": {"temperature": 0}}  # fmt: skip
    (calls,) = [
        line["message"]["tool_calls"]
        for line in lines_of(post(url, "/api/chat", body))
        if line["message"].get("tool_calls")
    ]
    call = calls[0]
    assert json.dumps(call["function"]["arguments"]) == '{"city": "Oslo"}'
    called = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"index": 0, "id": call["id"], "function": call["function"]}],
    }
    result = {"role": "tool", "content": "It rains.", "tool_call_id": call["id"]}
    assert lines_of(post(url, "/api/chat", {**body, "messages": [*asked, called, result]}))


def test_titles_and_tags_in_the_background(url: str) -> None:
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": "Give a title."}],
        "stream": False,
        "format": {
            "type": "object",
            "properties": {"title": {"type": "string", "maxLength": 20}},
            "required": ["title"],
        },
        "options": {"num_predict": 1000, "temperature": 0},
    }  # fmt: skip
    answer = post(url, "/api/chat", body)
    assert answer.status == 200
    assert "title" in json.loads(answer.json["message"]["content"])


def test_embeddings(url: str) -> None:
    for body in (
        {"model": NAME, "input": ["otter", "fox"], "truncate": True},
        {"model": NAME, "input": "otter"},
    ):
        answer = post(url, "/api/embed", body)
        assert answer.status == 200
        assert "embeddings" in answer.json
    assert post(url, "/api/embeddings", {"model": NAME, "prompt": "otter"}).json["embedding"]


MADE: list[Json] = [
    # Advanced parameters, of which some do not belong into the options.
    {
        "model": STARTER, "messages": [{"role": "user", "content": "Hi"}], "stream": False,
        "format": {"type": "object"}, "keep_alive": "5m", "think": False,
        "options": {
            "temperature": 0.2, "top_p": 0.9, "seed": 7, "mirostat": 0, "num_ctx": 2048,
            "num_keep": 24, "repeat_last_n": 64, "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1,
            "presence_penalty": 0.1, "frequency_penalty": 0.1, "stop": ["###"], "use_mmap": True,
            "use_mlock": False, "num_thread": 2, "num_gpu": 0, "num_batch": 512,
            "mirostat_eta": 0.1, "mirostat_tau": 5.0, "num_predict": 8,
        },
    },
    # A call and its result, from messages in the form of OpenAI's API.
    {
        "model": STARTER, "stream": True,
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"index": 0, "id": "call_1",
                 "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}]},
            {"role": "tool", "content": "8 degrees", "tool_call_id": "call_1"},
        ],
        "tools": [TOOL],
    },
    # ``response_format``, ``stop`` and ``max_tokens`` of OpenAI's API.
    {
        "model": STARTER, "messages": [{"role": "user", "content": "Hi"}], "stream": False,
        "options": {"stop": ["x"], "num_predict": 9}, "format": {"type": "object"},
    },
]  # fmt: skip


@pytest.mark.parametrize("body", MADE)
def test_bodies_that_its_code_made(url: str, body: Json) -> None:
    answer = post(url, "/api/chat", body)
    assert answer.status == 200, answer.body
    if body["stream"]:
        assert lines_of(answer)[-1]["done_reason"] in ("stop", "length")
    else:
        assert answer.json["message"]["content"].startswith("{")
    known = {f"options.{name}" for name in body.get("options", ())}
    ignored = answer.headers.get("x-offgrid-ignored", "")
    assert known >= set(filter(None, ignored.split(", ")))


def test_generate(url: str) -> None:
    body = {"model": NAME, "prompt": "Hello!", "options": OPTIONS, "stream": True, "raw": False}
    assert lines_of(post(url, "/api/generate", body))[-1]["context"]


def test_a_model_is_unloaded_and_nothing_else_changes(url: str) -> None:
    """The button that ejects a model sends an empty prompt."""
    body = {"model": NAME, "keep_alive": 0, "prompt": ""}
    answer = post(url, "/api/generate", body)
    assert (answer.status, answer.json["done_reason"]) == (200, "unload")
    for method, path, body in (
        ("POST", "/api/pull", {"model": "qwen3:4b"}),
        ("DELETE", "/api/delete", {"model": NAME}),
        ("POST", "/api/create", {"model": "mine", "from": NAME}),
        ("POST", "/api/copy", {"source": NAME, "destination": "mine"}),
    ):
        refused = request(url, method, path, body, USER)
        assert refused.status == 501
        assert isinstance(refused.json["error"], str)
    assert [m["name"] for m in request(url, "GET", "/api/tags").json["models"]] == [NAME]


def test_system_beside_the_messages_has_no_effect_and_is_named(url: str) -> None:
    """Ollama's ``/api/chat`` has no such field and ignores it; Open WebUI sends it nevertheless."""
    body = {
        "model": NAME, "stream": False, "options": {**OPTIONS, "temperature": 0},
        "messages": [{"role": "user", "content": "Hello!"}],
    }  # fmt: skip
    plain, with_system = (
        post(url, "/api/chat", body),
        post(url, "/api/chat", {**body, "system": "Answer in French."}),
    )
    assert with_system.status == 200
    assert "system" in with_system.headers["x-offgrid-ignored"]
    assert with_system.json["message"] == plain.json["message"]
    assert with_system.json["prompt_eval_count"] == plain.json["prompt_eval_count"]
