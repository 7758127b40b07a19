"""Custom tools, namespaces, hosted tools: what the model may call, and how calls come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from responses_calls import ADD, PATH, WEATHER, ask, body, stream
from support import STARTER, Json, request

from offgrid.api.responses.custom import InputReader
from offgrid.api.responses.tools import called_name, gather
from offgrid.errors import InvalidParameter

HELLO = 'a "b"\nc\\d é😀 / end'
PATTERN = r'a "b"\nc\\d é😀 / end'


def custom(name: str, syntax: str | None = None, definition: str = "") -> Json:
    tool: Json = {"type": "custom", "name": name, "description": f"Takes {name}."}
    if syntax is not None:
        tool["format"] = {"type": "grammar", "syntax": syntax, "definition": definition}
    return tool


def namespace(name: str, *tools: Json) -> Json:
    return {"type": "namespace", "name": name, "description": f"All of {name}.", "tools": [*tools]}


def read(pieces: list[str]) -> str:
    reader = InputReader()
    return "".join([*map(reader.feed, pieces), reader.finish()])


@given(st.text(), st.booleans(), st.data())
def test_the_input_is_read_from_pieces(text: str, ascii_only: bool, data: st.DataObject) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    places = sorted(data.draw(st.lists(st.integers(0, len(arguments)), max_size=6)))
    pieces = [arguments[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]
    assert read(pieces) == text
    assert read(list(arguments)) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{\n  "input" : "x\\ty"\n}', "x\ty"),
        ('{"patch": "x"}', "x"),
        ('{"a": 1, "input": "x"}', "x"),
        ('{"a": "x", "b": "y"}', '{"a": "x", "b": "y"}'),
        ('{"input": ["x"]}', '{"input": ["x"]}'),
        ("{}", ""),
        ('{"input": "cut', "cut"),
        ('{"inp', '{"inp'),
        ('{"input": "\\ud83d \\ude00"}', "\ufffd \ufffd"),
        (" " * 1000 + '{"input": "x"}', "x"),
    ],
)
def test_other_arguments_are_a_text_too(arguments: str, text: str) -> None:
    assert read([arguments]) == read(list(arguments)) == text


@given(st.text(min_size=1), st.text(min_size=1))
def test_the_model_calls_every_tool_by_a_valid_name(space: str, name: str) -> None:
    called = called_name(space, name)
    assert len(called) <= 64
    assert called.isascii()
    assert called.replace("_", "").replace("-", "").isalnum() or set(called) <= {"_", "-"}
    assert called_name(space, name + "x") != called


def test_tools_that_the_model_may_call() -> None:
    tools = gather([
        ADD, namespace("crm", ADD, custom("note"), {"type": "web_search"}), custom("patch"),
        {"type": "web_search_preview"}, {"type": "mcp", "server_label": "x"},
        {"type": "local_shell"}, {"type": "shell"}, {"type": "apply_patch"},
        {"type": "computer_use_preview"}, {"type": "code_interpreter"}, {"type": "of_tomorrow"},
        {"type": "odd name\r\nx: y"}, {"type": "tool_search"},
        {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}},
        {**WEATHER, "allowed_callers": ["programmatic"]},
    ])  # fmt: skip
    assert [*tools.offered] == ["add", "crm__add", "crm__note", "patch", "tool_search"]
    assert tools.ignored == [
        "tools.web_search", "tools.web_search_preview", "tools.mcp", "tools.local_shell",
        "tools.shell", "tools.apply_patch", "tools.computer_use_preview",
        "tools.code_interpreter", "tools.of_tomorrow", "tools[11]", "tools.tool_search",
        "tools.get_weather",
    ]  # fmt: skip
    description = tools.offered["crm__note"].function["description"]
    assert description == "All of crm.\n\nTakes note."
    assert [tool["type"] for tool in tools.shown] == [
        "function", "namespace", "custom", "tool_search",
    ]  # fmt: skip
    assert [tool["name"] for tool in tools.shown[1]["tools"]] == ["add", "note"]


def test_items_add_tools_and_replace_them() -> None:
    other = {**ADD, "description": "Adds better."}
    tools = gather([ADD], [("input[0]", [other, WEATHER]), ("input[4]", [custom("patch")])])
    assert [*tools.offered] == ["add", "get_weather", "patch"]
    assert tools.offered["add"].function["description"] == "Adds better."
    assert len(tools.shown) == 1
    with pytest.raises(InvalidParameter) as wrong:
        gather([], [("input[4]", [{"type": "custom"}])])
    assert wrong.value.param == "input[4].tools[0].name"


def test_a_custom_tool_is_called_with_a_text(base_url: str) -> None:
    """The events of a stream carry the text, decoded; the SDK's types accept all of them."""
    forced: Json = {
        "tools": [custom("say", "regex", PATTERN), ADD],
        "tool_choice": {"type": "custom", "name": "say"},
        "parallel_tool_calls": False,
    }
    events = stream(base_url, **forced)
    deltas = [e["delta"] for e in events if e["type"] == "response.custom_tool_call_input.delta"]
    assert len(deltas) > 3
    assert "".join(deltas) == HELLO
    (done,) = [e for e in events if e["type"] == "response.custom_tool_call_input.done"]
    assert done["input"] == HELLO
    response = events[-1]["response"]
    (call,) = response["output"]
    assert (call["type"], call["name"], call["input"]) == ("custom_tool_call", "say", HELLO)
    assert call["status"] == "completed"
    assert response["tool_choice"] == {"type": "custom", "name": "say"}
    assert [tool["type"] for tool in response["tools"]] == ["custom", "function"]
    (whole,) = ask(base_url, **forced)["output"]
    assert whole["input"] == HELLO


def test_a_custom_tool_is_answered(client: OpenAI) -> None:
    """The call and its result are in the prompt of the next response, as a function's are."""
    first = client.responses.create(
        model=STARTER, input="Hello!", temperature=0, tool_choice="required",
        parallel_tool_calls=False,
        tools=[{"type": "custom", "name": "say", "format": {
            "type": "grammar", "syntax": "regex", "definition": "yes|no"}}],
    )  # fmt: skip
    (call,) = first.output
    assert call.type == "custom_tool_call"
    assert call.input in ("yes", "no")
    output: Any = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "done"}
    second = client.responses.create(
        model=STARTER, input=[output], previous_response_id=first.id, temperature=0
    )
    same: Any = [
        {"role": "user", "content": "Hello!"},
        {"type": "function_call", "call_id": "c", "name": "say",
         "arguments": json.dumps({"input": call.input}, separators=(",", ":"))},
        {"type": "function_call_output", "call_id": "c", "output": "done"},
    ]  # fmt: skip
    again = client.responses.create(model=STARTER, input=same, temperature=0)
    assert again.output_text == second.output_text
    assert again.usage is not None
    assert second.usage is not None
    assert again.usage.input_tokens == second.usage.input_tokens
    items = client.responses.input_items.list(second.id).data
    assert [item.type for item in items] == ["custom_tool_call_output"]


def test_a_call_carries_its_namespace(base_url: str) -> None:
    fields: Json = {"tools": [namespace("crm", ADD), WEATHER], "parallel_tool_calls": False}
    chosen = {"type": "function", "name": "add", "namespace": "crm"}
    events = stream(base_url, tool_choice=chosen, **fields)
    (call,) = events[-1]["response"]["output"]
    assert (call["type"], call["name"], call["namespace"]) == ("function_call", "add", "crm")
    added = next(e for e in events if e["type"] == "response.output_item.added")
    assert added["item"]["namespace"] == "crm"
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "7",
              "namespace": "crm", "caller": {"type": "direct"}}  # fmt: skip
    history = [{"role": "user", "content": "Add!"}, call, output]
    answer = ask(base_url, history, **fields, tool_choice="none")
    assert answer["status"] == "completed"
    listed = request(base_url, "GET", f"{PATH}/{answer['id']}/input_items?order=asc").json["data"]
    assert listed[1]["namespace"] == listed[2]["namespace"] == "crm"


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ({"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "web_search"}, {"type": "custom", "name": "say"}]}, "say"),
        ({"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "namespace", "name": "crm"}]}, "add"),
        ({"type": "function", "name": "add"}, "add"),
    ],
)  # fmt: skip
def test_choices_among_tools(base_url: str, choice: Json, offered: str) -> None:
    tools = [namespace("crm", ADD), custom("say", "regex", "yes|no"), {"type": "web_search"}]
    response = ask(base_url, tools=tools, tool_choice=choice, parallel_tool_calls=False)
    (call,) = response["output"]
    assert call["name"] == offered
    nothing = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]}
    response = ask(base_url, tools=tools, tool_choice=nothing)
    assert [item["type"] for item in response["output"]] == ["message"]


def test_hosted_tools_are_left_out_and_named(base_url: str) -> None:
    plain = ask(base_url, "What is 7 + 5?")
    for kind in ("web_search", "file_search", "image_generation", "mcp", "of_tomorrow"):
        sent = body("What is 7 + 5?", tools=[{"type": kind}], max_tool_calls=None)
        answer = request(base_url, "POST", PATH, sent)
        assert answer.status == 200
        assert answer.headers["x-offgrid-ignored"] == f"tools.{kind}"
        assert answer.json["tools"] == []
        assert answer.json["usage"]["input_tokens"] == plain["usage"]["input_tokens"]


def test_a_search_that_the_client_executes(base_url: str) -> None:
    search = {
        "type": "tool_search", "execution": "client", "description": "Finds tools.",
        "parameters": {"type": "object", "properties": {"query": {"enum": ["sums"]}},
                       "required": ["query"], "additionalProperties": False},
    }  # fmt: skip
    events = stream(base_url, tools=[search], tool_choice="required", parallel_tool_calls=False)
    (call,) = events[-1]["response"]["output"]
    assert (call["type"], call["execution"]) == ("tool_search_call", "client")
    assert call["arguments"] == {"query": "sums"}
    found = {"type": "tool_search_output", "call_id": call["call_id"], "execution": "client",
             "status": "completed", "tools": [ADD]}  # fmt: skip
    history = [{"role": "user", "content": "Add 3 and 4."}, call, found]
    chosen = {"type": "function", "name": "add"}
    response = ask(base_url, history, tools=[search], tool_choice=chosen)
    assert {item["name"] for item in response["output"]} == {"add"}
