"""The anthropic client for Python: messages, stream helpers, tools, images, thinking, counts."""

from __future__ import annotations

import asyncio
import base64
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import scripted_model
from anthropic import Anthropic, AsyncAnthropic
from keyed import new_key
from pydantic import BaseModel
from scripted_templates import reasoning_template
from support import STARTER
from tiny_vision import make_seeing, pixels, png

from offgrid.config import load_settings
from offgrid.server import Server

HELLO: Any = [{"role": "user", "content": "Hello!"}]
GREEDY: Any = {"extra_body": {"temperature": 0}}
"""Newer versions of the client do not have the argument, and the API still has the field."""
LONG = "Answer in one sentence, and be kind to everybody who asks you about anything. " * 5
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
THOUGHT = "Oslo is far away."
TEMPLATE = reasoning_template('messages[-1].role == "tool"', "<|after|>")
"""After the result of a tool, the model goes on after <|after|>."""
SCRIPT = f"""\
{THOUGHT}
</think>

I ask.
<tool_call>
{{"name": "get_weather", "arguments": {{"city": "Oslo"}}}}
</tool_call><|im_end|><|after|>
</think>

It rains there.<|im_end|>"""


@pytest.fixture
def client(base_url: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=base_url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def thinking_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model that reasons, calls a tool and reports its result, and a model that sees."""
    folder = tmp_path_factory.mktemp("models")
    control = ["<|im_start|>", "<|im_end|>", "<|after|>"]
    scripted_model.write(folder / "scripted.gguf", TEMPLATE, control, SCRIPT)
    make_seeing(folder)
    settings = load_settings(
        {"port": 0, "models_dir": folder, "drain_timeout": 0, "threads": 1, "max_models": 2,
         "responses_file": folder / "responses.sqlite3"}, environ={},
    )  # fmt: skip
    server = Server(settings)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def thinking(thinking_url: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=thinking_url, api_key="any", max_retries=0) as client:
        yield client


def test_whole_and_streamed_messages_are_the_same(client: Anthropic) -> None:
    asked: Any = {"model": STARTER, "messages": HELLO, "max_tokens": 30, **GREEDY}
    whole = client.messages.create(**asked, system=LONG)
    assert whole.content[0].type == "text"
    assert whole.stop_reason == "end_turn"
    assert whole._request_id is not None
    assert whole._request_id.startswith("req_")
    with client.messages.stream(**asked, system=LONG) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == stream.get_final_text() == whole.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    # The prompt was cached by the first request, and the first event says so.
    assert final.usage.cache_read_input_tokens
    first = whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    assert final.usage.input_tokens + final.usage.cache_read_input_tokens == first
    counted = client.messages.count_tokens(model=STARTER, messages=HELLO, system=LONG)
    assert counted.input_tokens == first


def test_every_type_validates(client: Anthropic) -> None:
    """The client accepts any response; this test validates its types strictly."""
    asked: Any = {"model": STARTER, "messages": HELLO, "max_tokens": 4}
    events = list(client.messages.create(**asked, stream=True))
    assert [events[0].type, events[-1].type] == ["message_start", "message_stop"]
    whole = client.messages.create(**asked)
    models = client.models.list()
    for value in (whole, *events, *models.data, client.models.retrieve(STARTER)):
        type(value).model_validate(value.to_dict(mode="json"))


def test_stop_sequences(client: Anthropic) -> None:
    asked: Any = {"model": STARTER, "messages": HELLO, "max_tokens": 30, **GREEDY}
    whole = client.messages.create(**asked)
    assert whole.content[0].type == "text"
    word = whole.content[0].text.split()[1]
    stopped = client.messages.create(**asked, stop_sequences=["never said", word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)


def test_thinking_and_a_tool(thinking: Anthropic) -> None:
    """A turn with reasoning, a call and its result; what came is sent back unchanged."""
    asked: Any = {
        "model": "scripted", "max_tokens": 2000, "tools": [WEATHER],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }  # fmt: skip
    messages: Any = [{"role": "user", "content": "The weather in Oslo?"}]
    with thinking.messages.stream(**asked, messages=messages) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_message()
    assert kinds >= {"thinking", "signature", "text", "input_json", "content_block_stop"}
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use"]
    thought, _, call = answer.content
    assert (thought.thinking, call.input) == (THOUGHT, {"city": "Oslo"})
    assert answer.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    messages += [
        {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]},
    ]  # fmt: skip
    raw = thinking.messages.with_raw_response.create(**asked, messages=messages)
    assert "x-offgrid-ignored" not in raw.headers
    last = raw.parse()
    assert last.content[-1].text == "It rains there."
    assert last.stop_reason == "end_turn"
    # The second request continues the first one's prompt.
    assert last.usage.cache_read_input_tokens > 100
    changed = answer.content[0].model_copy(update={"thinking": "Oslo is near."})
    messages[1] = {"role": "assistant", "content": [changed, *answer.content[1:]]}
    with pytest.raises(anthropic.BadRequestError, match="signature"):
        thinking.messages.create(**asked, messages=messages)


def test_the_tool_runner(thinking: Anthropic) -> None:
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        assert city == "Oslo"
        return "rain"

    runner = thinking.beta.messages.tool_runner(
        model="scripted", max_tokens=200, tools=[get_weather], messages=HELLO
    )
    answers = list(runner)
    assert [answer.stop_reason for answer in answers] == ["tool_use", "end_turn"]
    assert answers[-1].content[-1].text == "It rains there."


def test_a_forced_tool(client: Anthropic) -> None:
    answer = client.messages.create(
        model=STARTER, max_tokens=100, messages=HELLO, tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather"},
    )  # fmt: skip
    assert [block.type for block in answer.content] == ["tool_use"]


def test_parsed_output(client: Anthropic) -> None:
    class Answer(BaseModel):
        good: bool

    parsed = client.messages.parse(
        model=STARTER, max_tokens=100, messages=HELLO, output_format=Answer
    )
    assert isinstance(parsed.parsed_output, Answer)


def test_images(thinking: Anthropic) -> None:
    data = base64.b64encode(png(pixels(1))).decode()
    picture: Any = {
        "type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}
    }  # fmt: skip
    text = {"type": "text", "text": "Look!"}

    def tokens(*content: Any) -> int:
        messages: Any = [{"role": "user", "content": [*content]}]
        return thinking.messages.count_tokens(model="seeing", messages=messages).input_tokens

    assert tokens(picture, text) > tokens(text)
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [picture]}
    messages: Any = [
        *HELLO, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]},
    ]  # fmt: skip
    answer = thinking.messages.create(model="seeing", max_tokens=3, messages=messages)
    assert answer.usage.output_tokens == 3


def test_beta_features(client: Anthropic) -> None:
    answer = client.beta.messages.create(
        model=STARTER, max_tokens=4, messages=HELLO,
        betas=["context-management-2025-06-27"],
        context_management={"edits": [{"type": "clear_tool_uses_20250919"}]},
        metadata={"user_id": "somebody"},
        extra_body={"seed": 7, "min_p": 0.05},
    )  # fmt: skip
    assert answer.context_management is not None
    assert answer.context_management.applied_edits == []


def test_models(client: Anthropic) -> None:
    (model,) = [model for model in client.models.list(limit=1) if model.id == STARTER]
    assert model.type == "model"
    assert model.created_at.tzinfo == datetime.timezone.utc
    assert model.capabilities is not None
    assert model.capabilities.structured_outputs.supported
    assert client.models.retrieve(STARTER).display_name == STARTER
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("none")


def test_errors(client: Anthropic) -> None:
    asked: Any = {"messages": HELLO, "max_tokens": 4}
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**asked, model="none")
    assert missing.value.request_id
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(**asked, model=STARTER, extra_body={"temperature": 1.5})
    long: Any = [{"role": "user", "content": "word " * 6000}]
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 2048"):
        client.messages.create(model=STARTER, max_tokens=4, messages=long)
    stuck: Any = {"regex": "Hello!", "logit_bias": {"!": False}, "temperature": 0}
    with (
        pytest.raises(anthropic.APIStatusError) as failed,
        client.messages.stream(**{**asked, "max_tokens": 40}, model=STARTER, extra_body=stuck) as s,
    ):
        s.get_final_message()
    assert failed.value.type == "invalid_request_error"


def test_async(base_url: str) -> None:
    async def ask() -> None:
        async with AsyncAnthropic(base_url=base_url, api_key="any", max_retries=0) as client:

            async def one(seed: int) -> str:
                seeded = {"seed": seed}
                async with client.messages.stream(
                    model=STARTER, messages=HELLO, max_tokens=20, extra_body=seeded
                ) as stream:
                    return await stream.get_final_text()

            texts = await asyncio.gather(*map(one, [1, 2, 3, 1]))
            assert texts[0] == texts[3]

    asyncio.run(ask())


def test_a_key(tmp_path: Path, make_server: Any) -> None:
    keys = tmp_path / "keys.sqlite3"
    _, secret = new_key(keys, "reader")
    url = make_server(keys_file=keys).url
    asked: Any = {"model": STARTER, "messages": HELLO, "max_tokens": 1}
    for options in ({"api_key": secret}, {"auth_token": secret}):
        with Anthropic(base_url=url, max_retries=0, **options) as client:
            assert client.messages.create(**asked).usage.output_tokens == 1
    with (
        Anthropic(base_url=url, max_retries=0, api_key="wrong") as client,
        pytest.raises(anthropic.AuthenticationError),
    ):
        client.messages.create(**asked)
