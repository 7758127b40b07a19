"""The OpenAI Agents SDK: runs, tools, streams, sessions on the server, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import openai
import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIProvider,
    RunConfig,
    Runner,
    WebSearchTool,
    function_tool,
)
from openai import AsyncOpenAI
from pydantic import BaseModel, ConfigDict
from support import STARTER

T = TypeVar("T")

ASK = "What is the weather in Oslo?"
SETTINGS = ModelSettings(temperature=0, max_tokens=120)


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return '{"city": "Oslo", "degrees": 23}'


class City(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: Literal["small", "large"]


def agent(**fields: Any) -> Agent[Any]:
    given = {"name": "helper", "instructions": "Be kind.", "model": STARTER, **fields}
    return Agent(model_settings=SETTINGS, **given)


def with_client(url: str, work: Callable[[AsyncOpenAI, RunConfig], Awaitable[T]]) -> T:
    """Do work with a client of the server; nothing is sent to another one."""

    async def run() -> T:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            provider = OpenAIProvider(openai_client=client, use_responses=True)
            return await work(client, RunConfig(model_provider=provider, tracing_disabled=True))

    return asyncio.run(run())


def test_a_tool_and_a_hosted_tool(base_url: str) -> None:
    async def work(client: AsyncOpenAI, config: RunConfig) -> None:
        helper = agent(tools=[get_weather, WebSearchTool()])
        result = await Runner.run(helper, ASK, run_config=config)
        assert "23 degrees in Oslo" in result.final_output
        kinds = [item.type for item in result.new_items]
        assert kinds == ["tool_call_item", "tool_call_output_item", "message_output_item"]

    with_client(base_url, work)


def test_a_stream(base_url: str) -> None:
    async def work(client: AsyncOpenAI, config: RunConfig) -> None:
        result = Runner.run_streamed(agent(tools=[get_weather]), ASK, run_config=config)
        kinds = {event.type async for event in result.stream_events()}
        assert {"raw_response_event", "run_item_stream_event"} <= kinds
        assert "23 degrees in Oslo" in result.final_output

    with_client(base_url, work)


def test_a_typed_output(base_url: str) -> None:
    async def work(client: AsyncOpenAI, config: RunConfig) -> None:
        result = await Runner.run(agent(output_type=City), "Describe Oslo.", run_config=config)
        assert isinstance(result.final_output, City)

    with_client(base_url, work)


def test_a_session_on_the_server(base_url: str) -> None:
    async def work(client: AsyncOpenAI, config: RunConfig) -> None:
        session = OpenAIConversationsSession(openai_client=client)
        helper = agent(tools=[get_weather])
        await Runner.run(helper, ASK, session=session, run_config=config)
        await Runner.run(helper, "Hello!", session=session, run_config=config)
        assert len(await session.get_items()) == 6
        assert await session.pop_item() is not None
        assert len(await session.get_items()) == 5
        await session.clear_session()

    with_client(base_url, work)


def test_an_error(base_url: str) -> None:
    async def work(client: AsyncOpenAI, config: RunConfig) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            await Runner.run(agent(), "hello " * 5000, run_config=config)
        assert refused.value.code == "context_length_exceeded"

    with_client(base_url, work)
