"""Grammars and schemas that are small but made to take long to check."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from lasting import Kept
from processes import Child
from support import STARTER, Json, chat_body, endless, request

pytestmark = pytest.mark.usefixtures("access")
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
NAMES_AND_PARTS = {
    "type": "object",
    "required": [f"p{i}" for i in range(4_000)],
    "properties": {f"p{i}": {"type": "null"} for i in range(2_000)},
    "additionalProperties": False,
    "allOf": [{}] * 4_000,
}
MANY_REFERENCES = {
    "type": "object",
    "$ref": "#/$defs/0",
    "$defs": {
        str(i): {"allOf": [{"$ref": f"#/$defs/{j}"} for j in range(i + 1, 90)]} for i in range(90)
    },
}
NO_SUCH_ITEM = {"anyOf": [{"type": "object"}], "$ref": "#/anyOf/" + "9" * 5_000}


def tool(schema: Any) -> Json:
    """A request that must call a tool with a schema."""
    function = {"name": "f", "parameters": schema}
    return chat_body(
        tools=[{"type": "function", "function": function}], tool_choice="required", max_tokens=4
    )


def answer(schema: Any) -> Json:
    """A request for an answer that follows a schema."""
    return {"model": STARTER, "prompt": "x", "json_schema": schema, "max_tokens": 4}


ATTACKS = {
    "blank lines as a grammar": (TEXT, {
        "model": STARTER, "prompt": "x", "grammar": "\n" * 60_000, "max_tokens": 4}),
    "4,000 names and 4,000 parts": (TEXT, answer(NAMES_AND_PARTS)),
    "4,000 names and 4,000 parts of a tool": (CHAT, tool(NAMES_AND_PARTS)),
    "definitions that all refer to each other": (TEXT, answer(MANY_REFERENCES)),
    "definitions of a tool that all refer to each other": (CHAT, tool(MANY_REFERENCES)),
    "an item number of 5,000 digits": (TEXT, answer(NO_SUCH_ITEM)),
    "an item number of 5,000 digits in a tool": (CHAT, tool(NO_SUCH_ITEM)),
    "a tool whose schema is a megabyte of description": (CHAT, tool(
        {"type": "object", "description": "x" * 1_000_000})),
}  # fmt: skip


@pytest.mark.slow
def test_grammars_that_are_long_to_check(serve: Callable[..., Child]) -> None:
    """Each is refused with a reason, while another client's stream goes on.

    A check that held the server's interpreter for minutes would delay every other request.
    """
    url = serve().wait_ready()
    with Kept(url, TEXT, endless(max_tokens=500, n=2)) as stream:
        for name, (path, body) in ATTACKS.items():
            refused = request(url, "POST", path, body)
            error = refused.json.get("error", {})
            assert refused.status == 400, (name, json.dumps(refused.json)[:500])
            assert error["code"] != "grammar_too_complex", name
            assert error["param"], name
            assert len(error["message"]) < 600, name
        assert stream.wait() == "[DONE]"
