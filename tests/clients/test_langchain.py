"""LangChain: ``ChatOpenAI`` and ``OpenAIEmbeddings``."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from support import STARTER


@tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"8 degrees and rain in {city}"


@pytest.fixture
def options(base_url: str) -> dict[str, Any]:
    return {"base_url": f"{base_url}/v1", "api_key": "any", "model": STARTER, "max_retries": 0}


@pytest.fixture
def chat(options: dict[str, Any]) -> ChatOpenAI:
    return ChatOpenAI(**options, temperature=0, max_tokens=30, stream_usage=True)


def test_messages_whole_and_streamed(chat: ChatOpenAI) -> None:
    messages = [
        SystemMessage("You are brief."), HumanMessage("Hi!"), AIMessage("Hello."),
        HumanMessage("Tell me a short story."),
    ]  # fmt: skip
    whole = chat.invoke(messages)
    chunks = list(chat.stream(messages))
    assert whole.content
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert whole.usage_metadata is not None
    assert total.usage_metadata is not None
    # LangChain sends max_tokens under its new name.
    assert whole.usage_metadata["output_tokens"] == total.usage_metadata["output_tokens"] == 30
    assert total.response_metadata["finish_reason"] == "length"
    assert whole.response_metadata["system_fingerprint"]


def test_batches_and_logprobs(options: dict[str, Any]) -> None:
    chat = ChatOpenAI(**options, max_tokens=5, logprobs=True, top_logprobs=2, seed=3)
    answers = chat.batch(["Hello!", "Tell me a short story.", "What is 2 + 2?"])
    for answer in answers:
        tokens = answer.response_metadata["logprobs"]["content"]
        assert all(len(token["top_logprobs"]) == 2 for token in tokens)
        assert "".join(token["token"] for token in tokens) == answer.content


def test_async_streams(chat: ChatOpenAI) -> None:
    async def read() -> str:
        return "".join([str(chunk.content) async for chunk in chat.astream("Hello!")])

    assert asyncio.run(read()) == chat.invoke("Hello!").content


def test_text_completions(options: dict[str, Any]) -> None:
    model = OpenAI(**options, temperature=0, max_tokens=8)
    assert "".join(model.stream("Once upon")) == model.invoke("Once upon")
    assert len(model.generate(["Once upon", "OffGrid is"]).generations) == 2


def test_tools(options: dict[str, Any]) -> None:
    """A required call, and the answer to its result."""
    chat = ChatOpenAI(**options, temperature=0, max_tokens=200)
    bound = chat.bind_tools([get_weather], tool_choice="get_weather", strict=True)
    question = HumanMessage("What is the weather in Oslo?")
    answer = bound.invoke([question])
    assert isinstance(answer, AIMessage)
    (call,) = answer.tool_calls
    assert call["name"] == "get_weather"
    assert call["args"].keys() == {"city"}
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    after = chat.bind_tools([get_weather]).invoke([question, answer, result])
    assert after.content or after.tool_calls
    streamed = list(bound.stream([question]))
    total = streamed[0]
    for chunk in streamed[1:]:
        total += chunk
    assert [(c["name"], c["args"]) for c in total.tool_calls] == [("get_weather", call["args"])]


class City(BaseModel):
    """A city."""

    size: Literal["small", "large"]
    warm: bool


# A warning of LangChain: it stores the object in a field that the openai client's type lacks.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(options: dict[str, Any], method: Any) -> None:
    chat = ChatOpenAI(**options, temperature=0).with_structured_output(
        City, method=method, strict=True
    )
    assert isinstance(chat.invoke("Describe Oslo."), City)
    assert isinstance(list(chat.stream("Describe Oslo."))[-1], City)


def test_responses(options: dict[str, Any]) -> None:
    """The Responses API: whole, streamed, and a conversation that the server stores."""
    chat = ChatOpenAI(**options, temperature=0, use_responses_api=True)
    whole = chat.invoke("Hello!")
    chunks = list(chat.stream("Hello!"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.text == whole.text != ""
    assert whole.usage_metadata is not None
    assert total.usage_metadata is not None
    assert total.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]
    continued = chat.invoke("And now?", previous_response_id=whole.response_metadata["id"])
    assert continued.usage_metadata is not None
    assert continued.usage_metadata["input_tokens"] > whole.usage_metadata["input_tokens"]


def test_errors_are_the_openai_client_s(options: dict[str, Any]) -> None:
    with pytest.raises(openai.NotFoundError):
        ChatOpenAI(**{**options, "model": "nothing"}).invoke("Hello!")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        ChatOpenAI(**options, temperature=5).invoke("Hello!")


def test_embeddings(options: dict[str, Any]) -> None:
    embeddings = OpenAIEmbeddings(**options, check_embedding_ctx_length=False)
    one, other = embeddings.embed_documents(["a fox", "a river"])
    assert len(one) == len(other) > 1
    assert embeddings.embed_query("a fox") == pytest.approx(one, rel=1e-5, abs=1e-6)
