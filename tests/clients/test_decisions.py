"""OpenAI's client for Python: ``decisions`` and ``moderations``, sync and async."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from support import STARTER

LETTER = "I was charged twice. Please pay one of them back."
QUESTIONS: Any = [
    {"type": "predicate", "name": "refund", "instructions": "The customer wants money back."},
    {"type": "choice", "instructions": "Which team?", "choices": [
        {"value": "billing", "description": "payments"}, {"value": True}]},
    {"type": "score", "instructions": "How angry?", "levels": [
        {"label": "calm"}, {"label": "furious"}]},
]  # fmt: skip

has_decisions = pytest.mark.skipif(
    not hasattr(OpenAI, "decisions"), reason="openai's client has decisions from 3.57 on"
)


def connect(base_url: str) -> OpenAI:
    return OpenAI(base_url=f"{base_url}/v1", api_key="any", max_retries=0)


@has_decisions
def test_decisions(base_url: str) -> None:
    with connect(base_url) as client:
        answer = client.decisions.create(
            model=STARTER, input=LETTER, questions=QUESTIONS, prompt_cache_key="a",
            prompt_cache_options={"mode": "implicit", "ttl": "30m"}, safety_identifier="b",
        )  # fmt: skip
    assert [type(one).__name__ for one in answer.answers] == [
        "AnswerAnswerResourcePredicate", "AnswerAnswerResourceChoice", "AnswerAnswerResourceScore",
    ]  # fmt: skip
    type(answer).model_validate(answer.model_dump(), strict=True)


@has_decisions
def test_async_decisions_about_a_conversation(base_url: str) -> None:
    items: Any = [
        {"role": "system", "content": "Help."},
        {"role": "user", "content": [
            {"type": "input_text", "text": LETTER},
            {"type": "input_json", "data": {"customer": {"id": 7}}}]},
        {"role": "assistant", "content": "I pay it back."},
    ]  # fmt: skip

    async def ask() -> Any:
        async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="any", max_retries=0) as client:
            asked = (
                client.decisions.create(model=STARTER, input=items, questions=QUESTIONS)
                for _ in range(3)
            )
            return await asyncio.gather(*asked)

    first, *others = asyncio.run(ask())
    for other in others:
        assert [one.type for one in other.answers] == [one.type for one in first.answers]


@has_decisions
def test_errors_have_the_classes_of_the_client(base_url: str) -> None:
    with connect(base_url) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.decisions.create(model=STARTER, input=LETTER, questions=[])
        assert refused.value.param == "questions"
        with pytest.raises(openai.NotFoundError):
            client.decisions.create(model="other", input=LETTER, questions=QUESTIONS)


def test_moderations(base_url: str) -> None:
    with connect(base_url) as client:
        answer = client.moderations.create(input=["Otters swim.", "I will hit you."])
    assert len(answer.results) == 2
    type(answer).model_validate(answer.model_dump(by_alias=True), strict=True)
