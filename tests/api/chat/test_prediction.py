"""The field ``prediction`` of chat: the same answer, and exact counts in ``usage``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai import OpenAI
from support import STARTER, Json, Stream, chat_body, request
from transcripts import THINKS

CHAT = "/v1/chat/completions"
STORY = "The otter swims in the river. The fox runs to the old house. The otter sleeps."


def spoken(tokens: tuple[str, ...]) -> Json:
    """Make a greedy model generate these tokens, each of them once."""
    bias = {token: 100 - 10 * place for place, token in enumerate(tokens)}
    return {
        "temperature": 0,
        "logit_bias": bias,
        "repetition_penalty": 100,
        "repeat_last_n": len(tokens),
    }


WORDS = (" story", " light", " city", " home", " keys", " table", " small", " year")
TEXT = "".join(WORDS)


def count(url: str, text: str) -> int:
    tokens = request(url, "POST", "/tokenize", {"content": text, "parse_special": False}).json
    return len(tokens["tokens"])


def details(usage: Json) -> tuple[int, int]:
    details = usage["completion_tokens_details"]
    return details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]


def answered(url: str, **fields: Any) -> Json:
    response = request(url, "POST", CHAT, chat_body(**fields))
    assert response.status == 200, response.json
    result: Json = response.json
    return result


def predicted(text: str | list[str]) -> Json:
    content = text if isinstance(text, str) else [{"type": "text", "text": t} for t in text]
    return {"type": "content", "content": content}


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"seed": 3}, {"seed": 3, "n": 2}])
def test_the_answer_is_the_same(base_url: str, fields: Json) -> None:
    plain = answered(base_url, max_tokens=40, **fields)
    assert details(plain["usage"]) == (0, 0)
    text = plain["choices"][0]["message"]["content"]
    for prediction in (text, f"{text[:30]} and so on {text[50:]}", STORY, "", "<|im_end|>"):
        told = answered(base_url, max_tokens=40, prediction=predicted(prediction), **fields)
        assert told["choices"] == plain["choices"]
        total = fields.get("n", 1) * count(base_url, prediction)
        assert sum(details(told["usage"])) == total
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert told["usage"][name] == plain["usage"][name]


def test_counts_are_those_of_the_texts(base_url: str) -> None:
    """The answer consists of known tokens, of which the prediction has all, some or none."""
    fields = {**spoken(WORDS), "max_tokens": len(WORDS)}
    cases = [
        (TEXT, len(WORDS), 0),
        ([*WORDS], len(WORDS), 0),
        (" story light day city home keys", 5, 1),
        (" time time time", 0, 3),
        (TEXT + " and with", len(WORDS), 2),
    ]
    for prediction, accepted, rejected in cases:
        for n in (1, 2):
            body = answered(base_url, prediction=predicted(prediction), n=n, **fields)
            assert body["choices"][0]["message"]["content"] == TEXT
            assert details(body["usage"]) == (n * accepted, n * rejected), prediction


def test_in_a_stream_with_the_openai_client(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model=STARTER,
        messages=[{"role": "user", "content": "Hello!"}],
        prediction={"type": "content", "content": [{"type": "text", "text": TEXT + " and"}]},
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=len(WORDS),
        temperature=0,
        logit_bias=spoken(WORDS)["logit_bias"],
        extra_body={"repetition_penalty": 100, "repeat_last_n": len(WORDS)},
    )
    usages = [chunk.usage for chunk in stream if chunk.usage is not None]
    assert len(usages) == 1
    counted = usages[0].completion_tokens_details
    assert counted is not None
    assert counted.accepted_prediction_tokens == len(WORDS)
    assert counted.rejected_prediction_tokens == 1


def test_a_choice_that_the_server_ends(serve_template: Callable[[str], str]) -> None:
    """Content may end at a stop string that only the server can find: the counts are those until
    then. Reasoning before the content is passed over."""
    url = serve_template(THINKS)
    tokens = (" keys", "</", "th", "in", "k", ">", " story", " light", " city")
    body = {**spoken(tokens), "max_tokens": len(tokens), "stop": " city"}
    prediction = predicted(" story light city home")
    for stream in (False, True):
        fields = {**body, "prediction": prediction}
        if not stream:
            whole = answered(url, **fields)
            assert whole["choices"][0]["message"]["content"].strip() == "story light"
            usage = whole["usage"]
        else:
            more = {"stream": True, "stream_options": {"include_usage": True}}
            with Stream(url, CHAT, chat_body(**fields, **more)) as opened:
                *events, _ = opened.events()
            usage = json.loads(events[-1])["usage"]
        assert details(usage) == (3, 1)


def test_a_prediction_longer_than_the_context(base_url: str) -> None:
    body = chat_body(max_tokens=1, prediction=predicted("x " * 5000))
    error = request(base_url, "POST", CHAT, body).json["error"]
    assert error["param"] == "prediction.content"
    assert error["code"] == "context_length_exceeded"
