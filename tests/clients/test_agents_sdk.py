"""The OpenAI Agents SDK: agents over the Responses API and over chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI
from support import STARTER

# Traces would be sent to OpenAI.
CONFIG = RunConfig(tracing_disabled=True)
GREEDY = ModelSettings(temperature=0, max_tokens=200)
Connect = Callable[..., Model]


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel])
def connect(request: pytest.FixtureRequest, base_url: str) -> Connect:
    """Make a model with a name. Its connections belong to the event loop that uses it first."""

    def make(name: str = STARTER) -> Model:
        client = AsyncOpenAI(base_url=f"{base_url}/v1", api_key="any", max_retries=0)
        model: Model = request.param(name, client)
        return model

    return make


def test_an_agent_whole_and_streamed(connect: Connect) -> None:
    async def ask() -> None:
        agent: Agent[Any] = Agent(
            "Story teller", instructions="You are brief.", model=connect(), model_settings=GREEDY
        )
        whole = await Runner.run(agent, "Hello!", run_config=CONFIG)
        assert whole.final_output
        streamed = Runner.run_streamed(agent, "Hello!", run_config=CONFIG)
        deltas = [
            event.data.delta
            async for event in streamed.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]
        assert "".join(deltas) == streamed.final_output == whole.final_output
        # What the model said is sent again.
        history = [*whole.to_input_list(), {"role": "user", "content": "And now?"}]
        after = await Runner.run(agent, history, run_config=CONFIG)
        usage = [run.context_wrapper.usage.input_tokens for run in (whole, after)]
        assert 0 < usage[0] < usage[1]

    asyncio.run(ask())


def test_a_tool_that_is_called_and_answered(connect: Connect) -> None:
    cities: list[str] = []

    @function_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        cities.append(city)
        return "8 degrees and rain"

    async def ask() -> None:
        agent: Agent[Any] = Agent(
            "Forecaster",
            model=connect(),
            tools=[get_weather],
            # Once the tool has been called, the SDK returns to "auto".
            model_settings=ModelSettings(temperature=0, max_tokens=200, tool_choice="get_weather"),
        )
        question = "What is the weather in Oslo?"
        whole = await Runner.run(agent, question, run_config=CONFIG, max_turns=3)
        assert {"tool_call_item", "tool_call_output_item"} <= {i.type for i in whole.new_items}
        streamed = Runner.run_streamed(agent, question, run_config=CONFIG, max_turns=3)
        async for _ in streamed.stream_events():
            pass
        assert streamed.final_output == whole.final_output

    asyncio.run(ask())
    assert len(cities) >= 2
    assert cities[0] == cities[len(cities) // 2]


def test_errors_are_the_openai_client_s(connect: Connect) -> None:
    async def ask() -> None:
        lost: Agent[Any] = Agent("Lost", model=connect("nothing"))
        with pytest.raises(openai.NotFoundError):
            await Runner.run(lost, "Hello!", run_config=CONFIG)
        hot: Agent[Any] = Agent("Hot", model=connect(), model_settings=ModelSettings(temperature=5))
        with pytest.raises(openai.BadRequestError, match="temperature"):
            await Runner.run(hot, "Hello!", run_config=CONFIG)

    asyncio.run(ask())
