"""Stored responses of ``/v1/responses``: continued conversations, and the endpoints to read."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter
from responses_calls import (
    ADD,
    ASK_SUM,
    ASK_WEATHER,
    PATH,
    WEATHER,
    ask,
    body,
    stream,
    text_of,
)
from support import STARTER, Stream, request

from offgrid.server import Server


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
    # Instructions apply to their own request only.
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
    ):
        with pytest.raises(NotFoundError, match=created.id):
            call()
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model=STARTER, input="x", previous_response_id=created.id)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


def test_a_streamed_response_is_stored_before_the_stream_ends(base_url: str) -> None:
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
    long = "limit=000000001" + "0" * 5000
    for query in ("limit=0", "limit=101", "limit=x", long, "order=up", "after=nobody", "include=x"):
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


@pytest.mark.slow
def test_stored_responses_survive_a_restart(make_server: Callable[..., Server]) -> None:
    """The default run covers a killed server instead (tests/attacks/test_held_life.py)."""
    first = make_server()
    response = ask(first.url, "My name is Ada.")
    first.stop()
    second = make_server()
    assert request(second.url, "GET", f"{PATH}/{response['id']}").json == response
    assert ask(second.url, "Hello!", previous_response_id=response["id"])["status"] == "completed"


@pytest.mark.slow
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


def test_a_server_that_stores_nothing(make_server: Callable[..., Server], tmp_path: Path) -> None:
    url = make_server(max_responses=0).url
    response = ask(url)
    assert response["store"] is False
    assert request(url, "GET", f"{PATH}/{response['id']}").status == 404
    refused = request(url, "POST", PATH, body(previous_response_id=response["id"]))
    assert refused.status == 400
    assert "OFFGRID_MAX_RESPONSES" in refused.json["error"]["message"]
    assert not list(tmp_path.glob("*.sqlite3"))


@pytest.mark.slow
def test_the_oldest_responses_are_evicted_first(make_server: Callable[..., Server]) -> None:
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
