"""``/v1/responses`` with the openai client: answers, tools, structured output, tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel
from responses_calls import (
    ADD,
    ASK_SUM,
    ASK_WEATHER,
    LOGPROBS,
    PATH,
    WEATHER,
    ask,
    body,
    stream,
    text_of,
    without_ids,
)
from support import STARTER, Json, request


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


def test_the_answer_equals_that_of_chat(base_url: str) -> None:
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


def test_a_truncated_answer(base_url: str) -> None:
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
    fields: Json = {"tools": [ADD], "ignore_eos": True, "max_output_tokens": 60}
    one = ask(base_url, ASK_SUM, parallel_tool_calls=False, **fields)
    assert [item["type"] for item in one["output"]] == ["function_call"]
    assert one["status"] == "completed"
    assert one["usage"]["output_tokens"] < 40
    *_, last = stream(base_url, ASK_SUM, parallel_tool_calls=False, **fields)
    assert without_ids(last["response"]["output"]) == without_ids(one["output"])
    more = ask(base_url, ASK_SUM, **fields)
    assert more["status"] == "incomplete"
    assert more["usage"]["output_tokens"] == 60


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


# --- structured output ----------------------------------------------------------------------------


class Sum(BaseModel):
    a: int
    b: int
    total: int


def test_parse(client: OpenAI) -> None:
    fields: Any = {
        "model": STARTER,
        "input": "What is 7 + 5?",
        "temperature": 0,
        "text_format": Sum,
    }
    whole = client.responses.parse(**fields)
    assert isinstance(whole.output_parsed, Sum)
    with client.responses.stream(**fields) as events:
        final = events.get_final_response()
    assert final.output_parsed == whole.output_parsed
    assert whole.text is not None
    assert whole.text.format is not None
    assert whole.text.format.type == "json_schema"


def test_forms_of_text(base_url: str) -> None:
    any_object = ask(base_url, text={"format": {"type": "json_object"}}, max_output_tokens=200)
    if any_object["status"] == "completed":
        assert isinstance(json.loads(text_of(any_object)), dict)
    else:
        assert text_of(any_object).lstrip().startswith("{")
    schema = {"enum": ["left", "right"]}
    form = {"type": "json_schema", "name": "side", "schema": schema, "strict": True}
    response = ask(base_url, "Where to?", text={"format": form})
    assert json.loads(text_of(response)) in ("left", "right")
    assert response["text"] == {"format": {**form, "description": None}}
    plain = ask(base_url, text={"format": {"type": "text"}})
    assert text_of(plain) == text_of(ask(base_url))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}},
         "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}},
         "text.format.schema"),
        ({"tools": [{**ADD, "strict": True, "parameters": {
            "type": "object", "properties": {"a": {"uniqueItems": True}}}}]},
         "tools[0].parameters"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_schemas_that_cannot_be_enforced(
    base_url: str, fields: Json, param: str, streamed: bool
) -> None:
    answer = request(base_url, "POST", PATH, body(stream=streamed, **fields))
    assert answer.status == 400
    assert answer.json["error"]["param"].startswith(param)
    assert "response_format" not in answer.json["error"]["message"]
