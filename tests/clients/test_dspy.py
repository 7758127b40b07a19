"""DSPy: its language model, a program, and a program whose answer is streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import dspy
import pytest
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMInvalidRequestError,
    LMUnsupportedModelError,
)
from support import STARTER

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
# The types of LiteLLM, on which DSPy falls back, make pydantic warn.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Item:UserWarning:pydantic", "ignore:Accessing the:DeprecationWarning"
)


class Describe(dspy.Signature):
    """Describe a city."""

    city: str = dspy.InputField()
    size: Literal["small", "large"] = dspy.OutputField()
    warm: bool = dspy.OutputField()


def connect(base_url: str, model: str = STARTER, **options: Any) -> dspy.LM:
    return dspy.LM(
        f"openai/{model}", api_base=f"{base_url}/v1", api_key="any", cache=False, num_retries=0,
        **{"temperature": 0, "max_tokens": 100, **options},
    )  # fmt: skip


FORM: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "describe",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"size": {"enum": ["small", "large"]}, "warm": {"type": "boolean"}},
            "required": ["size", "warm"],
            "additionalProperties": False,
        },
    },
}


def test_a_program_whole_and_streamed(base_url: str) -> None:
    """DSPy sends no schema to a model that it does not know, so the model is given one."""
    program = dspy.Predict(Describe)

    async def read() -> dspy.Prediction:
        parts = [part async for part in dspy.streamify(program)(city="Oslo")]
        assert len(parts) > 2
        return parts[-1]

    with dspy.context(lm=connect(base_url, response_format=FORM), adapter=dspy.JSONAdapter()):
        whole = program(city="Oslo")
        streamed = asyncio.run(read())
    assert whole.size in ("small", "large")
    assert isinstance(whole.warm, bool)
    assert (streamed.size, streamed.warm) == (whole.size, whole.warm)


@pytest.mark.filterwarnings("ignore:Passing OpenAI-style:DeprecationWarning")
def test_tools(base_url: str) -> None:
    """A required call, and the answer to its result."""
    lm = connect(base_url)
    question = {"role": "user", "content": "What is the weather in Oslo?"}
    (answer,) = lm(messages=[question], tools=[WEATHER], tool_choice="required")
    (call,) = answer["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]).keys() == {"city"}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "8 degrees and rain"}
    (after,) = lm(messages=[question, message, result], tools=[WEATHER])
    assert after


def test_errors(base_url: str) -> None:
    with pytest.raises(LMUnsupportedModelError, match="nothing"):
        connect(base_url, "nothing")("Hello!")
    with pytest.raises(LMInvalidRequestError, match="temperature"):
        connect(base_url, temperature=5)("Hello!")
    with pytest.raises(ContextWindowExceededError):
        connect(base_url)("word " * 5000)
