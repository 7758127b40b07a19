"""Structured output over HTTP and with the openai client."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from enum import Enum
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openai import BadRequestError, LengthFinishReasonError, OpenAI
from pydantic import BaseModel, Field
from support import STARTER, Stream, chat_body, endless, eventually, request, text_of

from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Room(BaseModel):
    name: str = Field(max_length=12)
    area: int = Field(ge=5, le=99)
    heated: bool
    colour: Colour | None


class House(BaseModel):
    street: str = Field(max_length=12)
    number: int = Field(ge=1, le=99)
    rooms: list[Room] = Field(max_length=2)


class Path(BaseModel):
    step: int = Field(ge=0, le=9)
    rest: Path | None


def named(schema: Any, **more: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **more}}


def test_parse_of_nested_models(client: OpenAI) -> None:
    for seed in range(3):
        completion = client.chat.completions.parse(
            model=STARTER, messages=[{"role": "user", "content": "Describe it as JSON."}],
            response_format=House, temperature=1.0, seed=seed,
        )  # fmt: skip
        (choice,) = completion.choices
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, House)


@pytest.mark.slow
def test_parse_of_a_recursive_model(client: OpenAI) -> None:
    """Such an answer may never end; of several answers one does."""
    parsed = []
    for seed in range(6):
        with suppress(LengthFinishReasonError):
            completion = client.chat.completions.parse(
                model=STARTER, messages=[{"role": "user", "content": "A path as JSON."}],
                response_format=Path, temperature=1.5, seed=seed, max_tokens=150,
            )  # fmt: skip
            parsed.append(completion.choices[0].message.parsed)
    assert any(isinstance(path, Path) for path in parsed)


def test_a_streamed_model(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model=STARTER, messages=[{"role": "user", "content": "A house."}],
        response_format=House, temperature=1.0, seed=1,
    ) as stream:  # fmt: skip
        for _ in stream:
            pass
        completion = stream.get_final_completion()
    assert isinstance(completion.choices[0].message.parsed, House)


def content(base_url: str, **fields: Any) -> str:
    response = request(base_url, "POST", CHAT, chat_body(max_tokens=200, seed=1, **fields))
    assert response.status == 200, response.body
    (choice,) = response.json["choices"]
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"])


INTEGER = {"type": "integer", "minimum": 10, "maximum": 99}
CAT = '# an animal\nroot ::= "cat" | "c" [ow]+\n'


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"response_format": named(INTEGER, strict=True, description="two digits")}, r"\d\d"),
        ({"response_format": named(INTEGER, strict=None)}, r"\d\d"),
        ({"response_format": {"type": "json_object"}}, r"(?s)\{.*\}"),
        ({"response_format": {"type": "json_object", "schema": INTEGER}}, r"\d\d"),
        ({"response_format": {"type": "json_schema", "schema": INTEGER}}, r"\d\d"),
        ({"json_schema": INTEGER}, r"\d\d"),
        ({"json_schema": json.dumps(INTEGER)}, r"\d\d"),
        ({"regex": r"[a-f]{3}\d"}, r"[a-f]{3}\d"),
        ({"choice": ["yes", "no"]}, "yes|no"),
        ({"grammar": CAT}, "cat|c[ow]+"),
        ({"grammar": CAT, "grammar_type": "gbnf"}, "cat|c[ow]+"),
        ({"grammar": 'start: "a" B\nB: /[x-z]{2}/'}, "a[x-z]{2}"),
        ({"grammar": 'start: "a"', "grammar_type": "lark"}, "a"),
        ({"structured_outputs": {"json": INTEGER}}, r"\d\d"),
        ({"structured_outputs": {"regex": "a|b"}}, "a|b"),
        ({"structured_outputs": {"choice": ["x"], "json": None}}, "x"),
        ({"structured_outputs": {"grammar": CAT}}, "cat|c[ow]+"),
        ({"structured_outputs": {"json_object": True}}, r"(?s)\{.*\}"),
        ({"guided_json": INTEGER}, r"\d\d"),
        ({"guided_regex": "a|b"}, "a|b"),
        ({"guided_choice": ["x", "y"]}, "x|y"),
        ({"guided_grammar": CAT}, "cat|c[ow]+"),
    ],
)
def test_forms_that_clients_send(base_url: str, fields: dict[str, Any], pattern: str) -> None:
    assert re.fullmatch(pattern, content(base_url, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}}, {"response_format": None}, {"grammar": ""},
        {"structured_outputs": {"json_object": False}},
        {"response_format": {"type": "text"}, "grammar": None, "regex": None},
    ],
)  # fmt: skip
def test_fields_that_ask_for_nothing(base_url: str, fields: dict[str, Any]) -> None:
    plain = request(base_url, "POST", CHAT, chat_body(max_tokens=20, seed=4)).json
    same = request(base_url, "POST", CHAT, chat_body(max_tokens=20, seed=4, **fields)).json
    assert same["choices"] == plain["choices"]


def test_completions_and_streams(base_url: str) -> None:
    body = {"model": STARTER, "prompt": ["One", "Two"], "regex": "[a-z]{5}", "n": 2}
    choices = request(base_url, "POST", TEXT, body).json["choices"]
    assert len(choices) == 4
    assert all(re.fullmatch("[a-z]{5}", choice["text"]) for choice in choices)
    body = {"model": STARTER, "prompt": "One", "json_schema": INTEGER, "stream": True}
    with Stream(base_url, TEXT, body) as stream:
        assert re.fullmatch(r"\d\d", text_of(list(stream.events())))


FORMAT = "response_format"
SCHEMA = "response_format.json_schema"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({FORMAT: "json"}, FORMAT, None),
        ({FORMAT: {}}, f"{FORMAT}.type", "missing_required_parameter"),
        ({FORMAT: {"type": "xml"}}, f"{FORMAT}.type", None),
        ({FORMAT: {"type": ["text"]}}, f"{FORMAT}.type", None),
        ({FORMAT: {"type": "text", "x": 1}}, f"{FORMAT}.x", "unknown_parameter"),
        ({FORMAT: {"type": "text", "json_schema": {}}}, SCHEMA, None),
        ({FORMAT: {"type": "json_schema"}}, SCHEMA, "missing_required_parameter"),
        ({FORMAT: {"type": "text", "schema": {}}}, f"{FORMAT}.schema", None),
        ({FORMAT: {"type": "json_object", "json_schema": {}}}, SCHEMA, None),
        ({FORMAT: {**named({}), "schema": {}}}, f"{FORMAT}.schema", None),
        ({FORMAT: {"type": "json_schema", "json_schema": 5}}, SCHEMA, None),
        ({FORMAT: {"type": "json_schema", "json_schema": {"schema": {}}}}, f"{SCHEMA}.name",
         "missing_required_parameter"),
        ({FORMAT: {"type": "json_schema", "json_schema": {"name": "x"}}}, f"{SCHEMA}.schema",
         "missing_required_parameter"),
        *(({FORMAT: {"type": "json_schema", "json_schema": {"name": name, "schema": {}}}},
           f"{SCHEMA}.name", None) for name in ("", "a b", "ä", "x" * 65, "x\n", 5)),
        ({FORMAT: named({}, strict="yes")}, f"{SCHEMA}.strict", None),
        ({FORMAT: named({}, description=5)}, f"{SCHEMA}.description", None),
        ({FORMAT: named({}, other=5)}, f"{SCHEMA}.other", "unknown_parameter"),
        ({FORMAT: named([])}, f"{SCHEMA}.schema", None),
        ({FORMAT: named({"type": "string", "not": {}})}, f"{SCHEMA}.schema", None),
        ({FORMAT: named({"type": "integer", "multipleOf": 99999999})}, f"{SCHEMA}.schema", None),
        ({"json_schema": 5}, "json_schema", None),
        ({"json_schema": "{"}, "json_schema", None),
        ({"regex": "(["}, "regex", None),
        ({"regex": ["a"]}, "regex", None),
        ({"choice": "yes"}, "choice", None),
        ({"choice": []}, "choice", None),
        ({"choice": ["a", 5]}, "choice[1]", None),
        ({"grammar": "root ::= x"}, "grammar", None),
        ({"grammar": 5}, "grammar", None),
        ({"grammar": 'root ::= "a"', "grammar_type": "bnf"}, "grammar_type", None),
        ({"grammar_type": "gbnf"}, "grammar_type", None),
        ({"regex": "a", "grammar_type": "gbnf"}, "grammar_type", None),
        ({"regex": "a", "choice": ["a"]}, "choice", None),
        ({FORMAT: named({}), "grammar": 'root ::= "a"'}, "grammar", None),
        ({"structured_outputs": {}}, "structured_outputs", None),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", None),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex", None),
        ({"structured_outputs": {"tag": 5}}, "structured_outputs.tag", "unknown_parameter"),
        ({"structured_outputs": {"json": {"format": "regex"}}}, "structured_outputs.json", None),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object", None),
        ({"guided_json": []}, "guided_json", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_structured_output_that_is_refused(
    base_url: str, path: str, fields: dict[str, Any], param: str, code: str | None
) -> None:
    start = chat_body() if path == CHAT else {"model": STARTER, "prompt": "Hello"}
    response = request(base_url, "POST", path, {**start, "max_tokens": 2, **fields})
    assert response.status == 400, response.body
    error = response.json["error"]
    assert (error["param"], error["code"]) == (param, code or "invalid_value")
    assert error["type"] == "invalid_request_error"


def test_the_client_reports_the_error_and_its_place(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    with pytest.raises(BadRequestError) as error:
        client.chat.completions.create(
            model=STARTER, messages=[{"role": "user", "content": "x"}],
            response_format=named(schema),  # type: ignore[call-overload]
        )  # fmt: skip
    assert "at /properties/a" in error.value.message
    assert "uniqueItems" in error.value.message


def test_arguments_of_a_call_satisfy_their_schema(base_url: str) -> None:
    """Schemas of tools are normalised in the same way as those of answers."""
    day = {"type": "string", "format": "date", "pattern": "-02-29$"}
    names = {"type": "object", "properties": {"a": day, "b": {"$ref": "#/$defs/n"}},
             "required": ["a"], "$defs": {"n": {"type": "array", "minItems": 1,
                                                "items": {"$ref": "#/$defs/n"}}},
             "additionalProperties": False}  # fmt: skip
    tool = {"type": "function", "function": {"name": "f", "parameters": names}}
    for seed in range(5):
        body = chat_body(
            tools=[tool], tool_choice="required", parallel_tool_calls=False, seed=seed,
            temperature=1.5, max_tokens=60,
        )  # fmt: skip
        choice = request(base_url, "POST", CHAT, body).json["choices"][0]
        arguments = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
        assert arguments.keys() == {"a"}
        date.fromisoformat(arguments["a"])


def test_hostile_grammars_beside_a_stream(base_url: str) -> None:
    """They are refused or answered; the stream and the server continue."""
    hostile = [
        {"regex": "((((a{100}){100}){100}){100}){100}"},
        {"regex": "(" * 8_000 + "a" + ")" * 8_000},
        {"grammar": "root ::= (" + "[a-z]? " * 10 + "){0,10}"},
        {"grammar": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000},
        {"json_schema": {"$ref": "#/$defs/0", "$defs": {
            str(i): {"items": {"$ref": f"#/$defs/{i + 1}"}} for i in range(20_000)}}},
        {"json_schema": {"allOf": [{"pattern": f"a{i}"} for i in range(40)]}},
    ]  # fmt: skip
    with Stream(base_url, TEXT, endless(max_tokens=1500)) as stream:
        stream.read_some()
        for fields in hostile:
            body = chat_body(max_tokens=10, **fields)
            assert request(base_url, "POST", CHAT, body).status in (200, 400)
        stream.read_some()
        stream.leave()
    assert content(base_url, regex="[0-9]") in "0123456789"


# --- with tools -------------------------------------------------------------------------------

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "days": {"type": "integer", "minimum": 1, "maximum": 3},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
@pytest.mark.parametrize("seed", range(4))
def test_a_required_call_is_made_and_satisfies_its_schema(
    client: OpenAI, choice: Any, seed: int
) -> None:
    answer = client.chat.completions.create(
        model=STARTER, messages=[{"role": "user", "content": "Tell me a story."}],
        tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False,
        seed=seed, temperature=1.0,
    ).choices[0]  # fmt: skip
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls or ()
    assert call.type == "function"
    assert call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments.keys() == {"city", "days"}
    assert 1 <= arguments["days"] <= 3


def test_strict_tools_and_a_response_format_together(client: OpenAI) -> None:
    """A call or an answer, whichever is generated, satisfies its schema."""
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    for seed in range(6):
        question = "What is the weather in Oslo?" if seed % 2 else "What is 2 + 2?"
        answer = client.chat.completions.create(
            model=STARTER, messages=[{"role": "user", "content": question}],
            tools=[strict], seed=seed, temperature=1.0, max_tokens=400,
            response_format={
                "type": "json_schema", "json_schema": {"name": "number", "schema": schema},
            },
        ).choices[0]  # fmt: skip
        if answer.message.tool_calls:
            for call in answer.message.tool_calls:
                assert call.type == "function"
                assert json.loads(call.function.arguments).keys() == {"city", "days"}
        elif answer.finish_reason == "stop":
            assert json.loads(answer.message.content or "").keys() == {"n"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER], "regex": "a+"}, "regex"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"a": {"not": {"type": "string"}}}}}}],
          "tool_choice": "required"}, "tools[0].function.parameters"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters": {
            "type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}}}]},
         "tools[0].function.parameters"),
    ],
)  # fmt: skip
def test_combinations_that_cannot_be_enforced_are_refused(
    base_url: str, fields: dict[str, Any], param: str
) -> None:
    response = request(base_url, "POST", CHAT, chat_body(**fields))
    assert response.status == 400
    assert response.json["error"]["param"] == param


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_no_stop_string_truncates_a_call_under_a_grammar(
    base_url: str, stream: bool, strict: bool
) -> None:
    function = {**WEATHER["function"], "strict": strict}
    body = chat_body(
        "What is the weather in Oslo?", tools=[{**WEATHER, "function": function}],
        tool_choice="auto" if strict else "required", temperature=0, stop=["}", "city"],
        parallel_tool_calls=False,
    )  # fmt: skip
    if stream:
        with Stream(base_url, CHAT, {**body, "stream": True}) as opened:
            deltas = [json.loads(event)["choices"][0] for event in list(opened.events())[:-1]]
        arguments = "".join(
            call["function"].get("arguments", "")
            for choice in deltas
            for call in choice["delta"].get("tool_calls") or ()
        )
        reason = deltas[-1]["finish_reason"]
    else:
        choice = request(base_url, "POST", CHAT, body).json["choices"][0]
        reason = choice["finish_reason"]
        arguments = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert reason == "tool_calls"
    assert json.loads(arguments).keys() == {"city", "days"}


def test_stop_strings_end_content_beside_calls_under_a_grammar(base_url: str) -> None:
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    body = chat_body("Tell me a short story.", tools=[strict], temperature=0, max_tokens=60)
    text = request(base_url, "POST", CHAT, body).json["choices"][0]["message"]["content"]
    stop = text[20:26]
    answer = request(base_url, "POST", CHAT, {**body, "stop": [stop]}).json["choices"][0]
    assert answer["message"]["content"] == text[: text.index(stop)]
    assert answer["finish_reason"] == "stop"
    with Stream(base_url, CHAT, {**body, "stop": [stop], "stream": True}) as opened:
        assert text_of(list(opened.events())) == text[: text.index(stop)]


ORDER: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "email": {"type": "string", "format": "email", "maxLength": 16, "pattern": (
            r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]"
            r"@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$")},
        "price": {"anyOf": [
            {"type": "number"},
            {"type": "string", "maxLength": 8, "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"}]},
        "counts": {"type": "object", "propertyNames": {"type": "string", "enum": ["a", "b"]},
                   "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9},
                   "required": ["a"]},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 1,
                 "uniqueItems": True, "required": None},
    },
    "required": ["email", "price", "counts", "tags"],
    "additionalProperties": False,
    "propertyNames": {"type": "string"},
    "unevaluatedProperties": True,
}  # fmt: skip
"""A schema as zod and pydantic write them."""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_schemas_of_libraries_end_to_end(base_url: str, seed: int) -> None:
    body = chat_body("Order it.", seed=seed, temperature=1.5, max_tokens=400)
    answer = request(base_url, "POST", CHAT, {**body, "response_format": named(ORDER)})
    assert answer.status == 200, answer.json
    tool = {"name": "order", "strict": True, "parameters": ORDER}
    call = request(base_url, "POST", CHAT, {
        **body, "tools": [{"type": "function", "function": tool}], "tool_choice": "required",
        "parallel_tool_calls": False})  # fmt: skip
    assert call.status == 200, call.json
    (choice,), (called,) = answer.json["choices"], call.json["choices"]
    (function,) = called["message"]["tool_calls"]
    checked = {**ORDER, "properties": {**ORDER["properties"], "tags": {"type": "array"}}}
    for text in (choice["message"]["content"], function["function"]["arguments"]):
        assert not [*Draft202012Validator(checked).iter_errors(json.loads(text))], text
        assert json.loads(text)["tags"] in ([], ["x"], ["y"])


def test_a_call_truncated_at_its_start_is_not_content(base_url: str) -> None:
    body = chat_body(tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=6)
    choice = request(base_url, "POST", CHAT, body).json["choices"][0]
    assert choice["finish_reason"] == "length"
    assert not choice["message"]["content"]


def test_keywords_without_effect_are_left_out(base_url: str) -> None:
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "format": "password", "maxLength": 3},
            "b": {"type": "array", "uniqueItems": False, "maxItems": 1,
                  "items": {"type": "integer", "format": "int32", "maximum": 9, "minimum": 0}},
        },
        "required": ["a", "b"], "additionalProperties": False,
    }  # fmt: skip
    body = chat_body(response_format={"type": "json_object", "schema": schema})
    answer = request(base_url, "POST", CHAT, body).json["choices"][0]
    assert json.loads(answer["message"]["content"]).keys() == {"a", "b"}
    schema["properties"]["a"]["format"] = "regex"  # type: ignore[index]
    assert request(base_url, "POST", CHAT, body).status == 400


@pytest.mark.slow
def test_a_schema_that_is_hard_to_compile_does_not_delay_others(
    make_server: Callable[..., Server],
) -> None:
    server = make_server()
    engine = server.pool.engine(STARTER)
    assert request(server.url, "POST", CHAT, chat_body(max_tokens=1)).status == 200
    numbers = {f"q{i}": {"type": "integer"} for i in range(200)}
    kinds = [
        {"type": "object", "properties": {**numbers, f"x{k}": {"type": "string"}}}
        for k in range(40)
    ]
    hard = {"type": "object", "properties": {"a": {"anyOf": kinds}}}
    ended: list[str] = []

    def ask(name: str, **fields: Any) -> None:
        request(server.url, "POST", CHAT, chat_body(max_tokens=1, **fields))
        ended.append(name)

    slow = threading.Thread(
        target=ask, args=("hard",),
        kwargs={"response_format": {"type": "json_object", "schema": hard}},
    )  # fmt: skip
    slow.start()
    eventually(lambda: engine.in_flight == 1, "it has been sent")
    ask("plain")
    slow.join()
    assert ended == ["plain", "hard"]
