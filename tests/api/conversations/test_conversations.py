"""``/v1/conversations`` with the openai client, and responses that belong to a conversation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.conversations import ConversationItem, ConversationItemList
from pydantic import TypeAdapter
from responses_calls import ADD, ask, body, stream
from support import STARTER, Json, request

from offgrid.server import Server

PATH = "/v1/conversations"
ITEM: TypeAdapter[Any] = TypeAdapter(ConversationItem)


def says(text: str, **fields: Any) -> Any:
    return {"type": "message", "role": "user", "content": text, **fields}


def texts(items: Any) -> list[str]:
    return [item.content[0].text for item in items if item.type == "message"]


def test_create_read_update_delete(client: OpenAI) -> None:
    made = client.conversations.create(items=[says("A")], metadata={"topic": "x"})
    assert made.id.startswith("conv_")
    assert made.metadata == {"topic": "x"}
    assert client.conversations.retrieve(made.id) == made
    changed = client.conversations.update(made.id, metadata={"topic": "y"})
    assert changed.metadata == {"topic": "y"}
    assert client.conversations.retrieve(made.id) == changed
    assert client.conversations.update(made.id, metadata=None).metadata == {}
    gone = client.conversations.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "conversation.deleted")
    for call in (
        lambda: client.conversations.retrieve(made.id),
        lambda: client.conversations.update(made.id, metadata={}),
        lambda: client.conversations.delete(made.id),
        lambda: client.conversations.items.list(made.id),
        lambda: client.conversations.items.create(made.id, items=[says("A")]),
        lambda: client.responses.create(model=STARTER, input="x", conversation=made.id),
    ):
        with pytest.raises(NotFoundError, match=made.id):
            call()


@pytest.mark.slow
def test_requests_without_a_body(base_url: str, client: OpenAI) -> None:
    """All fields of a new conversation are optional; cancelling takes none."""
    for headers in ({}, {"Content-Type": "application/json"}, {"Transfer-Encoding": "chunked"}):
        sent = b"" if "Transfer-Encoding" not in headers else b"0\r\n\r\n"
        made = request(base_url, "POST", PATH, sent, headers)
        assert (made.status, made.json["metadata"]) == (200, {}), made.body
    id = made.json["id"]
    running = client.responses.create(model=STARTER, input="x", background=True)
    assert request(base_url, "POST", f"/v1/responses/{running.id}/cancel").status == 200
    for path in (f"{PATH}/{id}/items", "/v1/responses"):
        refused = request(base_url, "POST", path)
        assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_json")
    document = request(base_url, "GET", "/openapi.json").json["paths"]
    assert document[PATH]["post"]["requestBody"]["required"] is False
    assert document[f"{PATH}/{{id}}/items"]["post"]["requestBody"]["required"] is True


def test_items(client: OpenAI, base_url: str) -> None:
    id = client.conversations.create().id
    empty = client.conversations.items.list(id)
    assert (empty.data, empty.has_more) == ([], False)
    for start in range(0, 45, 15):
        added = client.conversations.items.create(
            id, items=[says(f"Text {n}") for n in range(start, start + 15)]
        )
        assert texts(added.data) == [f"Text {n}" for n in range(start, start + 15)]
        ConversationItemList.model_validate(added.to_dict())
    page = client.conversations.items.list(id, order="asc", limit=10)
    assert (len(page.data), page.has_more) == (10, True)
    everything = list(page)
    assert texts(everything) == [f"Text {n}" for n in range(45)]
    assert texts(client.conversations.items.list(id)) == [f"Text {n}" for n in range(44, -1, -1)]
    first: Any = everything[0]
    one = client.conversations.items.retrieve(first.id, conversation_id=id)
    assert one.to_dict() == first.to_dict()
    assert client.conversations.items.delete(first.id, conversation_id=id).id == id
    for call in (client.conversations.items.retrieve, client.conversations.items.delete):
        with pytest.raises(NotFoundError):
            call(first.id, conversation_id=id)
    assert len(list(client.conversations.items.list(id, limit=100))) == 44
    for query in ("limit=0", "limit=101", "order=up", "after=nobody", "include=x"):
        answer = request(base_url, "GET", f"{PATH}/{id}/items?{query}")
        assert (answer.status, answer.json["error"]["param"]) == (400, query.partition("=")[0])


def test_a_response_continues_and_extends_its_conversation(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[says("Hello!")])
    first = client.responses.create(
        model=STARTER, input="What is 7 + 5?", conversation=conversation.id, temperature=0
    )
    assert first.conversation is not None
    assert first.conversation.id == conversation.id
    alone = client.responses.create(
        model=STARTER, input=[says("Hello!"), says("What is 7 + 5?")], temperature=0
    )
    assert first.output_text == alone.output_text
    assert first.usage is not None
    assert alone.usage is not None
    assert first.usage.input_tokens == alone.usage.input_tokens
    items = client.conversations.items.list(conversation.id, order="asc").data
    assert texts(items) == ["Hello!", "What is 7 + 5?", first.output_text]
    for item in items:
        ITEM.validate_python(item.to_dict())
    assert items[2].id == first.output[0].id
    again = client.responses.retrieve(first.id)
    assert again.to_dict() == first.to_dict()


def test_every_way_to_answer_extends_the_conversation(base_url: str, client: OpenAI) -> None:
    id = client.conversations.create().id
    limit = {"max_output_tokens": 4}
    *_, last = stream(base_url, "One", conversation={"id": id}, **limit)
    assert last["response"]["conversation"] == {"id": id}
    ask(base_url, "Two", conversation=id, store=False, **limit)
    made = client.responses.create(
        model=STARTER, input="Three", conversation=id, background=True, extra_body=limit
    )
    *_, _ = client.responses.retrieve(made.id, stream=True)
    items = list(client.conversations.items.list(id, order="asc"))
    assert texts(items)[::2] == ["One", "Two", "Three"]
    assert len(items) == 6


def test_calls_and_results_in_a_conversation(client: OpenAI, base_url: str) -> None:
    id = client.conversations.create().id
    first = ask(base_url, "Add 3 and 4.", conversation=id, tools=[ADD], tool_choice="required",
                parallel_tool_calls=False)  # fmt: skip
    (call,) = first["output"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "7"}
    # A client that sends the call again does not double it.
    second = ask(base_url, [call, result], conversation=id, tools=[ADD], max_output_tokens=8)
    assert second["status"] in ("completed", "incomplete")
    items = list(client.conversations.items.list(id, order="asc"))
    kinds = [item.type for item in items]
    assert kinds[:3] == ["message", "function_call", "function_call_output"]
    assert kinds.count("function_call") == 1
    refused = request(
        base_url, "POST", "/v1/responses",
        body([{**result, "call_id": "x"}], conversation=id),
    )  # fmt: skip
    assert (refused.status, refused.json["error"]["param"]) == (400, "input")


def test_items_can_be_referred_to(client: OpenAI) -> None:
    conversation = client.conversations.create(items=[says("Hello!", id="msg_of_a_client")])
    copy = client.conversations.create(items=[{"type": "item_reference", "id": "msg_of_a_client"}])
    assert texts(client.conversations.items.list(copy.id)) == ["Hello!"]
    with pytest.raises(BadRequestError, match="already has an item") as refused:
        client.conversations.items.create(
            conversation.id, items=[says("New"), says("Again", id="msg_of_a_client")]
        )
    assert refused.value.param == "items"
    assert texts(client.conversations.items.list(conversation.id)) == ["Hello!"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("", {"items": [says("x")] * 21}, "items"),
        ("", {"items": "Hello!"}, "items"),
        ("", {"items": [{"role": "user"}]}, "items[0].content"),
        ("", {"items": [{"type": "item_reference", "id": "x"}]}, "items[0].id"),
        ("", {"metadata": {"a": 1}}, "metadata"),
        ("", {"model": "x"}, "model"),
        ("/conv_1/items", {}, "items"),
        ("/conv_1/items", {"items": []}, "items"),
        ("/conv_1", {"metadata": 5}, "metadata"),
    ],
)
def test_bad_fields(base_url: str, path: str, fields: Json, param: str) -> None:
    answer = request(base_url, "POST", f"{PATH}{path}", fields)
    assert (answer.status, answer.json["error"]["param"]) == (400, param), answer.body


def test_a_server_that_stores_nothing(make_server: Callable[..., Server], tmp_path: Path) -> None:
    url = make_server(max_responses=0).url
    answer = request(url, "POST", PATH, {})
    assert answer.status == 400
    assert "OFFGRID_MAX_RESPONSES" in answer.json["error"]["message"]
    assert request(url, "GET", f"{PATH}/conv_1/items").status == 404
    assert not list(tmp_path.glob("*.sqlite3"))
