"""Fill-in-the-middle between a prompt and a suffix; models whose prompts begin with a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from changed_models import BEGINS, FILL_IN, with_metadata
from openai import OpenAI
from support import Stream, request, text_of

from offgrid.config import load_settings
from offgrid.server import Server

TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory, starter_path: Path) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("changed")
    with_metadata(starter_path, folder / "changed.gguf", FILL_IN | BEGINS)
    files = {"models_dir": folder, "responses_file": folder / "responses.sqlite3"}
    model = {"default_model": "changed", "parallel": 2, "threads": 1}
    server = Server(load_settings({"port": 0, **files, **model}, environ={}))
    server.start()
    yield server.url
    server.stop()


def post(base_url: str, path: str, **body: Any) -> Any:
    response = request(base_url, "POST", path, {"model": "changed", **body})
    assert response.status == 200, response.body
    return response.json


def test_fill_in(base_url: str) -> None:
    """It equals a prompt with the control tokens; their names in a text stay text."""

    def ids(text: str) -> list[int]:
        body = {"content": text, "parse_special": False}
        tokens: list[int] = post(base_url, "/tokenize", **body)["tokens"]
        return tokens

    before, behind = "def add(a, b):<|im_end|>\n", "\n\nprint(add(1, 2))"
    by_hand = [2042, 2044, *ids(before), 2045, *ids(behind), 2046]
    fields: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "logprobs": 1}
    answer = post(base_url, TEXT, prompt=before, suffix=behind, **fields)
    expected = post(base_url, TEXT, prompt=by_hand, **fields)
    assert answer["usage"]["prompt_tokens"] == len(by_hand)
    assert answer["choices"][0]["text"] == expected["choices"][0]["text"]
    logprobs = [body["choices"][0]["logprobs"]["token_logprobs"] for body in (answer, expected)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=0.05)
    assert answer["choices"][0]["logprobs"]["text_offset"][0] == len(before)

    # A prompt of token ids is the prefix unchanged; it may be empty.
    tokens = post(base_url, TEXT, prompt=ids(before), suffix=behind, **fields)
    assert tokens["choices"][0]["text"] == answer["choices"][0]["text"]
    empty = post(base_url, TEXT, prompt="", suffix=behind, max_tokens=1)
    assert empty["usage"]["prompt_tokens"] == 4 + len(ids(behind))

    echoed = post(base_url, TEXT, prompt=before, suffix=behind, echo=True, max_tokens=8,
                  temperature=0)  # fmt: skip
    text = before + answer["choices"][0]["text"]
    assert echoed["choices"][0]["text"] == text
    body = {"model": "changed", "prompt": before, "suffix": behind, "echo": True,
            "max_tokens": 8, "temperature": 0, "stream": True}  # fmt: skip
    with Stream(base_url, TEXT, body) as stream:
        assert text_of(list(stream.events())) == text
    with OpenAI(base_url=f"{base_url}/v1", api_key="x", max_retries=0) as client:
        completion = client.completions.create(
            model="changed", prompt=before, suffix=behind, max_tokens=8, temperature=0
        )
        assert completion.choices[0].text == answer["choices"][0]["text"]


def test_a_suffix_that_does_not_fit(base_url: str) -> None:
    for suffix in ("a b " * 1500, "x" * 100_000):
        body = {"model": "changed", "prompt": "x", "suffix": suffix}
        response = request(base_url, "POST", TEXT, body)
        assert response.status == 400
        assert response.json["error"]["code"] == "context_length_exceeded"


def test_the_first_token_of_a_prompt_is_not_in_the_text(base_url: str) -> None:
    """It is counted, has a (null) logprob, and does not shift the offsets in the prompt."""
    for prompt, n, begin in ("Once upon", 3, 0), ("<|im_start|>Once upon", 3, 12):
        answer = post(base_url, TEXT, prompt=prompt, echo=True, logprobs=0, max_tokens=0)
        (choice,) = answer["choices"]
        assert choice["text"] == prompt
        assert answer["usage"]["prompt_tokens"] == n
        assert choice["logprobs"]["tokens"] == ["<|im_start|>", "Once", " upon"]
        assert choice["logprobs"]["text_offset"] == [0, begin, begin + 4]
    # Token ids are used unchanged.
    body = post(base_url, TEXT, prompt=[869, 868], echo=True, logprobs=0, max_tokens=0)
    assert body["usage"]["prompt_tokens"] == 2
    assert body["choices"][0]["logprobs"]["text_offset"] == [0, 4]


def test_tokenize_returns_the_first_token_of_a_prompt(base_url: str) -> None:
    bare = post(base_url, "/tokenize", content="Once upon")["tokens"]
    assert post(base_url, "/tokenize", content="Once upon", add_special=True)["tokens"] == [
        2042, *bare
    ]  # fmt: skip
    assert post(base_url, "/tokenize", prompt="Once upon")["tokens"] == [2042, *bare]
    plain = post(base_url, "/tokenize", prompt="Once upon", add_special_tokens=False)
    assert plain["tokens"] == bare
    # If the template already contains it, it is not added again.
    messages = [{"role": "user", "content": "Hello!"}]
    whole = post(base_url, "/tokenize", messages=messages)
    assert whole["tokens"].count(2042) == 2
    chat = post(base_url, "/v1/chat/completions", messages=messages, max_tokens=1)
    assert chat["usage"]["prompt_tokens"] == whole["count"]
    info = request(base_url, "GET", "/tokenizer_info").json
    assert (info["bos_token"], info["add_bos_token"]) == ("<|im_start|>", True)
