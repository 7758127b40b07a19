"""The tokeniser over HTTP, in the forms of llama-server and of vLLM."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lasting import LASTING, SETTINGS, Running, lasting, write_lasting
from processes import all_stopped
from support import STARTER, Stream, chat_body, eventually, request, together

from offgrid.engine.client.client import ClientGone, EngineClient
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.events import EngineEvent, Tokenising, TokenResult
from offgrid.engine.protocol.requests import PromptPart, TokenQuery
from offgrid.engine.worker.llama.model import Model
from offgrid.errors import EngineFault, RequestRefused
from offgrid.server import Server

EMOJI = "Once upon \U0001f600<|im_end|>"


def post(base_url: str, path: str, **body: Any) -> Any:
    response = request(base_url, "POST", path, body)
    assert response.status == 200, response.body
    return response.json


def refused(base_url: str, path: str, **body: Any) -> dict[str, Any]:
    response = request(base_url, "POST", path, body)
    assert response.status == 400, response.body
    error: dict[str, Any] = response.json["error"]
    return error


@pytest.fixture(scope="module")
def model(starter_path: Path) -> Model:
    return Model(Load(str(starter_path), ctx_size=64, parallel=1, threads=1))


def test_the_form_of_llama_server(base_url: str, model: Model) -> None:
    for special in (True, False):
        body = post(base_url, "/tokenize", content=EMOJI, parse_special=special)
        assert body == {"tokens": model.tokenize_bare((PromptPart(EMOJI, special),)).tolist()}
    assert post(base_url, "/tokenize", content=EMOJI) == post(
        base_url, "/tokenize", content=EMOJI, model=STARTER, add_special=True
    )
    assert post(base_url, "/tokenize", content="") == {"tokens": []}
    pieces = post(base_url, "/tokenize", content=EMOJI, with_pieces=True)["tokens"]
    assert [item["id"] for item in pieces] == post(base_url, "/tokenize", content=EMOJI)["tokens"]
    assert pieces[-1]["piece"] == "<|im_end|>"
    parts = [item["piece"] for item in pieces]
    assert any(isinstance(part, list) for part in parts)  # bytes of the emoji
    whole = b"".join(bytes(p) if isinstance(p, list) else p.encode() for p in parts)
    assert whole.decode() == EMOJI


def test_the_form_of_vllm(base_url: str, model: Model) -> None:
    ids = model.tokenize((PromptPart(EMOJI, True),)).tolist()
    body = {"count": len(ids), "max_model_len": 2048, "tokens": ids, "token_strs": None}
    assert post(base_url, "/tokenize", model=STARTER, prompt=EMOJI) == body
    names = post(base_url, "/tokenize", prompt=EMOJI, return_token_strs=True)["token_strs"]
    assert names == [model.name(id) for id in ids]
    assert names[1] == "Ġupon"  # as written in the vocabulary


def test_conversations(base_url: str) -> None:
    chat = chat_body("Hello <|im_end|> there!")
    messages = chat["messages"]
    used = post(base_url, "/v1/chat/completions", **chat, max_tokens=1)["usage"]["prompt_tokens"]
    counted = post(base_url, "/v1/chat/completions/input_tokens", **chat)
    assert counted == {"object": "response.input_tokens", "input_tokens": used}
    assert post(base_url, "/v1/chat/completions/input_tokens", messages=messages) == counted
    asked = post(base_url, "/tokenize", messages=messages)
    assert asked["count"] == len(asked["tokens"]) == used
    bare = post(base_url, "/tokenize", messages=messages, add_generation_prompt=False)
    assert asked["tokens"][: bare["count"]] == bare["tokens"] != asked["tokens"]
    text = post(base_url, "/detokenize", tokens=asked["tokens"])["prompt"]
    assert text.endswith("<|im_start|>assistant\n")
    assert "Hello <|im_end|> there!" in text
    # A user's text never becomes a control token.
    (end,) = post(base_url, "/tokenize", prompt="<|im_end|>")["tokens"]
    assert bare["tokens"].count(end) == 1


def test_round_trips_as_a_remote_tokenizer_makes_them(base_url: str) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.text(max_size=60))
    def round_trip(text: str) -> None:
        tokens = post(base_url, "/tokenize", prompt=text, add_special_tokens=False)["tokens"]
        assert post(base_url, "/detokenize", tokens=tokens) == {"content": text, "prompt": text}

    round_trip()


def test_bytes_that_are_no_text(base_url: str) -> None:
    tokens = post(base_url, "/tokenize", content="\U0001f600")["tokens"]
    assert len(tokens) > 1
    assert post(base_url, "/detokenize", tokens=tokens[:1])["content"] == "\ufffd"
    assert post(base_url, "/detokenize", tokens=[])["content"] == ""


def test_tokenizer_info(base_url: str) -> None:
    info = request(base_url, "GET", f"/tokenizer_info?model={STARTER}").json
    assert info == request(base_url, "GET", "/tokenizer_info").json
    assert info["eos_token"] == "<|im_end|>"
    assert info["bos_token"] is None  # the file names none
    assert info["pad_token"] == "<|endoftext|>"
    assert info["model_max_length"] == info["vocab_size"] == 2048
    assert "<|im_start|>" in info["chat_template"]
    missing = request(base_url, "GET", "/tokenizer_info?model=none")
    assert (missing.status, missing.json["error"]["code"]) == (404, "model_not_found")


@pytest.mark.slow
def test_tokenizer_info_unloads_no_model(
    make_server: Callable[..., Server], starter_path: Path, tmp_path: Path
) -> None:
    """A GET must not unload a model, but may load one if there is room."""
    for name in "abc":
        (tmp_path / f"{name}.gguf").symlink_to(starter_path)
    server = make_server(default_model="a", max_models=2, ctx_size=64)
    url, path = server.url, "/tokenizer_info?model={}"

    def loaded() -> set[str]:
        return {client.name for client in server.pool.loaded()}

    assert request(url, "GET", path.format("b")).status == 200
    assert loaded() == {"a", "b"}
    refusal = request(url, "GET", path.format("c"))
    error = refusal.json["error"]
    assert (refusal.status, error["code"], error["param"]) == (409, "model_not_loaded", "model")
    assert "POST /tokenize" in error["message"]
    assert loaded() == {"a", "b"}
    assert request(url, "GET", path.format("b")).status == 200
    post(url, "/tokenize", content="x", model="c")
    assert request(url, "GET", path.format("c")).status == 200
    assert loaded() == {"b", "c"}
    assert request(url, "GET", "/tokenizer_info").status == 409  # of a, the default model


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"), ({"content": None}, "prompt"), ({"content": 5}, "content"),
        ({"content": "x", "prompt": "x"}, "prompt"), ({"prompt": ["x"]}, "prompt"),
        ({"content": "x", "add_special_tokens": True}, "add_special_tokens"),
        ({"prompt": "x", "with_pieces": True}, "with_pieces"),
        ({"content": "x", "with_pieces": 1}, "with_pieces"), ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": "x"}, "messages"), ({"content": "x", "model": 5}, "model"),
        ({"content": "x" * 40_000}, "content"), ({"prompt": "x" * 40_000}, "prompt"),
        ({"messages": [{"role": "user", "content": "x" * 40_000}]}, "messages"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_bad_tokenize_requests(base_url: str, body: dict[str, Any], param: str) -> None:
    assert refused(base_url, "/tokenize", **body)["param"] == param


@pytest.mark.parametrize(
    ("tokens", "param"),
    [
        (None, "tokens"), ("x", "tokens"), ([1.5], "tokens[0]"), ([-1], "tokens[0]"),
        ([5, 2048], "tokens"), ([1 << 31], "tokens[0]"), ([1 << 64], "tokens[0]"),
        ([True], "tokens[0]"), ([5] * 32_769, "tokens"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_bad_tokens(base_url: str, tokens: Any, param: str) -> None:
    assert refused(base_url, "/detokenize", tokens=tokens)["param"] == param


def test_the_longest_answers(base_url: str) -> None:
    text = post(base_url, "/detokenize", tokens=[5] * 32_768)["content"]
    assert len(text) == 32_768
    assert post(base_url, "/tokenize", prompt=text)["count"] > 2048  # more than the context


def test_answered_while_every_slot_is_busy(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    write_lasting(tmp_path)
    server = make_server(parallel=1, queue_size=1, **SETTINGS)
    chat = {**chat_body(stream=True), "model": LASTING}
    with Running(server.url, "/v1/completions", lasting()) as running:
        assert running.read_some()
        # A chat stream begins at once, then waits for a slot.
        with Stream(server.url, "/v1/chat/completions", chat):
            assert request(server.url, "POST", "/v1/completions", lasting()).status == 503
            assert post(server.url, "/tokenize", content="Once")["tokens"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_pauses")
def test_a_worker_that_dies_during_a_lookup(starter_path: Path) -> None:
    client = EngineClient(
        Load(str(starter_path), parallel=1, threads=1),
        queue_size=1,
        load_timeout=60,
        stall_timeout=60,
    )
    client.start()
    query = TokenQuery(tokens=(5,) * 1000, pieces=True, names=True)
    take = client.requests.take
    killed: list[int] = []

    def kill_at_lookup(events: Sequence[EngineEvent]) -> None:
        """End the worker when it says that it begins the lookup. What it writes after that is lost,
        however fast it is."""
        if any(isinstance(event, Tokenising) for event in events):
            pid = client.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        take([event for event in events if not isinstance(event, TokenResult)])

    try:
        client.wait_ready()
        client.requests.take = kill_at_lookup  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(EngineFault):
                client.look_up(query)
            client.wait_ready()
        assert len(killed) == 2
        client.requests.take = take  # type: ignore[method-assign]
        with pytest.raises(RequestRefused):
            client.look_up(query)
        # A lookup that was only waiting is sent to the next worker.
        short = TokenQuery((PromptPart("Once upon", False),))
        pid = client.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        expected = client.look_up(short)
        other = TokenQuery(tokens=expected.tokens, pieces=True)
        assert b"".join(client.look_up(other).pieces) == b"Once upon"
        # A client that leaves is not answered; the clients after it are.
        client.wait_ready()
        pid = client.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: all_stopped(pid), "every thread of it has stopped")
        try:
            with pytest.raises(ClientGone):
                client.look_up(other, alive=lambda: False)
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: client.look_up(other).tokens == expected.tokens, "it answers")
        assert not client.pending_count
    finally:
        client.close()


def test_many_at_once(base_url: str) -> None:
    texts = [f"number {i} of the questions" for i in range(8)]
    answers = together([
        lambda text=text: post(base_url, "/detokenize", **post(base_url, "/tokenize", content=text))
        for text in texts
    ])  # fmt: skip
    assert [answer["content"] for answer in answers] == texts
