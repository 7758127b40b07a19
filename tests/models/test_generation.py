"""Real models that generate: llama.cpp's own numbers, chat, streams, calls, schemas, embeddings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_embedding import embedding_of
from reference_logits import ReferenceModel
from support import Json, Stream, request

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.llama.model import Model
from offgrid.grammar.checked import CheckedSchema

pytestmark = pytest.mark.models

PROMPTS = (
    "Once upon a time, in a village by the sea,",
    "The capital of France is",
    "def fibonacci(n):",
    "\u65e5\u672c\u306e\u9996\u90fd\u306f",
)
ANSWER = 16
"""Tokens of an answer that is compared with llama.cpp's."""
CITY: Json = {
    "type": "object", "required": ["name", "people"],
    "properties": {"name": {"type": "string", "maxLength": 12},
                   "people": {"type": "integer", "minimum": 0, "maximum": 9_999_999}},
}  # fmt: skip
"""It is open by the standard, so small models used to add members until the answer was full."""
WEATHER: Json = {"type": "function", "function": {"name": "get_weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
}}}  # fmt: skip


def post(url: str, path: str, **body: Any) -> Any:
    response = request(url, "POST", path, body)
    assert response.status == 200, response.body
    return response.json


def complete(url: str, model: Path, prompt: Any, **fields: Any) -> Any:
    body = {"model": model.stem, "prompt": prompt, "temperature": 0, **fields}
    return post(url, "/v1/completions", **body)


def chat(url: str, model: Path, text: str, **fields: Any) -> Any:
    body = {"model": model.stem, "messages": [{"role": "user", "content": text}],
            "temperature": 0, "max_tokens": 100, **fields}  # fmt: skip
    return post(url, "/v1/chat/completions", **body)["choices"][0]


@pytest.fixture(scope="module")
def reference(generative: Path) -> Any:
    model = ReferenceModel(generative)
    yield model
    model.close()


def test_greedy_tokens_and_logprobs_are_those_of_llama_cpp(
    real_url: str, generative: Path, reference: ReferenceModel
) -> None:
    for prompt in PROMPTS:
        tokens = reference.tokenize(prompt)
        expected, rows = reference.greedy(tokens, ANSWER)
        answer = complete(real_url, generative, prompt, max_tokens=ANSWER, logprobs=5,
                          cache_prompt=False, ignore_eos=True)  # fmt: skip
        assert answer["usage"]["prompt_tokens"] == len(tokens)
        logprobs = answer["choices"][0]["logprobs"]
        pieces = [reference.piece(token) for token in expected]
        text = b"".join(pieces).decode("utf-8", "ignore")
        assert answer["choices"][0]["text"].removesuffix("\ufffd") == text
        own = rows[np.arange(ANSWER), expected]
        assert logprobs["token_logprobs"] == pytest.approx(own.tolist(), abs=1e-5)
        for told, row in zip(logprobs["top_logprobs"], rows, strict=True):
            assert len(told) == 5
            best = np.sort(row)[-5:]
            assert sorted(told.values()) == pytest.approx(best.tolist(), abs=1e-5)


def test_logprobs_of_a_prompt_are_those_of_llama_cpp(
    real_url: str, generative: Path, reference: ReferenceModel
) -> None:
    prompt = PROMPTS[0] + " there lived a man who had a small boat."
    tokens = reference.tokenize(prompt)
    answer = complete(real_url, generative, prompt, max_tokens=0, echo=True, logprobs=1)
    told = answer["choices"][0]["logprobs"]["token_logprobs"]
    assert told[0] is None
    assert told[1:] == pytest.approx(reference.of_tokens(tokens).tolist(), abs=1e-4)


def test_an_answer_does_not_depend_on_what_was_asked_before(
    real_url: str, generative: Path
) -> None:
    """Gemma's prompts have the BOS token in common."""
    seen = []
    for before in PROMPTS:
        complete(real_url, generative, before, max_tokens=1)
        answer = complete(real_url, generative, PROMPTS[0], max_tokens=ANSWER, logprobs=2)
        seen.append(answer["choices"][0]["logprobs"])
    assert seen == [seen[0]] * len(PROMPTS)


def test_chat_and_its_stream(real_url: str, generative: Path) -> None:
    question = "What is the capital of France? Answer in one sentence."
    fields = {"max_tokens": 24, "cache_prompt": False}
    content = chat(real_url, generative, question, **fields)["message"]["content"]
    assert content.strip()
    if generative.stem.startswith("SmolLM2"):  # the other one is not trained to chat
        assert "Paris" in content
    body = {"model": generative.stem, "messages": [{"role": "user", "content": question}],
            "temperature": 0, "stream": True, **fields}  # fmt: skip
    with Stream(real_url, "/v1/chat/completions", body) as stream:
        *events, done = stream.events()
    assert done == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content") or "" for delta in deltas) == content


def test_a_named_function_is_called_once(real_url: str, generative: Path) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    answer = chat(real_url, generative, "What is the weather in Oslo?", tools=[WEATHER],
                  tool_choice=named, max_tokens=200)  # fmt: skip
    (call,) = answer["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]).keys() == {"city"}
    assert answer["finish_reason"] == "tool_calls"


def test_an_answer_follows_a_schema(real_url: str, generative: Path) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    answer = chat(real_url, generative, "Oslo has 700000 people.", response_format=schema)
    city = json.loads(answer["message"]["content"])
    assert city.keys() == {"name", "people"}
    assert answer["finish_reason"] == "stop"


def test_the_first_grammar_of_a_vocabulary_is_compiled(generative: Path) -> None:
    """The vocabulary's own preparation, which takes seconds for Gemma, does not count."""
    model = Model(Load(str(generative), ctx_size=64, parallel=1, threads=1))
    (matcher,) = Grammars(model).matchers(Grammar.of_schema(CheckedSchema(CITY, "field")), 1)
    assert matcher.mask.any()
    assert matcher.error is None
    model.close()


def test_embeddings_are_the_mean_of_the_states(
    real_url: str, generative: Path, reference: ReferenceModel
) -> None:
    answer = post(real_url, "/v1/embeddings", model=generative.stem, input=list(PROMPTS))
    for prompt, item in zip(PROMPTS, answer["data"], strict=True):
        vector = np.array(item["embedding"])
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        expected = embedding_of(generative, reference.tokenize(prompt), "mean")
        assert float(vector @ expected) > 0.999  # llama.cpp rounds differently in a batch
