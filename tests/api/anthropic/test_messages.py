"""``/v1/messages`` through a real server, whole and streamed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scripted_model
from keyed import bearer, new_key
from scripted_templates import reasoning_template
from support import STARTER, Json, Response, request
from tiny_vision import make_seeing, pixels, png

from offgrid.config import load_settings
from offgrid.server import Server

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
CHAT = "/v1/chat/completions"
HELLO: Json = {
    "messages": [{"role": "user", "content": "Hello!"}],
    "max_tokens": 100,
    "temperature": 0,
}
LOOK: Json = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": ["string", "null"]}},
        "required": ["place"],
    },
}
TEMPLATE = reasoning_template(
    "enable_thinking is defined and not enable_thinking",
    "<|im_start|>assistant\n<think>\n\n</think>\n\n<|calm|>",
)
"""Has two ways to begin an answer."""
THOUGHT = "The user wants to see."
CALL = '<tool_call>\n{"name": "look", "arguments": {"place": null}}\n</tool_call>'
SCRIPT = f"{THOUGHT}\n</think>\n\nI look.\n{CALL}<|im_end|><|calm|>Good morning, sun.<|im_end|>"
CONTROL = ["<|im_start|>", "<|im_end|>", "<|calm|>"]
THINK: Json = {"thinking": {"type": "enabled", "budget_tokens": 1024}}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a model that reasons and then calls, or if it does not reason, speaks; and a
    model that sees."""
    folder = tmp_path_factory.mktemp("models")
    scripted_model.write(folder / "scripted.gguf", TEMPLATE, CONTROL, SCRIPT)
    make_seeing(folder)
    settings = load_settings(
        {
            "port": 0, "models_dir": folder, "drain_timeout": 0, "threads": 1, "max_models": 2,
            "default_model": "scripted", "responses_file": folder / "responses.sqlite3",
        },
        environ={},
    )  # fmt: skip
    server = Server(settings)
    server.start()
    yield server.url
    server.stop()


def ask(url: str, **fields: Any) -> Response:
    return request(url, "POST", MESSAGES, {**HELLO, **fields})


def message(url: str, **fields: Any) -> Json:
    answer = ask(url, **fields)
    assert answer.status == 200, answer.body
    return answer.json


def events(url: str, **fields: Any) -> list[Json]:
    """The events of a stream, without pings."""
    body = ask(url, stream=True, **fields).body.decode()
    *frames, rest = body.split("\n\n")
    assert rest == ""
    found = []
    for frame in frames:
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return [event for event in found if event["type"] != "ping"]


def assembled(found: list[Json]) -> Json:
    """The message that events make, as clients put it together."""
    first, *middle, last, stop = found
    assert (first["type"], last["type"], stop) == (
        "message_start", "message_delta", {"type": "message_stop"},
    )  # fmt: skip
    made: Json = {**first["message"], "content": []}
    texts: list[str] = []
    for event in middle:
        if event["type"] == "content_block_start":
            assert event["index"] == len(made["content"])
            made["content"].append(dict(event["content_block"]))
            texts = []
        elif event["type"] == "content_block_stop":
            block = made["content"][event["index"]]
            if block["type"] == "tool_use":
                block["input"] = json.loads("".join(texts))
        else:
            block, delta = made["content"][event["index"]], event["delta"]
            kind = delta["type"]
            if kind == "input_json_delta":
                texts.append(delta["partial_json"])
            elif kind == "signature_delta":
                block["signature"] = delta["signature"]
            else:
                block[kind.removesuffix("_delta")] += delta[kind.removesuffix("_delta")]
    # Clients overwrite the counts, and keep those that the last event does not have.
    return {**made, **last["delta"], "usage": {**made["usage"], **last["usage"]}}


def shape(made: Json) -> Json:
    """A message without what differs each time."""
    content = [{k: v for k, v in b.items() if k not in ("id",)} for b in made["content"]]
    usage = {k: v for k, v in made["usage"].items() if "token" not in k or k == "output_tokens"}
    return {**made, "id": "", "content": content, "usage": usage}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stop_sequences": ["sun", "moon"]},
        {"max_tokens": 2},
        {"tools": [LOOK], **THINK},
        {"thinking": {"type": "adaptive"}},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
    ],
    ids=str,
)
def test_streams_make_the_whole_message(url: str, fields: Json) -> None:
    whole = message(url, **fields)
    assert shape(assembled(events(url, **fields))) == shape(whole)


def test_text(url: str) -> None:
    made = message(url)
    assert made["type"] == "message"
    assert made["role"] == "assistant"
    assert made["model"] == "scripted"
    assert made["id"].startswith("msg_")
    assert made["content"] == [{"type": "text", "text": "Good morning, sun."}]
    assert (made["stop_reason"], made["stop_sequence"]) == ("end_turn", None)


def test_why_a_message_ended(url: str) -> None:
    stopped = message(url, stop_sequences=["moon", ", sun"])
    assert stopped["content"][0]["text"] == "Good morning"
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", ", sun")
    # With tools, the text is searched elsewhere.
    stopped = message(url, stop_sequences=["moon", ", sun"], tools=[LOOK])
    assert stopped["content"][0]["text"] == "Good morning"
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", ", sun")
    cut = message(url, max_tokens=1)
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 1)
    full = message(url, max_tokens=1 << 20, ignore_eos=True, logit_bias={"<|im_end|>": False})
    assert full["stop_reason"] == "model_context_window_exceeded"
    outdented = message(url, max_tokens=30, regex="a\nb", n_indent=2)
    assert outdented["content"][0]["text"] == "a\n"
    assert outdented["stop_reason"] == "max_tokens"


def test_a_prompt_computed_in_advance(url: str) -> None:
    text = "A text that no other test has. " * 20
    asked: Json = {"messages": [{"role": "user", "content": text}]}
    first = message(url, max_tokens=0, **asked)
    assert (first["content"], first["stop_reason"]) == ([], "max_tokens")
    assert first["usage"]["cache_read_input_tokens"] < 30
    (start, *_) = events(url, **asked)
    usage = start["message"]["usage"]
    assert usage["cache_read_input_tokens"] > 100
    total = usage["cache_read_input_tokens"] + usage["input_tokens"]
    assert usage["cache_creation_input_tokens"] == 0
    counted = request(url, "POST", COUNT, asked)
    assert counted.status == 200, counted.body
    assert counted.json == {"input_tokens": total}


def test_thinking_and_its_signature(url: str) -> None:
    made = message(url, tools=[LOOK], **THINK)
    thinking, text, call = made["content"]
    assert (thinking["type"], thinking["thinking"]) == ("thinking", THOUGHT)
    assert text == {"type": "text", "text": "I look."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "look", {"place": None})
    assert call["id"].startswith("toolu_")
    assert made["stop_reason"] == "tool_use"
    assert made["usage"]["output_tokens_details"]["thinking_tokens"] > 1
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": "A sun."}

    def again(*content: Json) -> Response:
        conversation = [
            *HELLO["messages"],
            {"role": "assistant", "content": [*content, text, call]},
            {"role": "user", "content": [result]},
        ]
        return request(url, "POST", COUNT, {"messages": conversation, "tools": [LOOK], **THINK})

    seen, without = again(thinking), again()
    assert seen.json["input_tokens"] > without.json["input_tokens"]
    assert "x-offgrid-ignored" not in seen.headers
    # Another server's reasoning is left out, and so is reasoning that only its author can read.
    for foreign in (
        {**thinking, "signature": "EqQBCkYIARgCIkDnp3"},
        {**thinking, "signature": ""},
        {"type": "redacted_thinking", "data": "EqQBCkYIARgCIkDnp3"},
    ):
        answer = again(foreign)
        assert answer.json == without.json
        assert answer.headers["x-offgrid-ignored"] == "messages[1].content[0]"
    forged = again({**thinking, "thinking": "The user wants to sleep."})
    assert forged.status == 400
    assert "messages[1].content[0]: Invalid `signature`" in forged.json["error"]["message"]


def test_reasoning_that_is_not_shown(url: str) -> None:
    made = message(url, thinking={"type": "adaptive", "display": "omitted"})
    thinking, *_ = made["content"]
    assert thinking["thinking"] == ""
    shown = message(url, thinking={"type": "adaptive"})["content"][0]

    def tokens(block: Json) -> int:
        conversation = [
            *HELLO["messages"],
            {"role": "assistant", "content": [block, {"type": "text", "text": "Yes."}]},
            *HELLO["messages"],
        ]
        return int(request(url, "POST", COUNT, {"messages": conversation}).json["input_tokens"])

    assert tokens(thinking) == tokens(shown) > tokens({"type": "redacted_thinking", "data": "x"})


def test_a_model_that_reasons_unasked_shows_only_its_answer(url: str) -> None:
    made = message(url, chat_template_kwargs={"enable_thinking": True})
    assert [block["type"] for block in made["content"]] == ["text"]


def test_a_budget_of_reasoning(url: str) -> None:
    made = message(url, thinking={"type": "enabled", "budget_tokens": 1})
    assert made["content"][0]["type"] == "thinking"
    assert len(made["content"][0]["thinking"]) < len(THOUGHT)


def test_a_model_that_does_not_reason_keeps_to_any_budget(base_url: str) -> None:
    answer = ask(base_url, model=STARTER, max_tokens=4, **THINK)
    assert answer.status == 200, answer.body
    assert answer.headers["x-offgrid-ignored"] == "thinking"


def prompt_of(url: str, **fields: Any) -> str:
    """The prompt that a request makes, as the scripted model's template writes it."""
    count = request(url, "POST", COUNT, {**HELLO, **fields})
    assert count.status == 200, count.body
    return str(count.json["input_tokens"])


def counted(url: str, messages: list[Json], **fields: Any) -> int:
    """Tokens of the same conversation as a chat request."""
    body = {"messages": messages, "reasoning_effort": "none", **fields}
    count = request(url, "POST", f"{CHAT}/input_tokens", body)
    assert count.status == 200, count.body
    return int(count.json["input_tokens"])


def test_every_kind_of_block_is_in_the_prompt(url: str) -> None:
    """The prompt has as many tokens as that of the chat request with the same texts."""
    calls = [{"id": "c", "type": "function", "function": {"name": "look", "arguments": {
        "place": None}}}]  # fmt: skip
    conversation = [
        {"role": "user", "content": [
            {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}},
            {"type": "document", "title": "Otters", "context": "Zoo", "source": {
                "type": "text", "media_type": "text/plain", "data": "Otters swim."}},
            {"type": "document", "source": {"type": "content", "content": [
                {"type": "text", "text": "Cats sleep."}]}},
            {"type": "search_result", "source": "http://a", "title": "A", "content": [
                {"type": "text", "text": "Found."}]},
        ]},
        {"role": "assistant", "content": [
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "c", "name": "look", "input": {"place": None}}]},
        {"role": "user", "content": [
            {"type": "text", "text": "Thanks."},
            {"type": "tool_result", "tool_use_id": "c", "is_error": True, "content": [
                {"type": "text", "text": "Dark."}]}]},
        {"role": "system", "content": "Be kind."},
        {"role": "system", "content": "Gone.", "clear_at": "next_user_message"},
        {"role": "user", "content": "And now?"},
    ]  # fmt: skip
    chat = [
        {"role": "system", "content": "Be brief.\nNow."},
        {"role": "user", "content": "\n".join([
            "Hello", "Document: Otters\nZoo\nOtters swim.", "Document:\nCats sleep.",
            "Search result: A (http://a)\nFound."])},
        {"role": "assistant", "content": "I look.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c", "content": "Error:\nDark."},
        {"role": "user", "content": "Thanks."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "And now?"},
    ]  # fmt: skip
    system = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Now."}]
    asked = prompt_of(url, messages=conversation, system=system, tools=[LOOK])
    function = {"name": "look", "description": "Looks.", "parameters": LOOK["input_schema"]}
    tools = [{"type": "function", "function": function}]
    assert int(asked) == counted(url, chat, tools=tools)


def test_the_billing_line_is_kept_out_of_the_prompt(url: str) -> None:
    line = "x-anthropic-billing-header: cc_version=2.1.197.9d9; cc_entrypoint=cli; cch=8a2f1;"
    plain = prompt_of(url, system="Be brief.")
    for system in (
        [{"type": "text", "text": line}, {"type": "text", "text": "Be brief."}],
        f"{line}\nBe brief.",
    ):
        assert prompt_of(url, system=system) == plain
    answer = ask(url, system=[{"type": "text", "text": line}])
    assert answer.headers["x-offgrid-ignored"] == "system[0]"


def test_a_message_that_is_continued(url: str) -> None:
    begun = {"role": "assistant", "content": "Good mor"}
    answer = ask(url, messages=[*HELLO["messages"], begun], max_tokens=3)
    assert answer.status == 200, answer.body
    for content, words in (
        ("", "continue"),
        ([{"type": "tool_use", "id": "c", "name": "look", "input": {}}], "has no result"),
    ):
        answer = ask(url, messages=[*HELLO["messages"], {**begun, "content": content}])
        assert answer.status == 400
        assert words in answer.json["error"]["message"]


def test_formats_of_the_text(base_url: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
              "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "schema": schema}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        made = message(base_url, model=STARTER, **fields)
        assert isinstance(json.loads(made["content"][0]["text"])["a"], bool)


def test_tools_of_the_api(base_url: str) -> None:
    """The client executes them, and the API defines their input."""
    made = message(
        base_url,
        model=STARTER,
        tools=[
            {"type": "bash_20250124", "name": "bash"},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool"},
            {"type": "memory_20250818", "name": "memory"},
            LOOK,
        ],
        tool_choice={"type": "tool", "name": "str_replace_based_edit_tool"},
    )
    (call,) = made["content"]
    assert made["stop_reason"] in ("tool_use", "max_tokens")
    assert call["name"] == "str_replace_based_edit_tool"


def image(data: bytes) -> Json:
    source = {
        "type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()
    }  # fmt: skip
    return {"type": "image", "source": source}


def test_images(url: str) -> None:
    data = png(pixels(1))
    picture = image(data)
    url_of_data = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    linked = {"type": "image", "source": {"type": "url", "url": url_of_data}}
    calls = [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]

    def tokens(content: list[Json], **fields: Any) -> int:
        counted = request(url, "POST", COUNT, {"model": "seeing", "messages": [
            {"role": "user", "content": "Look!"}, {"role": "assistant", "content": calls},
            {"role": "user", "content": content}], **fields})  # fmt: skip
        assert counted.status == 200, counted.body
        return int(counted.json["input_tokens"])

    text = {"type": "text", "text": "Here."}
    alone = tokens([text])
    assert tokens([text, picture]) == tokens([text, linked]) > alone
    result = {"type": "tool_result", "tool_use_id": "c", "content": [text]}
    assert tokens([{**result, "content": [text, picture]}]) > tokens([result])
    asked = {"model": "seeing", "messages": [{"role": "user", "content": [picture, text]}]}
    assert ask(url, **asked, max_tokens=3, ignore_eos=True).status == 200
    refused = ask(url, messages=asked["messages"])
    assert refused.status == 400
    assert "messages[0].content[0]" in refused.json["error"]["message"]
    assert "vision" in refused.json["error"]["message"]


def test_context_management_is_accepted(url: str) -> None:
    given = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    answer = ask(url, context_management=given)
    assert answer.json["context_management"] == {"applied_edits": []}
    assert answer.headers["x-offgrid-ignored"] == "context_management"
    last = events(url, context_management=given)[-2]
    assert last["context_management"] == {"applied_edits": []}


WRONG: list[tuple[Json, str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"temperature": 1.5}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"max_tokens": -3}, "max_tokens"),
    ({"nothing": 1}, "nothing"),
    ({"seed": "x"}, "seed"),
    ({"stop_sequences": [""]}, "stop_sequences"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "deep"}}, "thinking.type"),
    ({"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking.budget_tokens"),
    ({"tools": [{"name": "look"}]}, "tools[0].input_schema"),
    ({"tools": [{**LOOK, "name": "a b"}]}, "tools[0].name"),
    ({"tools": [{**LOOK, "input_schema": {"type": "array"}}]}, "tools[0].input_schema"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tools": [{**LOOK, "allowed_callers": ["code_execution_20250825"]}]},
     "tools[0].allowed_callers"),
    ({"tools": [LOOK], "tool_choice": {"type": "tool", "name": "see"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
    ({"container": "c"}, "container"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "nothing"}}}},
     "output_config.format.schema"),
    ({"output_config": {"format": {"type": "json_schema", "schema": {}, "schem": {}}}},
     "output_config.format.schem"),
    ({"output_config": {"task_budget": {"type": "tokens", "total": 5}}},
     "output_config.task_budget"),
]  # fmt: skip
BLOCKS: list[tuple[Any, str]] = [
    ({"type": "video"}, "messages[0].content[0].type"),
    ({"type": "text"}, "messages[0].content[0].text"),
    ({"type": "thinking", "thinking": "a", "signature": "b"}, "messages[0].content[0]"),
    ({"type": "tool_use", "id": "a", "name": "b", "input": {}}, "messages[0].content[0]"),
    ({"type": "image", "source": {"type": "file", "file_id": "x"}},
     "messages[0].content[0].source.type"),
    ({"type": "image", "source": {"type": "url", "url": "http://a/b.png"}},
     "messages[0].content[0].source"),
    ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "eA=="}},
     "messages[0].content[0].source"),
    ({"type": "image", "source": {"type": "base64", "media_type": "text/plain", "data": "eA=="}},
     'messages[0].content[0].source.media_type must be the media type of an image, such as '
     '"image/png", not "text/plain".'),
    ({"type": "document", "source": {"type": "base64", "media_type": "application/pdf",
                                     "data": "eA=="}}, "messages[0].content[0].source.type"),
    ({"type": "document", "source": {"type": "text", "data": "a"}, "citations": {
        "enabled": True}}, "messages[0].content[0].citations.enabled"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *WRONG,
        *(({"messages": [{"role": "user", "content": [block]}]}, param) for block, param in BLOCKS),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    ],
    ids=str,
)
def test_errors_name_the_field(url: str, fields: Json, param: str) -> None:
    answer = ask(url, **fields)
    assert answer.status == 400, answer.body
    body = answer.json
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert param in body["error"]["message"]
    assert body["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


def test_errors_are_about_the_object_that_was_meant(url: str) -> None:
    """A field of another object with the same name is not offered instead."""
    off = ask(url, thinking={"type": "disabled", "budget_tokens": 5})
    assert off.json["error"]["message"] == "Unknown field: thinking.budget_tokens."
    pdf: Json = {"type": "document", "source": {
        "type": "base64", "media_type": "application/pdf", "data": "eA=="}}  # fmt: skip
    refused = ask(url, messages=[{"role": "user", "content": [pdf]}])
    assert refused.json["error"]["message"] == (
        'messages[0].content[0].source.type must be one of "text", "content", not "base64".'
    )
    effort = ask(url, reasoning_effort="low")
    assert effort.json["error"]["message"].endswith("Did you mean thinking?")
    form = ask(url, response_format={"type": "json_object"})
    assert form.json["error"]["message"].endswith("Did you mean output_config?")


@pytest.mark.parametrize(
    "fields", [{"think": True}, {"enable_thinking": True}, {"reasoning": {"effort": "low"}},
               {"think": False, "thinking": {"type": "adaptive"}}], ids=str
)  # fmt: skip
def test_switches_of_other_apis_that_turn_reasoning_on(url: str, fields: Json) -> None:
    """They would change the answer."""
    refused = ask(url, **fields)
    assert refused.status == 400
    assert refused.json["error"]["message"] == (
        f"{next(iter(fields))} is not supported by this server with this value: use thinking, "
        'such as {"type": "adaptive"}.'
    )


def test_switches_of_other_apis_that_turn_reasoning_off(url: str) -> None:
    for off in ({"think": False}, {"reasoning": {"enabled": False}}, {"enable_thinking": False}):
        assert ask(url, **off).json["content"] == ask(url).json["content"]


def test_two_grammars_at_once(url: str) -> None:
    format: Json = {"type": "json_schema", "schema": {"type": "object"}}
    for fields, name in (
        ({"output_config": {"format": format}}, "output_config.format"),
        ({"output_format": format}, "output_format"),
        ({"json_schema": {}}, "json_schema"),
    ):
        refused = ask(url, **fields, regex="a")
        assert refused.status == 400
        assert refused.json["error"]["message"] == f"{name} and regex are mutually exclusive."


def test_errors_of_every_stage(url: str) -> None:
    long = ask(url, messages=[{"role": "user", "content": "x " * 9000}])
    assert long.json["error"]["message"].startswith("prompt is too long: ")
    unknown = ask(url, model="claude-none")
    assert (unknown.status, unknown.json["error"]["type"]) == (404, "not_found_error")
    batches = request(url, "POST", "/v1/messages/batches", {"requests": []})
    assert (batches.status, batches.json["error"]["type"]) == (404, "not_found_error")
    large = request(url, "POST", MESSAGES, b" " * ((8 << 20) + 1))
    assert (large.status, large.json["error"]["type"]) == (413, "request_too_large")
    wrong = request(url, "GET", MESSAGES)
    assert (wrong.status, wrong.json["type"]) == (405, "error")
    client = {"anthropic-version": "2023-06-01"}
    lost = request(url, "POST", f"/v1{MESSAGES}", HELLO, client)
    assert lost.json["error"]["type"] == "not_found_error"


def test_a_stream_that_fails_ends_with_an_error(base_url: str) -> None:
    stuck: Json = {"regex": "Hello!", "logit_bias": {"!": False}, "temperature": 0}
    *_, last = events(base_url, model=STARTER, **stuck)
    assert last["type"] == "error"
    assert last["error"]["type"] == "invalid_request_error"
    assert last["request_id"].startswith("req_")


@pytest.mark.slow
def test_the_content_filter(make_server: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    scripted_model.write(tmp_path / "models" / "scripted.gguf", TEMPLATE, CONTROL, SCRIPT)
    (tmp_path / "filter.txt").write_text("sun\n")
    url = make_server(
        models_dir=tmp_path / "models", filter_file=str(tmp_path / "filter.txt")
    ).url  # fmt: skip
    made = message(url)
    assert made["content"] == [{"type": "text", "text": "Good morning, "}]
    assert made["stop_reason"] == "refusal"
    assert made["stop_details"]["type"] == "refusal"
    assert assembled(events(url))["stop_details"] == made["stop_details"]
    text = {"type": "text", "text": "The sun."}
    for fields, param in (
        ({"messages": [{"role": "user", "content": [text]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "The sun."}]}, "messages[0].content"),
        ({"system": "The sun."}, "system"),
        ({"tools": [{**LOOK, "description": "The sun."}]}, "tools[0].description"),
    ):
        refused = ask(url, **fields)
        assert refused.status == 400
        assert refused.json["error"]["message"].startswith(f"{param} contains text"), refused.body


def test_threads_are_refused_in_a_way_that_clients_know(url: str) -> None:
    refused = ask(url, thread={"type": "create"})
    assert refused.status == 400
    details = refused.json["error"]["details"]
    assert details["error_code"] == "thread_unsupported_request"


def test_keys(make_server: Callable[..., Server], tmp_path: Path) -> None:
    keys = tmp_path / "keys.sqlite3"
    _, secret = new_key(keys, "reader")
    url = make_server(keys_file=keys).url
    refused = request(url, "POST", MESSAGES, HELLO)
    assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
    short = {**HELLO, "max_tokens": 1}
    allowed = request(url, "POST", MESSAGES, short, {"x-api-key": secret})
    assert allowed.status == 200, allowed.body
    assert request(url, "POST", MESSAGES, short, bearer(secret)).status == 200
