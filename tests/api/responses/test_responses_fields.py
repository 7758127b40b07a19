"""The fields of ``/v1/responses``: supported, without effect, or refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec import structs
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from responses_calls import (
    ADD,
    LOGPROBS,
    PATH,
    ask,
    body,
    without_ids,
)
from support import STARTER, Json, request

from offgrid.api.chat.request import ChatRequest
from offgrid.api.responses.request import parse_responses, to_chat


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x"}] * 10_001}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
         "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "JVBERi0="},
                                                 {"type": "input_file", "file_url": "http://x"}]}]},
         "input[0].content[1]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "AAAA"}]}]},
         "input[0].content[0].file_data"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
         "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"type": "mesage", "role": "user", "content": "x"}]}, "input[0].type"),
        ({"input": [{"type": ["message"]}]}, "input[0].type"),
        ({"input": [{"type": "compaction_trigger"}]}, "input[0].type"),
        ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "x"}]}, "input[0].name"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input"),
        ({"instructions": ["x"]}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_k": "many"}, "top_k"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"n": 2}, "n"),
        ({"messages": []}, "messages"),
        ({"max_tokens": "x"}, "max_tokens"),
        ({"n_predict": 0}, "n_predict"),
        ({"max_tokens": 5, "max_output_tokens": 6}, "max_tokens"),
        ({"options": {"num_predict": 0}}, "options.num_predict"),
        ({"rep_pen": 0}, "rep_pen"),
        ({"think": "much"}, "think"),
        ({"think": True, "reasoning": {"effort": "none"}}, "think"),
        ({"reasoning_effort": "low", "reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"reasoning": {"enabled": 5}}, "reasoning.enabled"),
        ({"reasoning": {"max_tokens": 5}}, "reasoning.max_tokens"),
        ({"reasoning": "on"}, "reasoning"),
        ({"regex": "("}, "regex"),
        ({"regex": "a", "text": {"format": {"type": "json_object"}}}, "regex"),
        ({"regex": "a", "tools": [ADD]}, "regex"),
        ({"response_format": {"type": "text"}}, "response_format"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**ADD, "parameters": {"type": "string"}}]}, "tools[0].parameters"),
        ({"tools": [ADD, ADD]}, "tools[1].name"),
        ({"tools": [ADD, {"type": "custom", "name": "add"}]}, "tools[1].name"),
        ({"tools": [ADD, {"type": "custom"}]}, "tools[1].name"),
        ({"tools": [{"type": "custom", "name": "x", "format": {
            "type": "grammar", "syntax": "regex", "definition": "(?=a)b"}}]},
         "tools[0].format.definition"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [
            {**ADD, "parameters": {"type": "string"}}]}]}, "tools[0].tools[0].parameters"),
        ({"input": [{"type": "additional_tools", "role": "developer", "tools": [
            {**ADD, "parameters": {"type": "string"}}]}, {"role": "user", "content": "x"}]},
         "input[0].tools[0].parameters"),
        ({"tools": [ADD], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice.name"),
        ({"tools": [ADD], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [
            {"type": "function", "name": "x"}]}}, "tool_choice.tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "custom", "name": "add"}}, "tool_choice.name"),
        ({"tools": [ADD], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [
            {"type": "web_search"}]}}, "tool_choice.tools"),
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
        ({"metadata": {"x": 1}}, "metadata"),
        ({"service_tier": "zz"}, "service_tier"),
        ({"user": 3}, "user"),
        ({"max_tool_calls": "x"}, "max_tool_calls"),
        ({"image": {"context_compression": "x"}}, "image.context_compression"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm"),
        ({"truncation": "middle"}, "truncation"),
        ({"include": ["everything"]}, "include[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": [LOGPROBS], "top_logprobs": 21}, "top_logprobs"),
        ({"background": True, "store": False}, "background"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": {"name": "x"}}, "conversation.id"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)  # fmt: skip
def test_bad_fields(base_url: str, fields: Json, param: str) -> None:
    response = request(base_url, "POST", PATH, body() | fields)
    assert response.status == 400, response.body
    assert response.json["error"]["param"] == param
    words = response.json["error"]["message"]
    assert param in words
    for other in ("messages[", ".function", "response_format and"):
        assert other not in words
    assert not re.match(r"\S+: \S+: ", words)  # the name comes once


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (5, "input must be text or a list of items, not 5."),
        ({}, "input must be text or a list of items, not an object."),
        ([], "input must be text or a list of items, not an empty list."),
        ([{"role": "tool", "content": "x"}],
         'input[0].role must be one of "system", "developer", "user", "assistant", not "tool".'),
    ],
    ids=str,
)  # fmt: skip
def test_words_about_items(base_url: str, items: Any, words: str) -> None:
    response = request(base_url, "POST", PATH, {"model": STARTER, "input": items})
    assert response.json["error"]["message"] == words


@pytest.mark.parametrize(
    ("foreign", "own"),
    [
        ({"think": False}, {"reasoning": {"effort": "none"}}),
        ({"think": "low"}, {"reasoning": {"effort": "low"}}),
        ({"think": True}, {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}),
        ({"reasoning_effort": "high", "reasoning": {"summary": "auto"}},
         {"reasoning": {"effort": "high"}}),
        ({"thinking": {"type": "disabled"}}, {"reasoning": {"effort": "none"}}),
        ({"reasoning": {"enabled": False}}, {"reasoning": {"effort": "none"}}),
        ({"enable_thinking": False, "reasoning": {"effort": "none", "exclude": True}},
         {"reasoning": {"effort": "none"}}),
        ({"n_predict": 5}, {"max_output_tokens": 5}), ({"max_tokens": -1}, {}),
        ({"options": {"num_predict": 5, "top_k": 3}}, {"max_output_tokens": 5, "top_k": 3}),
        ({"max_completion_tokens": 5, "max_tokens": 5}, {"max_output_tokens": 5}),
        ({"rep_pen": 1.2, "keep_alive": "5m"}, {"repetition_penalty": 1.2}),
        ({"guided_regex": "[ab]+"}, {"regex": "[ab]+"}), ({"grammar_string": ""}, {}),
        ({"structured_outputs": {"json": {"type": "object"}}}, {"json_schema": {"type": "object"}}),
        ({"format": "json"}, {"json_schema": {"type": "object"}}),
    ],
    ids=str,
)  # fmt: skip
def test_fields_of_other_servers(foreign: Json, own: Json) -> None:
    """They have the meaning that they have in chat."""

    def chat(fields: Json) -> ChatRequest:
        request, _ = parse_responses(body() | fields)
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
        return to_chat(request, [item], [0]).chat

    one, two = chat(foreign), chat(own)
    if one.grammar is not None and two.grammar is not None:  # these know the field's name
        assert (one.grammar.kind, one.grammar.source) == (two.grammar.kind, two.grammar.source)
        one, two = structs.replace(one, grammar=None), structs.replace(two, grammar=None)
    assert one == two


def test_a_grammar_in_a_response(base_url: str) -> None:
    answer = ask(base_url, regex="[ab]{3}")
    assert answer["output"][0]["content"][0]["text"].strip("ab") == ""
    assert answer["text"]["format"] == {"type": "text"}


def test_fields_without_effect(base_url: str) -> None:
    plain = ask(base_url, max_output_tokens=3)
    fields: Json = {
        "background": False, "background_options": {"completion_window": "2h"},
        "context_management": [{"type": "compaction"}], "client_metadata": {"a": "b"},
        "access_programs": {"cyber": "standard"}, "image": {"context_compression": "auto"},
        "max_tool_calls": 3, "moderation": {"model": "x"}, "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "implicit"}, "prompt_cache_retention": "24h",
        "reasoning": {"summary": "auto", "mode": "pro", "context": "auto"},
        "safety_identifier": "s", "service_tier": "scale", "priority": 0,
        "truncation": "disabled", "text": {"verbosity": "low"}, "user": "u",
        "include": ["reasoning.encrypted_content"], "tool_choice": "auto",
    }  # fmt: skip
    echoed = {"prompt_cache_key": "k", "safety_identifier": "s", "user": "u"}
    again = ask(base_url, max_output_tokens=3, **fields)
    assert without_ids(again) == without_ids(plain) | echoed


def test_too_long_a_prompt_names_the_input(base_url: str) -> None:
    response = request(base_url, "POST", PATH, body("hello " * 5000, truncation="auto"))
    error = response.json["error"]
    assert (response.status, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "input"
    unknown = request(base_url, "POST", PATH, body() | {"model": "nobody"})
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")


def test_features_of_background_responses(client: OpenAI, base_url: str) -> None:
    response = client.responses.create(model=STARTER, input="Hello!", max_output_tokens=1)
    with pytest.raises(BadRequestError, match="background"):
        client.responses.cancel(response.id)
    with pytest.raises(NotFoundError, match="shorter history"):
        client.responses.compact(model=STARTER, input="Hello!")
    with pytest.raises(BadRequestError, match="stream"):
        client.responses.retrieve(response.id, stream=True)
    assert client.responses.retrieve(response.id, include=[LOGPROBS]).id == response.id
    assert request(base_url, "GET", PATH).status == 405


def test_odd_ids(base_url: str) -> None:
    for id in ("%ff", "%00", "..%2f..", "%27%3b--", "x" * 8000):
        for path in (id, f"{id}/input_items?after=%ff"):
            assert request(base_url, "GET", f"{PATH}/{path}").status == 404
    for id in ("", "\0", "x" * 100_000):
        response = request(base_url, "POST", PATH, body(previous_response_id=id))
        assert response.json["error"]["code"] == "previous_response_not_found"


# Objects without effect, in which clients may send fields that this server does not know.
OPEN = frozenset({"access_programs", "background_options", "image", "prompt_cache_options"})


def test_every_field_of_the_client_is_known(base_url: str) -> None:
    """Every field of the current client is supported, ignored or refused; none is unknown."""
    names = set(ResponseCreateParamsBase.__annotations__) | {"stream"}
    assert len(names) > 30
    nulls = dict.fromkeys(names - {"model", "input"})
    assert request(base_url, "POST", PATH, nulls | body(max_output_tokens=1)).status == 200
    for name in sorted(names):
        odd = body(max_output_tokens=1) | {name: {"no_such_field": 1}}
        answer = request(base_url, "POST", PATH, odd)
        if name in OPEN:
            assert answer.status == 200
            continue
        assert answer.status == 400
        assert answer.json["error"]["param"].startswith(name)
        unknown = answer.json["error"]["code"] == "unknown_parameter"
        assert not unknown or answer.json["error"]["param"] == f"{name}.no_such_field"


def test_reasoning_effort_is_returned(base_url: str) -> None:
    assert ask(base_url, reasoning={"effort": "low"})["reasoning"]["effort"] == "low"
