"""The openai client for Python: sync, async, its helpers, and every class of its errors."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field
from support import STARTER, Stream, endless, eventually, request

from offgrid.server import Server

HELLO: Any = [{"role": "user", "content": "Hello!"}]
STORY: Any = [{"role": "user", "content": "Tell me a short story."}]
MakeServer = Callable[..., Server]


@pytest.fixture
def client(base_url: str) -> Iterator[OpenAI]:
    with connect(base_url) as client:
        yield client


def connect(base_url: str, **options: Any) -> OpenAI:
    return OpenAI(base_url=f"{base_url}/v1", api_key="any", **{"max_retries": 0, **options})


def test_whole_and_streamed_answers_are_the_same(client: OpenAI) -> None:
    whole = client.chat.completions.create(model=STARTER, messages=STORY, temperature=0)
    stream = client.chat.completions.create(
        model=STARTER, messages=STORY, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == (
        whole.choices[0].message.content
    )
    assert whole.usage is not None
    assert last.usage is not None
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert whole._request_id is not None
    assert whole._request_id.startswith("req_")


def test_every_model_of_the_answer_validates(client: OpenAI) -> None:
    """The client accepts any response; this test validates its types strictly."""
    chat = client.chat.completions.create(
        model=STARTER, messages=HELLO, n=2, logprobs=True, top_logprobs=2, max_tokens=8, seed=1
    )
    text = client.completions.create(model=STARTER, prompt=["a", "b"], logprobs=3, max_tokens=4)
    chunks = list(
        client.chat.completions.create(
            model=STARTER, messages=HELLO, logprobs=True, max_tokens=8, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    page = client.models.list()
    for value in (chat, text, *chunks, *page.data, client.models.retrieve(STARTER)):
        type(value).model_validate(value.to_dict(), strict=True)


def test_the_stream_helper(client: OpenAI) -> None:
    asked: Any = {"model": STARTER, "messages": HELLO, "n": 2, "seed": 4, "logprobs": True}
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= kinds
    whole = client.chat.completions.create(**asked)
    for one, other in zip(final.choices, whole.choices, strict=True):
        assert one.message.role == "assistant"
        assert one.message.content == other.message.content
        assert one.finish_reason == other.finish_reason == "stop"
        assert one.logprobs is not None
        assert other.logprobs is not None
        assert one.logprobs.content == other.logprobs.content
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.completion_tokens == whole.usage.completion_tokens


def test_async(base_url: str) -> None:
    async def ask() -> None:
        async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="any", max_retries=0) as client:

            async def one(seed: int) -> str:
                stream = await client.chat.completions.create(
                    model=STARTER, messages=STORY, seed=seed, max_tokens=20, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            texts = await asyncio.gather(*map(one, [1, 2, 3, 1]))
            assert texts[0] == texts[3]
            assert len(set(texts)) > 1
            assert [model.id async for model in client.models.list()] == [STARTER]
            with pytest.raises(openai.BadRequestError):
                await client.completions.create(model=STARTER, prompt="x", n=0)

    asyncio.run(ask())


def test_raw_and_streaming_responses(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=STARTER, messages=HELLO, max_tokens=2
    )
    assert int(raw.headers["x-offgrid-seed"]) >= 0
    assert raw.parse().choices[0].message.content is not None
    with client.chat.completions.with_streaming_response.create(
        model=STARTER, messages=HELLO, max_tokens=2, stream=True
    ) as opened:
        assert list(opened.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_text_completions(client: OpenAI) -> None:
    whole = client.completions.create(
        model=STARTER, prompt=["Once upon", "OffGrid is"], n=2, max_tokens=6, seed=3
    )
    texts = [""] * 4
    for chunk in client.completions.create(
        model=STARTER, prompt=["Once upon", "OffGrid is"], n=2, max_tokens=6, seed=3, stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert [choice.text for choice in whole.choices] == texts


def test_embeddings(client: OpenAI) -> None:
    """The client requests base64 and decodes it; the numbers are the same."""
    decoded = client.embeddings.create(model=STARTER, input=["a fox", "a river"])
    numbers = client.embeddings.create(
        model=STARTER, input=["a fox", "a river"], encoding_format="float"
    )
    assert [item.index for item in decoded.data] == [0, 1]
    for one, other in zip(decoded.data, numbers.data, strict=True):
        assert len(one.embedding) == len(other.embedding) > 1
        # llama.cpp rounds by the shape of a batch, and the two texts may come into one or two.
        assert one.embedding == pytest.approx(other.embedding, abs=1e-4)
    assert decoded.usage.prompt_tokens == numbers.usage.prompt_tokens > 0


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}


def test_tools(client: OpenAI) -> None:
    """A call, streamed and whole, and the answer to its result."""
    messages: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    asked: dict[str, Any] = {
        "model": STARTER, "tools": [WEATHER], "temperature": 0, "max_tokens": 200,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }  # fmt: skip
    whole = client.chat.completions.create(messages=messages, **asked).choices[0]
    with client.chat.completions.stream(messages=messages, **asked) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        streamed = stream.get_final_completion().choices[0]
    assert whole.message.tool_calls
    assert streamed.message.tool_calls
    assert whole.finish_reason == streamed.finish_reason == "tool_calls"
    call, other = whole.message.tool_calls[0], streamed.message.tool_calls[0]
    assert call.function.name == other.function.name == "get_weather"
    assert call.function.arguments == other.function.arguments
    assert isinstance(done[0].parsed_arguments, dict)
    messages += [
        whole.message,
        {"role": "tool", "tool_call_id": call.id, "content": "8 degrees, rain"},
    ]
    answer = client.chat.completions.create(
        model=STARTER, messages=messages, tools=[WEATHER], temperature=0, max_tokens=50
    )
    assert answer.choices[0].message.content is not None


class Point(BaseModel):
    x: Annotated[int, Field(ge=0, le=9)]
    y: Annotated[int, Field(ge=0, le=9)]


class Shape(BaseModel):
    kind: Literal["line", "triangle"]
    points: Annotated[list[Point], Field(min_length=1, max_length=3)]
    label: Literal["a", "b"] | None


def test_parse(client: OpenAI) -> None:
    """Nested models, ``$defs`` and unions, whole and streamed."""
    asked: Any = {"model": STARTER, "messages": HELLO, "response_format": Shape, "seed": 5}
    whole = client.chat.completions.parse(**asked).choices[0].message
    assert isinstance(whole.parsed, Shape)
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.parsed == whole.parsed
    assert "content.delta" in kinds


def test_parsed_tools(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=STARTER, messages=HELLO, tools=[openai.pydantic_function_tool(Point)],
        tool_choice="required", parallel_tool_calls=False, temperature=0,
    )  # fmt: skip
    (call,) = answer.choices[0].message.tool_calls or ()
    assert isinstance(call.function.parsed_arguments, Point)


def test_an_invalid_schema(client: OpenAI) -> None:
    schema: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}}
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=STARTER, messages=HELLO, response_format=schema)
    assert (bad.value.param or "").startswith("response_format")


# Errors


def test_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=STARTER, messages=HELLO, temperature=3)
    assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
    assert bad.value.type == "invalid_request_error"
    assert bad.value.request_id
    assert str(bad.value).startswith("Error code: 400")
    with pytest.raises(openai.BadRequestError) as unknown:
        client.chat.completions.create(
            model=STARTER, messages=HELLO, extra_body={"no_such_field": 1}
        )
    assert (unknown.value.param, unknown.value.code) == ("no_such_field", "unknown_parameter")
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=STARTER, prompt="word " * 6000, stream=True)
    assert long.value.code == "context_length_exceeded"


def test_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="some/model:tag", messages=HELLO)
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("some/model:tag")
    with pytest.raises(openai.NotFoundError) as nowhere:
        client.images.generate(prompt="x")
    assert nowhere.value.code == "unknown_url"


def test_forbidden(base_url: str) -> None:
    headers = {"Origin": "https://page.example"}
    with (
        connect(base_url, default_headers=headers) as client,
        pytest.raises(openai.PermissionDeniedError) as refused,
    ):
        client.models.list()
    assert refused.value.code == "origin_not_allowed"


def test_method_and_size(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as method:
        client.models.delete(STARTER)
    assert (method.value.status_code, method.value.code) == (405, "method_not_allowed")
    huge: Any = [{"role": "user", "content": "x" * (9 << 20)}]
    with pytest.raises(openai.APIStatusError) as size:
        client.chat.completions.create(model=STARTER, messages=huge)
    assert (size.value.status_code, size.value.code) == (413, "request_too_large")


def test_busy(make_server: MakeServer) -> None:
    server = make_server(parallel=1, queue_size=0)
    with (
        connect(server.url) as client,
        connect(server.url, max_retries=4) as patient,
        Stream(server.url, "/v1/completions", endless()) as running,
    ):
        assert running.read_some()
        with pytest.raises(openai.InternalServerError) as busy:
            client.chat.completions.create(model=STARTER, messages=HELLO)
        assert (busy.value.status_code, busy.value.code) == (503, "server_busy")
        assert int(busy.value.response.headers["retry-after"]) >= 1
        running.leave()
        # The client retries by itself; by then there is room.
        assert patient.chat.completions.create(model=STARTER, messages=HELLO, max_tokens=1)


def test_a_model_that_does_not_load(make_server: MakeServer, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no model")
    server = make_server()
    with (
        connect(server.url, max_retries=3) as client,
        pytest.raises(openai.InternalServerError) as broken,
    ):
        client.chat.completions.create(model="broken", messages=HELLO)
    assert (broken.value.status_code, broken.value.code) == (500, "model_load_failed")
    # A retry would not help, and a response header told the client so.
    assert broken.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_an_error_in_the_middle_of_a_stream(make_server: MakeServer) -> None:
    server = make_server()
    with connect(server.url) as client:
        stream = client.completions.create(
            model=STARTER, prompt="Once", stream=True, extra_body={"ignore_eos": True}
        )
        next(stream)
        pid = server.pool.engine(STARTER).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(openai.APIError) as fault:
            list(stream)
        assert (fault.value.code, fault.value.type) == ("engine_fault", "server_error")


def test_a_server_that_does_not_run() -> None:
    with connect("http://127.0.0.1:1") as client, pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_timeout_frees_the_server(make_server: MakeServer) -> None:
    """A client that stops waiting leaves no work running."""
    server = make_server(parallel=1, queue_size=8)
    with (
        connect(server.url) as client,
        Stream(server.url, "/v1/completions", endless(n=8)) as running,
    ):
        assert running.read_some()
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model=STARTER, messages=HELLO, timeout=0.2)
        running.leave()
        eventually(lambda: server.pool.engine(STARTER).in_flight == 0, "nothing runs or waits")


def test_a_client_that_closes_its_stream(make_server: MakeServer) -> None:
    server = make_server(parallel=1, queue_size=0)
    with connect(server.url) as client:
        with client.completions.create(
            model=STARTER, prompt="Once", stream=True, extra_body={"ignore_eos": True}
        ) as stream:
            next(stream)
        eventually(lambda: idle(server), "nothing runs")
        assert client.chat.completions.create(model=STARTER, messages=HELLO, max_tokens=1)


def idle(server: Server) -> bool:
    body = {"model": STARTER, "prompt": "Hello", "max_tokens": 1}
    return request(server.url, "POST", "/v1/completions", body).status == 200
