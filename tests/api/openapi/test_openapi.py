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
from support import STARTER, Response, Stream, chat_body, endless, request

from offgrid.api.chat.request import parse_chat
from offgrid.api.completions.request import parse_completion
from offgrid.api.embeddings import parse_embeddings
from offgrid.api.fields.inert import IGNORED
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
COUNT = "/v1/chat/completions/input_tokens"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
RESPONSES = "/v1/responses"
CONVERSATIONS = "/v1/conversations"
IMPORT = "/v1/import"
MODELS = "/v1/models"
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
    }
    # One route has both, because an id may contain slashes.
    routes.remove((f"{MODELS}/{{model}}", "post"))
    routes |= {(f"{MODELS}/{{model}}/{action}", "post") for action in ("load", "unload")}
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


def asking(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": STARTER, "input": prompt, "temperature": 0, **fields}


ANSWERS: list[tuple[str, str, str, Any, int]] = [
    ("get", "/", "/", None, 200),
    ("get", "/health", "/health", None, 200),
    ("get", "/openapi.json", "/openapi.json", None, 200),
    ("get", "/v1/models", "/v1/models", None, 200),
    ("get", "/v1/models/{model}", f"/v1/models/{STARTER}", None, 200),
    ("get", "/v1/models/{model}", "/v1/models/some/other", None, 404),
    ("get", "/v1/loaded", "/v1/loaded", None, 200),
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
    ("post", CONVERSATIONS, CONVERSATIONS, {}, 200),
    ("post", CONVERSATIONS, CONVERSATIONS, {"items": 5}, 400),
    ("get", f"{CONVERSATIONS}/{{id}}", f"{CONVERSATIONS}/conv_none", None, 404),
    ("post", f"{CONVERSATIONS}/{{id}}", f"{CONVERSATIONS}/conv_none", {"metadata": {}}, 404),
    ("delete", f"{CONVERSATIONS}/{{id}}", f"{CONVERSATIONS}/conv_none", None, 404),
    ("get", f"{CONVERSATIONS}/{{id}}/items", f"{CONVERSATIONS}/conv_none/items", None, 404),
    ("get", f"{CONVERSATIONS}/{{id}}/items/{{item_id}}", f"{CONVERSATIONS}/conv_none/items/x",
     None, 404),
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
    # Reranking needs a model made for it, and only what is stored can be read; see below.
    # Compaction is always refused. A model is unloaded in test_every_field.py.
    one, talk = f"{RESPONSES}/{{id}}", f"{CONVERSATIONS}/{{id}}"
    elsewhere = {
        ("post", RERANK), ("get", one), ("delete", one), ("get", f"{one}/input_items"),
        ("post", f"{one}/cancel"), ("post", f"{RESPONSES}/compact"), ("get", talk), ("post", talk),
        ("delete", talk), ("get", f"{talk}/items"), ("post", f"{talk}/items"),
        ("get", f"{talk}/items/{{item_id}}"), ("delete", f"{talk}/items/{{item_id}}"),
        ("get", f"{IMPORT}/{{id}}"), ("delete", f"{IMPORT}/{{id}}"),
        ("post", f"{IMPORT}/{{id}}/cancel"),
        ("post", f"{MODELS}/{{model}}/unload"),
    }  # fmt: skip
    assert tried == {(method, path) for path, methods in paths for method in methods} - elsewhere


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
    server = make_server(parallel=1, queue_size=0, default_model=STARTER)
    documented = Documented.of(server.url)
    with Stream(server.url, TEXT, endless()) as running:
        assert running.read_some()
        busy = request(server.url, "POST", CHAT, chat_body())
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


@pytest.mark.parametrize(
    ("path", "parse", "required"),
    [
        (CHAT, parse_chat, {"messages": [{"role": "user", "content": "Hello!"}]}),
        (TEXT, parse_completion, {"prompt": "Hello!"}),
        (EMBED, embedding, {"input": "Hello!"}),
        (RERANK, parse_rerank, {"query": "Hello!", "documents": ["Hello!"]}),
        (TOKENIZE, parse_tokenize, {"content": "Hello!"}),
        (TOKENIZE, parse_tokenize, {"prompt": "Hello!"}),
        (DETOKENIZE, parse_detokenize, {"tokens": [5]}),
        (RESPONSES, responses, {"input": "Hello!"}),
    ],
    ids=[
        "chat",
        "text",
        "embed",
        "rerank",
        "tokenize-content",
        "tokenize-prompt",
        "detokenize",
        "responses",
    ],
)
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
    ],
    ids=["chat", "text", "embed", "responses"],
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
    good = {"content-type": "application/json", "x-request-id": "1"}
    body = {"status": "healthy", "more": 1}
    with pytest.raises(Exception, match="more"):
        documented.check(Response(200, good, json.dumps(body).encode()), "get", "/health")
