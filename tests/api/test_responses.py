"""``/v1/responses`` with the openai client: answers, events, tools, and what is kept."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response, ResponseItem, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic import TypeAdapter
from support import STARTER, Json, Stream, eventually, request

from offgrid.api.response_answer import ResponseWriter
from offgrid.api.schema.responses import IGNORED
from offgrid.config import Settings
from offgrid.server import Server

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
    """A whole response, held against the client's types field by field."""
    answer = request(url, "POST", PATH, body(prompt, **fields))
    assert answer.status == 200, answer.body
    Response.model_validate(answer.json)
    return dict(answer.json)


def stream(url: str, prompt: Any = "Hello!", **fields: Any) -> list[Json]:
    """The events of a stream; their frames, numbers and types are in order."""
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
    """A response without what differs from one to the next."""
    if isinstance(value, dict):
        varying = {"id", "call_id", "item_id", "created_at", "completed_at", "cached_tokens"}
        return {key: without_ids(item) for key, item in value.items() if key not in varying}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


# --- answers --------------------------------------------------------------------------------------


def test_a_response_field_by_field(base_url: str) -> None:
    response = ask(base_url, metadata={"project": "x"}, user="me")
    assert response["id"].startswith("resp_")
    (message,) = response["output"]
    assert message["id"].startswith("msg_")
    assert message["status"] == response["status"] == "completed"
    (part,) = message["content"]
    assert part.keys() == {"type", "text", "annotations", "logprobs"}
    assert part["text"].startswith("Hello!")
    assert without_ids(response) | {"output": [], "usage": {}} == {
        "object": "response", "status": "completed", "background": False, "error": None,
        "incomplete_details": None, "instructions": None, "max_output_tokens": None,
        "max_tool_calls": None, "metadata": {"project": "x"}, "model": STARTER, "output": [],
        "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None}, "safety_identifier": None,
        "service_tier": "default", "store": True, "temperature": 0,
        "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [],
        "top_logprobs": 0, "top_p": 0.95, "truncation": "disabled", "usage": {}, "user": "me",
    }  # fmt: skip
    usage = response["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_it_says_what_chat_says(base_url: str) -> None:
    chat = {
        "model": STARTER, "temperature": 0.9, "seed": 3, "max_tokens": 40,
        "messages": [{"role": "system", "content": "Be brief."},
                     {"role": "user", "content": "Tell me a short story."}],
    }  # fmt: skip
    answer = request(base_url, "POST", "/v1/chat/completions", chat).json
    fields: Json = {
        "instructions": "Be brief.", "temperature": 0.9, "seed": 3, "max_output_tokens": 40,
    }  # fmt: skip
    response = ask(base_url, "Tell me a short story.", **fields)
    assert text_of(response) == answer["choices"][0]["message"]["content"]
    assert response["usage"]["input_tokens"] == answer["usage"]["prompt_tokens"]
    assert response["usage"]["output_tokens"] == answer["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    "items",
    [
        [{"role": "user", "content": "What is 7 + 5?"}],
        [{"type": "message", "role": "user", "content": [
            {"type": "input_text", "text": "What is "}, {"type": "input_text", "text": "7 + 5?"}]}],
        [{"role": "user", "content": "Hello!"},
         {"type": "reasoning", "id": "rs_1", "summary": [], "content": None,
          "encrypted_content": "abc"},
         {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
          "content": [{"type": "output_text", "text": "Hello!", "annotations": [],
                       "logprobs": None}]},
         {"role": "user", "content": "What is 7 + 5?"}],
    ],
)  # fmt: skip
def test_forms_of_input(base_url: str, items: Any) -> None:
    assert "12" in text_of(ask(base_url, items))


def test_an_answer_that_is_cut(base_url: str) -> None:
    response = ask(base_url, "Tell me a short story.", max_output_tokens=5)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["completed_at"] is None
    assert response["usage"]["output_tokens"] == 5
    *_, last = stream(base_url, "Tell me a short story.", max_output_tokens=5)
    assert last["type"] == "response.incomplete"
    assert without_ids(last["response"]) == without_ids(response)


def test_logprobs(base_url: str) -> None:
    fields: Json = {"include": [LOGPROBS], "top_logprobs": 2}
    response = ask(base_url, **fields)
    (part,) = response["output"][0]["content"]
    assert b"".join(bytes(e["bytes"]) for e in part["logprobs"]).decode() == part["text"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in part["logprobs"])
    assert response["top_logprobs"] == 2
    events = stream(base_url, **fields)
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    assert [entry["token"] for e in deltas for entry in e["logprobs"]] == [
        entry["token"] for entry in part["logprobs"]
    ]
    assert ask(base_url)["output"][0]["content"][0]["logprobs"] == []


# --- events ---------------------------------------------------------------------------------------


def transcript(events: list[Json]) -> list[str]:
    """Types of events without their common prefix, repeated ones once."""
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
    """The output that a client builds from nothing but the events."""
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


def test_padding_comes_when_asked_for(base_url: str) -> None:
    padded = stream(base_url, stream_options={"include_obfuscation": True})
    assert all(("obfuscation" in e) == e["type"].endswith(".delta") for e in padded)
    assert not any("obfuscation" in event for event in stream(base_url))


ServeTemplate = Callable[[str], str]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)


@pytest.fixture
def serve_template(
    starter_path: Path, tmp_path: Path, make_server: Callable[..., Server]
) -> ServeTemplate:
    """Serve the starter's weights with another chat template; returns the URL."""

    def serve(template: str) -> str:
        data = starter_path.read_bytes()
        start = data.index(b"{%- if tools %}")
        end = data.index(b"'<|im_start|>assistant\\n' }}\n{%- endif %}\n", start) + 41
        padded = (template + "{#").encode().ljust(end - start - 2) + b"#}"
        (tmp_path / f"{STARTER}.gguf").write_bytes(data[:start] + padded + data[end:])
        return make_server().url

    return serve


def test_reasoning(serve_template: ServeTemplate) -> None:
    """The prompt opens a thought, and this model never ends it."""
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
    # It goes back to the template, which decides what becomes of it.
    again = ask(url, [*response["output"], {"role": "user", "content": "Go on"}], **fields)
    assert again["output"][0]["type"] == "reasoning"


def test_a_stream_that_fails_says_so(make_server: Callable[..., Server]) -> None:
    server = make_server()
    engine = server.pool.engine(STARTER)
    long = body("Tell me a short story.", ignore_eos=True, stream=True)
    with Stream(server.url, PATH, long) as opened:
        lines = opened.events()
        events = [json.loads(next(lines)) for _ in range(6)]
        assert engine._process is not None
        engine._process.kill()
        events += map(json.loads, lines)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    last = EVENT.validate_python(events[-1])
    assert last.type == "response.failed"
    assert last.response.error.code == "server_error"
    assert "process ended" in last.response.error.message
    assert request(server.url, "GET", f"{PATH}/{last.response.id}").status == 404


def test_a_stream_that_fails_by_our_fault_says_so(
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
    ) as opened:
        next(event for event in opened.events() if "output_text.delta" in event)
        opened.leave()
    eventually(lambda: engine.in_flight == 0, "it ends")


# --- the client -----------------------------------------------------------------------------------


def test_create_and_stream_with_the_client(client: OpenAI) -> None:
    whole = client.responses.create(model=STARTER, input="What is 7 + 5?", temperature=0)
    assert "12" in whole.output_text
    text = ""
    for event in client.responses.create(
        model=STARTER, input="What is 7 + 5?", temperature=0, stream=True
    ):
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == whole.output_text
    with client.responses.stream(model=STARTER, input="What is 7 + 5?", temperature=0) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert kinds[-1] == "response.completed"
    assert final.output_text == text


NAMED = {"type": "function", "name": "add"}
ALLOWED = {"type": "allowed_tools", "mode": "required", "tools": [NAMED]}


@pytest.mark.parametrize("choice", ["auto", "required", NAMED, ALLOWED])
def test_tool_choice(client: OpenAI, choice: Any) -> None:
    fields: Any = {
        "model": STARTER, "input": ASK_SUM, "tools": [WEATHER, ADD], "tool_choice": choice,
        "temperature": 0,
    }  # fmt: skip
    whole = client.responses.create(**fields)
    with client.responses.stream(**fields) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    assert "response.function_call_arguments.delta" in kinds
    for response in (whole, final):
        (call,) = response.output
        assert call.type == "function_call"
        assert (call.name, call.status) == ("add", "completed")
        assert json.loads(call.arguments) == {"a": 3, "b": 4}


@pytest.mark.parametrize("stateful", [True, False])
def test_a_result_goes_back_to_the_model(client: OpenAI, stateful: bool) -> None:
    first = client.responses.create(
        model=STARTER, input=ASK_WEATHER, tools=[WEATHER], temperature=0, store=stateful
    )
    (call,) = first.output
    assert call.type == "function_call"
    result: Any = {
        "type": "function_call_output", "call_id": call.call_id,
        "output": '{"city": "Oslo", "degrees": 23}',
    }  # fmt: skip
    more: Any = {"input": [result], "previous_response_id": first.id}
    if not stateful:
        history = [{"role": "user", "content": ASK_WEATHER}, *first.output, result]
        more = {"input": history, "store": False}
    second = client.responses.create(model=STARTER, tools=[WEATHER], temperature=0, **more)
    assert "23 degrees in Oslo" in second.output_text


def test_one_call_ends_the_answer_without_parallel_calls(base_url: str) -> None:
    fields: Json = {"tools": [ADD], "ignore_eos": True, "max_output_tokens": 200}
    one = ask(base_url, ASK_SUM, parallel_tool_calls=False, **fields)
    assert [item["type"] for item in one["output"]] == ["function_call"]
    assert one["status"] == "completed"
    assert one["usage"]["output_tokens"] < 40
    *_, last = stream(base_url, ASK_SUM, parallel_tool_calls=False, **fields)
    assert without_ids(last["response"]["output"]) == without_ids(one["output"])
    more = ask(base_url, ASK_SUM, **fields)
    assert more["status"] == "incomplete"
    assert more["usage"]["output_tokens"] == 200


# --- what is kept ---------------------------------------------------------------------------------


def test_a_conversation_continues(client: OpenAI, base_url: str) -> None:
    first = client.responses.create(
        model=STARTER, input="Hello!", instructions="Answer briefly.", temperature=0
    )
    second = client.responses.create(
        model=STARTER, input="What is 7 + 5?", previous_response_id=first.id, temperature=0
    )
    assert second.previous_response_id == first.id
    third = ask(base_url, "And 1 + 1?", previous_response_id=second.id)
    spelled_out = ask(
        base_url,
        [
            {"role": "user", "content": "Hello!"},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "What is 7 + 5?"},
            {"role": "assistant", "content": second.output_text},
            {"role": "user", "content": "And 1 + 1?"},
        ],
    )
    assert text_of(third) == text_of(spelled_out)
    # Instructions are those of their own request only.
    assert third["usage"]["input_tokens"] == spelled_out["usage"]["input_tokens"]
    assert third["usage"]["input_tokens_details"]["cached_tokens"] > 0


def test_retrieve_and_delete(client: OpenAI) -> None:
    created = client.responses.create(
        model=STARTER, input=ASK_SUM, tools=[ADD], temperature=0, metadata={"a": "b"}
    )
    assert client.responses.retrieve(created.id).to_dict() == created.to_dict()
    assert client.responses.delete(created.id) is None
    for call in (
        lambda: client.responses.retrieve(created.id),
        lambda: client.responses.delete(created.id),
        lambda: client.responses.input_items.list(created.id),
        lambda: client.responses.cancel(created.id),
    ):
        with pytest.raises(NotFoundError, match=created.id):
            call()
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model=STARTER, input="x", previous_response_id=created.id)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


def test_what_a_stream_answered_is_kept_before_it_ends(base_url: str) -> None:
    with Stream(base_url, PATH, body(stream=True)) as opened:
        last = {}
        for event in map(json.loads, opened.events()):
            if event["type"] == "response.completed":
                last = event["response"]
                kept = request(base_url, "GET", f"{PATH}/{last['id']}").json
                assert kept == last
    assert last["store"] is True


def test_store_false_keeps_nothing(client: OpenAI) -> None:
    response = client.responses.create(model=STARTER, input="Hello!", store=False)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(response.id)


def test_input_items(client: OpenAI, base_url: str) -> None:
    items: Any = [
        {"role": "user", "content": f"Question {n}"} if n % 2 == 0 else
        {"role": "assistant", "content": [{"type": "output_text", "text": f"Answer {n}"}]}
        for n in range(25)
    ]  # fmt: skip
    response = client.responses.create(model=STARTER, input=items, max_output_tokens=1)
    page = client.responses.input_items.list(response.id, limit=10, order="asc")
    assert (len(page.data), page.has_more) == (10, True)
    everything = list(page)
    texts = [item.content[0].text for item in everything]  # type: ignore[union-attr]
    assert texts == [f"Answer {n}" if n % 2 else f"Question {n}" for n in range(25)]
    latest = client.responses.input_items.list(response.id)
    assert [item.id for item in latest.data] == [item.id for item in everything[:-21:-1]]
    raw = request(base_url, "GET", f"{PATH}/{response.id}/input_items?limit=100").json
    for item in raw["data"]:
        TypeAdapter(ResponseItem).validate_python(item)
    assert (raw["first_id"], raw["last_id"]) == (everything[-1].id, everything[0].id)
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=nobody", "include=x"):
        answer = request(base_url, "GET", f"{PATH}/{response.id}/input_items?{query}")
        assert answer.status == 400
        assert answer.json["error"]["param"] == query.partition("=")[0]


def test_stored_items_can_be_referred_to(client: OpenAI, base_url: str) -> None:
    first = client.responses.create(
        model=STARTER, input=ASK_WEATHER, tools=[WEATHER], temperature=0
    )
    (call,) = first.output
    assert call.type == "function_call"
    assert call.id is not None
    second = ask(
        base_url,
        [
            {"role": "user", "content": ASK_WEATHER},
            {"type": "item_reference", "id": call.id},
            {"type": "function_call_output", "call_id": call.call_id,
             "output": [{"type": "input_text", "text": '{"city": "Oslo", "degrees": 23}'}]},
        ],
        tools=[WEATHER],
    )  # fmt: skip
    assert "23 degrees in Oslo" in text_of(second)
    listed = client.responses.input_items.list(second["id"], order="asc").data
    assert [item.type for item in listed] == ["message", "function_call", "function_call_output"]
    answer = request(base_url, "POST", PATH, body([{"id": "msg_unknown"}]))
    assert answer.status == 400
    assert answer.json["error"]["param"] == "input[0].id"


def test_a_restart_keeps_them(make_server: Callable[..., Server]) -> None:
    first = make_server()
    response = ask(first.url, "My name is Ada.")
    first.stop()
    second = make_server()
    assert request(second.url, "GET", f"{PATH}/{response['id']}").json == response
    assert ask(second.url, "Hello!", previous_response_id=response["id"])["status"] == "completed"


def test_a_store_that_fails_costs_no_answer(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    path = tmp_path / "file" / "responses.sqlite3"
    (tmp_path / "file").write_text("where the folder should be")
    url = make_server(responses_file=path).url
    response = ask(url)
    assert response["store"] is False
    assert text_of(response)
    *_, last = stream(url)
    assert (last["type"], last["response"]["store"]) == ("response.completed", False)
    answer = request(url, "GET", f"{PATH}/{response['id']}")
    assert (answer.status, answer.json["error"]["code"]) == (500, "store_failed")
    os.unlink(tmp_path / "file")
    assert ask(url)["store"] is True


def test_a_server_that_keeps_nothing(make_server: Callable[..., Server], tmp_path: Path) -> None:
    url = make_server(max_responses=0).url
    response = ask(url)
    assert response["store"] is False
    assert request(url, "GET", f"{PATH}/{response['id']}").status == 404
    refused = request(url, "POST", PATH, body(previous_response_id=response["id"]))
    assert refused.status == 400
    assert "OFFGRID_MAX_RESPONSES" in refused.json["error"]["message"]
    assert not list(tmp_path.glob("*.sqlite3"))


def test_the_oldest_go_first(make_server: Callable[..., Server]) -> None:
    url = make_server(max_responses=2).url
    ids = [ask(url, max_output_tokens=1)["id"] for _ in range(3)]
    assert [request(url, "GET", f"{PATH}/{id}").status for id in ids] == [404, 200, 200]


def test_a_conversation_that_grew_too_large_is_refused(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    url = make_server(max_body_mb=1).url
    response = ask(url)
    with sqlite3.connect(tmp_path / "responses.sqlite3") as connection:
        connection.execute("UPDATE responses SET size = 2 << 20")
    connection.close()
    answer = request(url, "POST", PATH, body(previous_response_id=response["id"]))
    assert answer.status == 400
    assert answer.json["error"]["param"] == "previous_response_id"


def test_the_tokens_of_a_prompt(client: OpenAI) -> None:
    first = client.responses.create(model=STARTER, input="Hello!", temperature=0)
    fields: Any = {
        "input": "What is 7 + 5?", "instructions": "Be brief.", "tools": [ADD],
        "previous_response_id": first.id,
    }  # fmt: skip
    second = client.responses.create(model=STARTER, max_output_tokens=1, **fields)
    assert second.usage is not None
    counted = client.responses.input_tokens.count(model=STARTER, **fields)
    assert counted.input_tokens == second.usage.input_tokens
    assert client.responses.input_tokens.count(**fields) == counted
    with pytest.raises(BadRequestError) as refused:
        client.responses.input_tokens.count(input=[{"role": "bot", "content": "x"}])  # type: ignore
    assert refused.value.param == "input[0].role"


# --- fields ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x"}] * 10_001}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": "x", "color": "red"}]}, "input[0].color"),
        ({"input": [{"role": "user", "content": [
            {"type": "input_text", "text": "x", "color": "red"}]}]}, "input[0].content[0].color"),
        ({"input": [{"type": "computer_call", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": ["message"]}]}, "input[0].type"),
        ({"input": [{"type": "function_call", "call_id": "x", "name": "f"}]},
         "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input"),
        ({"instructions": ["x"]}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_k": "many"}, "top_k"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**ADD, "parameters": {"type": "string"}}]}, "tools[0].parameters"),
        ({"tools": [ADD, ADD]}, "tools[1].name"),
        ({"tools": [ADD], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"tools": [ADD], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [
            {"type": "function", "name": "x"}]}}, "tool_choice.tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"verbosity": "loud"}}, "text.verbosity"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": True}},
         "stream_options.include_usage"),
        ({"store": "yes"}, "store"),
        ({"previous_response_id": "resp_unknown"}, "previous_response_id"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"metadata": {"x" * 65: "x"}}, "metadata"),
        ({"metadata": {"x": 1}}, "metadata[...]"),
        ({"truncation": "middle"}, "truncation"),
        ({"include": ["everything"]}, "include[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": [LOGPROBS], "top_logprobs": 21}, "top_logprobs"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)  # fmt: skip
def test_bad_fields(base_url: str, fields: Json, param: str) -> None:
    response = request(base_url, "POST", PATH, body() | fields)
    assert response.status == 400, response.body
    assert response.json["error"]["param"] == param
    words = response.json["error"]["message"]
    assert "messages[" not in words
    assert ".function" not in words


def test_fields_without_effect(base_url: str) -> None:
    plain = ask(base_url, max_output_tokens=3)
    fields: Json = {
        "background": False, "background_options": None, "context_management": [],
        "access_programs": {"cyber": "standard"}, "image": {"context_compression": "auto"},
        "max_tool_calls": 3, "moderation": {"model": "x"}, "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "implicit"}, "prompt_cache_retention": "24h",
        "reasoning": {"effort": "high"}, "safety_identifier": "s", "service_tier": "flex",
        "truncation": "auto", "text": {"verbosity": "low"}, "user": "u",
        "include": ["reasoning.encrypted_content"], "tool_choice": "auto",
    }  # fmt: skip
    echoed = {"prompt_cache_key": "k", "safety_identifier": "s", "user": "u"}
    again = ask(base_url, max_output_tokens=3, **fields)
    assert without_ids(again) == without_ids(plain) | echoed


def test_too_long_a_prompt_names_the_input(base_url: str, settings: Settings) -> None:
    response = request(base_url, "POST", PATH, body("hello " * 5000, truncation="auto"))
    error = response.json["error"]
    assert (response.status, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "input"
    unknown = request(base_url, "POST", PATH, body() | {"model": "nobody"})
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")


def test_what_only_background_responses_have(client: OpenAI, base_url: str) -> None:
    response = client.responses.create(model=STARTER, input="Hello!", max_output_tokens=1)
    with pytest.raises(BadRequestError, match="background"):
        client.responses.cancel(response.id)
    with pytest.raises(BadRequestError, match="stream"):
        client.responses.retrieve(response.id, stream=True)
    assert client.responses.retrieve(response.id, include=[LOGPROBS]).id == response.id
    assert request(base_url, "GET", PATH).status == 405


def test_every_field_of_the_client_is_known(base_url: str) -> None:
    """Whatever a client of today can send is supported, ignored or refused, never unheard of."""
    names = set(ResponseCreateParamsBase.__annotations__) | {"stream"}
    assert len(names) > 30
    nulls = dict.fromkeys(names - {"model", "input"})
    assert request(base_url, "POST", PATH, nulls | body(max_output_tokens=1)).status == 200
    for name in sorted(names):
        answer = request(base_url, "POST", PATH, body() | {name: {"no_such_field": 1}})
        if name in IGNORED:
            assert answer.status == 200
            continue
        assert answer.status == 400
        assert answer.json["error"]["param"].startswith(name)
        unknown = answer.json["error"]["code"] == "unknown_parameter"
        assert not unknown or answer.json["error"]["param"] == f"{name}.no_such_field"
