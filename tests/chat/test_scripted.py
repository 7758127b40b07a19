"""Answers of all forms through a real server and engine, from models that say a given text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import scripted_model
from support import Json, Stream, request

from offgrid.config import load_settings
from offgrid.server import Server

from .templates import EXAMPLES, Example

CHAT = "/v1/chat/completions"
THOUGHT, CONTENT = "The user wants <rain>.", "Let me look, please…"
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


def answer(example: Example) -> str:
    return example.answer.replace("{thought}", THOUGHT).replace("{content}", CONTENT)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a model of each family."""
    folder = tmp_path_factory.mktemp("scripted")
    for example in EXAMPLES:
        path = folder / f"{example.family}.gguf"
        scripted_model.write(path, example.template, example.control, answer(example))
    flags: dict[str, Any] = {
        "port": 0, "models_dir": folder, "responses_file": folder / "responses.sqlite3",
        "drain_timeout": 0, "threads": 1, "parallel": 1,
    }  # fmt: skip
    server = Server(load_settings(flags, environ={}))
    server.start()
    yield server.url
    server.stop()


def body(example: Example, **fields: Any) -> Json:
    messages = [{"role": "user", "content": "Rain?"}]
    return {
        "model": example.family,
        "messages": messages,
        "tools": [TOOL],
        "temperature": 0,
        **fields,
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.family)
def test_an_answer_comes_apart_whole_and_streamed(url: str, example: Example) -> None:
    response = request(url, "POST", CHAT, body(example))
    assert response.status == 200, response.body
    (choice,) = response.json["choices"]
    message = choice["message"]
    thought = THOUGHT if "{thought}" in example.answer else None
    content = CONTENT if "{content}" in example.answer else None
    assert message.get("reasoning_content") == thought
    assert message["content"] == content
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "get"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo", "days": 13}
    assert choice["finish_reason"] == "tool_calls"

    told = {"content": "", "reasoning_content": "", "name": "", "arguments": ""}
    with Stream(url, CHAT, body(example, stream=True)) as stream:
        for event in stream.events():
            if event == "[DONE]":
                break
            for part in json.loads(event)["choices"]:
                delta = part["delta"]
                for key in ("content", "reasoning_content"):
                    told[key] += delta.get(key) or ""
                for piece in delta.get("tool_calls") or ():
                    for key, text in piece["function"].items():
                        told[key] += text or ""
    assert told.pop("arguments") == call["function"]["arguments"]
    assert told == {"content": content or "", "reasoning_content": thought or "", "name": "get"}
