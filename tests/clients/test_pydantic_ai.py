"""pydantic-ai: both of its models for the OpenAI API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition
from support import STARTER

GREEDY = ModelSettings(temperature=0, max_tokens=200)
WEATHER = ToolDefinition(
    name="get_weather",
    description="The weather of a city.",
    parameters_json_schema={
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"],
        "additionalProperties": False,
    },
)  # fmt: skip
# pydantic-ai takes a name that begins with an "o" for one of OpenAI's models that only reason.
PROFILE = OpenAIModelProfile(openai_supports_reasoning=False)
Connect = Callable[[str], Model]


class City(BaseModel):
    """A city."""

    size: Literal["small", "large"]
    warm: bool


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
def connect(request: pytest.FixtureRequest, base_url: str) -> Connect:
    """Make a model with a name. Its connections belong to the event loop that uses it first."""

    def make(name: str = STARTER) -> Model:
        provider = OpenAIProvider(base_url=f"{base_url}/v1", api_key="any")
        model: Model = request.param(name, provider=provider, profile=PROFILE)
        return model

    return make


def test_an_agent_whole_and_streamed(connect: Connect) -> None:
    async def ask() -> None:
        agent = Agent(connect(STARTER), instructions="You are brief.", model_settings=GREEDY)
        whole = await agent.run("Hello!")
        assert whole.output
        async with agent.run_stream("Hello!") as stream:
            parts = [part async for part in stream.stream_text(delta=True, debounce_by=None)]
            usage = stream.usage
        assert "".join(parts) == whole.output
        assert usage.output_tokens == whole.usage.output_tokens > 0
        after = await agent.run("And now?", message_history=whole.all_messages())
        assert after.usage.input_tokens > whole.usage.input_tokens

    asyncio.run(ask())


def test_tools(connect: Connect) -> None:
    """A required call, whole and streamed, and the answer to its result."""

    async def ask() -> None:
        model = connect(STARTER)
        required = ModelRequestParameters(function_tools=[WEATHER], allow_text_output=False)
        messages: list[ModelMessage] = [
            ModelRequest([UserPromptPart("What is the weather in Oslo?")])
        ]
        whole = await model_request(
            model, messages, model_settings=GREEDY, model_request_parameters=required
        )
        (call,) = [part for part in whole.parts if isinstance(part, ToolCallPart)]
        assert call.tool_name == "get_weather"
        assert call.args_as_dict().keys() == {"city"}
        async with model_request_stream(
            model, messages, model_settings=GREEDY, model_request_parameters=required
        ) as stream:
            async for _ in stream:
                pass
            (streamed,) = [p for p in stream.get().parts if isinstance(p, ToolCallPart)]
        assert streamed.args_as_dict() == call.args_as_dict()
        result = ToolReturnPart("get_weather", {"degrees": 8}, call.tool_call_id)
        messages += [whole, ModelRequest([result])]
        after = await model_request(
            model,
            messages,
            model_settings=GREEDY,
            model_request_parameters=ModelRequestParameters(function_tools=[WEATHER]),
        )
        assert after.parts

    asyncio.run(ask())


@pytest.mark.parametrize("kind", [ToolOutput, NativeOutput])
def test_objects(connect: Connect, kind: type[ToolOutput | NativeOutput]) -> None:
    async def ask() -> None:
        agent = Agent(connect(STARTER), output_type=kind(City), model_settings=GREEDY)
        assert isinstance((await agent.run("Describe Oslo.")).output, City)

    asyncio.run(ask())


def test_errors(connect: Connect) -> None:
    async def ask() -> None:
        with pytest.raises(ModelHTTPError) as wrong:
            await Agent(connect("nothing")).run("Hello!")
        assert wrong.value.status_code == 404
        hot = ModelSettings(temperature=5)
        with pytest.raises(ModelHTTPError, match="temperature") as wrong:
            await Agent(connect(STARTER), model_settings=hot).run("Hello!")
        assert wrong.value.status_code == 400

    asyncio.run(ask())
