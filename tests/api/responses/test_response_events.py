"""The events of a ``/v1/responses`` stream: their order, and that they contain the response."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from responses_calls import (
    ADD,
    ASK_SUM,
    EVENT,
    LOGPROBS,
    PATH,
    ask,
    body,
    stream,
    without_ids,
)
from support import STARTER, Json, Stream, eventually, request

from offgrid.api.responses.items import opened
from offgrid.api.responses.writer import ResponseWriter
from offgrid.server import Server


def transcript(events: list[Json]) -> list[str]:
    """Types of events without their common prefix, each run of equal ones once."""
    kinds = [event["type"].removeprefix("response.") for event in events]
    return [kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] != kind]


TEXT_EVENTS = [
    "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
    "content_part.done", "output_item.done",
]  # fmt: skip
CALL_EVENTS = [
    "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
    "output_item.done",
]  # fmt: skip


def replay(events: list[Json]) -> list[Json]:
    """The output that a client builds from the events alone."""
    output: list[Json] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert event["output_index"] == len(output)
            output.append(event["item"])
            assert event["item"]["status"] == "in_progress"
        elif kind == "content_part.added":
            output[event["output_index"]]["content"].append(event["part"])
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            assert event["item_id"] == output[event["output_index"]]["id"]
            output[event["output_index"]]["content"][event["content_index"]]["text"] += event[
                "delta"
            ]
        elif kind == "function_call_arguments.delta":
            assert event["item_id"] == output[event["output_index"]]["id"]
            output[event["output_index"]]["arguments"] += event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done"):
            part = output[event["output_index"]]["content"][event["content_index"]]
            assert part["text"] == event["text"]
        elif kind == "function_call_arguments.done":
            assert output[event["output_index"]]["arguments"] == event["arguments"]
        elif kind == "output_item.done":
            output[event["output_index"]]["status"] = event["item"]["status"]
            assert output[event["output_index"]] == event["item"]
    return output


def test_events_of_text(base_url: str) -> None:
    events = stream(base_url)
    assert transcript(events) == ["created", "in_progress", *TEXT_EVENTS, "completed"]
    for event in events[:2]:
        assert event["response"]["status"] == "in_progress"
        assert event["response"]["output"] == []
    final = events[-1]["response"]
    assert replay(events) == final["output"]
    assert without_ids(final) == without_ids(ask(base_url))
    assert len({event["response"]["id"] for event in (*events[:2], events[-1])}) == 1


def test_events_of_a_call(base_url: str) -> None:
    events = stream(base_url, ASK_SUM, tools=[ADD])
    assert transcript(events) == ["created", "in_progress", *CALL_EVENTS, "completed"]
    (call,) = replay(events)
    assert json.loads(call["arguments"]) == {"a": 3, "b": 4}
    assert events[-1]["response"]["output"] == [call]


def test_padding_is_sent_on_request(base_url: str) -> None:
    padded = stream(base_url, stream_options={"include_obfuscation": True})
    assert all(("obfuscation" in e) == e["type"].endswith(".delta") for e in padded)
    assert not any("obfuscation" in event for event in stream(base_url))


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)


def test_reasoning(serve_template: Callable[[str], str]) -> None:
    """The prompt opens reasoning, and this model never ends it."""
    url = serve_template(CHATML + "{% if 1 %}{% else %}</think>{% endif %}<think>\n{% endif %}")
    fields: Json = {"max_output_tokens": 12, "include": [LOGPROBS]}
    response = ask(url, **fields)
    (item,) = response["output"]
    assert (item["type"], item["summary"], item["status"]) == ("reasoning", [], "incomplete")
    assert item["content"][0]["text"]
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": 12}
    events = stream(url, **fields)
    assert transcript(events) == [
        "created", "in_progress", "output_item.added", "content_part.added",
        "reasoning_text.delta", "reasoning_text.done", "content_part.done", "output_item.done",
        "incomplete",
    ]  # fmt: skip
    assert without_ids(replay(events)) == without_ids(response["output"])
    # Clients that keep no plain text send back the sealed one.
    events = stream(url, **fields | {"include": ["reasoning.encrypted_content"]})
    (sealed,) = events[-1]["response"]["output"]
    assert opened(sealed["encrypted_content"]) == sealed["content"][0]["text"]
    assert next(e for e in events if "item" in e)["item"]["encrypted_content"] is None
    # The reasoning goes back to the template, which may use or drop it.
    again = ask(url, [*response["output"], {"role": "user", "content": "Go on"}], **fields)
    assert again["output"][0]["type"] == "reasoning"


@pytest.mark.slow
def test_a_failing_stream_reports_the_error(make_server: Callable[..., Server]) -> None:
    server = make_server()
    engine = server.pool.engine(STARTER)
    long = body("Tell me a short story.", ignore_eos=True, stream=True)
    with Stream(server.url, PATH, long) as broken:
        lines = broken.events()
        events = [json.loads(next(lines)) for _ in range(6)]
        engine.kill()
        events += map(json.loads, lines)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = EVENT.validate_python(events[-1])
    assert last.type == "response.failed"
    assert last.response.error.code == "server_error"
    assert "process of this model died" in last.response.error.message
    said = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    (item,) = last.response.output
    assert (item.status, item.content[0].text) == ("incomplete", said)
    assert said
    assert request(server.url, "GET", f"{PATH}/{last.response.id}").status == 404


def test_a_stream_that_fails_through_a_bug_reports_the_error(
    base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ResponseWriter) -> Any:
        yield None
        raise ZeroDivisionError

    monkeypatch.setattr(ResponseWriter, "_events", broken)
    *_, last = stream(base_url)
    assert last["response"]["error"] == {
        "code": "server_error", "message": "Internal server error.",
    }  # fmt: skip


def test_leaving_ends_the_computation(server: Server) -> None:
    engine = server.pool.engine(STARTER)
    with Stream(
        server.url, PATH, body("Tell me a short story.", ignore_eos=True, stream=True)
    ) as left:
        next(event for event in left.events() if "output_text.delta" in event)
        left.leave()
    eventually(lambda: engine.in_flight == 0, "it ends")
