"""Calls of ``/v1/responses``; responses are checked against the client's types."""

from __future__ import annotations

import json
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from support import STARTER, Json, request

PATH = "/v1/responses"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
LOGPROBS = "message.output_text.logprobs"
ASK_SUM = "Add 3 and 4."
ASK_WEATHER = "What is the weather in Oslo?"


def tool(name: str, **types: str) -> Any:
    properties = {key: {"type": kind} for key, kind in types.items()}
    return {
        "type": "function", "name": name, "description": f"Does {name}", "strict": False,
        "parameters": {"type": "object", "properties": properties, "required": list(types)},
    }  # fmt: skip


ADD = tool("add", a="integer", b="integer")
WEATHER = tool("get_weather", city="string")


def body(prompt: Any = "Hello!", **fields: Any) -> Json:
    return {"model": STARTER, "input": prompt, "temperature": 0, **fields}


def ask(url: str, prompt: Any = "Hello!", **fields: Any) -> Json:
    """A whole response, checked against the client's types field by field."""
    answer = request(url, "POST", PATH, body(prompt, **fields))
    assert answer.status == 200, answer.body
    Response.model_validate(answer.json)
    return dict(answer.json)


def stream(url: str, prompt: Any = "Hello!", **fields: Any) -> list[Json]:
    """The events of a stream, after checks of their frames, numbers and types."""
    answer = request(url, "POST", PATH, body(prompt, stream=True, **fields))
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = answer.body.split(b"\n\n")
    assert frames.pop() == b""
    events = []
    for number, frame in enumerate(frames):
        name, data = frame.split(b"\n")
        event = json.loads(data.removeprefix(b"data: "))
        assert name.decode() == f"event: {event['type']}"
        assert event["sequence_number"] == number
        EVENT.validate_python(event)
        events.append(event)
    return events


def text_of(response: Json) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


def without_ids(value: Any) -> Any:
    """A response without the ids and times that differ between two calls."""
    if isinstance(value, dict):
        varying = {"id", "call_id", "item_id", "created_at", "completed_at", "cached_tokens"}
        return {key: without_ids(item) for key, item in value.items() if key not in varying}
    return [without_ids(item) for item in value] if isinstance(value, list) else value
