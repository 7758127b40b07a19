"""LlamaIndex: ``OpenAILike``."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from support import STARTER

STORY = [
    ChatMessage(role=MessageRole.SYSTEM, content="You are brief."),
    ChatMessage(role=MessageRole.USER, content="Tell me a short story."),
]


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"8 degrees and rain in {city}"


def connect(base_url: str, **options: Any) -> OpenAILike:
    return OpenAILike(
        **{
            "api_base": f"{base_url}/v1", "api_key": "any", "model": STARTER, "temperature": 0,
            "max_tokens": 30, "max_retries": 0, "is_chat_model": True,
            "is_function_calling_model": True, **options,
        }
    )  # fmt: skip


def test_messages_whole_and_streamed(base_url: str) -> None:
    model = connect(base_url)
    whole = model.chat(STORY)
    assert whole.message.content
    *_, last = model.stream_chat(STORY)
    assert last.message.content == whole.message.content
    assert whole.raw.usage.completion_tokens == 30

    async def read() -> str:
        return "".join([part.delta or "" async for part in await model.astream_chat(STORY)])

    assert asyncio.run(read()) == whole.message.content


def test_text_completions(base_url: str) -> None:
    model = connect(base_url, is_chat_model=False, max_tokens=8)
    whole = model.complete("Once upon")
    assert whole.text
    *_, last = model.stream_complete("Once upon")
    assert last.text == whole.text


def test_tools(base_url: str) -> None:
    """A required call, whole and streamed, and the answer to its result."""
    model = connect(base_url, max_tokens=200)
    tool = FunctionTool.from_defaults(get_weather)
    question = ChatMessage(role=MessageRole.USER, content="What is the weather in Oslo?")
    answer = model.chat_with_tools([tool], chat_history=[question], tool_required=True)
    (call,) = model.get_tool_calls_from_response(answer)
    assert call.tool_name == "get_weather"
    assert call.tool_kwargs.keys() == {"city"}
    *_, last = model.stream_chat_with_tools([tool], chat_history=[question], tool_required=True)
    (streamed,) = model.get_tool_calls_from_response(last)
    assert streamed.tool_kwargs == call.tool_kwargs
    result = ChatMessage(
        role=MessageRole.TOOL,
        content=str(tool.call(**call.tool_kwargs)),
        additional_kwargs={"tool_call_id": call.tool_id},
    )
    after = model.chat_with_tools([tool], chat_history=[question, answer.message, result])
    assert after.message.content or after.message.additional_kwargs["tool_calls"]


def test_errors_are_the_openai_client_s(base_url: str) -> None:
    with pytest.raises(openai.NotFoundError):
        connect(base_url, model="nothing").chat(STORY)
    with pytest.raises(openai.BadRequestError, match="top_k"):
        connect(base_url).chat(STORY, extra_body={"top_k": -5})
