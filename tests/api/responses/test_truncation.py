"""``truncation: auto`` on a real server: which turns of a long conversation are in the prompt."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from support import STARTER, request

SYSTEM = {"role": "developer", "content": "You are brief."}


def turn(number: int, words: int = 60) -> list[Any]:
    return [
        {"role": "user", "content": f"Story {number}: " + "the dog ran home and " * words},
        {"role": "assistant", "content": f"That was story {number}."},
    ]


def conversation(turns: int, **fields: Any) -> list[Any]:
    told = [item for number in range(turns) for item in turn(number, **fields)]
    return [SYSTEM, *told, {"role": "user", "content": "Hello!"}]


def count(client: OpenAI, items: list[Any], **fields: Any) -> int:
    return client.responses.input_tokens.count(model=STARTER, input=items, **fields).input_tokens


def test_a_conversation_that_fits_is_not_truncated(client: OpenAI) -> None:
    items = conversation(2)
    response = client.responses.create(
        model=STARTER, input=items, truncation="auto", max_output_tokens=1
    )
    assert response.truncation == "auto"
    assert response.usage is not None
    assert response.usage.input_tokens == count(client, items)


# Without max_output_tokens an eighth of the context is left for the answer, as when counting.
@pytest.mark.parametrize("max_output_tokens", [16, pytest.param(None, marks=pytest.mark.slow)])
def test_the_oldest_turns_are_left_out(
    client: OpenAI, base_url: str, max_output_tokens: int | None
) -> None:
    n_ctx = request(base_url, "GET", "/tokenizer_info").json["model_max_length"]
    items = conversation(40)
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model=STARTER, input=items)
    assert refused.value.code == "context_length_exceeded"
    assert refused.value.param == "input"
    fields: Any = {} if max_output_tokens is None else {"max_output_tokens": max_output_tokens}
    response = client.responses.create(
        model=STARTER, input=items, truncation="auto", temperature=0, **fields
    )
    assert response.usage is not None
    room = n_ctx - (max_output_tokens or n_ctx // 8)
    ends = [count(client, [SYSTEM, *items[start:]]) for start in range(len(items) - 1, 60, -2)]
    assert response.usage.input_tokens == max(tokens for tokens in ends if tokens <= room)
    assert count(client, items, truncation="auto") == max(t for t in ends if t <= n_ctx * 7 // 8)


def test_a_turn_that_is_longer_than_any_prompt_is_left_out(client: OpenAI) -> None:
    """It is so long that its length alone would refuse it."""
    last: list[Any] = [*turn(2), {"role": "user", "content": "Hello!"}]
    items = [SYSTEM, *turn(0), *turn(1, words=20_000), *last]
    response = client.responses.create(
        model=STARTER, input=items, truncation="auto", max_output_tokens=1
    )
    assert response.usage is not None
    assert response.usage.input_tokens == count(client, [SYSTEM, *last])
    with pytest.raises(BadRequestError, match=r"The prompt has \d+ bytes") as refused:
        client.responses.create(model=STARTER, input=items)
    assert (refused.value.param, refused.value.code) == ("input", "context_length_exceeded")


def test_a_result_keeps_its_call(client: OpenAI) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "12"}
    last: list[Any] = [{"role": "user", "content": "What is 7 + 5?"}, call, result]
    items = [*conversation(40), *last]
    response = client.responses.create(
        model=STARTER, input=items, truncation="auto", max_output_tokens=900
    )
    assert response.usage is not None
    assert response.usage.input_tokens >= count(client, [SYSTEM, *last])


@pytest.mark.slow
def test_the_whole_conversation_is_stored(client: OpenAI) -> None:
    first = client.responses.create(model=STARTER, input=conversation(5), max_output_tokens=1)
    last: list[Any] = [{"role": "user", "content": "one two three " * 250}]
    with pytest.raises(BadRequestError):
        client.responses.create(model=STARTER, previous_response_id=first.id, input=last)
    second = client.responses.create(
        model=STARTER, previous_response_id=first.id, input=last, truncation="auto",
        max_output_tokens=1,
    )  # fmt: skip
    third = client.responses.create(
        model=STARTER, previous_response_id=second.id, input="Hello!", max_output_tokens=1,
        truncation="auto",
    )  # fmt: skip
    assert third.status == "incomplete"
    assert len(client.responses.input_items.list(second.id).data) == 1


def test_a_last_turn_that_is_too_long_is_refused(client: OpenAI) -> None:
    items: list[Any] = [*conversation(3), {"role": "user", "content": "one two three " * 2000}]
    with pytest.raises(BadRequestError) as refused:
        client.responses.create(model=STARTER, input=items, truncation="auto")
    assert refused.value.code == "context_length_exceeded"
