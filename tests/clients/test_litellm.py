"""LiteLLM: its functions with the provider ``openai``."""

from __future__ import annotations

import json
from typing import Any

import litellm
import pytest
from support import STARTER

# LiteLLM's own types make pydantic warn.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Item:UserWarning:pydantic", "ignore:Accessing the:DeprecationWarning"
)
HELLO = [{"role": "user", "content": "Tell me a short story."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip


@pytest.fixture
def options(base_url: str) -> dict[str, Any]:
    return {
        "model": f"openai/{STARTER}", "api_base": f"{base_url}/v1", "api_key": "any",
        "temperature": 0, "max_tokens": 30, "num_retries": 0, "max_retries": 0,
    }  # fmt: skip


def test_messages_whole_and_streamed(options: dict[str, Any]) -> None:
    whole = litellm.completion(**options, messages=HELLO)
    stream = litellm.completion(
        **options, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    built = litellm.stream_chunk_builder(chunks, messages=HELLO)
    assert built.choices[0].message.content == whole.choices[0].message.content != ""
    assert built.choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert built.usage.completion_tokens == whole.usage.completion_tokens == 30


def test_tools(options: dict[str, Any]) -> None:
    """A forced call, whole and streamed, and the answer to its result."""
    options["max_tokens"] = 200
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    forced = {
        **options, "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }  # fmt: skip
    answer = litellm.completion(**forced, messages=messages).choices[0]
    (call,) = answer.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments).keys() == {"city"}
    chunks = list(litellm.completion(**forced, messages=messages, stream=True))
    built = litellm.stream_chunk_builder(chunks, messages=messages).choices[0]
    assert built.finish_reason == answer.finish_reason
    assert built.message.tool_calls[0].function.arguments == call.function.arguments
    result = {"role": "tool", "tool_call_id": call.id, "content": "8 degrees and rain"}
    messages += [answer.message, result]
    after = litellm.completion(**options, messages=messages, tools=[WEATHER]).choices[0].message
    assert after.content or after.tool_calls


def test_other_endpoints(options: dict[str, Any]) -> None:
    text = litellm.text_completion(
        **{**options, "model": f"text-completion-openai/{STARTER}"}, prompt="Once upon"
    )
    assert text.choices[0].text
    where = {name: options[name] for name in ("model", "api_base", "api_key")}
    response = litellm.responses(**where, input="Hello!", temperature=0)
    assert response.output_text
    vectors = litellm.embedding(**where, input=["a fox", "a river"])
    assert len(vectors.data) == 2


def test_errors(options: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError, match="nothing"):
        litellm.completion(**{**options, "model": "openai/nothing"}, messages=HELLO)
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**{**options, "temperature": 5}, messages=HELLO)
    long = [{"role": "user", "content": "word " * 5000}]
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**options, messages=long)
