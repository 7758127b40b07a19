"""Responses to bad requests: the status, the error object, and the field that it names."""

from __future__ import annotations

import json
import socket
from typing import Any

import openai
import pytest
from openai import OpenAI
from support import STARTER, TIMEOUT, chat_body, endless, request, response_on

from offgrid.api.fields.inert import IGNORED
from offgrid.api.http.error_handlers import MAX_FIELD, told
from offgrid.errors import ContextLengthExceeded, InvalidParameter, NotStored, RequestError

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBED = "/v1/embeddings"
USER = {"role": "user", "content": "Hello!"}
INVALID = "invalid_request_error"


DEEP = json.loads("[" * 65 + "]" * 65)


def error_of(base_url: str, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    response = request(base_url, "POST", path, body)
    assert response.status == status, response.body
    assert response.headers["content-type"].startswith("application/json")
    error: dict[str, Any] = response.json["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert status != 400 or (error["param"] or "")[:MAX_FIELD] in error["message"], error
    return error


BOTH = [
    ("model", 5), ("model", ["a"]),
    ("temperature", "hot"), ("temperature", -0.1), ("temperature", 2.1), ("temperature", True),
    ("top_p", -0.1), ("top_p", 1.1), ("top_p", "1"),
    ("top_k", -2), ("top_k", 1.5), ("min_p", 2), ("min_p", -1),
    ("frequency_penalty", 2.1), ("frequency_penalty", -2.1), ("frequency_penalty", "1"),
    ("presence_penalty", 3), ("presence_penalty", []),
    ("repetition_penalty", 0), ("repeat_last_n", -2),
    ("max_tokens", -3), ("max_tokens", 1.5), ("max_tokens", "7"),
    ("max_tokens", 1 << 31), ("max_tokens", 1 << 64), ("max_tokens", 10**30),
    ("top_k", 1 << 64), ("repeat_last_n", 1 << 64), ("n", 1 << 64), ("repeat_penalty", "x"),
    ("n", 0), ("n", 17), ("n", "2"),
    ("seed", "x"), ("seed", 1.5), ("seed", 1 << 64),
    ("stop", 5), ("stop", [""]), ("stop", ""), ("stop", ["x" * 5000]),
    ("stream", "yes"), ("stream", 1), ("ignore_eos", "no"),
    ("stream_options", {"include_usage": True}),
    ("logit_bias", {"": 1}), ("logit_bias", {"x" * 101: 1}), ("logit_bias", [[-1, 1]]),
    ("logit_bias", {"99999999": 1}), ("logit_bias", [1]),
    ("no_such_field", 1),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), BOTH, ids=lambda v: json.dumps(v)[:24])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_bad_values_name_their_field(base_url: str, path: str, field: str, value: Any) -> None:
    body = {"model": STARTER, **({"messages": [USER]} if path == CHAT else {"prompt": "Hello"})}
    error = error_of(base_url, path, {**body, field: value})
    assert error["param"] == field
    assert error["type"] == INVALID


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [USER, {"role": "wizard", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         "messages[0].content[0].image_url.url"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"max_completion_tokens": 1 << 64}, "max_completion_tokens"),
        ({"repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 3}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5"),
        ({"logit_bias": {"5": True}}, "logit_bias.5"),
        ({"stream": True, "stream_options": {"no_such": 1}}, "stream_options.no_such"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"logit_bias": {"99999999999": 1}}, "logit_bias.99999999999"),
        ({"reasoning_effort": "bogus"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"a": DEEP}}, "chat_template_kwargs.a"),
        ({"chat_template_kwargs": {"a": "x" * 65_536}}, "chat_template_kwargs"),
        ({"documents": "x"}, "documents"),
        ({"documents": [{}]}, "documents[0]"),
        ({"documents": [{"text": "x"}, "x"]}, "documents[1]"),
        ({"documents": [{"text": "x"}, {"text": DEEP}]}, "documents[1]"),
        ({"documents": [{"text": "x"}] * 257}, "documents"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"prediction": "x"}, "prediction"),
        ({"prediction": {"content": "x"}}, "prediction.type"),
        ({"prediction": {"type": "text", "content": "x"}}, "prediction.type"),
        ({"prediction": {"type": "content"}}, "prediction.content"),
        ({"prediction": {"type": "content", "content": []}}, "prediction.content"),
        ({"prediction": {"type": "content", "content": [{"type": "text"}]}},
         "prediction.content[0].text"),
        ({"prediction": {"type": "content", "content": [{"type": "refusal", "refusal": "x"}]}},
         "prediction.content[0].type"),
        ({"prediction": {"type": "content", "content": "x" * 300_000}}, "prediction.content"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
         "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
         "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]},
         "messages[0].content[0].type"),
    ],
)  # fmt: skip
def test_bad_chat_requests(base_url: str, fields: dict[str, Any], param: str) -> None:
    error = error_of(base_url, CHAT, chat_body() | fields)
    assert error["param"] == param
    assert error["type"] == INVALID


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt[0]"),
        ({"prompt": [1, -2]}, "prompt[0]"),
        ({"prompt": [99999999]}, "prompt"),
        ({"prompt": ["a", [99999999]]}, "prompt[1]"),
        ({"prompt": ["a", ""]}, "prompt[1]"),
        ({"prompt": ["a"] * 2049}, "prompt"),
        ({"prompt": ["a"] * 129, "n": 16}, "prompt"),
        ({"prompt": ["a"] * 103, "best_of": 20}, "prompt"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 21}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"suffix": "end", "echo": True, "logprobs": 1}, "suffix"),
        ({"suffix": 5}, "suffix"),
        ({"stop": ["x"] * 65}, "stop"),
        ({"echo": "yes"}, "echo"),
    ],
)
def test_bad_text_requests(base_url: str, fields: dict[str, Any], param: str) -> None:
    body = {"model": STARTER, "prompt": "Hello"} | fields
    assert error_of(base_url, TEXT, body)["param"] == param


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b"5", b"null", b'"x"', b"\xff\xfe{}", b'{"a":1,"a":2}', b'{"n":NaN}',
        b'{"n":1e999}', b'{"model":"\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000,
    ],
    ids=lambda raw: repr(raw[:16]),
)  # fmt: skip
def test_bodies_that_are_not_json(base_url: str, raw: bytes) -> None:
    error = error_of(base_url, CHAT, raw)
    assert error["code"] == "invalid_json"
    assert error["type"] == INVALID


def test_the_context_is_checked_before_anything_is_computed(base_url: str) -> None:
    error = error_of(base_url, CHAT, chat_body("word " * 6000))
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert "2048" in error["message"]
    error = error_of(base_url, TEXT, endless("x" * 1_000_000))
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        ("/v1/api/tags", "tags. The base URL of the Ollama API is {}."),
        ("/v1/api/chat/", "The base URL of the Ollama API is {}."),
        ("/messages", "messages. The base URL of the Anthropic API is {}."),
        ("/v1/v1/messages", "messages. The base URL of the Anthropic API is {}."),
        ("/v1/messages/batches", "Of its endpoints, this server has only some: GET /openapi.json"),
        ("/api/blobs/x/y", "Of its endpoints, this server has only some: GET /openapi.json"),
        ("/api/me", "The base URL of the Ollama API is {}. Of its endpoints"),
        ("/v1/infill", "infill. The base URL of llama-server's own API is {}."),
        ("/v1/completion", "completion. The base URL of llama-server's own API is {}."),
        ("/v1/props", "props. The base URL of llama-server's own API is {}."),
        ("/lora-adapters", "lora-adapters. The base URL of llama-server's own API is {}."),
        ("/v1/tokenize", "tokenize. The base URL of llama-server's own API is {}."),
        ("/pooling", "pooling. The base URL of vLLM's own API is {}."),
        ("/api/v1/generate", "the API of KoboldCpp. The base URL of the OpenAI API is {}/v1."),
        ("/api/extra/version", "the API of KoboldCpp. The base URL of the OpenAI API is {}/v1."),
        ("/api/v0/models", "the API of LM Studio. The base URL of the OpenAI API is {}/v1."),
        (
            "/v1beta/models/x:generateContent",
            "the API of Gemini. The base URL of the OpenAI API is {}",
        ),
        (
            "/openai/deployments/x/chat/completions",
            "the API of Azure. The base URL of the OpenAI API",
        ),
        (
            "/generate_stream",
            "the API of Text Generation Inference. The base URL of the OpenAI API",
        ),
        ("/v2/rerank", "the API of Cohere. The base URL of the OpenAI API is {}/v1."),
        ("/v1/model/load", "the API of TabbyAPI. The base URL of the OpenAI API is {}/v1."),
        ("/chat/completions", "completions. The base URL of the OpenAI API is {}/v1."),
        ("/models", "models. The base URL of the OpenAI API is {}/v1."),
        ("/v1/v1/models", "models. The base URL of the OpenAI API is {}/v1."),
        ("/nothing", "nothing. The base URL of the OpenAI API is {}/v1."),
        ("/v1/chat", "chat. GET /openapi.json lists all endpoints."),
    ],
)
def test_an_unknown_path_leads_to_the_right_one(base_url: str, path: str, advice: str) -> None:
    error = request(base_url, "GET", path).json["error"]
    message = error if isinstance(error, str) else error["message"]  # Ollama's form
    assert advice.format(base_url) in message


def test_unknown_paths_and_methods(base_url: str) -> None:
    for path in ("/nothing", "/v1", "/v1/chat", "/v1/%2e%2e/x"):
        response = request(base_url, "GET", path)
        assert response.status == 404
        assert response.json["error"]["code"] == "unknown_url"
    for method, path, allowed in (
        ("GET", CHAT, "POST"), ("DELETE", TEXT, "POST"), ("POST", "/health", "GET"),
        ("PUT", "/v1/models", "GET"),
    ):  # fmt: skip
        response = request(base_url, method, path)
        assert response.status == 405
        assert allowed in response.headers["allow"]
        assert response.json["error"]["code"] == "method_not_allowed"
    assert request(base_url, "HEAD", "/health").status == 200


def test_an_unknown_method(base_url: str) -> None:
    for method in ("FOO", "TRACE", "PROPFIND"):
        response = request(base_url, method, "/health")
        assert response.status == 405
        assert "GET" in response.headers["allow"]
        assert response.json["error"]["code"] == "method_not_allowed"


def test_the_error_for_an_unknown_role_lists_the_known_ones(base_url: str) -> None:
    error = error_of(base_url, CHAT, chat_body() | {"messages": [{"role": "boss", "content": ""}]})
    assert "boss" in error["message"]
    assert "assistant" in error["message"]


def test_refusals_by_waitress_have_the_same_form(base_url: str) -> None:
    """Headers that are too large and invalid request lines never reach the application."""
    host, port = base_url.removeprefix("http://").split(":")
    for head, status, code in (
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431,
         "headers_too_large"),
        (b"nonsense\r\n\r\n", 400, None),
    ):  # fmt: skip
        with socket.create_connection((host, int(port)), TIMEOUT) as connection:
            connection.sendall(head)
            response = response_on(connection)
            assert response.status == status
            assert response.headers["content-type"] == "application/json"
            error = response.json["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert (error["type"], error["code"]) == (INVALID, code)


def test_unknown_model_ids(base_url: str) -> None:
    for model in ("nothing", "some/where/else", "../../etc/passwd", "%C3%BC", "a%2Fb"):
        response = request(base_url, "GET", f"/v1/models/{model}")
        assert response.status == 404
        assert response.json["error"]["code"] == "model_not_found"


def test_host_and_origin(base_url: str) -> None:
    foreign = request(base_url, "GET", "/v1/models", headers={"Host": "evil.example"})
    assert foreign.status == 403
    assert foreign.json["error"]["code"] == "host_not_allowed"
    page = request(base_url, "POST", CHAT, chat_body(), {"Origin": "https://evil.example"})
    assert page.status == 403
    assert "access-control-allow-origin" not in page.headers
    own = request(base_url, "POST", CHAT, chat_body(max_tokens=1), {"Origin": base_url})
    assert own.status == 200


def test_unknown_query_parameters_are_named(base_url: str) -> None:
    path = f"{CHAT}?api-version=2026-01-01&temperature=9&api-version=&%ff"
    answer = request(base_url, "POST", path, chat_body(max_tokens=1, num_ctx=9))
    assert answer.status == 200
    assert answer.headers["x-offgrid-ignored"] == (
        "query.api-version, query.temperature, query.%EF%BF%BD, num_ctx"
    )
    for path, named in (
        ("/v1/models?client_version=0.1&limit=x&after", "query.client_version, query.after, "
         "query.limit"),
        (f"/v1/models/{STARTER}?verbose=1", "query.verbose"),
        ("/slots?model=&fail_on_no_slot=&page=2", "query.page"),
        (f"/tokenizer_info?model={STARTER}&model[]=b", "query.model[]"),
        ("/health?_=1783", "query._"),
    ):  # fmt: skip
        answer = request(base_url, "GET", path)
        assert (answer.status, answer.headers["x-offgrid-ignored"]) == (200, named)
    head = request(base_url, "HEAD", "/v1/models?limit=1&page=2")
    assert head.headers["x-offgrid-ignored"] == "query.page, query.limit"


def test_known_query_parameters_are_not_named(base_url: str) -> None:
    made = request(base_url, "POST", "/v1/conversations", {}).json["id"]
    items = f"/v1/conversations/{made}/items"
    for query in ("?limit=5&order=asc", "?include[]=reasoning.encrypted_content", ""):
        answer = request(base_url, "GET", f"{items}{query}")
        assert answer.status == 200
        assert "x-offgrid-ignored" not in answer.headers
    refused = request(base_url, "GET", f"{items}?limit=0&limits=5")
    assert (refused.status, refused.headers["x-offgrid-ignored"]) == (400, "query.limits")


def test_a_body_over_the_limit(base_url: str) -> None:
    error = error_of(base_url, CHAT, b" " * ((8 << 20) + 1), status=413)
    assert error["code"] == "request_too_large"


def test_harmless_fields_are_accepted(base_url: str) -> None:
    extra = {
        "metadata": {"k" * 64: "v" * 512, "": "", "a": None},
        "moderation": {"model": "m", "new": 1},
        "prompt_cache_key": "k", "prompt_cache_options": {"mode": "implicit", "new": 1},
        "prompt_cache_retention": "24h", "safety_identifier": "s", "store": True, "user": "u",
        "verbosity": "low",
    }  # fmt: skip
    assert extra.keys() == IGNORED
    breakpoint = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    extra["messages"] = [
        {"role": "user", "content": [{"type": "text", "text": "Hello!", **breakpoint}]}
    ]
    nothing = {
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
        "modalities": ["text"], "logit_bias": {}, "stop": None, "seed": None, "prediction": None,
    }  # fmt: skip
    body = chat_body(max_tokens=1, **nothing) | extra
    assert request(base_url, "POST", CHAT, body).status == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"metadata": "a"}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {"x" * 65: "a"}}, "metadata"),
        ({"metadata": {str(n): "a" for n in range(17)}}, "metadata"),
        ({"moderation": {}}, "moderation.model"),
        ({"prompt_cache_key": 3}, "prompt_cache_key"),
        ({"prompt_cache_options": {"mode": "x"}}, "prompt_cache_options.mode"),
        ({"prompt_cache_options": {"ttl": "1m"}}, "prompt_cache_options.ttl"),
        ({"prompt_cache_retention": "48h"}, "prompt_cache_retention"),
        ({"safety_identifier": ["a"]}, "safety_identifier"),
        ({"store": "yes"}, "store"),
        ({"user": 3}, "user"),
        ({"verbosity": 5}, "verbosity"),
        ({"verbosity": "loud"}, "verbosity"),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [CHAT, TEXT, EMBED])
def test_fields_without_effect_have_types(
    base_url: str, path: str, fields: dict[str, Any], param: str
) -> None:
    required = {CHAT: {"messages": [USER]}, TEXT: {"prompt": "Hello"}, EMBED: {"input": "Hello"}}
    error = error_of(base_url, path, {"model": STARTER, **required[path], **fields})
    assert error["param"] == param
    assert param.partition(".")[0] in error["message"]


# One message of each place that checks fields, whose words do not come from their types.
REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]},
     "tools[0].function.name"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}] * 2},
     "tools[1].function.name"),
    (CHAT, {"tools": [{"type": "function", "function": {
        "name": "f", "parameters": {"type": "x"}}}]},
     "tools[0].function.parameters"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "strict": True, "parameters":
            {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}}}]},
     "tools[0].function.parameters"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": "g"}}},
     "tool_choice.function.name"),
    (CHAT, {"messages": [USER, {"role": "assistant", "tool_calls": [
        {"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "b", "content": "x"}]}, "messages[2].tool_call_id"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "thinking", "thinking": "x"}]}]},
     "messages[0].content[0]"),
    (CHAT, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "http://a/b.png"}}]}]},
     "messages[0].content[0].image_url.url"),
    (CHAT, {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]},
     "messages[0].content[0].image_url.url"),
    (CHAT, {"continue_final_message": True}, "continue_final_message"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
        "type": "object", "required": ["b"], "properties": {"b": False}}}}},
     "response_format.json_schema.schema"),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
     "response_format.json_schema.name"),
    (CHAT, {"grammar": "root ::= ("}, "grammar"),
    (CHAT, {"regex": "("}, "regex"),
    (CHAT, {"choice": [5]}, "choice[0]"),
    (CHAT, {"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs"),
    (CHAT, {"logit_bias": {"5": 101}}, "logit_bias.5"),
    (CHAT, {"logit_bias": {"the": True}}, "logit_bias.the"),
    (CHAT, {"logit_bias": {"99999999": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": [[1, 2, 3]]}, "logit_bias"),
    (CHAT, {"dry_sequence_breakers": [""]}, "dry_sequence_breakers[0]"),
    (CHAT, {"options": {"temperature": 3}}, "options.temperature"),
    (CHAT, {"top_a": 0.5}, "top_a"),
    (CHAT, {"x" * 200: 1}, "x" * 200),
    (TEXT, {"prompt": ""}, "prompt"),
    (TEXT, {"prompt": ["a", ""]}, "prompt[1]"),
    (TEXT, {"prompt": ["a", {}]}, "prompt[1]"),
    (TEXT, {"prompt": ["a", [99999999]]}, "prompt[1]"),
    (TEXT, {"prompt": "a", "suffix": "x"}, "suffix"),
    (EMBED, {"input": ["a", ""]}, "input[1]"),
    (EMBED, {"input": ["a", {}]}, "input[1]"),
    (EMBED, {"input": "a", "dimensions": 100_000}, "dimensions"),
    ("/v1/rerank", {"query": "a", "documents": ["a"]}, "model"),
    ("/tokenize", {}, "prompt"),
    ("/detokenize", {"tokens": [99999999]}, "tokens"),
    ("/v1/responses", {}, "input"),
    ("/v1/responses", {"input": "a", "tools": [{"type": "function", "name": "a b"}]},
     "tools[0].name"),
    ("/v1/responses", {"input": "a", "tool_choice": {"type": "function", "name": "g"}},
     "tool_choice.name"),
    ("/v1/responses", {"input": [{"role": "system", "content": [
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]}]},
     "input[0].content[0]"),
    ("/v1/responses", {"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": "http://a/b.png"}]}]},
     "input[0].content[0].image_url"),
    ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]},
     "input"),
    ("/v1/responses", {"input": "a", "text": {"format": {"type": "json_schema", "name": "a",
        "schema": {"not": {"type": "null"}}}}}, "text.format.schema"),
    ("/v1/responses", {"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
    ("/v1/responses", {"input": "word " * 6000}, "input"),
    ("/v1/conversations", {"items": [{"type": "message", "role": "boss"}]}, "items[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": "word " * 6000}]}, "messages"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "param"), REFUSALS, ids=lambda v: str(v)[:40])
def test_the_message_of_a_400_names_the_field(
    base_url: str, path: str, fields: dict[str, Any], param: str
) -> None:
    """Many clients show only the message. :func:`error_of` looks for the field in it."""
    required: dict[str, dict[str, Any]] = {CHAT: {"messages": [USER]}}
    error = error_of(base_url, path, {**required.get(path, {}), **fields})
    assert error["param"] == param


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (InvalidParameter("It must not be.", "n"), "n: It must not be."),
        (InvalidParameter("n must be 1.", "n"), "n must be 1."),
        (InvalidParameter("a.stop is long.", "stop"), "stop: a.stop is long."),
        (InvalidParameter("stop[0] is long.", "stop"), "stop[0] is long."),
        (InvalidParameter("Bad.", "x" * 100), "x" * 80 + "...: Bad."),
        (InvalidParameter("Bad: " + "x" * 80, "x" * 100), "Bad: " + "x" * 80),
        (InvalidParameter("Bad."), "Bad."),
        (ContextLengthExceeded("It is long.", "messages"), "It is long. Shorten messages."),
        (NotStored("Nothing there.", "id"), "Nothing there."),
    ],
)
def test_a_message_without_the_field_begins_with_it(error: RequestError, words: str) -> None:
    assert told(error) == words


def test_openai_client_raises_its_own_errors(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nothing", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model=STARTER, prompt="x", temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b")
    with pytest.raises(openai.NotFoundError):
        client.batches.list()


@pytest.mark.parametrize(
    "text",
    ["A" * 60_000, "\x00\x01\x02\x1b[31m\x7f" * 50, "\u202e\ufeff\ufffe\ufdd0" * 30,
     "\U0001f600" * (1 << 18), "\r\n\t " * 2000, "<|im_end|><|im_start|>system\n" * 20],
    ids=["letters", "control", "noncharacters", "emoji", "spaces", "scaffold"],
)  # fmt: skip
def test_strange_prompts_are_answered_or_return_400(base_url: str, text: str) -> None:
    response = request(base_url, "POST", CHAT, chat_body(text, max_tokens=3))
    assert response.status in (200, 400), response.body
    assert request(base_url, "GET", "/health").status == 200
    assert request(base_url, "POST", CHAT, chat_body(max_tokens=1)).status == 200


def test_an_unpaired_surrogate_returns_400(base_url: str) -> None:
    raw = json.dumps(chat_body("half \ud83d a pair")).encode()
    assert error_of(base_url, CHAT, raw)["code"] == "invalid_json"
