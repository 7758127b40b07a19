"""The content filter through a real server: answers end before a match, prompts are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_model import write
from support import Json, Stream, chat_body, request
from transcripts import THINKS, WEATHER

from offgrid.api import screening
from offgrid.caller import Caller
from offgrid.errors import ConfigError, ContentRefused, EngineFault
from offgrid.filters.program import Term, compile_terms
from offgrid.server import Server

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
SAYS = "The weather is fine. Do not mention the Secret Plan, please."
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
KEPT = "The weather is fine. Do not mention the "

Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path, make_server: Callable[..., Server]) -> Serve:
    """Serve a model that says a text, with a filter file."""

    def start(terms: str, text: str | list[str] = SAYS, template: str = TEMPLATE) -> Server:
        write(tmp_path / "models" / "said.gguf", template, [], text)
        (tmp_path / "filter.txt").write_text(terms)
        return make_server(models_dir=tmp_path / "models", filter_file=str(tmp_path / "filter.txt"))

    (tmp_path / "models").mkdir()
    return start


def streamed(url: str, path: str, body: Json) -> list[Json]:
    """The events of a stream, which must end with [DONE]."""
    with Stream(url, path, {**body, "stream": True}) as stream:
        *events, done = stream.events()
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def asks(text: str, **fields: Any) -> Json:
    return {**chat_body(text, **fields), "model": "said"}


def greedy(**fields: Any) -> Json:
    return asks("What is new?", temperature=0, repetition_penalty=1, **fields)


def text_of(choices: list[Json]) -> str:
    return "".join(
        (choice.get("delta") or {}).get("content") or choice.get("text") or "" for choice in choices
    )


def choices_of(events: list[Json]) -> list[Json]:
    return [choice for event in events for choice in event["choices"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "terms", ["secret plan", "/\\bs.{4}t\\s{1,3}pl[aeiou]n\\b/i", "PLAN\nSECRET"]
)
def test_an_answer_ends_before_the_phrase(serve: Serve, terms: str) -> None:
    """In chat and completions, whole and streamed, for all choices."""
    url = serve(terms).url
    answer = request(url, "POST", CHAT, greedy(n=2)).json
    for choice in answer["choices"]:
        assert choice["finish_reason"] == "content_filter"
        assert choice["message"]["content"] == KEPT
    parts = choices_of(streamed(url, CHAT, greedy()))
    assert text_of(parts) == KEPT
    assert parts[-1]["finish_reason"] == "content_filter"
    body = {"prompt": "What?", "temperature": 0, "repetition_penalty": 1, "max_tokens": 200}
    answer = request(url, "POST", TEXT, {**body, "echo": True}).json["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == (f"What?{KEPT}", "content_filter")
    parts = choices_of(streamed(url, TEXT, body))
    assert (text_of(parts), parts[-1]["finish_reason"]) == (KEPT, "content_filter")


def test_a_response_is_incomplete(serve: Serve) -> None:
    url = serve("secret plan").url
    body = {"input": "What is new?", "temperature": 0}
    whole = request(url, "POST", RESPONSES, body).json
    assert whole["status"] == "incomplete"
    assert whole["incomplete_details"] == {"reason": "content_filter"}
    assert whole["output"][0]["content"][0]["text"] == KEPT
    kept = request(url, "GET", f"{RESPONSES}/{whole['id']}").json
    assert "Secret" not in json.dumps(kept)
    with Stream(url, RESPONSES, {**body, "stream": True}) as stream:
        events = [json.loads(event) for event in stream.events()]
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert "Secret" not in json.dumps(events)


def test_the_earlier_of_stop_string_and_phrase_ends_the_answer(serve: Serve) -> None:
    url = serve("secret plan").url
    for stop, text, reason in (
        ("fine", "The weather is ", "stop"), ("please", KEPT, "content_filter"),
    ):  # fmt: skip
        for fields in ({}, {"tools": [WEATHER]}):
            choice = request(url, "POST", CHAT, greedy(stop=[stop], **fields)).json["choices"][0]
            assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason), stop
    (choice,) = request(url, "POST", CHAT, greedy(stop=["Plan,"])).json["choices"]
    assert "Secret Plan" not in choice["message"]["content"]  # they overlap


def test_logprobs_do_not_tell_the_phrase(serve: Serve) -> None:
    """Neither tokens of the phrase are listed, nor alternatives that contain it alone."""
    tokens = ["A", " nice", " sec", "ret", " and", " more", " sec", "ret pl", "an", "!"]
    url = serve("secret plan\nzzz", tokens).url
    fields: Json = {"logprobs": True, "top_logprobs": 5}
    (choice,) = request(url, "POST", CHAT, greedy(**fields)).json["choices"]
    assert choice["message"]["content"] == "A nice secret and more "
    listed = [entry["token"] for entry in choice["logprobs"]["content"]]
    assert listed == ["A", " nice", " sec", "ret", " and", " more"]
    parts = choices_of(streamed(url, CHAT, greedy(**fields)))
    assert listed == [
        entry["token"] for part in parts for entry in (part["logprobs"] or {}).get("content", [])
    ]


def test_reasoning_and_calls_are_searched_too(serve: Serve, tmp_path: Path) -> None:
    url = serve("secret plan", "I know the Secret Plan. \n</think>\n\nHello", THINKS).url
    (choice,) = request(url, "POST", CHAT, greedy()).json["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["reasoning_content"].strip() == "I know the"
    assert not choice["message"]["content"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "hi"}] * 2
                + [{"role": "user", "content": "the SECRET plan"}]}, "messages[2].content"),
        (CHAT, {"messages": [{"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "secret plan"}]}]},
         "messages[0].content[1].text"),
        (CHAT, {"messages": [{"role": "user", "content": "hi"}], "tools": [{
            "type": "function", "function": {"name": "f", "description": "secret plan"}}]},
         "tools[0].function.description"),
        (CHAT, {"messages": [{"role": "user", "content": "data:image/x secret plan"}]},
         "messages[0].content"),
        (TEXT, {"prompt": ["fine", "my secret plan"]}, "prompt[1]"),
        (TEXT, {"prompt": "def f(", "suffix": "secret plan"}, "suffix"),
        (RESPONSES, {"input": "secret plan"}, "input"),
        (RESPONSES, {"input": "a", "instructions": "secret plan"}, "instructions"),
        (RESPONSES, {"input": [{"role": "user", "content": "secret plan"}]}, "input[0].content"),
        (RESPONSES, {"input": [{"role": "user", "content": [
            {"type": "input_text", "text": "sec"}, {"type": "input_text", "text": "ret plan"}]}]},
         "input"),
    ],
)  # fmt: skip
def test_a_matching_prompt_is_refused(serve: Serve, path: str, body: Json, param: str) -> None:
    """E19: the error names the field and does not repeat the text."""
    answer = request(serve("secret plan").url, "POST", path, body)
    assert answer.status == 400
    error = answer.json["error"]
    assert (error["code"], error["param"]) == ("content_filter", param)
    assert param in error["message"]
    assert "secret" not in json.dumps(error).lower()


def test_images_are_not_searched() -> None:
    """Their base64 may contain a phrase by chance; a text that only begins like one is searched."""
    program = compile_terms([], [Term("plan")])
    found = screening.ContentFilter(program, program.prompts and program.prompts.filter())
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAplanAA"}}
    found.check_values([{"role": "user", "content": [image]}], "messages")
    for text in ("data:image/png;base64,AA plan!", "data:image/png;base64,AAplanAA"):
        with pytest.raises(ContentRefused):
            found.check_values([{"role": "user", "content": text}], "messages")


@pytest.mark.slow
def test_a_prompt_of_token_ids_is_refused_by_its_text(serve: Serve) -> None:
    url = serve("secret plan").url
    tokens = request(url, "POST", "/tokenize", {"content": "a Secret Plan"}).json["tokens"]
    answer = request(url, "POST", TEXT, {"prompt": [tokens[:1], tokens]})
    assert (answer.status, answer.json["error"]["param"]) == (400, "prompt[1]")
    assert answer.json["error"]["code"] == "content_filter"


def test_sections_limit_a_term_to_prompts_or_answers(serve: Serve) -> None:
    url = serve("[prompts]\nsecret plan\n[answers]\nfine").url
    (choice,) = request(url, "POST", CHAT, greedy()).json["choices"]
    assert choice["message"]["content"] == "The weather is "
    assert request(url, "POST", CHAT, asks("fine", max_tokens=1)).status == 200
    assert request(url, "POST", CHAT, asks("secret plan")).status == 400


@pytest.mark.slow
def test_a_phrase_that_begins_in_the_prompt_ends_a_continuation(serve: Serve) -> None:
    url = serve("secret plan", "cret plan and more").url
    body = {"prompt": "my se", "temperature": 0, "repetition_penalty": 1, "echo": True}
    (choice,) = request(url, "POST", TEXT, body).json["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("my se", "content_filter")


def test_embeddings_and_tokens_are_not_filtered(server: Server, serve: Serve) -> None:
    url = serve("secret plan").url
    assert request(url, "POST", "/tokenize", {"content": "secret plan"}).status == 200
    assert request(url, "POST", "/v1/embeddings", {"input": "secret plan"}).status == 200


@pytest.mark.slow
def test_a_new_worker_gets_the_filter_again(serve: Serve, no_pauses: None) -> None:
    server = serve("secret plan")
    engine = server.pool.engine("said")
    for _ in range(2):
        (choice,) = request(server.url, "POST", CHAT, greedy()).json["choices"]
        assert choice["message"]["content"] == KEPT
        process = engine.requests._readiness.process
        assert process is not None
        process.kill()
        process.wait(10)


def test_a_caller_has_a_filter_in_addition(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key's file is used together with that of the settings; a broken one lets nothing pass."""
    own = tmp_path / "own.txt"
    own.write_text("weather\n")

    server = serve("secret plan")
    (choice,) = request(server.url, "POST", CHAT, greedy()).json["choices"]
    assert choice["message"]["content"] == KEPT
    monkeypatch.setattr(screening, "caller", lambda: Caller("k", filter_file=str(own)))
    (choice,) = request(server.url, "POST", CHAT, greedy()).json["choices"]
    assert choice["message"]["content"] == "The "
    assert request(server.url, "POST", CHAT, asks("a secret plan")).status == 400
    own = tmp_path / "other.txt"
    own.write_text("/a+/")
    answer = request(server.url, "POST", CHAT, greedy())
    assert (answer.status, answer.json["error"]["code"]) == (500, "engine_fault")


def test_a_broken_filter_file_ends_the_start(serve: Serve) -> None:
    with pytest.raises(ConfigError, match=r"filter\.txt, line 2: \+ repeats without a limit"):
        serve("fine\n/a+/")


def test_a_changed_file_is_read_at_a_reload(serve: Serve, tmp_path: Path) -> None:
    server = serve("secret plan")
    settings = server.settings
    filters = screening.Filters(settings)
    before = filters.of("")
    (tmp_path / "filter.txt").write_text("other\n")
    filters.prepare(settings)()
    after = filters.of("")
    assert before is not None
    assert after is not None
    assert after.program.digest != before.program.digest
    (tmp_path / "filter.txt").write_text("/(/\n")
    with pytest.raises(ConfigError, match="line 1"):
        filters.prepare(settings)
    assert filters.of("") is after


def test_a_file_of_a_key_that_is_gone_keeps_no_reload_back(serve: Serve, tmp_path: Path) -> None:
    """It was deleted with its key, or a restore has moved it. A key that names it gets nothing."""
    own = tmp_path / "own.txt"
    own.write_text("weather\n")
    settings = serve("secret plan").settings
    filters = screening.Filters(settings)
    before = filters.of("")
    assert filters.of(str(own)) is not None
    own.unlink()
    (tmp_path / "filter.txt").write_text("other\n")
    filters.prepare(settings)()
    after = filters.of("")
    assert before is not None
    assert after is not None
    assert after.program.digest != before.program.digest
    with pytest.raises(EngineFault, match="filter of this key"):
        filters.of(str(own))
    own.write_text("weather\n")
    assert filters.of(str(own)) is not None


def test_without_a_file_there_is_no_filter(server: Server) -> None:
    assert screening.Filters(server.settings).of("") is None
    assert screening.in_force() is None
