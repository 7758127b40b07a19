"""Requests in the shape of Codex CLI's and the Agents SDK's are answered."""

from __future__ import annotations

from typing import Any

import pytest
from responses_calls import PATH, body, stream
from support import Json, request

GRAMMAR = """\
start: begin change+ end
begin: "*** Begin Patch" LF
end: "*** End Patch" LF?
change: "*** Add File: " /(.+)/ LF line+
line: "+" /(.*)/ LF
%import common.LF
"""
SHELL: Json = {
    "type": "function", "name": "exec_command", "description": "Runs a command.", "strict": False,
    "parameters": {
        "type": "object", "properties": {"cmd": {"type": "string"}, "yield_time_ms": {
            "type": "number", "description": "How long to wait."}},
        "required": ["cmd"], "additionalProperties": False,
    },
    "defer_loading": None, "output_schema": {"type": "object", "default": None},
}  # fmt: skip
CODEX: Json = {
    "instructions": "You are a coding agent that runs in a terminal.",
    "tools": [
        {"type": "function", "name": "update_plan", "description": "Writes the plan.",
         "strict": False, "parameters": {
             "type": "object", "properties": {"plan": {"type": "array", "items": {
                 "type": "object", "properties": {"step": {"type": "string"}}}}},
             "required": ["plan"], "additionalProperties": False}},
        {"type": "namespace", "name": "mcp__files", "description": "Files of the project.",
         "tools": [{"type": "function", "name": "read", "description": "Reads a file.",
                    "strict": False, "defer_loading": True, "parameters": {
                        "type": "object", "properties": {"path": {"type": "string"}}}}]},
        {"type": "web_search", "external_web_access": False},
        {"type": "custom", "name": "apply_patch", "description": "Changes files.",
         "format": {"type": "grammar", "syntax": "lark", "definition": GRAMMAR}},
        {"type": "image_generation", "output_format": "png"},
    ],
    "tool_choice": "auto", "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto", "context": "all_turns"},
    "store": False, "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199c2f1-0000-7000-8000-000000000000", "service_tier": None,
    "text": {"verbosity": "low", "format": None},
    "client_metadata": {"x-codex-installation-id": "1", "x-codex-turn-metadata": "{}"},
    "max_output_tokens": 16,
}  # fmt: skip
FIRST: list[Json] = [
    {"type": "additional_tools", "role": "developer", "tools": [SHELL]},
    {"type": "message", "role": "developer", "content": [
        {"type": "input_text", "text": "<permissions>Ask first.</permissions>"}]},
    {"type": "message", "role": "user", "content": [
        {"type": "input_text", "text": "<environment_context>/</environment_context>"}]},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello!"}]},
]  # fmt: skip
LATER: list[Json] = [
    {"type": "reasoning", "summary": [], "content": None, "encrypted_content": "gAAA"},
    {"type": "message", "role": "assistant", "phase": "commentary", "id": None, "content": [
        {"type": "output_text", "text": "I will look."}]},
    {"type": "function_call", "name": "exec_command", "arguments": '{"cmd":"ls"}',
     "call_id": "call_1", "status": None, "async": None, "caller": {"type": "direct"}},
    {"type": "function_call_output", "call_id": "call_1", "output": "a.py", "name": None},
    {"type": "function_call", "name": "read", "namespace": "mcp__files",
     "arguments": '{"path":"a.py"}', "call_id": "call_2"},
    {"type": "function_call_output", "call_id": "call_2", "output": [
        {"type": "input_text", "text": "print(1)"},
        {"type": "input_file", "filename": "b.py", "file_data": "cHJpbnQoMik="}]},
    {"type": "custom_tool_call", "name": "apply_patch", "call_id": "call_3",
     "input": "*** Begin Patch\\n*** End Patch", "status": "completed"},
    {"type": "custom_tool_call_output", "call_id": "call_3", "output": "Done."},
    {"type": "web_search_call", "id": "ws_1", "status": "completed",
     "action": {"type": "search", "query": "x"}},
    {"type": "local_shell_call", "id": "lsh_1", "call_id": "call_4", "status": "completed",
     "action": {"type": "exec", "command": ["ls"], "env": {}}},
    {"type": "local_shell_call_output", "id": "lsh_1", "output": "a.py"},
    {"type": "compaction", "encrypted_content": "gAAA"},
    {"type": "ghost_of_tomorrow", "id": "g_1", "data": [1, None]},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Go on."}]},
]  # fmt: skip


@pytest.mark.parametrize("later", [[], LATER])
def test_codex_gets_a_stream(base_url: str, later: list[Json]) -> None:
    events = stream(base_url, FIRST + later, **CODEX)
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    said = events[-1]["response"]
    assert [tool["type"] for tool in said["tools"]] == ["function", "namespace", "custom"]
    assert said["store"] is False


def test_what_codex_sends_and_the_model_does_not_see_is_named(base_url: str) -> None:
    answer = request(base_url, "POST", PATH, body(FIRST + LATER, **CODEX))
    names = answer.headers["x-offgrid-ignored"].split(", ")
    assert "tools.apply_patch.format" not in names
    assert {"tools.web_search", "tools.image_generation", "input.compaction",
            "input.web_search_call", "input.ghost_of_tomorrow"} <= {*names}  # fmt: skip


def test_codex_calls_a_tool_that_an_item_adds(base_url: str) -> None:
    fields: Json = CODEX | {"tool_choice": {"type": "function", "name": "exec_command"}}
    events = stream(base_url, FIRST, **fields | {"max_output_tokens": 60})
    call: Any = next(e for e in events if e["type"] == "response.output_item.added")["item"]
    assert (call["type"], call["name"]) == ("function_call", "exec_command")


def test_a_patch_follows_its_grammar(base_url: str) -> None:
    fields: Json = CODEX | {"tool_choice": {"type": "custom", "name": "apply_patch"}}
    events = stream(base_url, FIRST, **fields | {"max_output_tokens": 60})
    deltas = [e["delta"] for e in events if e["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(deltas).startswith("*** Begin Patch\n*** Add File: ")


def test_items_that_are_null_are_left_out(base_url: str) -> None:
    user = {"role": "user", "content": [None, {"type": "input_text", "text": "Hi"}]}
    response = request(base_url, "POST", PATH, body([None, user, None]))
    assert response.status == 200, response.body
    response = request(base_url, "POST", PATH, body([None]))
    assert response.status == 400
    assert response.json["error"]["param"] == "input"


def test_null_never_refuses(base_url: str) -> None:
    tool = {"type": "function", "name": "f", "description": None, "parameters": None,
            "strict": None, "async": None, "allowed_callers": None}  # fmt: skip
    fields: Json = {
        "tools": [tool, {"type": "custom", "name": "c", "format": None, "description": None},
                  {"type": "namespace", "name": "n", "description": None, "tools": [tool]}],
        "text": {"format": {"type": "json_schema", "name": "x", "description": None,
                            "strict": None, "schema": {"const": None}}, "verbosity": None},
        "reasoning": {"effort": None, "summary": None, "context": None, "mode": None},
        "stream_options": None, "metadata": {"a": None}, "include": [None], "conversation": None,
        "background": None, "client_metadata": None, "prompt_cache_options": {"ttl": None},
        "tool_choice": "none",
    }  # fmt: skip
    items: list[Json] = [
        {
            "type": "message",
            "role": "user",
            "status": None,
            "phase": None,
            "content": [
                {"type": "input_text", "text": "Hello!", "prompt_cache_breakpoint": None},
                None,
            ],
        },
        {"role": "assistant", "content": None},
        {"type": "function_call", "id": None, "call_id": None, "name": "f", "arguments": None},
        {"type": "function_call_output", "call_id": None, "output": None},
        {"type": "mcp_call", "id": "m", "name": "f", "arguments": None, "output": None},
        {"type": "shell_call", "id": None, "call_id": "s", "action": None},
        {"role": "user", "content": "Hello!"},
    ]
    answer = request(base_url, "POST", PATH, body(items, **fields))
    assert answer.status == 200, answer.body
    assert answer.json["output"][0]["content"][0]["text"] == "null"
