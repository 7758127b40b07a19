"""Lists of more prompts than the server can queue at once."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lasting import LASTING, SETTINGS, Running, lasting, write_lasting
from support import STARTER, Stream, chat_body, eventually, request, together

from offgrid.config import load_settings
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pending import Generation, State
from offgrid.server import Server

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
PLACES = {"parallel": 2, "queue_size": 2}
NAMES = "otter fox lamp river bird tree stone boat cloud house road".split()
PROMPTS = [f"Once upon a time there was a {name}" for name in NAMES]
MANY = PROMPTS * 180
"""So many that the list lasts as long as a test does several things."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Four places in total, for eleven prompts; a list leaves two of them to other requests.

    Every test frees the places that it has taken.
    """
    folder = tmp_path_factory.mktemp("small")
    files = {
        "models_dir": folder, "default_model": STARTER,
        "responses_file": folder / "responses.sqlite3",
    }  # fmt: skip
    server = Server(load_settings({"port": 0, "threads": 1, **files, **PLACES}, environ={}))
    server.start()
    try:
        yield server
        eventually(lambda: engine_of(server).in_flight == 0, "all places are free")
    finally:
        server.stop()


def engine_of(server: Server) -> EngineClient:
    return server.pool.engine(server.catalogue.default or STARTER)


def body(prompts: list[Any], **fields: Any) -> dict[str, Any]:
    return {"model": STARTER, "prompt": prompts, "temperature": 0, "cache_prompt": False, **fields}


def whole(server: Server, prompts: list[Any], **fields: Any) -> dict[str, Any]:
    response = request(server.url, "POST", TEXT, body(prompts, **fields))
    assert response.status == 200, response.body
    answer: dict[str, Any] = response.json
    assert [choice["index"] for choice in answer["choices"]] == [*range(len(answer["choices"]))]
    return answer


def streamed(server: Server, prompts: list[Any], **fields: Any) -> tuple[dict[int, str], Any]:
    """The text of each choice, and the usage."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with Stream(server.url, TEXT, body(prompts, **fields, **options)) as stream:
        assert stream.response.status == 200
        *chunks, usage, done = stream.events()
    assert done == "[DONE]"
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for chunk in map(json.loads, chunks):
        (choice,) = chunk["choices"]
        assert choice["index"] not in reasons
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"] is not None:
            reasons[choice["index"]] = choice["finish_reason"]
    assert reasons.keys() == texts.keys()
    return texts, json.loads(usage)["usage"]


def test_each_prompt_gets_the_same_answer_as_alone(small: Server) -> None:
    alone = [whole(small, [prompt], max_tokens=5) for prompt in PROMPTS]
    texts = [answer["choices"][0]["text"] for answer in alone]
    assert len(set(texts)) > 3
    answer = whole(small, PROMPTS, max_tokens=5)
    assert [choice["text"] for choice in answer["choices"]] == texts
    reasons = [one["choices"][0]["finish_reason"] for one in alone]
    assert [choice["finish_reason"] for choice in answer["choices"]] == reasons
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert answer["usage"][name] == sum(one["usage"][name] for one in alone)
    told, usage = streamed(small, PROMPTS, max_tokens=5)
    assert [told[index] for index in range(len(PROMPTS))] == texts
    assert usage == answer["usage"]
    eventually(lambda: engine_of(small).in_flight == 0, "all places are given back")


def test_several_choices_and_an_echo_of_token_ids(small: Server) -> None:
    prompts = [
        request(small.url, "POST", "/tokenize", {"prompt": prompt}).json["tokens"]
        for prompt in PROMPTS
    ]
    fields = {"n": 3, "seed": 1, "temperature": 1.0, "max_tokens": 2, "echo": True}
    answer = whole(small, prompts, **fields)
    texts = [choice["text"] for choice in answer["choices"]]
    assert len(texts) == 3 * len(prompts)
    for index, text in enumerate(texts):
        assert text.startswith(PROMPTS[index // 3])
        assert len(text) > len(PROMPTS[index // 3])
    told, usage = streamed(small, prompts, **fields)
    assert [told[index] for index in range(len(texts))] == texts
    assert usage == answer["usage"]


def test_scores_and_the_best(small: Server) -> None:
    scored = whole(small, PROMPTS, max_tokens=1, echo=True, logprobs=1)
    for prompt, choice in zip(PROMPTS, scored["choices"], strict=True):
        assert choice["text"].startswith(prompt)
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][0] is None
        assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) > 5
    best = whole(small, PROMPTS, max_tokens=2, best_of=2, n=1)
    assert len(best["choices"]) == len(PROMPTS)
    assert best["usage"]["completion_tokens"] == 4 * len(PROMPTS)


def test_a_list_beside_other_requests(make_server: Callable[..., Server], tmp_path: Path) -> None:
    """A list that finds few free places uses those, and leaves some to other requests."""
    write_lasting(tmp_path)
    server = make_server(**PLACES, **SETTINGS)
    engine = engine_of(server)
    with Running(server.url, TEXT, lasting(n=3)) as other:
        assert other.read_some()
        full = request(server.url, "POST", TEXT, body(PROMPTS, n=2, model=LASTING))
        assert (full.status, full.json["error"]["code"]) == (503, "server_busy")

        def leave() -> None:
            eventually(lambda: engine.in_flight == 4, "the list has the place that is left")
            other.leave()

        answer, _ = together([lambda: whole(server, PROMPTS, max_tokens=2, model=LASTING), leave])
        assert len(answer["choices"]) == len(PROMPTS)
    eventually(lambda: engine.in_flight == 0, "all places are given back")


@pytest.mark.slow
def test_prompts_of_a_list_may_wait_for_each_other(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the first one has begun, the others have waited for too long."""
    begun = threading.Event()
    late = property(lambda one: begun.is_set() and one.state < State.STARTED)
    monkeypatch.setattr(Generation, "overdue", late)
    server = make_server(parallel=1)
    long = body(PROMPTS[:3], max_tokens=300, ignore_eos=True, stream=True)
    with Stream(server.url, TEXT, long) as stream:
        assert stream.read_some()
        begun.set()
        *chunks, done = stream.events()
    assert done == "[DONE]"
    assert {choice["index"] for chunk in chunks for choice in json.loads(chunk)["choices"]} == {
        0, 1, 2
    }  # fmt: skip


def test_other_requests_beside_a_list(make_server: Callable[..., Server]) -> None:
    server = make_server(parallel=1, queue_size=2)
    engine = engine_of(server)
    with Running(server.url, TEXT, body(MANY, stream=True, max_tokens=8)) as stream:
        assert stream.read_some()
        assert request(server.url, "POST", CHAT, chat_body(max_tokens=2)).status == 200
        eventually(lambda: engine.in_flight == 2, "the list has its places")
        stream.leave()
    eventually(lambda: engine.in_flight == 0, "it is given up")


@pytest.mark.slow
def test_a_client_that_leaves_ends_all_its_prompts(small: Server) -> None:
    engine = engine_of(small)
    long = body(MANY, max_tokens=50, ignore_eos=True)
    with Stream(small.url, TEXT, {**long, "stream": True}) as stream:
        for event in stream.events():
            if json.loads(event)["choices"][0]["index"] >= 4:
                break  # some prompts have ended, some run, some wait, some are not submitted yet
        assert engine.in_flight
        stream.leave()
    eventually(lambda: engine.in_flight == 0, "a stream is given up")
    connection = http.client.HTTPConnection(small.url.removeprefix("http://"))
    connection.request("POST", TEXT, json.dumps(long).encode())
    eventually(lambda: engine.in_flight == 2, "it runs")
    connection.close()
    eventually(lambda: engine.in_flight == 0, "a whole answer is given up")
    assert len(whole(small, PROMPTS, max_tokens=1)["choices"]) == len(PROMPTS)


@pytest.mark.slow
def test_several_lists_leave_room_for_others(make_server: Callable[..., Server]) -> None:
    server = make_server(parallel=2, queue_size=6)
    engine = engine_of(server)
    fields = {"max_tokens": 60, "ignore_eos": True, "stream": True}
    with contextlib.ExitStack() as stack:
        streams = []
        for expected in (4, 6, 7):
            streams.append(stack.enter_context(Running(server.url, TEXT, body(MANY, **fields))))
            assert streams[-1].read_some()
            assert engine.in_flight == expected
        assert request(server.url, "POST", CHAT, chat_body(max_tokens=1)).status == 200
        for stream in streams:
            stream.leave()
    eventually(lambda: engine.in_flight == 0, "all places are given back")


def test_a_prompt_that_is_refused_fails_the_request(small: Server) -> None:
    engine = engine_of(small)
    for bad, code in (([99999999], "invalid_value"), ("a " * 6000, "context_length_exceeded")):
        prompts = [*PROMPTS[:-1], bad]
        refused = request(small.url, "POST", TEXT, body(prompts, max_tokens=2))
        assert refused.status == 400
        error = refused.json["error"]
        assert (error["param"], error["code"]) == ("prompt[10]", code)
        with Stream(small.url, TEXT, body(prompts, max_tokens=2, stream=True)) as stream:
            *_, last = stream.events()
        assert json.loads(last)["error"] == error
        # One of the first prompts is refused before anything is sent.
        early = request(small.url, "POST", TEXT, body([PROMPTS[0], bad], stream=True))
        assert (early.status, early.json["error"]["param"]) == (400, "prompt[1]")
        eventually(lambda: engine.in_flight == 0, "the others are cancelled")


@pytest.mark.usefixtures("no_pauses")
def test_a_worker_that_dies_fails_the_request(small: Server) -> None:
    engine = engine_of(small)
    with Stream(small.url, TEXT, body(PROMPTS, max_tokens=400, ignore_eos=True, stream=True)) as s:
        assert s.read_some()
        engine.kill()
        *_, last = s.events()
    assert json.loads(last)["error"]["code"] == "engine_fault"
    eventually(lambda: engine.in_flight == 0, "all places are given back")
    assert len(whole(small, PROMPTS, max_tokens=1)["choices"]) == len(PROMPTS)
