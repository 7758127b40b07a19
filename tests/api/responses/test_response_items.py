"""Items of ``/v1/responses``: their stored form, and the chat messages that they become."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.api.responses.items import (
    check_calls,
    parse_items,
    to_messages,
    without_earlier_reasoning,
)
from offgrid.errors import InvalidParameter

Json = dict[str, Any]


def says(text: str, role: str = "assistant") -> Json:
    return {"type": "message", "role": role, "content": text}


def calls(name: str) -> Json:
    return {"type": "function_call", "call_id": f"call_{name}", "name": name, "arguments": "{}"}


def returns(name: str) -> Json:
    return {"type": "function_call_output", "call_id": f"call_{name}", "output": f"of {name}"}


def thinks(text: str) -> Json:
    return {"type": "reasoning", "content": [{"type": "reasoning_text", "text": text}]}


def messages(*items: Json) -> list[Json]:
    """The chat messages of items; a call is shown as the name of its function."""
    result, _ = to_messages(item for item in parse_items(list(items)) if isinstance(item, dict))
    for message in result:
        if "tool_calls" in message:
            message["tool_calls"] = [call["function"]["name"] for call in message["tool_calls"]]
    return result


def test_one_turn_is_one_message() -> None:
    turn = [thinks("Hm"), says("Let me see."), calls("f"), calls("g")]
    assert messages(says("Hi", "user"), *turn, returns("f"), returns("g"), says("Done.")) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Let me see.", "reasoning_content": "Hm",
         "tool_calls": ["f", "g"]},
        {"role": "tool", "tool_call_id": "call_f", "content": "of f"},
        {"role": "tool", "tool_call_id": "call_g", "content": "of g"},
        {"role": "assistant", "content": "Done."},
    ]  # fmt: skip


def test_an_item_that_does_not_fit_into_a_message_begins_another() -> None:
    assert messages(says("One."), says("Two.")) == [
        {"role": "assistant", "content": "One."}, {"role": "assistant", "content": "Two."},
    ]  # fmt: skip
    assert messages(calls("f"), says("And?"), calls("g")) == [
        {"role": "assistant", "content": "", "tool_calls": ["f"]},
        {"role": "assistant", "content": "And?", "tool_calls": ["g"]},
    ]
    assert messages(thinks("a"), thinks("b"), says("c"), thinks("d"), says("e")) == [
        {"role": "assistant", "content": "", "reasoning_content": "a"},
        {"role": "assistant", "content": "c", "reasoning_content": "b"},
        {"role": "assistant", "content": "e", "reasoning_content": "d"},
    ]


def test_parts_are_one_text() -> None:
    parts = [{"type": "output_text", "text": "I am "}, {"type": "refusal", "refusal": "sorry."}]
    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "short"}]}
    output = {**returns("f"), "output": [{"type": "input_text", "text": "4"}] * 2}
    assert messages(summary, {"role": "assistant", "content": parts}, calls("f"), output) == [
        {"role": "assistant", "content": "I am sorry.", "reasoning_content": "short",
         "tool_calls": ["f"]},
        {"role": "tool", "tool_call_id": "call_f", "content": "44"},
    ]  # fmt: skip


def test_a_result_needs_its_call_before_it() -> None:
    check_calls([calls("f"), calls("g"), returns("g"), returns("f")])
    for items in ([returns("f")], [calls("g"), returns("f")], [returns("f"), calls("f")]):
        with pytest.raises(InvalidParameter, match="call_f"):
            check_calls(items)


TEXT = st.text(max_size=10)
ITEMS = st.lists(
    st.one_of(
        st.builds(says, TEXT, st.sampled_from(["user", "assistant", "system", "developer"])),
        st.builds(calls, TEXT),
        st.builds(returns, TEXT),
        st.builds(thinks, TEXT),
    ),
    min_size=1,
    max_size=8,
)


@given(ITEMS)
def test_listed_items_can_be_sent_again(items: list[Json]) -> None:
    """The stored form is valid input with the same meaning."""
    once = parse_items(items)
    again = parse_items(json.loads(json.dumps(once)))
    assert again == once
    ids = [item["id"] for item in once if isinstance(item, dict)]
    assert len(set(ids)) == len(items)


@given(ITEMS)
def test_no_text_is_lost(items: list[Json]) -> None:
    """The messages contain exactly the text of the items, in order."""

    def texts(values: list[Json], *keys: str) -> str:
        return "".join(str(value[key]) for value in values for key in keys if value.get(key))

    result = messages(*items)
    said = [item for item in items if item["type"] == "message"]
    assert texts([m for m in result if m["role"] != "tool"], "content") == texts(said, "content")
    assert [n for m in result for n in m.get("tool_calls", ())] == [
        item["name"] for item in items if item["type"] == "function_call"
    ]
    assert texts(result, "reasoning_content") == "".join(
        item["content"][0]["text"] for item in items if item["type"] == "reasoning"
    )
    assert [m["content"] for m in result if m["role"] == "tool"] == [
        item["output"] for item in items if item["type"] == "function_call_output"
    ]


def test_reasoning_before_the_current_turn_can_be_left_out() -> None:
    items = parse_items([
        says("Hi", "user"), thinks("a"), says("Hello"), says("And?", "user"), thinks("b"),
        calls("f"), returns("f"),
    ])  # fmt: skip
    kept = without_earlier_reasoning([item for item in items if isinstance(item, dict)])
    result, begins = to_messages(kept)
    assert [m.get("reasoning_content") for m in result] == [None, None, None, "b", None]
    assert begins == [0, 2, 3, 4, 6]
