"""The OpenAPI document: it contains every endpoint, and every response matches it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import falcon.inspect
import pytest
import tiny_models
from documented import Documented
from hypothesis import given, settings
from hypothesis import strategies as st
from lasting import LASTING, SETTINGS, Running, lasting, write_lasting
from support import STARTER, Json, Response, chat_body, endless, request

from offgrid.api.anthropic import request as messages_schema
from offgrid.api.anthropic.signature import Signer
from offgrid.api.chat.request import parse_chat
from offgrid.api.completions.request import parse_completion
from offgrid.api.decisions.request import parse_decisions
from offgrid.api.embeddings import parse_embeddings
from offgrid.api.fields.inert import IGNORED
from offgrid.api.lab.request import parse_lab
from offgrid.api.moderations import parse_moderations
from offgrid.api.ollama.convert import parse_chat_request, parse_generate_request
from offgrid.api.ollama.embed import parse_embed, parse_older
from offgrid.api.openapi.document import document
from offgrid.api.rerank import parse_rerank
from offgrid.api.responses import request as responses_schema
from offgrid.api.responses.request import parse_responses, to_chat
from offgrid.api.tokens import parse_detokenize, parse_tokenize
from offgrid.app import build_app
from offgrid.errors import InvalidParameter
from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
EMBED = "/v1/embeddings"
RERANK = "/v1/rerank"
DECIDE = "/v1/decisions"
LAB = "/v1/lab/distribution"
MODERATE = "/v1/moderations"
COUNT = "/v1/chat/completions/input_tokens"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
RESPONSES = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
IMPORT = "/v1/import"
KEYS = "/v1/keys"
EXPORT = "/v1/export"
MODELS = "/v1/models"
ACTIONS = ("load", "unload", "pin", "unpin", "default", "remove")
HISTORY = "/v1/history"
MESSAGES = "/v1/messages"
MESSAGE_TOKENS = "/v1/messages/count_tokens"
RESPONSE_TOKENS = "/v1/responses/input_tokens"


@pytest.fixture(scope="module")
def documented(base_url: str) -> Documented:
    return Documented.of(base_url)


def test_every_route_is_described_and_nothing_else(server: Server) -> None:
    app = build_app(server.settings, server.catalogue, server.pool, server.responses)
    routes = {
        (re.sub(r"{(\w+):path}", r"{\1}", route.path), method.method.lower())
        for route in falcon.inspect.inspect_routes(app)
        for method in route.methods
        if not method.internal and method.method != "HEAD"  # HEAD is implied by GET
        # What machines ask each other is no API for clients.
        if not route.path.startswith("/peer/")
    }
    # One route has both, because an id may contain slashes.
    routes.remove((f"{MODELS}/{{model}}", "post"))
    routes |= {(f"{MODELS}/{{model}}/{action}", "post") for action in ACTIONS}
    described = {
        (path, method) for path, methods in document()["paths"].items() for method in methods
    }
    assert routes == described
    assert (CHAT, "post") in routes


def test_the_document_is_served_unchanged(base_url: str) -> None:
    response = request(base_url, "GET", "/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json == document()
    assert request(base_url, "HEAD", "/openapi.json").body == b""


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def schemas_with_defaults(value: Any) -> Iterator[Json]:
    if isinstance(value, dict):
        if "default" in value and value.keys() & {"type", "anyOf", "enum", "$ref"}:
            yield value
        for inner in value.values():
            yield from schemas_with_defaults(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from schemas_with_defaults(inner)


def test_every_default_satisfies_its_schema(documented: Documented) -> None:
    with_defaults = list(schemas_with_defaults(documented.document))
    assert len(with_defaults) > 100
    for schema in with_defaults:
        documented.validate(schema["default"], schema)


def test_every_reference_resolves_and_every_schema_is_used() -> None:
    whole = document()
    told = set(references(whole))
    assert told == {f"#/components/schemas/{name}" for name in whole["components"]["schemas"]}


CALL: dict[str, Any] = {
    "tools": [{
        "type": "function",
        "function": {
            "name": "sum_up",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    }],
    "tool_choice": "required",
    "max_tokens": 100,
}  # fmt: skip
CALLED: dict[str, Any] = {
    "tools": [{"type": "function", **CALL["tools"][0]["function"]}],
    "tool_choice": {"type": "function", "name": "sum_up"},
    "text": {"format": {"type": "text"}},
    "max_output_tokens": 100,
}

QUESTIONS: list[dict[str, Any]] = [
    {"type": "predicate", "instructions": "It is kind.", "name": "kind"},
    {"type": "choice", "instructions": "Which?", "choices": [{"value": "a"}, {"value": True}]},
    {"type": "score", "instructions": "How kind?", "levels": [{"label": "a"}, {"label": "b"}]},
]


TOLD: dict[str, Any] = {
    "tools": [{
        "name": "sum_up",
        "input_schema": CALL["tools"][0]["function"]["parameters"],
    }],
    "tool_choice": {"type": "tool", "name": "sum_up"},
}  # fmt: skip


def telling(prompt: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": STARTER,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 100,
        "temperature": 0,
        **fields,
    }


def asking(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": STARTER, "input": prompt, "temperature": 0, **fields}


def ollama(name: str, body: Any, status: int) -> tuple[str, str, str, Any, int]:
    return "post", f"/api/{name}", f"/api/{name}", body, status


FEW: dict[str, Any] = {"options": {"num_predict": 2}}
CALLS: dict[str, Any] = {"tools": CALL["tools"], "options": {"temperature": 0}}
SCORED: dict[str, Any] = {"logprobs": True, "top_logprobs": 1, **FEW}
BLOB = f"sha256:{'0' * 64}"
ANSWERS: list[tuple[str, str, str, Any, int]] = [
    ("get", "/", "/", None, 200),
    ("get", "/ui", "/ui/", None, 200),
    ("get", "/ui/{path}", "/ui/none", None, 404),
    ("get", "/health", "/health", None, 200),
    ("get", "/metrics", "/metrics", None, 200),
    ("get", "/v1/stats", "/v1/stats", None, 200),
    ("get", "/v1/stats/series", "/v1/stats/series?window=day&after=5", None, 200),
    ("get", "/v1/stats/series", "/v1/stats/series?window=week", None, 400),
    ("get", "/v1/stats/series", "/v1/stats/series?after=x", None, 400),
    ("get", "/v1/stats/slots", "/v1/stats/slots", None, 200),
    ("get", "/openapi.json", "/openapi.json", None, 200),
    ("get", "/v1/peers/pair", "/v1/peers/pair", None, 403),
    ("post", "/v1/peers/pair", "/v1/peers/pair", {}, 403),
    ("get", "/v1/peers", "/v1/peers", None, 403),
    ("get", "/v1/peers/{id}", "/v1/peers/none", None, 403),
    ("post", "/v1/peers/{id}", "/v1/peers/none", {}, 403),
    ("delete", "/v1/peers/{id}", "/v1/peers/none", None, 403),
    ("get", "/v1/models", "/v1/models", None, 200),
    ("get", "/v1/models/{model}", f"/v1/models/{STARTER}", None, 200),
    ("get", "/v1/models/{model}", "/v1/models/some/other", None, 404),
    ("get", "/v1/loaded", "/v1/loaded", None, 200),
    ("post", "/completion", "/completion", {"prompt": "Once", "n_predict": 2, "n_probs": 1}, 200),
    ("post", "/completion", "/completion", {"prompt": ["a", "b"], "n_predict": 1}, 200),
    ("post", "/completion", "/completion",
     {"prompt": "Once", "n_predict": 2, "stream": True, "timings_per_token": True}, 200),
    ("post", "/completion", "/completion", {"prompt": "Once", "n_predict": "x"}, 400),
    ("post", "/completion", "/completion", {"prompt": "Once", "model": "none"}, 404),
    ("post", "/completions", "/completions", {"prompt": "Once", "n_predict": 1}, 200),
    ("post", "/infill", "/infill", {"input_prefix": "a", "input_suffix": "b"}, 400),
    ("post", "/apply-template", "/apply-template", chat_body(), 200),
    ("post", "/apply-template", "/apply-template", {"messages": []}, 400),
    ("get", "/props", "/props", None, 200),
    ("get", "/props", "/props?model=none", None, 404),
    ("post", "/props", "/props", {}, 501),
    ("get", "/slots", "/slots", None, 200),
    ("get", "/slots", "/slots?model=none", None, 404),
    ("post", "/slots/{id}", "/slots/0", {}, 501),
    ("post", "/v1/score", "/v1/score", {"text_1": "a"}, 400),
    ("post", "/score", "/score", {"text_1": "a"}, 400),
    ("post", f"{MODELS}/{{model}}/load", f"{MODELS}/{STARTER}/load", None, 200),
    ("post", f"{MODELS}/{{model}}/load", f"{MODELS}/{STARTER}/load", {"wait": False}, 202),
    ("post", f"{MODELS}/{{model}}/load", f"{MODELS}/{STARTER}/load", {"keep_alive": "x"}, 400),
    ("post", f"{MODELS}/{{model}}/load", f"{MODELS}/some/other/load", {}, 404),
    ("post", f"{MODELS}/{{model}}/unload", f"{MODELS}/other/unload", {"wait": False}, 404),
    ("post", CHAT, CHAT, chat_body(), 200),
    ("post", CHAT, CHAT, chat_body(n=3, logprobs=True, top_logprobs=2, max_tokens=5), 200),
    ("post", CHAT, CHAT, chat_body(logprobs=True, ignore_eos=True, max_tokens=40), 200),
    ("post", CHAT, CHAT, chat_body(stream=True), 200),
    ("post", CHAT, CHAT, chat_body(
        stream=True, n=2, logprobs=True, top_logprobs=3, max_tokens=5,
        stream_options={"include_usage": True, "include_obfuscation": True},
    ), 200),
    ("post", CHAT, CHAT, chat_body(**CALL), 200),
    ("post", CHAT, CHAT, chat_body(**CALL, stream=True, logprobs=True), 200),
    ("post", CHAT, CHAT, chat_body(temperature=3), 400),
    ("post", CHAT, CHAT, chat_body() | {"model": "other"}, 404),
    ("post", CHAT, CHAT, b"no json", 400),
    ("post", CHAT, CHAT, chat_body("word " * 6000), 400),
    ("post", CHAT, CHAT, b" " * ((8 << 20) + 1), 413),
    ("post", TEXT, TEXT, {"model": STARTER, "prompt": "Once", "max_tokens": 3}, 200),
    ("post", TEXT, TEXT,
     {"model": STARTER, "prompt": ["Once", [300, 301]], "max_tokens": 3, "logprobs": 2, "n": 2},
     200),
    ("post", TEXT, TEXT, endless(max_tokens=4), 200),
    ("post", TEXT, TEXT,
     endless(max_tokens=4, logprobs=0, n=2, stream_options={"include_usage": True}), 200),
    ("post", TEXT, TEXT, endless(max_tokens=2, echo=True), 200),
    ("post", TEXT, TEXT, {"model": STARTER}, 400),
    ("post", TEXT, TEXT, {"model": "other", "prompt": "Once"}, 404),
    ("post", CHAT, CHAT, chat_body(prompt_logprobs=1, max_tokens=1), 200),
    ("post", TEXT, TEXT,
     {"model": STARTER, "prompt": "Once upon", "max_tokens": 1, "echo": True, "logprobs": 1,
      "prompt_logprobs": 0}, 200),
    ("post", TEXT, TEXT, endless(max_tokens=2, echo=True, logprobs=1), 200),
    ("post", COUNT, COUNT, chat_body(), 200),
    ("post", COUNT, COUNT, {"messages": []}, 400),
    ("post", TOKENIZE, TOKENIZE, {"content": "Once"}, 200),
    ("post", TOKENIZE, TOKENIZE, {"content": "\U0001f600", "with_pieces": True}, 200),
    ("post", TOKENIZE, TOKENIZE, {"prompt": "Once", "return_token_strs": True}, 200),
    ("post", TOKENIZE, TOKENIZE, {"messages": chat_body()["messages"], "model": STARTER}, 200),
    ("post", TOKENIZE, TOKENIZE, {}, 400),
    ("post", DETOKENIZE, DETOKENIZE, {"tokens": [300, 301]}, 200),
    ("post", DETOKENIZE, DETOKENIZE, {"tokens": [-1]}, 400),
    ("get", "/tokenizer_info", "/tokenizer_info", None, 200),
    ("get", "/tokenizer_info", "/tokenizer_info?model=other", None, 404),
    ("post", EMBED, EMBED, {"model": STARTER, "input": "Once"}, 200),
    ("post", EMBED, EMBED,
     {"model": STARTER, "input": ["Once", [300, 301]], "encoding_format": "base64"}, 200),
    ("post", EMBED, EMBED, {"model": STARTER, "input": [""]}, 400),
    ("post", RERANK, RERANK, {"model": STARTER, "query": "Once", "documents": []}, 400),
    ("post", MESSAGES, MESSAGES, telling("Hello!"), 200),
    ("post", MESSAGES, MESSAGES, telling("Hello!", max_tokens=2, stream=True), 200),
    ("post", MESSAGES, MESSAGES, telling("Add 3 and 4.", **TOLD), 200),
    ("post", MESSAGES, MESSAGES, telling("Add 3 and 4.", **TOLD, stream=True), 200),
    ("post", MESSAGES, MESSAGES, telling("Hello!", temperature=3), 400),
    ("post", MESSAGES, MESSAGES, telling("Hello!", model="other"), 404),
    ("post", MESSAGES, MESSAGES, b" " * ((8 << 20) + 1), 413),
    ("post", MESSAGE_TOKENS, MESSAGE_TOKENS, telling("Hello!"), 200),
    ("post", MESSAGE_TOKENS, MESSAGE_TOKENS, {"messages": []}, 400),
    ("post", DECIDE, DECIDE, {"model": STARTER, "input": "Hello!", "questions": QUESTIONS}, 200),
    ("post", DECIDE, DECIDE, {"model": "other", "input": "a", "questions": QUESTIONS}, 404),
    ("post", DECIDE, DECIDE, {"input": "a", "questions": []}, 400),
    ("post", LAB, LAB, {"model": STARTER, "prompt": "Hello!", "top": 3, "samples": 5}, 200),
    ("post", LAB, LAB, {"model": "other", "prompt": "a"}, 404),
    ("post", LAB, LAB, {"prompt": "a", "top": 0}, 400),
    ("post", MODERATE, MODERATE, {"input": ["Hello!", "Go away!"]}, 200),
    ("post", MODERATE, MODERATE, {"input": []}, 400),
    ("post", RESPONSES, RESPONSES, asking("Hello!"), 200),
    ("post", RESPONSES, RESPONSES, asking("Hello!", max_output_tokens=2, stream=True), 200),
    ("post", RESPONSES, RESPONSES, asking(
        "Hello!", include=["message.output_text.logprobs"], top_logprobs=2, stream=True,
        stream_options={"include_obfuscation": True}, metadata={"a": "b"}, user="me",
    ), 200),
    ("post", RESPONSES, RESPONSES, asking("Add 3 and 4.", **CALLED), 200),
    ("post", RESPONSES, RESPONSES, asking("Add 3 and 4.", **CALLED, stream=True), 200),
    ("post", RESPONSES, RESPONSES, asking("Hello!", temperature=3), 400),
    ("post", RESPONSES, RESPONSES, asking("Hello!", model="other"), 404),
    ("post", RESPONSE_TOKENS, RESPONSE_TOKENS, {"input": "Hello!"}, 200),
    ("post", RESPONSE_TOKENS, RESPONSE_TOKENS, {"input": []}, 400),
    ("get", f"{RESPONSES}/{{id}}", f"{RESPONSES}/resp_none", None, 404),
    ("delete", f"{RESPONSES}/{{id}}", f"{RESPONSES}/resp_none", None, 404),
    ("get", f"{RESPONSES}/{{id}}/input_items", f"{RESPONSES}/resp_none/input_items", None, 404),
    ("post", f"{RESPONSES}/{{id}}/cancel", f"{RESPONSES}/resp_none/cancel", None, 404),
    ("post", f"{RESPONSES}/compact", f"{RESPONSES}/compact", {"input": "Hello!"}, 404),
    ("post", RESPONSES, RESPONSES, asking("Hello!", background=True), 200),
    ("post", RESPONSES, RESPONSES, asking("Hello!", background=True, stream=True), 200),
    ("get", IMPORT, IMPORT, None, 200),
    ("post", IMPORT, IMPORT, {"ids": ["none"]}, 200),
    ("post", IMPORT, IMPORT, {"ids": ["none"], "stream": True}, 200),
    ("post", IMPORT, IMPORT, {}, 400),
    ("post", IMPORT, IMPORT, {"paths": ["/etc"]}, 403),
    ("get", f"{IMPORT}/{{id}}", f"{IMPORT}/import_none", None, 404),
    ("delete", f"{IMPORT}/{{id}}", f"{IMPORT}/import_none", None, 404),
    ("post", f"{IMPORT}/{{id}}/cancel", f"{IMPORT}/import_none/cancel", None, 404),
    ("get", KEYS, KEYS, None, 200),
    ("post", KEYS, KEYS, {"name": "a"}, 400),
    ("get", f"{KEYS}/self", f"{KEYS}/self", None, 200),
    ("get", f"{KEYS}/{{id}}", f"{KEYS}/key_none", None, 404),
    ("post", f"{KEYS}/{{id}}", f"{KEYS}/key_none", {}, 404),
    ("delete", f"{KEYS}/{{id}}", f"{KEYS}/key_none", None, 404),
    ("post", f"{KEYS}/{{id}}/rotate", f"{KEYS}/key_none/rotate", None, 404),
    ("get", EXPORT, EXPORT, None, 200),
    ("post", EXPORT, EXPORT, {}, 400),
    ("post", EXPORT, EXPORT, {"path": "/etc"}, 403),
    ("get", f"{EXPORT}/{{id}}", f"{EXPORT}/export_none", None, 404),
    ("delete", f"{EXPORT}/{{id}}", f"{EXPORT}/export_none", None, 404),
    ("post", f"{EXPORT}/{{id}}/cancel", f"{EXPORT}/export_none/cancel", None, 404),
    ("get", MODELS, f"{MODELS}?details=true", None, 200),
    ("get", MODELS, f"{MODELS}?details=yes", None, 400),
    ("post", f"{MODELS}/{{model}}/load", f"{MODELS}/{STARTER}/load", {"stream": True}, 200),
    ("post", f"{MODELS}/{{model}}/pin", f"{MODELS}/none/pin", None, 404),
    ("post", f"{MODELS}/{{model}}/unpin", f"{MODELS}/{STARTER}/unpin", {"on": True}, 400),
    ("post", f"{MODELS}/{{model}}/default", f"{MODELS}/{STARTER}/default", None, 409),
    ("post", f"{MODELS}/{{model}}/remove", f"{MODELS}/{STARTER}/remove", {}, 400),
    ("post", f"{MODELS}/{{model}}/remove", f"{MODELS}/{STARTER}/remove", {"confirm": STARTER}, 409),
    ("post", CONVERSATIONS, CONVERSATIONS, {}, 200),
    ("post", CONVERSATIONS, CONVERSATIONS, {"items": 5}, 400),
    ("get", f"{CONVERSATIONS}/{{id}}", f"{CONVERSATIONS}/conv_none", None, 404),
    ("post", f"{CONVERSATIONS}/{{id}}", f"{CONVERSATIONS}/conv_none", {"metadata": {}}, 404),
    ("delete", f"{CONVERSATIONS}/{{id}}", f"{CONVERSATIONS}/conv_none", None, 404),
    ("get", f"{CONVERSATIONS}/{{id}}/items", f"{CONVERSATIONS}/conv_none/items", None, 404),
    ("get", f"{CONVERSATIONS}/{{id}}/items/{{item_id}}", f"{CONVERSATIONS}/conv_none/items/x",
     None, 404),
    ("get", HISTORY, HISTORY, None, 200),
    ("get", HISTORY, f"{HISTORY}?limit=0", None, 400),
    ("post", HISTORY, HISTORY, {}, 200),
    ("post", HISTORY, HISTORY, {"title": 5}, 400),
    ("post", HISTORY, HISTORY, b" " * ((8 << 20) + 1), 413),
    ("get", f"{HISTORY}/{{id}}", f"{HISTORY}/none", None, 404),
    ("post", f"{HISTORY}/{{id}}", f"{HISTORY}/none", {"title": "T"}, 404),
    ("delete", f"{HISTORY}/{{id}}", f"{HISTORY}/none", None, 404),
    ("post", f"{HISTORY}/{{id}}/messages", f"{HISTORY}/none/messages", {"messages": []}, 404),
    ("get", f"{HISTORY}/{{id}}/export", f"{HISTORY}/none/export", None, 404),
    ("get", f"{HISTORY}/export", f"{HISTORY}/export", None, 200),
    ("post", f"{HISTORY}/import", f"{HISTORY}/import", {"conversations": []}, 400),
    ("get", "/api/version", "/api/version", None, 200),
    ("get", "/api/tags", "/api/tags", None, 200),
    ("get", "/api/ps", "/api/ps", None, 200),
    ollama("show", {"model": STARTER, "verbose": True}, 200),
    ollama("show", {"model": "other"}, 404),
    ollama("chat", chat_body(), 200),
    ollama("chat", chat_body(stream=False), 200),
    ollama("chat", chat_body("Add 3 and 4.", **CALLS), 200),
    ollama("chat", chat_body("Add 3 and 4.", **CALLS, stream=False), 200),
    ollama("chat", chat_body(**SCORED), 200),
    ollama("chat", {"model": STARTER}, 200),
    ollama("chat", chat_body(options={"temperature": 3}), 400),
    ollama("chat", chat_body() | {"model": "other"}, 404),
    ollama("chat", b" " * ((8 << 20) + 1), 413),
    ollama("generate", {"model": STARTER, "prompt": "Hello!", **FEW}, 200),
    ollama("generate", {"model": STARTER, "prompt": "Once", "raw": True, **SCORED}, 200),
    ollama("generate", {"model": STARTER, "prompt": "Hello!", "stream": False, **FEW}, 200),
    ollama("generate", {"model": STARTER}, 200),
    ollama("generate", {"model": STARTER, "prompt": 5}, 400),
    ollama("embed", {"model": STARTER, "input": ["Once", "upon"]}, 200),
    ollama("embed", {"model": STARTER}, 200),
    ollama("embed", {"model": STARTER, "input": [""]}, 400),
    ollama("embeddings", {"model": STARTER, "prompt": "Once"}, 200),
    ollama("pull", {"model": STARTER}, 200),
    ollama("pull", {"model": "other"}, 501),
    ollama("create", {}, 501),
    ollama("copy", {}, 501),
    ollama("push", {}, 501),
    ollama("delete", {}, 501),
    ("delete", "/api/delete", "/api/delete", {"model": STARTER}, 501),
    ("get", "/api/blobs/{digest}", f"/api/blobs/{BLOB}", None, 501),
    ("post", "/api/blobs/{digest}", f"/api/blobs/{BLOB}", b"GGUF", 501),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "target", "body", "status"),
    ANSWERS,
    ids=lambda value: str(value)[:40] if isinstance(value, (str, int)) else "",
)
def test_responses_match_the_document(
    base_url: str,
    documented: Documented,
    method: str,
    path: str,
    target: str,
    body: Any,
    status: int,
) -> None:
    response = request(base_url, method.upper(), target, body)
    assert response.status == status
    documented.check(response, method, path)


def test_every_operation_is_among_the_answers() -> None:
    tried = {(method, path) for method, path, _, _, status in ANSWERS if status == 200}
    paths = document()["paths"].items()
    # Reranking, scoring and filling in need models made for it, and only what is stored can be
    # read; see below. Compaction is always refused, and so are changes of properties and slots.
    # Whether the server is ready depends on its model: see test_stats.py. Models are exported in
    # test_exports.py, and unloaded, pinned, chosen and removed in test_every_field.py. Files of the
    # page are not JSON or text: see test_files_of_the_page. The history is read in
    # tests/api/history, and keys are created in tests/api/keys. Peers are in tests/peers.
    one, talk = f"{RESPONSES}/{{id}}", f"{CONVERSATIONS}/{{id}}"
    elsewhere = {
        ("post", RERANK), ("get", one), ("delete", one), ("get", f"{one}/input_items"),
        ("post", f"{one}/cancel"), ("post", f"{RESPONSES}/compact"), ("get", talk), ("post", talk),
        ("delete", talk), ("get", f"{talk}/items"), ("post", f"{talk}/items"),
        ("get", f"{talk}/items/{{item_id}}"), ("delete", f"{talk}/items/{{item_id}}"),
        *((method, f"{HISTORY}/{{id}}") for method in ("get", "post", "delete")),
        ("post", f"{HISTORY}/{{id}}/messages"), ("get", f"{HISTORY}/{{id}}/export"),
        ("post", f"{HISTORY}/import"),
        ("get", f"{IMPORT}/{{id}}"), ("delete", f"{IMPORT}/{{id}}"),
        ("post", KEYS), *((method, f"{KEYS}/{{id}}") for method in ("get", "post", "delete")),
        ("post", f"{KEYS}/{{id}}/rotate"),
        *((method, "/v1/peers/pair") for method in ("get", "post", "delete")),
        ("get", "/v1/peers"),
        *((method, "/v1/peers/{id}") for method in ("get", "post", "delete")),
        ("post", f"{IMPORT}/{{id}}/cancel"), ("post", EXPORT), ("get", f"{EXPORT}/{{id}}"),
        ("delete", f"{EXPORT}/{{id}}"), ("post", f"{EXPORT}/{{id}}/cancel"),
        *(("post", f"{MODELS}/{{model}}/{action}") for action in ACTIONS[1:]), ("get", "/ready"),
        ("post", "/infill"), ("post", "/props"), ("post", "/slots/{id}"),
        ("post", "/v1/score"), ("post", "/score"), ("get", "/ui/{path}"), ("get", "/favicon.ico"),
        # What Ollama's API has and this server does not offer.
        *(("post", f"/api/{name}") for name in ("create", "copy", "push", "delete")),
        ("delete", "/api/delete"), ("get", "/api/blobs/{digest}"), ("post", "/api/blobs/{digest}"),
    }  # fmt: skip
    assert tried == {(method, path) for path, methods in paths for method in methods} - elsewhere


def test_files_of_the_page(base_url: str, documented: Documented) -> None:
    kinds = documented.document["paths"]["/ui/{path}"]["get"]["responses"]["200"]["content"]
    for path, operation in (("/ui/main.js", "/ui/{path}"), ("/favicon.ico", "/favicon.ico")):
        response = request(base_url, "GET", path)
        said = documented.document["paths"][operation]["get"]["responses"]["200"]
        assert response.headers["content-type"].partition(";")[0] in said["content"]
        assert {name.lower() for name in said["headers"]} <= response.headers.keys()
    assert {"text/javascript", "text/css", "font/woff2"} <= kinds.keys()


def test_redirections_to_the_page(base_url: str, documented: Documented) -> None:
    for path in ("/", "/ui"):
        response = request(base_url, "GET", path, headers={"Accept": "text/html"})
        assert response.status == 302
        said = documented.document["paths"][path]["get"]["responses"]["302"]
        assert {name.lower() for name in said["headers"]} <= response.headers.keys()


def test_stored_responses(base_url: str, documented: Documented) -> None:
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}],
         "content": [{"type": "reasoning_text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}],
         "phase": "final_answer"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c",
         "output": [{"type": "input_text", "text": "d"},
                    {"type": "input_file", "filename": "a.txt", "file_data": "eA=="}]},
        {"type": "custom_tool_call", "call_id": "d", "name": "f", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "y"},
        {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "server_label": "s"},
        {"role": "user", "content": "Hello!"},
    ]  # fmt: skip
    body = asking("", instructions="Be kind.") | {"input": items}
    made = request(base_url, "POST", RESPONSES, body)
    documented.check(made, "post", RESPONSES)
    one = f"{RESPONSES}/{{id}}"
    target = f"{RESPONSES}/{made.json['id']}"
    for method, path, tail in (
        ("get", one, ""), ("get", f"{one}/input_items", "/input_items"), ("delete", one, ""),
    ):  # fmt: skip
        response = request(base_url, method.upper(), target + tail)
        assert response.status == 200
        documented.check(response, method, path)


def test_background_responses(base_url: str, documented: Documented) -> None:
    made = request(base_url, "POST", RESPONSES, asking("Hello!", background=True))
    documented.check(made, "post", RESPONSES)
    one = f"{RESPONSES}/{{id}}"
    target = f"{RESPONSES}/{made.json['id']}"
    for method, path, tail in (
        ("get", one, "?stream=true"), ("get", one, ""), ("post", f"{one}/cancel", "/cancel"),
    ):  # fmt: skip
        response = request(base_url, method.upper(), target + tail)
        assert response.status == 200
        documented.check(response, method, path)


def test_conversations(base_url: str, documented: Documented) -> None:
    item = {"role": "user", "content": "Hello!", "id": "msg_1"}
    made = request(base_url, "POST", CONVERSATIONS, {"items": [item], "metadata": {"a": "b"}})
    documented.check(made, "post", CONVERSATIONS)
    talk = f"{CONVERSATIONS}/{{id}}"
    target = f"{CONVERSATIONS}/{made.json['id']}"
    for method, path, tail, body in (
        ("get", talk, "", None),
        ("post", talk, "", {"metadata": {"a": "c"}}),
        ("post", f"{talk}/items", "/items", {"items": [{"role": "assistant", "content": "Hi"}]}),
        ("get", f"{talk}/items", "/items", None),
        ("get", f"{talk}/items/{{item_id}}", "/items/msg_1", None),
        ("delete", f"{talk}/items/{{item_id}}", "/items/msg_1", None),
        ("delete", talk, "", None),
    ):
        response = request(base_url, method.upper(), target + tail, body)
        assert response.status == 200
        documented.check(response, method, path)


def test_reranking(make_server: Callable[..., Server], tmp_path: Path) -> None:
    model = tiny_models.make_bert(tmp_path, "RANK").stem
    server = make_server()
    documented = Documented.of(server.url)
    body = {"model": model, "query": "otter", "documents": ["fox", {"text": "river"}]}
    for fields in ({}, {"return_documents": True, "top_n": 1}):
        response = request(server.url, "POST", RERANK, body | fields)
        assert response.status == 200
        documented.check(response, "post", RERANK)


def test_refused_by_name_and_by_size(base_url: str, documented: Documented) -> None:
    foreign = request(base_url, "GET", "/health", headers={"Host": "evil.example"})
    assert foreign.status == 403
    documented.check(foreign, "get", "/health")
    long = request(base_url, "GET", "/health", headers={"X": "y" * 20_000})
    assert long.status == 431
    documented.check(long, "get", "/health")


def test_a_busy_and_a_failing_server(make_server: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no model")
    write_lasting(tmp_path)
    server = make_server(parallel=1, queue_size=0, default_model=LASTING, **SETTINGS)
    documented = Documented.of(server.url)
    with Running(server.url, TEXT, lasting()) as running:
        assert running.read_some()
        busy = request(server.url, "POST", CHAT, chat_body() | {"model": LASTING})
        assert busy.status == 503
        documented.check(busy, "post", CHAT)
        running.leave()
    broken = request(server.url, "POST", CHAT, chat_body() | {"model": "broken"})
    assert broken.status == 500
    documented.check(broken, "post", CHAT)


# Bodies: the server refuses each body that the document calls invalid, and names the same field.

SCHEMAS = Documented(document())
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([1 << 30, (1 << 31) - 1, 1 << 31, (1 << 64) - 1, 1 << 64, -(1 << 63)]),
    st.floats(-3, 101, allow_nan=False),
    st.text(max_size=3),
    st.lists(st.text(max_size=2), max_size=6),
    st.dictionaries(
        st.sampled_from(["5", "x", "include_usage", "role", "123456789"]),
        st.one_of(st.booleans(), st.integers(-101, 101), st.none()),
        max_size=2,
    ),
)
VALUES |= st.lists(VALUES, max_size=3)


def agree(path: str, parse: Callable[[dict[str, Any]], Any], body: dict[str, Any]) -> None:
    """Check that the server refuses a body that the document calls invalid.

    The server may refuse more bodies, because of rules about several fields at once.
    """
    wrong = [error.message for error in SCHEMAS.body("post", path).iter_errors(body)]
    with contextlib.suppress(InvalidParameter):
        parse(body)
        assert not wrong, f"the document is stricter than the server: {wrong}"


def embedding(body: dict[str, Any]) -> None:
    parse_embeddings(body).embedding()


def responses(body: dict[str, Any]) -> None:
    request, items = parse_responses(body)
    kept = [item for item in items if isinstance(item, dict)]
    to_chat(request, kept, range(len(kept)))


def message(body: dict[str, Any]) -> None:
    messages_schema.to_chat(messages_schema.parse_messages(body), Signer(lambda: b"key"))


@pytest.mark.parametrize(
    ("path", "parse", "required"),
    [
        (CHAT, parse_chat, {"messages": [{"role": "user", "content": "Hello!"}]}),
        (TEXT, parse_completion, {"prompt": "Hello!"}),
        (EMBED, embedding, {"input": "Hello!"}),
        (RERANK, parse_rerank, {"query": "Hello!", "documents": ["Hello!"]}),
        (DECIDE, parse_decisions, {"input": "Hello!", "questions": QUESTIONS}),
        (LAB, parse_lab, {"prompt": "Hello!"}),
        (LAB, parse_lab, {"messages": [{"role": "user", "content": "Hello!"}]}),
        (MODERATE, parse_moderations, {"input": "Hello!"}),
        (TOKENIZE, parse_tokenize, {"content": "Hello!"}),
        (TOKENIZE, parse_tokenize, {"prompt": "Hello!"}),
        (DETOKENIZE, parse_detokenize, {"tokens": [5]}),
        (RESPONSES, responses, {"input": "Hello!"}),
        ("/api/chat", parse_chat_request, {"messages": [{"role": "user", "content": "Hello!"}]}),
        ("/api/generate", parse_generate_request, {"prompt": "Hello!"}),
        ("/api/embed", parse_embed, {"input": "Hello!"}),
        ("/api/embeddings", parse_older, {"prompt": "Hello!"}),
        (MESSAGES, message, {
            "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 5}),
    ],
    ids=[
        "chat",
        "text",
        "embed",
        "rerank",
        "decisions",
        "lab-prompt",
        "lab-messages",
        "moderations",
        "tokenize-content",
        "tokenize-prompt",
        "detokenize",
        "responses",
        "ollama-chat",
        "ollama-generate",
        "ollama-embed",
        "ollama-embeddings",
        "messages",
    ],
)  # fmt: skip
@pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_document_is_not_stricter_than_the_server(
    path: str, parse: Callable[[dict[str, Any]], Any], required: dict[str, Any], examples: int
) -> None:
    fields = SCHEMAS.fields("post", path, {"model", *required})

    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(st.sampled_from(fields), VALUES)
    def check(field: str, value: Any) -> None:
        agree(path, parse, {"model": "m", **required, field: value})

    check()


@pytest.mark.parametrize(
    ("path", "required", "names"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "Hello!"}]}, IGNORED),
        (TEXT, {"prompt": "Hello!"}, IGNORED),
        (EMBED, {"input": "Hello!"}, IGNORED),
        (RESPONSES, {"input": "Hello!"}, responses_schema.IGNORED | responses_schema.ONLY_SHOWN),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 5},
            messages_schema.IGNORED | messages_schema.INERT,
        ),
    ],
    ids=["chat", "text", "embed", "responses", "messages"],
)
def test_fields_without_effect_have_types(
    path: str, required: dict[str, Any], names: frozenset[str]
) -> None:
    validator = SCHEMAS.body("post", path)
    assert validator.is_valid({"model": "m", **required, **dict.fromkeys(names)})
    for name in names:
        described = validator.schema["$ref"].rpartition("/")[2]
        field = SCHEMAS.document["components"]["schemas"][described]["properties"][name]
        assert field["description"] == "Without effect."
        assert not validator.is_valid({"model": "m", **required, name: [5]})


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"model": "m", "prompt": ["a", [1, 2]]}, True),
        ({"model": "m", "prompt": []}, False),
        ({"model": "m", "prompt": [[]]}, False),
        ({"model": "m", "prompt": [1, -1]}, False),
        ({"model": "m", "prompt": "a", "stop": ["x"] * 64}, True),
        ({"model": "m", "prompt": "a", "stop": ["x"] * 65}, False),
        ({"model": "m", "prompt": "a", "stop": ""}, False),
        ({"model": "m", "prompt": "a", "logit_bias": {"5": False, "6": -100}}, True),
        ({"model": "m", "prompt": "a", "logit_bias": {"5": True}}, False),
        ({"model": "m", "prompt": "a", "logit_bias": {"": 1}}, False),
        ({"model": "m", "prompt": "a", "logit_bias": [[5, 1], ["a", False]]}, True),
        ({"model": "m", "prompt": "a", "logit_bias": [[5]]}, False),
        ({"model": "m", "prompt": "a", "seed": (1 << 64) - 1}, True),
        ({"model": "m", "prompt": "a", "seed": 1 << 64}, False),
        ({"model": "m", "prompt": "a", "repeat_penalty": 1.1}, True),
        ({"model": "m", "prompt": "a", "no_such_field": 1}, False),
        ({"prompt": "a"}, True),
        ({"model": "m"}, False),
    ],
    ids=lambda value: json.dumps(value)[:50],
)  # fmt: skip
def test_document_and_server_agree_about_bodies(body: dict[str, Any], good: bool) -> None:
    assert SCHEMAS.body("post", TEXT).is_valid(body) is good
    if good:
        parse_completion(body)
    else:
        with pytest.raises(InvalidParameter):
            parse_completion(body)


def test_a_check_can_fail(documented: Documented) -> None:
    good = {"content-type": "application/json"}
    good |= dict.fromkeys(("x-request-id", "openai-processing-ms", "openai-version"), "1")
    body = {"status": "healthy", "more": 1}
    with pytest.raises(Exception, match="more"):
        documented.check(Response(200, good, json.dumps(body).encode()), "get", "/health")
