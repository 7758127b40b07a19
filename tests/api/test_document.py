"""Every request and response of docs/API.md, with plain HTTP and with the openai client."""

from __future__ import annotations

import re
import time

import requests
from openai import OpenAI
from support import STARTER, request

from offgrid import __version__


def test_health(base_url: str) -> None:
    response = request(base_url, "GET", "/health")
    assert response.status == 200
    assert response.json == {"status": "healthy"}
    assert response.headers["content-type"].startswith("application/json")


def test_root(base_url: str) -> None:
    response = request(base_url, "GET", "/")
    assert response.json == {"name": "OffGrid LLM", "version": __version__, "status": "running"}


def test_models(base_url: str) -> None:
    body = request(base_url, "GET", "/v1/models").json
    assert body["object"] == "list"
    (model,) = body["data"]
    assert model.keys() > {"id", "object", "created", "owned_by"}
    assert (model["id"], model["object"]) == (STARTER, "model")
    assert model["owned_by"] == "offgrid-llm"
    # This waits until the model is loaded; before that, chat_format is null.
    assert request(base_url, "POST", "/tokenize", {"content": ""}).status == 200
    details = request(base_url, "GET", f"/v1/models/{STARTER}").json
    chat_format = {"tool_calls": "hermes", "reasoning": None}
    memory = details.pop("memory")
    assert memory["fits"]
    assert details.pop("settings")["parallel"] == 4
    loaded = {"status": "loaded", "progress": 1.0}
    assert details == {
        **model, **loaded, "chat_format": chat_format, "sha256": None, "problem": None
    }  # fmt: skip


def test_chat_completion(base_url: str) -> None:
    before = int(time.time())
    response = request(
        base_url,
        "POST",
        "/v1/chat/completions",
        {
            "model": STARTER,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "What is machine learning?"},
            ],
            "temperature": 0.7,
            "max_tokens": 150,
            "top_p": 0.95,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
        },
        {"Content-Type": "application/json"},
    )
    assert response.status == 200
    body = response.json
    assert re.fullmatch(r"chatcmpl-[0-9a-f]+", body["id"])
    assert body["object"] == "chat.completion"
    assert before <= body["created"] <= time.time()
    assert body["model"] == STARTER
    (choice,) = body["choices"]
    assert choice["index"] == 0
    assert choice["logprobs"] is None
    assert choice["finish_reason"] in ("stop", "length")
    message = choice["message"]
    assert message["role"] == "assistant"
    assert message["content"]
    assert message["refusal"] is None
    usage = body["usage"]
    assert usage["prompt_tokens"] > 10
    assert 1 <= usage["completion_tokens"] <= 150
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_text_completion(base_url: str) -> None:
    body = request(
        base_url,
        "POST",
        "/v1/completions",
        {"model": STARTER, "prompt": "Once upon a time", "temperature": 0.7, "max_tokens": 100},
    ).json
    assert re.fullmatch(r"cmpl-[0-9a-f]+", body["id"])
    assert body["object"] == "text_completion"
    assert body["model"] == STARTER
    (choice,) = body["choices"]
    assert choice["index"] == 0
    assert choice["text"]
    assert choice["finish_reason"] in ("stop", "length")
    assert body["usage"]["total_tokens"] == (
        body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    )


def test_unknown_model(base_url: str) -> None:
    for path, prompt in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello!"}]}),
        ("/v1/completions", {"prompt": "Hello"}),
    ):
        response = request(base_url, "POST", path, {"model": "invalid-model", **prompt})
        assert response.status == 404
        error = response.json["error"]
        assert error["message"] == f"Model not found: invalid-model. The only model is {STARTER}."
        assert (error["type"], error["code"]) == ("api_error", "model_not_found")


def test_the_examples_of_the_document(base_url: str) -> None:
    """``curl -d`` sends the Content-Type of a form; the requests library sends that of JSON."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    hello = {"model": STARTER, "messages": [{"role": "user", "content": "Hello!"}]}
    assert request(base_url, "POST", "/v1/chat/completions", hello, form).status == 200
    future = {"model": STARTER, "prompt": "The future of AI is", "max_tokens": 40}
    assert request(base_url, "POST", "/v1/completions", future, form).status == 200
    with requests.post(f"{base_url}/v1/chat/completions", json=hello, timeout=60) as response:
        assert response.json()["choices"][0]["message"]["content"]


def test_openai_client(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [STARTER]
    assert client.models.retrieve(STARTER).owned_by == "offgrid-llm"
    response = client.chat.completions.create(
        model=STARTER, messages=[{"role": "user", "content": "Hello!"}], temperature=0
    )
    assert response.choices[0].message.content
    assert response.choices[0].finish_reason == "stop"
    assert response.usage is not None
    completion = client.completions.create(model=STARTER, prompt="Once upon a time", max_tokens=5)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5


def test_answers_of_the_starter(client: OpenAI) -> None:
    """A trained model answers: sums are right, and a described tool is called."""
    response = client.chat.completions.create(
        model=STARTER, messages=[{"role": "user", "content": "What is 7 + 5?"}], temperature=0
    )
    assert "12" in (response.choices[0].message.content or "")
