"""Fields of requests to Ollama's API: defaults, options, and errors that name them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keyed import bearer, new_key
from ollama_calls import refused
from support import STARTER, Json, chat_body, request

from offgrid.api.fields import notices
from offgrid.api.ollama.convert import (
    DEFAULTS,
    Chat,
    Text,
    parse_chat_request,
    parse_generate_request,
)
from offgrid.errors import InvalidParameter
from offgrid.sampling.params import SamplingParams
from offgrid.server import Server

CHAT, GENERATE = "/api/chat", "/api/generate"
HELLO = [{"role": "user", "content": "Hello!"}]


def params(options: Json | None = None, **own: Any) -> SamplingParams:
    asked = parse_chat_request({"messages": HELLO, "options": options or {}})
    assert isinstance(asked, Chat)
    return asked.request.sampling.with_defaults(own)


def test_the_defaults_are_those_of_ollama() -> None:
    assert DEFAULTS == {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
    plain = params()
    assert {name: getattr(plain, name) for name in DEFAULTS} == DEFAULTS
    assert (plain.repetition_penalty, plain.repeat_last_n, plain.min_p) == (1.0, 64, 0.0)
    raw = parse_generate_request({"prompt": "x", "raw": True})
    assert isinstance(raw, Text)
    assert raw.request.sampling.params == plain


def test_the_settings_of_a_model_come_before_the_defaults() -> None:
    assert params(temperature=0.2).temperature == 0.2
    assert params({"temperature": 1.5}, temperature=0.2).temperature == 1.5


def test_options_are_sampling_parameters() -> None:
    given = params({
        "temperature": 0.5, "top_k": 7, "top_p": 0.6, "min_p": 0.1, "typical_p": 0.7,
        "repeat_last_n": -1, "repeat_penalty": 1.2, "presence_penalty": 0.3,
        "frequency_penalty": 0.4, "mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2,
        "seed": 3,
    })  # fmt: skip
    wanted = {
        "temperature": 0.5, "top_k": 7, "top_p": 0.6, "min_p": 0.1, "typical_p": 0.7,
        "repeat_last_n": -1, "repetition_penalty": 1.2, "presence_penalty": 0.3,
        "frequency_penalty": 0.4, "mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2,
        "seed": 3,
    }  # fmt: skip
    assert {name: getattr(given, name) for name in wanted} == wanted
    assert params({"seed": -1}).seed is None


WITHOUT_EFFECT = (
    "draft_num_predict", "embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu",
    "num_batch", "num_ctx", "num_gpu", "num_keep", "num_thread", "numa", "use_mlock", "use_mmap",
    "vocab_only",
)  # fmt: skip


def test_options_that_the_settings_decide(base_url: str) -> None:
    options = {"num_predict": 1, **dict.fromkeys(WITHOUT_EFFECT, 1)}
    answer = request(base_url, "POST", CHAT, chat_body(options=options))
    assert answer.status == 200
    told = answer.headers["x-offgrid-ignored"].split(", ")
    assert told == [f"options.{name}" for name in WITHOUT_EFFECT]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": {"temperature": "hot"}},
         "options.temperature must be a number, not a string."),
        ({"options": {"temperature": 3}}, "options.temperature must be between 0 and 2, not 3."),
        ({"options": {"num_predict": 0}}, "options.num_predict must be between 1 and"),
        ({"options": {"repeat_penalty": 0}}, "options.repeat_penalty must be between 0.01"),
        ({"options": {"stop": [""]}}, "options.stop: each string must have 1 to"),
        ({"options": {"tempereture": 1}},
         "Unknown field: options.tempereture. Did you mean options.temperature?"),
        ({"options": {"tools": []}}, "Unknown field: options.tools."),
        ({"options": {"n": 2}}, "Unknown field: options.n."),
        ({"options": {"tfs_z": 0.5}}, "options.tfs_z is not supported"),
        ({"options": {"penalize_newline": 3}}, "options.penalize_newline is not supported"),
        ({"options": 5}, "options must be an object, not an integer."),
        ({"temperature": 1},
         'Unknown field: temperature. It is an option: {"options": {"temperature": ...}}.'),
        ({"tool": []}, "Unknown field: tool. Did you mean tools?"),
        ({"template": "{{ .Prompt }}"}, "template is not supported by this server."),
        ({"_debug_render_only": True}, "_debug_render_only is not supported by this server."),
        ({"width": 64}, "width is not supported by this server."),
        ({"think": "hard"}, 'think must be one of "high", "low", "max", "medium" or true or false'),
        ({"format": "yaml"}, 'format must be "json" or a JSON schema.'),
        ({"format": {"type": "objec"}}, "format: The JSON schema cannot be used"),
        ({"format": 5}, "format must be a string or an object"),
        ({"stream": "yes"}, "stream must be true or false, not a string."),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs must be between 0 and 20, not 21."),
        ({"keep_alive": "soon"}, "keep_alive must be a number of seconds"),
        ({"banned_tokens": [1]},
         "banned_tokens is not supported by this server: use options.logit_bias, where false bans"),
        ({"options": {"banned_tokens": [1]}},
         "options.banned_tokens is not supported by this server with this value: use "
         "options.logit_bias,"),
        ({"options": {"banned_words": ["a"]}},
         "Unknown field: options.banned_words. Did you mean options.banned_strings?"),
        ({"format": "json", "options": {"grammar": 'root ::= "a"'}},
         "format and options.grammar are mutually exclusive."),
        ({"options": {"grammar": 'root ::= "a"', "regex": "a"}},
         "options.grammar and options.regex are mutually exclusive."),
    ],
)  # fmt: skip
def test_errors_name_the_field(base_url: str, fields: Json, words: str) -> None:
    for path, more in ((CHAT, {"messages": HELLO}), (GENERATE, {"prompt": "Hello!"})):
        if path == GENERATE and "tool" in fields:
            continue
        assert refused(base_url, path, {"model": STARTER, **more, **fields}).startswith(words)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "owner", "content": "x"}], "messages[0].role must be one of"),
        ([{"content": "x"}], "Missing required field: messages[0].role."),
        ([{"role": "user", "content": 5}], "messages[0].content must be a string"),
        ([{"role": "user", "content": "x", "images": "x"}], "messages[0].images must be a list"),
        ([{"role": "system", "content": "x", "images": ["aGVsbG8="]}],
         "messages[0].images[0]: only user and tool messages can contain images."),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}],
         "messages[0].tool_calls[0].function.arguments must be an object"),
        ("Hello!", "messages must be a list"),
    ],
)  # fmt: skip
def test_errors_name_the_message(base_url: str, messages: Any, words: str) -> None:
    assert refused(base_url, CHAT, {"model": STARTER, "messages": messages}).startswith(words)


def test_errors_name_the_tool(base_url: str) -> None:
    tool = {"function": {"name": "a b"}}
    assert "tools[0].function.name" in refused(base_url, CHAT, chat_body(tools=[tool]))
    assert refused(base_url, CHAT, {"model": STARTER, "tools": [tool]}) == "tools need messages."


def test_a_prompt_that_is_too_long(base_url: str) -> None:
    for path, field in ((CHAT, {"messages": [{"role": "user", "content": "word " * 6000}]}),
                        (GENERATE, {"prompt": "word " * 6000})):  # fmt: skip
        message = refused(base_url, path, {"model": STARTER, **field})
        assert message.startswith("This model's maximum context length is 2048 tokens")


def test_unknown_fields_may_be_ignored(make_server: Callable[..., Server]) -> None:
    url = make_server(unknown_fields="ignore").url
    body = chat_body(options={"num_predict": 1, "new_topic_penalty": 1}, tool=1, temperature=1)
    answer = request(url, "POST", CHAT, body)
    assert answer.status == 200
    told = set(answer.headers["x-offgrid-ignored"].split(", "))
    assert told == {"tool", "temperature", "options.new_topic_penalty"}


def test_options_of_this_server_alone(base_url: str) -> None:
    answer = request(base_url, "POST", CHAT, chat_body(stream=False, options={"temperature": 0}))
    word = answer.json["message"]["content"].split()[0]
    options = {"temperature": 0, "banned_strings": [word], "n_indent": 1, "samplers": ["top_k"],
               "t_max_predict_ms": 60_000}  # fmt: skip
    other = request(base_url, "POST", CHAT, chat_body(stream=False, options=options))
    assert other.status == 200, other.body
    assert word not in other.json["message"]["content"]


def test_null_is_absent() -> None:
    notices.begin(tolerant=False)
    body = {"model": "m", "messages": HELLO, "format": None, "tools": None, "think": None,
            "options": {"temperature": None, "stop": None}, "keep_alive": None}  # fmt: skip
    asked = parse_chat_request(body)
    assert isinstance(asked, Chat)
    assert asked.request.sampling.params.temperature == 0.8


def test_models_by_other_names(base_url: str, make_server: Callable[..., Server]) -> None:
    for name in (STARTER, f"{STARTER}:latest", STARTER.upper(), f"{STARTER}.gguf", "offgrid", ""):
        answer = request(base_url, "POST", CHAT, {**chat_body(stream=False), "model": name})
        assert answer.status == 200
        assert answer.json["model"] == (name or STARTER)
    for path, field in ((CHAT, {"messages": HELLO}), (GENERATE, {"prompt": "x"}), (CHAT, {}),
                        ("/api/embed", {"input": "x"}), ("/api/embeddings", {"prompt": "x"}),
                        ("/api/show", {})):  # fmt: skip
        message = refused(base_url, path, {"model": "qwen3:4b", **field}, 404)
        assert message == f"Model not found: qwen3:4b. The only model is {STARTER}."
    url = make_server(model_aliases={"qwen3:4b": STARTER}).url
    assert request(url, "POST", CHAT, chat_body() | {"model": "qwen3:4b"}).status == 200


def test_errors_before_a_resource_have_the_same_shape(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    keys = tmp_path / "keys.sqlite3"
    server = make_server(keys_file=keys)
    _, secret = new_key(keys, "ann", "inference")
    _, reader = new_key(keys, "bob", "stats")
    server.reload()
    assert refused(server.url, CHAT, chat_body(), 401)
    assert refused(server.url, CHAT, chat_body(), 401).count("key")
    asked = request(server.url, "POST", CHAT, chat_body(), bearer(reader))
    assert (asked.status, asked.json.keys()) == (403, {"error"})
    assert request(server.url, "POST", CHAT, chat_body(), bearer(secret)).status == 200
    for method, path in (("GET", "/api/tags"), ("GET", "/api/ps"), ("GET", "/api/version")):
        assert request(server.url, method, path, None, bearer(secret)).status == 200
    unknown = request(server.url, "POST", "/api/unknown", {}, bearer(secret))
    assert (unknown.status, unknown.json.keys()) == (404, {"error"})
    wrong = request(server.url, "GET", CHAT, None, bearer(secret))
    assert wrong.json == {"error": "GET is not allowed for /api/chat."}
    broken = request(server.url, "POST", CHAT, b"{", bearer(secret))
    assert broken.json["error"].startswith("The request body is not valid JSON")


def test_a_key_for_other_models(make_server: Callable[..., Server], tmp_path: Path) -> None:
    keys = tmp_path / "keys.sqlite3"
    server = make_server(keys_file=keys)
    _, secret = new_key(keys, "ann", "inference", models=frozenset({"other"}))
    server.reload()
    assert request(server.url, "GET", "/api/tags", None, bearer(secret)).json == {"models": []}
    for body in (chat_body(), chat_body() | {"model": f"{STARTER}:latest"},
                 {"model": STARTER, "messages": [], "keep_alive": 0}):  # fmt: skip
        answer = request(server.url, "POST", CHAT, body, bearer(secret))
        assert (answer.status, "is not for the model" in answer.json["error"]) == (403, True)


def test_the_content_filter(make_server: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("secret plan\n")
    url = make_server(filter_file=str(tmp_path / "terms.txt")).url
    for path, field, name in (
        (CHAT, {"messages": [*HELLO, {"role": "user", "content": "A secret plan"}]},
         "messages[1].content"),
        (GENERATE, {"prompt": "A secret plan"}, "prompt"),
        (GENERATE, {"prompt": "x", "system": "A secret plan"}, "system"),
        (GENERATE, {"prompt": "A secret plan", "raw": True}, "prompt"),
    ):  # fmt: skip
        message = refused(url, path, {"model": STARTER, **field})
        assert message.startswith(f"{name} contains text that the content filter")


def test_an_error_names_an_option_that_is_found_late(base_url: str) -> None:
    body = chat_body(options={"logit_bias": {"999999": 1}})
    assert refused(base_url, CHAT, body).startswith("options.logit_bias")


def test_raw_texts_have_the_same_checks() -> None:
    with pytest.raises(InvalidParameter, match=r"options\.temperature must be"):
        parse_generate_request({"prompt": "x", "raw": True, "options": {"temperature": -1}})
