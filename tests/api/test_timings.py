"""``timings`` and ``prompt_progress``: the counts are exact; only the signs of times are known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support import STARTER, Json, Stream, chat_body, request

from offgrid import LLM
from offgrid.api.timings import Clock
from offgrid.config import Settings
from offgrid.engine.client.pending import proves_harmless
from offgrid.engine.protocol.events import Delta, PromptProgress, Times
from offgrid.server import Server

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
COUNTS = ("cache_n", "prompt_n", "predicted_n")


def text_body(**fields: Any) -> Json:
    return {"model": STARTER, "prompt": "Once upon a time", "max_tokens": 5, "ignore_eos": True,
            "temperature": 0, **fields}  # fmt: skip


def chat_of(text: str = "Hello!", **fields: Any) -> Json:
    return chat_body(text, max_tokens=5, ignore_eos=True, temperature=0, **fields)


def chunks(url: str, path: str, body: Json) -> list[Json]:
    with Stream(url, path, {**body, "stream": True}) as stream:
        return [json.loads(event) for event in stream.events() if event != "[DONE]"]


def counts(timings: Json) -> tuple[int, ...]:
    """The counts; every number is checked for its sign."""
    assert all(value >= 0 for value in timings.values())
    return tuple(timings[name] for name in COUNTS)


def expected(usage: Json) -> tuple[int, ...]:
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return cached, usage["prompt_tokens"] - cached, usage["completion_tokens"]


def test_times_of_all_choices_are_added_up() -> None:
    clock = Clock()
    clock.add(0, Delta(1, 0, "a", 1, times=Times(100.0, 10.0), drafted=3, draft_accepted=1))
    clock.add(0, Delta(1, 0, "b", 2))
    clock.add(0, Delta(1, 0, "", 3, times=Times(100.0, 40.0), drafted=5, draft_accepted=2))
    # The other choice waited for the prompt.
    clock.add(1, Delta(1, 1, "", 4, times=Times(500.0, 50.0), drafted=2, draft_accepted=1))
    assert clock.timings(50, 10, [3, 4]) == {
        "cache_n": 10, "prompt_n": 40, "prompt_ms": 100.0, "prompt_per_token_ms": 2.5,
        "prompt_per_second": 400.0, "predicted_n": 7, "predicted_ms": 90.0,
        "predicted_per_token_ms": 18.0, "predicted_per_second": pytest.approx(5000 / 90),
        "draft_n": 7, "draft_n_accepted": 3,
    }  # fmt: skip


def test_progress_does_not_prove_that_a_prompt_is_harmless() -> None:
    """Its worker may still die of it."""
    assert proves_harmless(Delta(1, 0, "", 0))
    assert not proves_harmless(Delta(1, 0, "", 0, progress=PromptProgress(5, 1.0)))


def test_no_division_by_nothing() -> None:
    assert set(Clock().timings(5, 5, []).values()) == {0, 5}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_of()), (CHAT, chat_of(n=2)), (TEXT, text_body()),
        (TEXT, text_body(prompt=["a b", "c d e"], n=2)), (TEXT, text_body(max_tokens=0)),
        (TEXT, text_body(best_of=2)),
    ],
    ids=str,
)  # fmt: skip
def test_whole_answers_and_last_chunks_have_them(base_url: str, path: str, body: Json) -> None:
    answer = request(base_url, "POST", path, body).json
    assert counts(answer["timings"]) == expected(answer["usage"])
    if "best_of" in body:
        return
    *others, last = chunks(base_url, path, {**body, "stream_options": {"include_usage": True}})
    assert counts(last["timings"]) == expected(last["usage"])
    assert not any("timings" in chunk for chunk in others)
    *others, last = chunks(base_url, path, body)
    assert last["timings"]["predicted_n"] == answer["usage"]["completion_tokens"]
    assert not any("timings" in chunk for chunk in others)


@pytest.mark.parametrize(("path", "body"), [(CHAT, chat_of()), (TEXT, text_body())], ids=str)
def test_each_chunk_has_them_on_request(base_url: str, path: str, body: Json) -> None:
    got = chunks(base_url, path, {**body, "timings_per_token": True})
    tokens = [chunk["timings"]["predicted_n"] for chunk in got if "timings" in chunk]
    assert tokens == sorted(tokens)
    assert tokens[-1] == 5
    assert len(set(tokens)) > 2
    with_text = [c for c in got if json.dumps(c["choices"]).count('"content": ""') == 0]
    assert all("timings" in chunk for chunk in with_text[1:])


def test_a_choice_that_ends_before_its_generation_has_times(base_url: str) -> None:
    """With tools, the server itself looks for stop strings."""
    tool = {"type": "function", "function": {"name": "look"}}
    body = chat_of(tools=[tool], stop=["e"])
    answer = request(base_url, "POST", CHAT, {**body, "max_tokens": 40, "ignore_eos": False}).json
    assert answer["timings"]["predicted_n"] == answer["usage"]["completion_tokens"] > 0
    assert answer["timings"]["prompt_ms"] > 0


def test_responses_have_them_on_request(base_url: str) -> None:
    body = {"model": STARTER, "input": "Hello!", "max_output_tokens": 20, "temperature": 0}
    assert "timings" not in request(base_url, "POST", RESPONSES, body).json
    whole = request(base_url, "POST", RESPONSES, {**body, "timings_per_token": True}).json
    assert whole["timings"]["predicted_n"] == whole["usage"]["output_tokens"]
    stored = request(base_url, "GET", f"{RESPONSES}/{whole['id']}").json
    assert stored["timings"] == whole["timings"]
    events = chunks(base_url, RESPONSES, {**body, "timings_per_token": True})
    deltas = [event for event in events if event["type"].endswith(".delta")]
    assert deltas
    assert all(delta["timings"]["predicted_n"] > 0 for delta in deltas)
    last = events[-1]["response"]
    assert last["timings"]["predicted_n"] == last["usage"]["output_tokens"]


# --- prompt_progress ------------------------------------------------------------------------------

LONG = "word " * 300


@pytest.fixture(scope="module")
def small_steps(settings: Settings) -> Iterator[str]:
    """A server whose steps prefill few tokens."""
    server = Server(dataclasses.replace(settings, batch_size=32, parallel=2))
    server.start()
    yield server.url
    server.stop()


def check_progress(steps: list[Json], total: int) -> None:
    """The totals add up: from the cached tokens to all, in steps of one batch."""
    first, last = steps[0], steps[-1]
    assert first["processed"] == first["cache"]
    assert last["processed"] == total
    done = [step["processed"] for step in steps]
    assert done == sorted(done)
    assert len(done) >= (total - first["cache"]) // 32 + 1
    times = [step["time_ms"] for step in steps]
    assert times == sorted(times)
    assert times[0] >= 0
    assert {(step["total"], step["cache"]) for step in steps} == {(total, first["cache"])}


@pytest.mark.slow
def test_progress_in_chat(small_steps: str) -> None:
    asked = {"return_progress": True, "stream_options": {"include_usage": True}, "n": 2}
    body = chat_of(LONG, **asked)
    for again in (False, True):
        got = chunks(small_steps, CHAT, body)
        usage = got[-1]["usage"]
        steps = [chunk["prompt_progress"] for chunk in got if "prompt_progress" in chunk]
        check_progress(steps, usage["prompt_tokens"])
        assert steps[0]["cache"] == usage["prompt_tokens_details"]["cached_tokens"]
        assert (steps[0]["cache"] > 0) is again
        # After the chunks with the roles, and before any text.
        places = [n for n, chunk in enumerate(got) if "prompt_progress" in chunk]
        assert places == list(range(2, 2 + len(steps)))
        assert all(got[place]["choices"][0]["delta"] == {} for place in places)


def test_progress_in_completions(small_steps: str) -> None:
    prompts = ["one " * 100, "two " * 150]
    got = chunks(small_steps, TEXT, text_body(prompt=prompts, return_progress=True))
    assert got[-1]["timings"]["predicted_n"] == 10
    for index in (0, 1):
        steps = [
            chunk["prompt_progress"]
            for chunk in got
            if "prompt_progress" in chunk and chunk["choices"][0]["index"] == index
        ]
        check_progress(steps, steps[0]["total"])


def test_progress_in_responses(small_steps: str) -> None:
    body = {"model": STARTER, "input": "Say it: " + LONG, "max_output_tokens": 2}
    events = chunks(small_steps, RESPONSES, {**body, "return_progress": True})
    steps = [event for event in events if "prompt_progress" in event]
    assert {step["type"] for step in steps} == {"response.in_progress"}
    total = events[-1]["response"]["usage"]["input_tokens"]
    check_progress([step["prompt_progress"] for step in steps], total)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_progress_needs_a_stream(base_url: str) -> None:
    response = request(base_url, "POST", CHAT, chat_of(return_progress=True))
    assert response.status == 200
    assert response.headers["x-offgrid-ignored"] == "return_progress"
    assert "prompt_progress" not in response.json


@pytest.mark.slow
def test_answers_in_a_program_have_timings() -> None:
    with LLM(STARTER, threads=1, parallel=1) as llm:
        answer = llm.chat("Hello!", max_tokens=3, ignore_eos=True)
        assert answer.timings.predicted_n == 3
        stream = llm.stream("Hello!", max_tokens=3, ignore_eos=True, return_progress=True)
        assert "".join(stream) == stream.answer.text
        assert stream.answer.timings.predicted_n == 3
        assert llm.complete("Hello", max_tokens=4, ignore_eos=True).timings.predicted_n == 4
        with llm.stream_complete("Hello", max_tokens=4, ignore_eos=True) as texts:
            assert "".join(texts) == texts.answer.text
        assert texts.answer.timings.predicted_n == 4
