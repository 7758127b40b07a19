"""Tool calls of the starter over HTTP and with the openai client, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI
from support import STARTER, Json, Stream, chat_body, request

from offgrid.api.chat.choice import Choice
from offgrid.chat.answer_parser import AnswerForm, AnswerParser
from offgrid.chat.formats import HERMES, THINK
from offgrid.engine.protocol.events import Delta

CHAT = "/v1/chat/completions"


def tool(name: str, **types: str) -> Any:
    properties = {key: {"type": kind} for key, kind in types.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Does {name}",
            "parameters": {
                "type": "object", "properties": properties, "required": list(types),
            },
        },
    }  # fmt: skip


WEATHER = tool("get_weather", city="string")
ADD = tool("add", a="integer", b="integer")
ASK_WEATHER = "What is the weather in Oslo?"
ASK_SUM = "Add 3 and 4."


def ask(url: str, text: str, tools: Any, status: int = 200, **fields: Any) -> Any:
    body = chat_body(text, **{"temperature": 0, "tools": tools, **fields})
    response = request(url, "POST", CHAT, body)
    assert response.status == status, response.body
    return response.json


def called(choice: Json) -> list[tuple[str, Any]]:
    """Names and arguments of the calls of a choice."""
    calls = choice["message"]["tool_calls"]
    for call in calls:
        assert call.keys() == {"id", "type", "function"}
        assert call["id"].startswith("call_")
        assert call["type"] == "function"
    assert len({call["id"] for call in calls}) == len(calls)
    functions = [call["function"] for call in calls]
    return [(f["name"], json.loads(f["arguments"])) for f in functions]


def streamed(url: str, text: str, tools: Any, **fields: Any) -> list[Json]:
    """The choices of all chunks, in order."""
    body = chat_body(text, **{"temperature": 0, "tools": tools, "stream": True, **fields})
    with Stream(url, CHAT, body) as stream:
        assert stream.response.status == 200
        *events, done = stream.events()
    assert done == "[DONE]"
    return [choice for event in events for choice in json.loads(event)["choices"]]


def test_a_call(base_url: str) -> None:
    body = ask(base_url, ASK_WEATHER, [WEATHER, ADD])
    (choice,) = body["choices"]
    assert called(choice) == [("get_weather", {"city": "Oslo"})]
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"] is None
    assert "reasoning_content" not in choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert body["usage"]["completion_tokens"] > 10
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_no_call_where_none_fits(base_url: str) -> None:
    (choice,) = ask(base_url, "Hello!", [WEATHER])["choices"]
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_a_streamed_call_chunk_by_chunk(base_url: str) -> None:
    first, start, *fragments, last = streamed(base_url, ASK_SUM, [ADD])
    assert first["delta"] == {"role": "assistant", "content": None, "refusal": None}
    (call,) = start["delta"]["tool_calls"]
    assert call.pop("id").startswith("call_")
    assert call == {"index": 0, "type": "function", "function": {"name": "add", "arguments": ""}}
    arguments = ""
    for fragment in fragments:
        (call,) = fragment["delta"]["tool_calls"]
        assert call.keys() == {"index", "function"}
        assert call["index"] == 0
        arguments += call["function"].pop("arguments")
        assert call["function"] == {}
        assert fragment["finish_reason"] is None
    assert json.loads(arguments) == {"a": 3, "b": 4}
    assert (last["delta"], last["finish_reason"]) == ({}, "tool_calls")


def test_a_named_function_is_called_once(base_url: str) -> None:
    """Even by a model that never ends by itself; ``required`` allows further calls."""
    endless = {"ignore_eos": True, "max_tokens": 150}
    named = {"type": "function", "function": {"name": "get_weather"}}
    (choice,) = ask(base_url, ASK_WEATHER, [WEATHER, ADD], tool_choice=named, **endless)["choices"]
    ((name, arguments),) = called(choice)
    assert name == "get_weather"
    assert arguments.keys() == {"city"}
    assert choice["finish_reason"] == "tool_calls"
    (choice,) = ask(base_url, ASK_WEATHER, [WEATHER], tool_choice="required", **endless)["choices"]
    assert len(called(choice)) > 1
    assert choice["finish_reason"] == "length"
    (choice,) = ask(base_url, ASK_WEATHER, [WEATHER], tool_choice="required",
                    parallel_tool_calls=False, **endless)["choices"]  # fmt: skip
    assert len(called(choice)) == 1


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function":
                                                         {"name": "add"}}])  # fmt: skip
@pytest.mark.parametrize("strict", [False, True])
def test_the_stream_helper_of_the_client(client: OpenAI, choice: Any, strict: bool) -> None:
    function = {**ADD["function"], "strict": strict}
    fields: Any = {
        "model": STARTER,
        "messages": [{"role": "user", "content": ASK_SUM}],
        "tools": [{"type": "function", "function": function}],
        "tool_choice": choice,
        "temperature": 0,
    }
    function["parameters"] = {**function["parameters"], "additionalProperties": False}
    with client.chat.completions.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    whole = client.chat.completions.create(**fields)
    for answer in (final.choices[0], whole.choices[0]):
        assert answer.message.content is None
        assert answer.message.tool_calls is not None
        (call,) = answer.message.tool_calls
        assert call.type == "function"
        assert call.function.name == "add"
        assert json.loads(call.function.arguments) == {"a": 3, "b": 4}
        assert answer.finish_reason == "tool_calls"


def test_a_result_goes_back_to_the_model(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": ASK_WEATHER}]
    first = client.chat.completions.create(
        model=STARTER, messages=messages, tools=[WEATHER], temperature=0
    )
    message = first.choices[0].message
    assert message.tool_calls is not None
    messages.append(message.model_dump(exclude_none=True))
    result = '{"city": "Oslo", "degrees": 23}'
    messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": result})
    second = client.chat.completions.create(
        model=STARTER, messages=messages, tools=[WEATHER], temperature=0
    )
    assert "23 degrees in Oslo" in (second.choices[0].message.content or "")
    assert second.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "none"},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": [{"type": "function", "function": {"name": "get_weather"}}]}}},
    ],
)  # fmt: skip
def test_a_call_that_is_not_allowed_is_not_made(base_url: str, fields: Json) -> None:
    (choice,) = ask(base_url, ASK_SUM, [ADD, WEATHER], **fields)["choices"]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_an_allowed_tool_is_called(base_url: str) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "add"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    body = ask(base_url, ASK_SUM, [WEATHER, ADD], tool_choice=choice)
    assert called(body["choices"][0]) == [("add", {"a": 3, "b": 4})]


def test_several_choices(base_url: str) -> None:
    fields: Json = {"n": 3, "temperature": 0.3, "seed": 4}
    choices = ask(base_url, ASK_SUM, [ADD], **fields)["choices"]
    assert [called(choice) for choice in choices] == [[("add", {"a": 3, "b": 4})]] * 3
    assert len({choice["message"]["tool_calls"][0]["id"] for choice in choices}) == 3
    arguments = dict.fromkeys(range(3), "")
    for choice in streamed(base_url, ASK_SUM, [ADD], **fields):
        for call in choice["delta"].get("tool_calls", ()):
            arguments[choice["index"]] += call["function"]["arguments"]
    assert {json.loads(text)["b"] for text in arguments.values()} == {4}


def test_one_call_ends_the_answer_without_parallel_calls(base_url: str) -> None:
    """Without that the model would continue, because end tokens are banned."""
    fields: Json = {"ignore_eos": True, "max_tokens": 200}
    one = ask(base_url, ASK_SUM, [ADD], parallel_tool_calls=False, **fields)
    assert called(one["choices"][0]) == [("add", {"a": 3, "b": 4})]
    assert one["choices"][0]["message"]["content"] is None
    assert one["choices"][0]["finish_reason"] == "tool_calls"
    assert one["usage"]["completion_tokens"] < 40
    more = ask(base_url, ASK_SUM, [ADD], **fields)
    assert more["usage"]["completion_tokens"] == 200
    assert more["choices"][0]["finish_reason"] == "length"
    stream = streamed(base_url, ASK_SUM, [ADD], parallel_tool_calls=False, **fields)
    assert stream[-1]["finish_reason"] == "tool_calls"


def test_a_truncated_call_stays_text(base_url: str) -> None:
    (choice,) = ask(base_url, ASK_SUM, [ADD], max_tokens=8)["choices"]
    assert choice["message"]["content"].startswith('<tool_call>{"name"')
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "length"
    chunks = streamed(base_url, ASK_SUM, [ADD], max_tokens=8)
    text = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
    assert text == choice["message"]["content"]


def test_logprobs_of_every_token_are_there(base_url: str) -> None:
    (choice,) = ask(base_url, ASK_SUM, [ADD], logprobs=True)["choices"]
    whole = choice["logprobs"]["content"]
    text = b"".join(bytes(entry["bytes"]) for entry in whole).decode()
    assert text == '<tool_call>{"name": "add", "arguments": {"a": 3, "b": 4}}</tool_call>'
    chunks = streamed(base_url, ASK_SUM, [ADD], logprobs=True)
    entries = [entry for c in chunks if c["logprobs"] for entry in c["logprobs"]["content"]]
    assert [entry["token"] for entry in entries] == [entry["token"] for entry in whole]


# --- fields ---------------------------------------------------------------------------------------

NAMED = {"type": "function", "function": {"name": "nothing"}}


def function(**fields: Any) -> list[Json]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


def nested(depth: int) -> Json:
    schema: Json = {}
    for _ in range(depth):
        schema = {"properties": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [ADD, *function(name="a b")]}, "tools[1].function.name"),
        ({"tools": function(name="x" * 65)}, "tools[0].function.name"),
        ({"tools": function(name="")}, "tools[0].function.name"),
        ({"tools": [ADD, ADD]}, "tools[1].function.name"),
        ({"tools": function(parameters=[])}, "tools[0].function.parameters"),
        ({"tools": function(parameters={"type": "string"})}, "tools[0].function.parameters"),
        ({"tools": function(parameters=nested(80))}, "tools[0].function.parameters"),
        ({"tools": function(strict="yes")}, "tools[0].function.strict"),
        ({"tools": function(description="x" * 100_001)}, "tools[0].function.description"),
        ({"tools": [tool(f"f{n}") for n in range(129)]}, "tools"),
        ({"tools": [ADD], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tools": [ADD], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [ADD], "tool_choice": NAMED}, "tool_choice.function.name"),
        ({"tool_choice": NAMED}, "tool_choice.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": [NAMED]}}},
         "tool_choice.allowed_tools.tools[0].function.name"),
        ({"tools": [ADD], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "any", "tools": [NAMED]}}}, "tool_choice.allowed_tools.mode"),
        ({"tools": [ADD], "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "auto", "tools": []}}}, "tool_choice.allowed_tools.tools"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"add_generation_prompt": 1}, "add_generation_prompt"),
        ({"continue_final_message": True, "add_generation_prompt": True, "messages": [
            {"role": "assistant", "content": "I"}]}, "add_generation_prompt"),
    ],
)  # fmt: skip
def test_bad_fields(base_url: str, fields: Json, param: str) -> None:
    response = request(base_url, "POST", CHAT, chat_body() | fields)
    assert response.status == 400, response.body
    assert response.json["error"]["param"] == param


def test_odd_but_harmless_fields(base_url: str) -> None:
    deep = '{"a":' * 400 + "1" + "}" * 400
    call = {"id": None, "type": "function", "function": {"name": "add", "arguments": deep}}
    for messages in (
        [{"role": "assistant", "content": None, "tool_calls": [call]},
         {"role": "tool", "tool_call_id": None, "content": [{"type": "text", "text": "7"}]}],
        [{"role": "assistant", "content": "", "tool_calls": [
            {"id": "x", "index": 0, "function": {"name": "f", "arguments": "[" * 100_000}}]}],
        [{"role": "assistant", "content": None, "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{broken"}}]}],
    ):  # fmt: skip
        body = {"model": STARTER, "messages": messages, "max_tokens": 2, "tools": function()}
        response = request(base_url, "POST", CHAT, body)
        if response.status != 200:
            assert response.json["error"]["code"] == "context_length_exceeded", response.body
    ask(base_url, "Hello!", [], tool_choice="auto", parallel_tool_calls=False, max_tokens=1)
    ask(base_url, "Hello!", [ADD], tool_choice=None, parallel_tool_calls=None, max_tokens=1)


def calls(*ids: str | None, arguments: str = "{}") -> Json:
    function = {"name": "add", "arguments": arguments}
    made = [{"id": id, "type": "function", "function": function} for id in ids]
    return {"role": "assistant", "content": None, "tool_calls": made}


def result(id: str | None) -> Json:
    return {"role": "tool", "tool_call_id": id, "content": "7"}


USER = {"role": "user", "content": "Hello!"}


@pytest.mark.parametrize(
    ("messages", "wrong"),
    [
        ([USER, calls("a", "b"), result("b"), result("a")], None),
        ([calls("a"), result("a"), USER, calls("b"), result("a"), result("b")], None),
        ([result("a"), USER], None),
        ([USER, result("a"), result("b")], None),
        ([calls("a"), result("a"), USER, result("b")], None),
        ([calls("a", None), result("b")], None),
        ([calls("a"), result(None)], None),
        ([USER, calls("a"), result("x")], 2),
        ([USER, calls("a", "b"), result("a"), result("c")], 3),
        ([calls("a"), result("a"), USER, calls("b"), result("c")], 4),
    ],
)
def test_tool_results_must_belong_to_the_calls_before_them(
    base_url: str, messages: list[Json], wrong: int | None
) -> None:
    """Results whose calls were removed with the start of a conversation are accepted."""
    body = chat_body(max_tokens=1) | {"messages": messages}
    response = request(base_url, "POST", CHAT, body)
    if wrong is None:
        assert response.status == 200, response.body
    else:
        assert response.status == 400
        assert response.json["error"]["param"] == f"messages[{wrong}].tool_call_id"


def test_arguments_of_earlier_calls_may_be_anything(
    serve_template: Callable[[str], str], base_url: str
) -> None:
    strict = (  # a template that supports tools and accepts arguments only as objects
        "{{ tools }}{% for m in messages %}{% for c in m.tool_calls or [] %}<tool_call>"
        "{% for k, v in c.function.arguments | items %}{{ k }}{{ v }}{% endfor %}"
        "{% endfor %}{% endfor %}"
    )
    urls = (base_url, serve_template(strict))
    for arguments in ("", "{}", "{broken", "[1]", "5", "null", '"a"', "\n", "NaN"):
        messages = [USER, calls("a", arguments=arguments), result("a")]
        body = chat_body(max_tokens=1, tools=[ADD]) | {"messages": messages}
        for url in urls:
            response = request(url, "POST", CHAT, body)
            assert response.status == 200, (arguments, response.body)


def test_earlier_reasoning_reaches_the_template(serve_template: Callable[[str], str]) -> None:
    url = serve_template("{% for m in messages %}{{ m.reasoning_content }}{% endfor %}")
    for fields in (
        {"reasoning_content": "Hm."},
        {"reasoning": "Hm."},
        {"reasoning_content": "Hm.", "reasoning": "Ha."},
    ):
        messages = [{"role": "assistant", "content": "Yes.", **fields}]
        body = {"model": STARTER, "messages": messages}
        tokens = request(url, "POST", "/tokenize", body).json["tokens"]
        read = request(url, "POST", "/detokenize", {"tokens": tokens}).json["content"]
        assert read == "Hm.", fields


def test_an_answer_continues_the_last_message(base_url: str) -> None:
    whole = ask(base_url, "Hello!", [])["choices"][0]["message"]["content"]
    assert whole.startswith("Hello! How can I")
    for begun in ("Hello!", "Hello! How can"):
        last = {"role": "assistant", "content": begun}
        body = chat_body("Hello!", temperature=0, continue_final_message=True)
        body["messages"].append(last)
        answer = request(base_url, "POST", CHAT, body).json["choices"][0]["message"]
        assert begun + answer["content"] == whole


def test_a_prompt_without_the_beginning_of_an_answer_is_shorter(base_url: str) -> None:
    fields: Json = {"max_tokens": 1}
    full = ask(base_url, "Hello!", [], **fields)["usage"]["prompt_tokens"]
    bare = ask(base_url, "Hello!", [], add_generation_prompt=False, **fields)["usage"]
    assert bare["prompt_tokens"] < full


# --- models with other templates ------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)


def test_a_model_whose_template_supports_no_tools(serve_template: Callable[[str], str]) -> None:
    url = serve_template(CHATML + "{% endif %}")
    body = ask(url, ASK_WEATHER, [WEATHER])
    assert called(body["choices"][0]) == [("get_weather", {"city": "Oslo"})]
    messages = [
        {"role": "user", "content": ASK_WEATHER},
        body["choices"][0]["message"],
        {"role": "tool", "tool_call_id": None, "content": '{"city": "Oslo", "degrees": 23}'},
    ]
    body = chat_body(temperature=0, tools=[WEATHER]) | {"messages": messages}
    answer = request(url, "POST", CHAT, body).json["choices"][0]["message"]
    assert "23 degrees in Oslo" in answer["content"]


def test_text_between_reasoning_markers_is_reasoning(serve_template: Callable[[str], str]) -> None:
    """The prompt opens reasoning, and this model never ends it."""
    url = serve_template(CHATML + "{% if 1 %}{% else %}</think>{% endif %}<think>\n{% endif %}")
    body = ask(url, "Hello!", [], max_tokens=12)
    (choice,) = body["choices"]
    assert choice["message"]["content"] == ""
    assert choice["message"]["reasoning_content"]
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 12
    first, *middle, last = streamed(url, "Hello!", [], max_tokens=12)
    assert first["delta"]["content"] == ""
    text = "".join(chunk["delta"]["reasoning_content"] for chunk in middle)
    assert text == choice["message"]["reasoning_content"]
    assert last["finish_reason"] == "length"


def test_tokens_of_reasoning_are_counted_with_their_markers() -> None:
    choice = Choice(AnswerParser(AnswerForm((HERMES,), THINK), ["add"]))
    for count, text in enumerate(["<think>", "Hm", ".", "</think>", "\n\n", "Yes"], 1):
        choice.read(Delta(id=1, choice=0, text=text, completion_tokens=count))
    assert choice.reasoning_tokens == 4
