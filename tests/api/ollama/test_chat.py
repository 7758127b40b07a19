"""``/api/chat``: whole and streamed answers, reasoning, calls, formats, images, loading."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from lasting import LASTING, SETTINGS, write_lasting
from ollama_calls import both, content, lines_of, refused
from support import STARTER, Json, Stream, chat_body, eventually, request
from tiny_vision import make_seeing, pixels, png

from offgrid.engine.client.pending import State
from offgrid.server import Server

CHAT = "/api/chat"
TOOL: Json = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
GREEDY: Json = {"options": {"temperature": 0}}


def user(text: str) -> list[Json]:
    return [{"role": "user", "content": text}]


def test_an_answer_whole_and_streamed(base_url: str) -> None:
    whole, lines = both(base_url, CHAT, chat_body(**GREEDY), content)
    assert len(lines) > 3
    assert whole["message"]["role"] == "assistant"
    assert whole["message"].keys() == {"role", "content"}
    assert (whole["model"], whole["done_reason"]) == (STARTER, "stop")
    assert whole["created_at"].endswith("Z")
    openai = request(base_url, "POST", "/v1/chat/completions", chat_body(temperature=0)).json
    assert content(whole) == openai["choices"][0]["message"]["content"]
    usage = openai["usage"]
    assert whole["prompt_eval_count"] == usage["prompt_tokens"]
    assert whole["eval_count"] == usage["completion_tokens"]


def test_times_are_nanoseconds(base_url: str) -> None:
    answer = request(base_url, "POST", CHAT, chat_body(**GREEDY, stream=False)).json
    names = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
    total, load, prompt, generated = (answer[name] for name in names)
    assert all(isinstance(answer[name], int) for name in names)
    assert total >= load + prompt + generated > 0
    assert generated > 1_000  # no token takes less than a microsecond


def test_the_length_of_an_answer(base_url: str) -> None:
    body = chat_body("Tell me a story.", options={"temperature": 0, "num_predict": 3})
    whole, _ = both(base_url, CHAT, body, content)
    assert (whole["done_reason"], whole["eval_count"]) == ("length", 3)
    for unlimited in (-1, -2):
        options = {"temperature": 0, "num_predict": unlimited}
        answer = request(base_url, "POST", CHAT, chat_body(options=options, stream=False)).json
        assert answer["done_reason"] == "stop"


def test_stop_strings_end_an_answer(base_url: str) -> None:
    body = chat_body(options={"temperature": 0, "stop": [" help"]})
    whole, _ = both(base_url, CHAT, body, content)
    assert content(whole).endswith("can I")
    assert whole["done_reason"] == "stop"


def test_logprobs(base_url: str) -> None:
    body = chat_body(**GREEDY, logprobs=True, top_logprobs=2)
    whole, lines = both(base_url, CHAT, body, content)
    tokens = [token for line in lines for token in line.get("logprobs", ())]
    assert tokens == whole["logprobs"]
    assert "".join(token["token"] for token in tokens) == content(whole)
    assert all(len(token["top_logprobs"]) == 2 for token in tokens)
    assert all(token["logprob"] == token["top_logprobs"][0]["logprob"] for token in tokens)
    plain = request(base_url, "POST", CHAT, chat_body(**GREEDY, stream=False, top_logprobs=2))
    assert "logprobs" not in plain.json
    assert plain.headers["x-offgrid-ignored"] == "top_logprobs"


def test_a_call_is_whole_in_one_line(scripted_url: str) -> None:
    body = {"model": "thinker", "messages": user("Rain?"), "tools": [TOOL], **GREEDY}
    whole, lines = both(scripted_url, CHAT, body, content)
    message = whole["message"]
    assert (message["thinking"], message["content"]) == ("Hm, rain.", "Let me look.")
    (call,) = message["tool_calls"]
    function = {"index": 0, "name": "look", "arguments": {"city": "Oslo"}}
    assert call["function"] == function
    assert whole["done_reason"] == "stop"
    (said,) = [line["message"]["tool_calls"] for line in lines if "tool_calls" in line["message"]]
    assert [one["function"] for one in said] == [function]
    thinking = "".join(line["message"].get("thinking", "") for line in lines)
    assert thinking == message["thinking"]
    # The message goes back as it came, with the result of the call.
    messages = [
        *body["messages"], message,
        {"role": "tool", "content": "It rains.", "tool_name": "look"},
        {"role": "tool", "content": "It rains.", "tool_call_id": call["id"]},
    ]  # fmt: skip
    answer = request(scripted_url, "POST", CHAT, {**body, "messages": messages, "stream": False})
    assert answer.status == 200, answer.body
    assert answer.json["prompt_eval_count"] > whole["prompt_eval_count"]


def test_a_call_that_was_cut_off_is_text(scripted_url: str) -> None:
    body = {"model": "cut", "messages": user("Rain?"), "tools": [TOOL], **GREEDY}
    whole, _ = both(scripted_url, CHAT, body, content)
    assert "tool_calls" not in whole["message"]
    assert '"Os' in content(whole)


@pytest.mark.parametrize("think", [True, "low", "medium", "high", "max"])
def test_reasoning_can_be_asked_for(scripted_url: str, think: bool | str) -> None:
    body = {"model": "thinker", "messages": user("Rain?"), "think": think, **GREEDY}
    answer = request(scripted_url, "POST", CHAT, {**body, "stream": False}).json
    assert answer["message"]["thinking"] == "Hm, rain."


def test_reasoning_that_a_model_does_not_do(base_url: str, scripted_url: str) -> None:
    message = refused(base_url, CHAT, chat_body(think=True))
    assert "does not support thinking" in message
    assert request(base_url, "POST", CHAT, chat_body(think=False)).status == 200
    off = {"model": "thinker", "messages": user("Rain?"), "think": False, "stream": False, **GREEDY}
    on = {**off, "think": True}
    counts = [
        request(scripted_url, "POST", CHAT, body).json["prompt_eval_count"] for body in (off, on)
    ]
    assert counts[0] > counts[1]  # the template closes the reasoning at once


def test_formats(base_url: str) -> None:
    schema = {
        "type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"],
        "additionalProperties": False,
    }  # fmt: skip
    whole, _ = both(base_url, CHAT, chat_body(**GREEDY, format=schema), content)
    assert isinstance(json.loads(content(whole))["age"], int)
    whole, _ = both(base_url, CHAT, chat_body(**GREEDY, format="json"), content)
    assert isinstance(json.loads(content(whole)), dict)
    plain, _ = both(base_url, CHAT, chat_body(**GREEDY, format=""), content)
    assert content(plain) == content(both(base_url, CHAT, chat_body(**GREEDY), content)[0])


def test_the_seed_repeats_an_answer(base_url: str) -> None:
    body = chat_body("Tell me a story.", options={"seed": 7, "num_predict": 20}, stream=False)
    first, second = (request(base_url, "POST", CHAT, body) for _ in range(2))
    assert content(first.json) == content(second.json)
    assert first.headers["x-offgrid-seed"] == "7"


def test_images(make_server: Callable[..., Server], tmp_path: Path) -> None:
    make_seeing(tmp_path)
    url = make_server(ctx_size=512).url
    data = base64.b64encode(png(pixels(1))).decode()
    options = {"num_predict": 4, "temperature": 0}
    counts = []
    for images in ([], [data], [f"data:image/png;base64,{data}"]):
        messages = [{"role": "user", "content": "Look!", "images": images}]
        body = {"model": "seeing", "messages": messages, "options": options, "stream": False}
        answer = request(url, "POST", CHAT, body)
        assert answer.status == 200, answer.body
        counts.append(answer.json["prompt_eval_count"])
    assert counts[0] < counts[1] == counts[2]
    wrong = [{"role": "user", "content": "Look!", "images": [data, "aGVsbG8="]}]
    assert "messages[0].images[1]" in refused(url, CHAT, {"model": "seeing", "messages": wrong})
    prompt = {"model": "seeing", "prompt": "Look!", "images": [data, "?"]}
    assert "images[1]" in refused(url, "/api/generate", prompt)
    prompt["images"] = [data]
    assert lines_of(request(url, "POST", "/api/generate", {**prompt, "options": options}))


def test_a_model_without_eyes_refuses_images(base_url: str) -> None:
    data = base64.b64encode(png(pixels(1))).decode()
    messages = [{"role": "user", "content": "Look!", "images": [data]}]
    message = refused(base_url, CHAT, {"model": STARTER, "messages": messages})
    assert message.startswith("messages[0].images[0]: This model has no vision support")


@pytest.mark.slow
def test_old_turns_are_dropped_only_if_the_request_asks(base_url: str) -> None:
    turns = [
        {"role": role, "content": "word " * 400} for _ in range(4) for role in ("user", "assistant")
    ]
    body = {"model": STARTER, "messages": [*turns, *user("Hello!")], **GREEDY, "stream": False}
    assert "maximum context length" in refused(base_url, CHAT, body)
    assert "maximum context length" in refused(base_url, CHAT, {**body, "truncate": False})
    answer = request(base_url, "POST", CHAT, {**body, "truncate": True})
    assert answer.status == 200
    assert answer.json["prompt_eval_count"] < 2048


def test_loading_and_unloading(make_server: Callable[..., Server]) -> None:
    server = make_server()

    def shown() -> list[str]:
        models = request(server.url, "GET", "/api/ps").json["models"]
        return [model["name"] for model in models]

    loaded = request(server.url, "POST", CHAT, {"model": STARTER, "messages": []}).json
    assert (loaded["done_reason"], loaded["message"]["content"]) == ("load", "")
    assert shown() == [f"{STARTER}:latest"]
    body = {"model": f"{STARTER}:latest", "messages": [], "keep_alive": 0}
    assert request(server.url, "POST", CHAT, body).json["done_reason"] == "unload"
    eventually(lambda: not shown(), "the model is unloaded")
    # A model that is not loaded is not loaded to be unloaded.
    body = {"model": STARTER, "keep_alive": "0s"}
    assert request(server.url, "POST", "/api/generate", body).json["done_reason"] == "unload"
    assert not shown()
    for keep_alive in ("5m", 300, -1, "-1m"):
        body = {"model": STARTER, "keep_alive": keep_alive}
        assert request(server.url, "POST", "/api/generate", body).json["done_reason"] == "load"
        (model,) = request(server.url, "GET", "/api/ps").json["models"]
        assert model["expires_at"].startswith("2318") == (keep_alive in (-1, "-1m"))
    assert "keep_alive must be" in refused(
        server.url, CHAT, {"model": STARTER, "messages": [], "keep_alive": "soon"}
    )


def test_an_answer_with_keep_alive_0_unloads_the_model(make_server: Callable[..., Server]) -> None:
    server = make_server()
    body = chat_body(**GREEDY, keep_alive=0, stream=False)
    assert request(server.url, "POST", CHAT, body).json["done_reason"] == "stop"
    eventually(lambda: not server.pool.loaded(), "the model is unloaded")


@pytest.mark.usefixtures("no_pauses")
def test_a_stream_that_fails_ends_with_an_error(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    write_lasting(tmp_path)
    server = make_server(**SETTINGS)
    body = {**chat_body(options={"ignore_eos": True}), "model": LASTING}
    with Stream(server.url, CHAT, body) as stream:
        assert json.loads(stream.response.readline())["done"] is False
        engine = server.pool.engine(LASTING)
        eventually(
            lambda: any(p.state >= State.SCORED for p in engine.requests.pending()), "it has begun"
        )
        pid = engine.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        *_, last = stream.response.read().splitlines()
    assert json.loads(last).keys() == {"error"}


def test_a_client_that_leaves_ends_its_generation(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with Stream(server.url, CHAT, chat_body(options={"ignore_eos": True})) as stream:
        assert stream.response.readline()
        stream.leave()
    engine = server.pool.engine(STARTER)
    eventually(lambda: engine.in_flight == 0, "the generation has ended")
