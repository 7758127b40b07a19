"""smolagents: ``OpenAIModel`` and the agent that calls tools."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from smolagents import ChatMessage, MessageRole, OpenAIModel, Tool, tool
from support import STARTER

STORY = [
    ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": "Tell me a short story."}])
]


@tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name.
    """
    return f"8 degrees and rain in {city}"


def connect(base_url: str, model: str = STARTER, **options: Any) -> OpenAIModel:
    return OpenAIModel(
        model, api_base=f"{base_url}/v1", api_key="any", client_kwargs={"max_retries": 0},
        **{"temperature": 0, "max_tokens": 30, **options},
    )  # fmt: skip


def test_messages_whole_and_streamed(base_url: str) -> None:
    model = connect(base_url)
    whole = model.generate(STORY)
    assert whole.content
    deltas = list(model.generate_stream(STORY))
    assert "".join(delta.content or "" for delta in deltas) == whole.content
    assert whole.token_usage is not None
    assert whole.token_usage.output_tokens == 30


def test_tools(base_url: str) -> None:
    """A required call, whole and streamed, and the answer to its result as the agent sends it."""
    model = connect(base_url, max_tokens=200)
    tools: list[Tool] = [get_weather]
    answer = model.generate(STORY, tools_to_call_from=tools)
    assert answer.tool_calls is not None
    (call,) = answer.tool_calls
    assert call.function.name == "get_weather"
    arguments = call.function.arguments
    assert json.loads(arguments).keys() == {"city"}
    streamed = "".join(
        part.function.arguments or ""
        for delta in model.generate_stream(STORY, tools_to_call_from=tools)
        for part in delta.tool_calls or ()
        if part.function
    )
    assert streamed == arguments
    history = [
        *STORY,
        ChatMessage(
            role=MessageRole.TOOL_CALL, content=[{"type": "text", "text": f"Calling: {arguments}"}]
        ),
        ChatMessage(
            role=MessageRole.TOOL_RESPONSE,
            content=[{"type": "text", "text": get_weather(**json.loads(arguments))}],
        ),
    ]
    assert model.generate(history).content


def test_an_object_by_a_schema(base_url: str) -> None:
    schema = {
        "type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"],
        "additionalProperties": False,
    }  # fmt: skip
    answer = connect(base_url).generate(
        STORY,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "city", "schema": schema, "strict": True},
        },
    )
    assert isinstance(json.loads(str(answer.content))["warm"], bool)


def test_errors_are_the_openai_client_s(base_url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        connect(base_url, "nothing").generate(STORY)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        connect(base_url, temperature=5).generate(STORY)
