"""``banned_strings`` over HTTP and in the library: the same answer, streamed or not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_model import write
from scripted_templates import reasoning_template
from support import STARTER, Json, Stream, chat_body, request, text_of

from offgrid import LLM
from offgrid.errors import InvalidParameter
from offgrid.server import Server

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SAMPLED: Json = {"seed": 11, "temperature": 0.9, "max_tokens": 60}
STORY = "Once upon a time"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(STARTER, ctx_size=1024, threads=1) as loaded:
        yield loaded


def completion(url: str, **fields: Any) -> Json:
    body = {"model": STARTER, "prompt": STORY, **SAMPLED, **fields}
    answer = request(url, "POST", COMPLETIONS, body)
    assert answer.status == 200, answer.body
    result: Json = answer.json
    return result


def test_a_string_of_the_answer_is_avoided(base_url: str) -> None:
    plain = completion(base_url, logprobs=2)
    text = plain["choices"][0]["text"]
    words = text.split()
    string = " ".join(words[len(words) // 2 :][:2])
    banned = completion(base_url, banned_strings=[string], logprobs=2)
    choice = banned["choices"][0]
    assert string not in choice["text"]
    # The beginning is the same, and so are its logprobs; the logprobs are those of the text.
    begin = text.index(string)
    assert choice["text"].startswith(text[: begin - 12])
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert banned["usage"]["completion_tokens"] == len(choice["logprobs"]["tokens"]) + (
        choice["finish_reason"] == "stop"
    )
    assert completion(base_url, banned_strings=string, logprobs=2)["choices"] == [choice]


def test_a_string_that_does_not_come_changes_nothing(base_url: str) -> None:
    fields: Json = {"logprobs": 3, "n": 2}
    plain = completion(base_url, **fields)
    for banned in (["qqqq", "ONCE UPON"], [], ""):
        assert completion(base_url, banned_strings=banned, **fields)["choices"] == plain["choices"]


def test_the_stop_string_is_told(base_url: str) -> None:
    """As without the field, in the APIs that tell which one it was."""
    text = completion(base_url)["choices"][0]["text"]
    stop = text[20:24]
    for banned in ([], ["qqqq"]):
        body: Json = {**SAMPLED, "banned_strings": banned}
        native = {**body, "prompt": STORY, "stop": [stop], "min_p": 0, "top_k": 0}
        answer = request(base_url, "POST", "/completion", native).json
        assert (answer["stop_type"], answer["stopping_word"]) == ("word", stop)
        chat = chat_body(**{**body, "temperature": 0}, stop_sequences=["help"])
        answer = request(base_url, "POST", "/v1/messages", chat).json
        assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "help")


def test_a_stream_has_the_same_text(base_url: str) -> None:
    for banned in (["a"], ["th", "er ", "."], [" the", " a", " was"]):
        fields: Json = {"banned_strings": banned, "n": 2}
        whole = completion(base_url, **fields)
        body = {"model": STARTER, "prompt": STORY, **SAMPLED, **fields, "stream": True}
        with Stream(base_url, COMPLETIONS, body) as stream:
            events = [*stream.events()]
        assert text_of(events) == whole["choices"][0]["text"]
        for choice in whole["choices"]:
            assert not any(string in choice["text"] for string in banned)


def test_chat_responses_and_the_library_take_it(base_url: str, llm: LLM) -> None:
    fields: Json = {"seed": 2, "temperature": 0.8, "banned_strings": ["e"]}
    chat = request(base_url, "POST", CHAT, chat_body(**fields, max_tokens=30)).json
    text = chat["choices"][0]["message"]["content"]
    assert text
    assert "e" not in text
    assert llm.chat("Hello!", **fields, max_tokens=30).text == text
    body = {"model": STARTER, "input": "Hello!", **fields, "max_output_tokens": 30, "store": False}
    response = request(base_url, "POST", RESPONSES, body).json
    assert response["output"][-1]["content"][0]["text"] == text


def test_an_answer_without_a_way_on_ends_with_content_filter(base_url: str) -> None:
    fields: Json = {"banned_strings": ["yes", "no"], "choice": ["maybe yes", "maybe no"]}
    body = chat_body(**fields)
    choice = request(base_url, "POST", CHAT, body).json["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["content"] in ("maybe", "maybe ")
    with Stream(base_url, CHAT, {**body, "stream": True}) as stream:
        *events, _ = stream.events()
    assert json.loads(events[-1])["choices"][0]["finish_reason"] == "content_filter"
    answer = {"model": STARTER, "input": "Hello!", **fields, "store": False}
    response = request(base_url, "POST", RESPONSES, answer).json
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "content_filter"}


def test_a_schema_is_still_followed(base_url: str) -> None:
    schema = {
        "type": "object",
        "properties": {"word": {"type": "string", "maxLength": 12}, "many": {"type": "integer"}},
        "required": ["word", "many"],
    }
    body = chat_body(json_schema=schema, banned_strings=['"word": "a', "e", "1"], seed=4)
    choice = request(base_url, "POST", CHAT, body).json["choices"][0]
    if choice["finish_reason"] == "stop":
        value = json.loads(choice["message"]["content"])
        assert value.keys() == {"word", "many"}
    for string in body["banned_strings"]:
        assert string not in choice["message"]["content"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["x"] * 2 + [str(place) for place in range(1024)], "at most 1024 strings, not 1025"),
        (["a" * 257], "1 to 256 characters, not 257"),
        (["a", ""], "1 to 256 characters, not 0"),
        ([1], "banned_strings[0]"),
        ({"a": 1}, "banned_strings"),
    ],
)
def test_wrong_values_are_named(base_url: str, llm: LLM, value: Any, words: str) -> None:
    for path in (CHAT, RESPONSES):
        body = chat_body() if path == CHAT else {"model": STARTER, "input": "Hello!"}
        answer = request(base_url, "POST", path, {**body, "banned_strings": value})
        assert answer.status == 400
        assert words in answer.json["error"]["message"]
        assert answer.json["error"]["param"].startswith("banned_strings")
    with pytest.raises(InvalidParameter):
        llm.chat("Hello!", banned_strings=value)


def test_tokens_that_were_held_back_are_counted_one_by_one(
    tmp_path: Path, make_server: Callable[..., Server]
) -> None:
    """Tokens of reasoning and of content are held back together, because of a string that begins in
    the reasoning."""
    template = reasoning_template("false", "")
    write(tmp_path / "m.gguf", template, [], "I think so.\n</think>\n\nHello there, you.")
    url = make_server().url
    counts, tokens = [], []
    for banned in ([], ["so.\n</think>\n\nHello THERE"], ["think>\n\nHello there?"]):
        fields: Json = {"model": "m", "temperature": 0, "banned_strings": banned}
        usage = request(url, "POST", CHAT, chat_body(**fields)).json["usage"]
        counts.append(usage["completion_tokens_details"]["reasoning_tokens"])
        body = {**fields, "input": "Hello!", "include": ["message.output_text.logprobs"]}
        output = request(url, "POST", RESPONSES, body).json["output"]
        tokens.append([token["token"] for token in output[1]["content"][0]["logprobs"]])
    assert counts == [4, 4, 4]
    assert tokens == [["k>\n\nHe", "llo th", "ere, y", "ou."]] * 3
