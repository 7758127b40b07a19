"""instructor: objects by a tool call, by a JSON schema, by JSON mode, and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import instructor
import pytest
from instructor.core import InstructorRetryException
from openai import OpenAI
from pydantic import BaseModel, ConfigDict
from support import STARTER

QUESTION = [{"role": "user", "content": "Describe Oslo: how large, how warm, which country?"}]


class City(BaseModel):
    """A city. A small model would not know when to end if it might say more."""

    model_config = ConfigDict(extra="forbid")
    size: Literal["small", "large"]
    warm: bool
    country: Literal["Norway", "Sweden"] | None


@pytest.fixture
def client(base_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    "mode",
    [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA],
    ids=lambda mode: mode.value,
)
def test_an_object(client: OpenAI, mode: instructor.Mode) -> None:
    city = instructor.from_openai(client, mode=mode).chat.completions.create(
        model=STARTER, messages=QUESTION, response_model=City, temperature=0, max_retries=0
    )
    assert isinstance(city, City)
    assert city._raw_response.choices[0].finish_reason in ("stop", "tool_calls")


def test_piece_by_piece(client: OpenAI) -> None:
    patched = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    *_, city = patched.chat.completions.create_partial(
        model=STARTER, messages=QUESTION, response_model=City, temperature=0, max_retries=0
    )
    City.model_validate(city.model_dump())


def test_errors(client: OpenAI) -> None:
    with pytest.raises(InstructorRetryException, match="temperature must be"):
        instructor.from_openai(client).chat.completions.create(
            model=STARTER, messages=QUESTION, response_model=City, temperature=5, max_retries=1
        )
