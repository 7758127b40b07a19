"""``null`` means absent, at every depth of a body."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from full_requests import CHAT, COMPLETIONS, RESPONSES, full_requests
from hypothesis import given, settings
from hypothesis import strategies as st
from support import request

from offgrid.api.chat.request import parse_chat
from offgrid.api.completions.request import parse_completion
from offgrid.api.decisions.request import parse_decisions
from offgrid.api.embeddings import parse_embeddings
from offgrid.api.fields.nulls import present, without_null_keywords
from offgrid.api.lab.request import parse_lab
from offgrid.api.moderations import parse_moderations
from offgrid.api.rerank import parse_rerank
from offgrid.api.responses.request import parse_responses
from offgrid.errors import InvalidParameter

USER = {"role": "user", "content": "Hello!"}
NULL = {"new": None, "cache_control": None}
CALL = {"id": None, "type": None, "index": None, **NULL,
        "function": {"name": "look", "arguments": None, **NULL}}  # fmt: skip
HISTORY: list[Any] = [
    {"role": "user", "name": None, "tool_calls": None, **NULL, "content": [
        {"type": "text", "text": "Look!", "prompt_cache_breakpoint": None, **NULL}, None]},
    None,
    {"role": "assistant", "content": None, "refusal": None, "annotations": None, "audio": None,
     "function_call": None, "reasoning": None, "tool_calls": [CALL, None], **NULL},
    {"role": "tool", "content": None, "tool_call_id": None, **NULL},
    {"role": "assistant", "content": None},
    {"role": "assistant", "content": []},
    {"role": "assistant", "content": None, "reasoning_content": "Hm."},
    {"role": "assistant"},
    USER,
]  # fmt: skip
SCHEMA: dict[str, Any] = {
    "type": "object", "required": None, "title": None, "$defs": None, "properties": {
        "a": {"enum": [None, 1], "default": None, "format": None, "description": None},
        "b": {"const": None, "enum": None, "examples": None},
        "c": {"type": "array", "items": {"type": "string", "pattern": None}, "minItems": None},
        "d": {"anyOf": [{"type": "null", "title": None}, {"type": "integer", "minimum": None}]},
        "e": None,
        "properties": {"type": "string", "const": "x", "required": None},
    },
    "additionalProperties": None,
}  # fmt: skip
CLEAN: dict[str, Any] = {
    "type": "object", "properties": {
        "a": {"enum": [None, 1], "default": None},
        "b": {"const": None},
        "c": {"type": "array", "items": {"type": "string"}},
        "d": {"anyOf": [{"type": "null"}, {"type": "integer"}]},
        "properties": {"type": "string", "const": "x"},
    },
}  # fmt: skip
TOOL = {"type": "function", **NULL, "function": {
    "name": "look", "description": None, "strict": None, **NULL, "parameters": SCHEMA}}  # fmt: skip


def chat(**fields: Any) -> Any:
    return parse_chat({"model": "m", "messages": [USER], **fields})


def test_in_messages_parts_and_calls() -> None:
    request = chat(messages=HISTORY)
    roles = ["user", "assistant", "tool", *["assistant"] * 4, "user"]
    assert [message.role for message in request.messages] == roles
    texts = [m.for_template(iter(())) for m in request.messages]
    assert [text["content"] for text in texts] == ["Look!", *[""] * 6, "Hello!"]
    assert texts[1]["tool_calls"] == [
        {"id": None, "type": "function", "function": {"name": "look", "arguments": {}}}
    ]
    assert texts[5]["reasoning_content"] == "Hm."


def test_messages_that_still_need_content() -> None:
    for role in ("user", "system", "developer"):
        with pytest.raises(InvalidParameter) as caught:
            chat(messages=[{"role": role, "content": None}])
        assert caught.value.param == "messages[0].content"
        assert caught.value.code == "missing_required_parameter"


def test_errors_have_the_places_of_the_request(base_url: str) -> None:
    """Also those that are found after the body was parsed."""
    text, image = {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}
    for messages, param in (
        ([None, USER, None, {"role": "user"}], "messages[3].content"),
        ([None, {"role": "user", "content": [text, None, {"type": "x"}]}],
         "messages[1].content[2].type"),
        ([USER, None, {"role": "user", "content": [None, text, None, image]}],
         "messages[2].content[3]"),
        ([USER, {"role": "user"}, None], "messages[1].content"),
    ):  # fmt: skip
        answer = request(base_url, "POST", CHAT, {"messages": messages})
        error = answer.json["error"]
        assert answer.status == 400
        assert (error["param"] or "").startswith(param)
        assert param in error["message"]
    items = [None, {"role": "x", "content": "a"}, USER, USER]
    error = request(base_url, "POST", RESPONSES, {"input": items}).json["error"]
    assert error["param"] == "input[1].role"


def test_in_other_objects() -> None:
    chat(stream=True, stream_options={"include_usage": None, **NULL})
    chat(tools=[TOOL, None], tool_choice={"type": "function", **NULL,
                                          "function": {"name": "look", **NULL}})  # fmt: skip
    look = {"type": "function", "function": {"name": "look"}, **NULL}
    allowed = {"mode": "auto", **NULL, "tools": [look, None]}
    chat(tools=[TOOL], tool_choice={"type": "allowed_tools", **NULL, "allowed_tools": allowed})
    chat(response_format={"type": "text", "json_schema": None, **NULL})
    chat(metadata={"a": None}, moderation={"model": "x", "policy": None, **NULL})
    chat(stop=["a", None], logit_bias={"5": None, "6": 1}, options={"temperature": None})
    chat(logit_bias=[[5, None], [6, 1]], reasoning={"effort": None}, thinking=None, think=None)
    chat(structured_outputs={"regex": "a", "json": None}, chat_template_kwargs={"a": None})


def test_a_null_changes_nothing() -> None:
    """Each null that is added to a full request leaves the parsed request as it was."""
    parsers: dict[str, Callable[[Any], Any]] = {
        CHAT: parse_chat, COMPLETIONS: parse_completion, RESPONSES: parse_responses,
        "/v1/embeddings": parse_embeddings, "/v1/rerank": parse_rerank,
        "/v1/decisions": parse_decisions, "/v1/moderations": parse_moderations,
        "/v1/lab/distribution": parse_lab,
    }  # fmt: skip
    tried = 0
    for full in full_requests(*inspect.signature(full_requests).parameters):
        if full.path not in parsers:
            continue
        body = full.bodies()[0]
        plain = parsed(parsers[full.path], copy.deepcopy(body))
        for place, changed in with_one_null(body):
            assert parsed(parsers[full.path], changed) == plain, (full.path, place)
            tried += 1
    assert tried > 60


def parsed(parse: Callable[[Any], Any], body: Any) -> str:
    """The parsed request in words, without the random ids of new items.

    Schemas within items of ``/v1/responses`` keep their nulls: items are stored as they came, and
    the nulls are taken out when the schema is used.
    """
    words = re.sub(r"[0-9a-f]{48}", "", repr(parse(body)))
    return (
        re.sub("(, )?'(maximum|no_field)': None", "", words) if parse is parse_responses else words
    )


def with_one_null(body: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield copies of a body, each with an additional null field in one of its objects."""
    stack: list[tuple[tuple[str, ...], tuple[Any, ...], Any]] = [((), (), body)]
    while stack:
        path, steps, value = stack.pop()
        # Values for programs: a variable of a template may be null, and token ids have places. Null
        # is also a value in JSON that the model reads.
        if path in (("chat_template_kwargs",), ("logit_bias",)) or path[:1] == ("policy",):
            continue
        if path[-1:] == ("data",):
            continue
        if isinstance(value, dict):
            changed = copy.deepcopy(body)
            target = changed
            for step in steps:
                target = target[step]
            target["maximum" if "type" in value and "properties" in value else "no_field"] = None
            yield path or ("",), changed
            stack += [((*path, key), (*steps, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            stack += [(path, (*steps, index), inner) for index, inner in enumerate(value)]


def test_in_schemas() -> None:
    before = copy.deepcopy(SCHEMA)
    assert without_null_keywords(SCHEMA) == CLEAN
    assert before == SCHEMA
    named = {"name": "it", "description": None, "strict": None, "schema": SCHEMA}
    for fields in (
        {"response_format": {"type": "json_schema", "json_schema": named}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"json_schema": SCHEMA}, {"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}},
        {"json_schema": '{"type": "object", "required": null, "properties": {"a": {"const": 1}}}'},
    ):  # fmt: skip
        assert chat(**fields).grammar is not None
    offer = chat(tools=[TOOL], tool_choice="required").offer
    assert offer.tools[0]["function"]["parameters"] == CLEAN


def test_text_of_a_schema_that_is_not_an_object() -> None:
    for text in ("null", "[null]", "{null", '{"a": null'):
        with pytest.raises(InvalidParameter) as caught:
            chat(json_schema=text)
        assert caught.value.param == "json_schema"


def test_where_places_matter_a_null_is_refused() -> None:
    """Leaving out an item would give the others a wrong index in the answer."""
    for parse, body, param in (
        (parse_completion, {"prompt": ["a", None]}, "prompt[1]"),
        (parse_rerank, {"query": "a", "documents": ["a", None]}, "documents[1]"),
    ):
        with pytest.raises(InvalidParameter) as caught:
            parse({"model": "m", **body})
        assert caught.value.param == param


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=12,
)


@pytest.mark.slow
@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON))
def test_nothing_but_null_is_left_out(body: dict[str, Any]) -> None:
    def naive(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: naive(inner) for key, inner in value.items() if inner is not None}
        if isinstance(value, list):
            return [naive(inner) for inner in value if inner is not None]
        return value

    before = copy.deepcopy(body)
    assert present(body) == naive(body)
    assert body == before


def test_deep_values_are_not_searched() -> None:
    value: Any = None
    for _ in range(450):
        value = [value]
    assert present({"x": value}) == {"x": value}
