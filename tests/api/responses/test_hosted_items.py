"""Items of hosted services' tools: what the model sees of them, and how they are listed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter
from responses_calls import PATH, ask, body, text_of
from support import Json, request

from offgrid.api.responses.hosted import HOSTED, UNSEEN
from offgrid.api.responses.items import LeftOut, opened, parse_items, sealed, to_messages
from offgrid.errors import InvalidParameter

IMAGE = "data:image/png;base64,iVBORw0KGgo="
USER = {"role": "user", "content": "Hello!"}


def seen(*items: Json) -> list[Any]:
    """What the model sees: the name and arguments of a call, the content of everything else."""
    parsed = [item for item in parse_items([*items]) if isinstance(item, dict)]
    found: list[Any] = []
    for message in to_messages(parsed)[0]:
        if message["content"]:
            found.append(message["content"])
        for call in message.get("tool_calls", ()):
            function = call["function"]
            found.append((function["name"], json.loads(function["arguments"])))
    return found


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([{"type": "local_shell_call", "id": "l", "call_id": "c", "status": "completed",
           "action": {"type": "exec", "command": ["ls"], "env": {}}},
          {"type": "local_shell_call_output", "id": "c", "output": "a"}],
         [("local_shell", {"command": ["ls"], "env": {}}), "a"]),
        ([{"type": "local_shell_call", "id": "l", "call_id": "c", "action": {"command": ["ls"]}},
          {"type": "local_shell_call_output", "id": "l", "output": "a"}],
         [("local_shell", {"command": ["ls"]}), "a"]),
        ([{"type": "shell_call", "call_id": "c", "action": {"commands": ["ls", "x"]}},
          {"type": "shell_call_output", "call_id": "c", "output": [
              {"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}},
              {"stdout": "", "stderr": "no", "outcome": {"type": "exit", "exit_code": 1}},
              {"stdout": "", "stderr": "", "outcome": {"type": "timeout"}}]}],
         [("shell", {"commands": ["ls", "x"]}), "a\nno\n(exit code 1)\n(timed out)"]),
        ([{"type": "apply_patch_call", "call_id": "c", "status": "completed",
           "operation": {"type": "delete_file", "path": "a"}},
          {"type": "apply_patch_call_output", "call_id": "c", "status": "failed"}],
         [("apply_patch", {"type": "delete_file", "path": "a"}), "failed"]),
        ([{"type": "file_search_call", "id": "f", "status": "completed", "queries": ["q"],
           "results": [{"filename": "a.md", "text": "found"}, {"score": 1}]}],
         [("file_search", {"queries": ["q"]}), "a.md\nfound"]),
        ([{"type": "code_interpreter_call", "id": "i", "code": "1 + 1", "container_id": "x",
           "status": "completed", "outputs": [{"type": "logs", "logs": "2"},
                                              {"type": "image", "url": "x"}]}],
         [("code_interpreter", {"code": "1 + 1"}), "2"]),
        ([{"type": "mcp_call", "id": "m", "name": "f", "server_label": "s",
           "arguments": '{"a":1}', "output": "2"}], [("f", {"a": 1}), "2"]),
        ([{"type": "mcp_call", "id": "m", "name": "f", "server_label": "s", "arguments": "{}",
           "error": {"type": "mcp_tool_execution_error", "content": "bad"}}],
         [("f", {}), '{"type":"mcp_tool_execution_error","content":"bad"}']),
        ([{"type": "computer_call", "id": "x", "call_id": "c", "status": "completed",
           "pending_safety_checks": [], "action": {"type": "screenshot"}},
          {"type": "computer_call_output", "call_id": "c",
           "output": {"type": "computer_screenshot", "image_url": IMAGE}}],
         [("computer", {"actions": [{"type": "screenshot"}]}),
          [{"type": "image_url", "image_url": {"url": IMAGE}}]]),
        ([{"type": "program", "id": "p", "call_id": "c", "code": "f()", "fingerprint": "x"},
          {"type": "program_output", "id": "q", "call_id": "c", "result": "1",
           "status": "completed"}], [("program", {"code": "f()"}), "1"]),
        ([{"type": "tool_search_call", "call_id": "c", "arguments": {"query": "x"}},
          {"type": "tool_search_output", "call_id": "c", "tools": [
              {"type": "function", "name": "f"}, {"type": "function", "name": "g"}]}],
         [("tool_search", {"query": "x"}), "Found tools: f, g."]),
        ([{"type": "shell_call_output", "call_id": "lost", "output": []}], []),
    ],
)  # fmt: skip
def test_calls_and_results_of_hosted_tools(items: list[Json], expected: list[Any]) -> None:
    assert seen(USER, *items)[1:] == expected


@pytest.mark.parametrize("kind", sorted(HOSTED.keys() - {"compaction_trigger"}))
@pytest.mark.parametrize(
    "fields", [{}, {"call_id": 5, "action": 5, "output": 5, "tools": 5, "results": [5], "name": 5}]
)
def test_odd_fields_are_no_error(kind: str, fields: Json) -> None:
    seen(USER, {"type": kind, **fields})
    with pytest.raises(InvalidParameter, match="id must be a string"):
        parse_items([{"type": kind, "id": 5}])


def test_items_that_the_model_does_not_see_are_listed(base_url: str) -> None:
    unseen: list[Json] = [
        {"type": "web_search_call", "id": "ws_1", "status": "completed",
         "action": {"type": "search", "query": "x", "queries": ["x"]}},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aGk="},
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"},
        {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
        {"type": "mcp_approval_request", "id": "mcpr_1", "name": "f", "arguments": "{}",
         "server_label": "s"},
        {"type": "mcp_approval_response", "id": "mcpa_1", "approval_request_id": "mcpr_1",
         "approve": True},
    ]  # fmt: skip
    assert {item["type"] for item in unseen} == UNSEEN
    answer = request(base_url, "POST", PATH, body([*unseen, USER]))
    assert answer.status == 200
    plain = ask(base_url, [USER])
    assert answer.json["usage"]["input_tokens"] == plain["usage"]["input_tokens"]
    listed = request(base_url, "GET", f"{PATH}/{answer.json['id']}/input_items?order=asc").json
    assert listed["data"][:-1] == unseen
    for item in listed["data"]:
        TypeAdapter(ResponseItem).validate_python(item)


def test_unknown_items_without_content_are_left_out() -> None:
    assert parse_items([{"type": "of_tomorrow", "x": [None]}]) == [LeftOut("of_tomorrow")]
    with pytest.raises(InvalidParameter):
        parse_items([{"type": "of_tomorrow", "content": "text that would be lost"}])


def test_errors_name_the_item_after_those_that_are_left_out(base_url: str) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    image = {"type": "input_image", "image_url": "http://x/y.png"}
    for kind, field in (("user", "content"), ("function_call_output", "output")):
        last: Json = {"role": "user", "content": [image]}
        if kind != "user":
            last = {"type": kind, "call_id": "c", "output": [image]}
        items = [{"type": "of_tomorrow"}, call, {"type": "of_tomorrow"}, last]
        answer = request(base_url, "POST", PATH, body(items))
        assert answer.status == 400
        assert answer.json["error"]["param"].startswith(f"input[3].{field}[0]")


def test_an_image_in_a_result_is_a_part_of_the_tool_message() -> None:
    output = [{"type": "input_text", "text": "See:"},
              {"type": "input_image", "image_url": IMAGE, "detail": "low"}]  # fmt: skip
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items = parse_items([call, {"type": "function_call_output", "call_id": "c", "output": output}])
    messages, _ = to_messages(item for item in items if isinstance(item, dict))
    assert messages[1] == {"role": "tool", "tool_call_id": "c", "content": [
        {"type": "text", "text": "See:"},
        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}]}  # fmt: skip


def test_a_file_of_text_is_read(base_url: str) -> None:
    data = base64.b64encode(b"What is 7 + 5?").decode()
    for sent in (data, f"data:text/plain;base64,{data}"):
        part = {"type": "input_file", "filename": "a.txt", "file_data": sent}
        answer = ask(base_url, [{"role": "user", "content": [part]}])
        same = ask(base_url, "File a.txt:\nWhat is 7 + 5?\n")
        assert answer["usage"]["input_tokens"] == same["usage"]["input_tokens"]
        assert text_of(answer) == text_of(same)


def test_reasoning_comes_back_in_its_sealed_form() -> None:
    text = "Hm, é😀."
    item = {"type": "reasoning", "summary": [], "encrypted_content": sealed(text)}
    parsed = parse_items([item, {"role": "assistant", "content": "Yes."}])
    messages, _ = to_messages(item for item in parsed if isinstance(item, dict))
    assert messages[0]["reasoning_content"] == text
    shown = {**item, "content": [{"type": "reasoning_text", "text": "plain"}]}
    for other, kept in ((shown, ["plain"]), ({**item, "encrypted_content": "gAAA"}, [])):
        (again,) = parse_items([other])
        assert isinstance(again, dict)
        assert [part["text"] for part in again["content"]] == kept
    assert opened(sealed(text)[:-1]) == opened("") == ""


def test_an_update_of_the_configuration_holds_from_then_on(base_url: str) -> None:
    def update(**fields: Any) -> Json:
        return {"type": "configuration_update", **fields}

    schema = {"type": "json_schema", "name": "x", "schema": {"const": "yes"}}
    items = [
        update(reasoning={"effort": "high"}), update(text={"format": schema}),
        update(reasoning={"effort": "low"}), USER,
    ]  # fmt: skip
    first = ask(base_url, items)
    assert first["reasoning"]["effort"] == "low"
    assert text_of(first) == '"yes"'
    second = ask(base_url, "And?", previous_response_id=first["id"])
    assert text_of(second) == '"yes"'
    own = ask(base_url, items, reasoning={"effort": "none"}, text={"format": {"type": "text"}})
    assert own["reasoning"]["effort"] == "none"
    assert text_of(own) != '"yes"'
    answer = request(base_url, "POST", PATH, body([update(reasoning={"effort": "x"}), USER]))
    assert (answer.status, answer.json["error"]["param"]) == (400, "input.reasoning.effort")
