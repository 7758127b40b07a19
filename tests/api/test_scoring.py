"""Logprobs of prompts over HTTP: requests of lm-evaluation-harness, and related fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from reference_logits import ReferenceModel
from support import STARTER, Stream, chat_body, request

TEXT = "/v1/completions"
CHAT = "/v1/chat/completions"
STORY = "Once upon a time there was a small otter who lived beside a wide river."


@pytest.fixture(scope="module")
def reference(starter_path: Path) -> Iterator[ReferenceModel]:
    model = ReferenceModel(starter_path)
    yield model
    model.close()


def complete(base_url: str, **fields: Any) -> dict[str, Any]:
    response = request(base_url, "POST", TEXT, {"model": STARTER, **fields})
    assert response.status == 200, response.body
    body: dict[str, Any] = response.json
    return body


def ids(base_url: str, text: str) -> list[int]:
    """Tokenise as lm-evaluation-harness does: without a model in the body."""
    body = {"prompt": text, "add_special_tokens": False}
    tokens: list[int] = request(base_url, "POST", "/tokenize", body).json["tokens"]
    return tokens


def test_the_evaluation_harness(base_url: str, reference: ReferenceModel) -> None:
    """Its requests, and its use of the response: the sum of logprobs, and whether it is greedy."""
    info = request(base_url, "GET", "/tokenizer_info").json
    (end,) = ids(base_url, info["eos_token"])
    pairs = [
        ("Once upon a time", " there was a"),
        ("Once upon a time", " OffGrid"),
        ("A small otter lived beside a", " river"),
        (info["eos_token"], STORY),
    ]
    inputs, lengths = [], []
    for context, continuation in pairs:
        inputs.append(ids(base_url, context) + ids(base_url, continuation))
        lengths.append(len(ids(base_url, context)))
    assert inputs[3][0] == end
    for max_tokens in (0, 1):
        body = complete(
            base_url, prompt=inputs, temperature=0, max_tokens=max_tokens, logprobs=1, seed=1234,
            echo=True,
        )  # fmt: skip
        choices = sorted(body["choices"], key=lambda choice: choice["index"])
        assert len(choices) == len(inputs)
        greedy = []
        for choice, tokens, context in zip(choices, inputs, lengths, strict=True):
            logprobs = choice["logprobs"]
            assert len(logprobs["token_logprobs"]) == len(tokens) + max_tokens
            assert logprobs["token_logprobs"][0] is None
            assert logprobs["top_logprobs"][0] is None
            expected = reference.of_tokens(tokens)
            told = logprobs["token_logprobs"][1 : len(tokens)]
            assert told == pytest.approx(expected.tolist(), abs=1e-4)
            last = len(tokens)
            assert sum(logprobs["token_logprobs"][context:last]) == pytest.approx(
                expected[context - 1 :].sum(), abs=1e-3
            )
            pieces = zip(
                logprobs["token_logprobs"][context:last],
                logprobs["top_logprobs"][context:last],
                strict=True,
            )
            greedy.append(all(own == max(top.values()) for own, top in pieces))
        rows = [reference.log_probabilities(tokens) for tokens in inputs]
        assert greedy == [
            bool((row[context - 1 : -1].argmax(axis=1) == tokens[context:]).all())
            for row, tokens, context in zip(rows, inputs, lengths, strict=True)
        ]
        assert greedy[0]
        assert not greedy[1]
        assert body["usage"]["prompt_tokens"] == sum(map(len, inputs))
        assert body["usage"]["completion_tokens"] == max_tokens * len(inputs)


def test_the_token_that_ends_an_answer_has_its_entry(base_url: str) -> None:
    """Otherwise the slice that drops one generated token would drop a token of the prompt."""
    fields = {"max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    body = complete(base_url, prompt=STORY, logit_bias={"<|im_end|>": 100}, **fields)
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["text"] == STORY
    assert choice["logprobs"]["tokens"][-1] == "<|im_end|>"
    assert choice["logprobs"]["text_offset"][-1] == len(STORY)
    assert len(choice["logprobs"]["tokens"]) == len(ids(base_url, STORY)) + 1
    assert body["usage"]["completion_tokens"] == 1


def legacy(piece: bytes) -> str:
    """A token's text in the legacy object: bytes that are no text are written as such."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


@pytest.mark.parametrize(
    "prompt",
    [STORY, "x", "naïve 漢字 \U0001f600\U0001f600 end", "<|im_start|>user\nHi<|im_end|>\n",
     "two  spaces\n\n", "é"],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("as_tokens", [False, True])
def test_offsets_and_texts(base_url: str, prompt: str, as_tokens: bool) -> None:
    """Each token's bytes are at its offset, even if they are part of a character."""
    tokens = ids(base_url, prompt)
    body = {"content": prompt, "with_pieces": True}
    pieces = [
        bytes(item["piece"]) if isinstance(item["piece"], list) else item["piece"].encode()
        for item in request(base_url, "POST", "/tokenize", body).json["tokens"]
    ]
    given = tokens if as_tokens else prompt
    body = complete(base_url, prompt=given, echo=True, logprobs=0, max_tokens=3, temperature=0)
    (choice,) = body["choices"]
    assert choice["text"].startswith(prompt)
    logprobs = choice["logprobs"]
    n = len(tokens)
    assert logprobs["tokens"][:n] == [legacy(piece) for piece in pieces]
    ends = [sum(map(len, pieces[: i + 1])) for i in range(n)]
    characters = [len(prompt.encode()[:begin].decode("utf-8", "ignore")) for begin in [0, *ends]]
    assert logprobs["text_offset"][: n + 1] == characters
    plain = complete(base_url, prompt=given, logprobs=0, max_tokens=3, temperature=0)
    answer = plain["choices"][0]
    assert choice["text"] == prompt + answer["text"]
    assert logprobs["text_offset"][n:] == answer["logprobs"]["text_offset"]
    assert logprobs["tokens"][n:] == answer["logprobs"]["tokens"]


def test_streamed_it_is_the_same(base_url: str) -> None:
    fields: dict[str, Any] = {
        "prompt": [STORY, "In a house"], "echo": True, "logprobs": 2, "max_tokens": 4,
        "temperature": 0, "n": 2, "cache_prompt": False,
    }  # fmt: skip
    whole = complete(base_url, **fields)
    texts, parts = [""] * 4, [dict[str, list[Any]]() for _ in range(4)]
    reasons: list[Any] = [None] * 4
    body = {"model": STARTER, **fields, "stream": True, "stream_options": {"include_usage": True}}
    with Stream(base_url, TEXT, body) as stream:
        *events, usage, done = stream.events()
    assert done == "[DONE]"
    for event in map(json.loads, events):
        (choice,) = event["choices"]
        index = choice["index"]
        assert reasons[index] is None
        texts[index] += choice["text"]
        reasons[index] = choice["finish_reason"]
        assert choice["logprobs"].keys() == {
            "tokens", "token_logprobs", "top_logprobs", "text_offset"
        }  # fmt: skip
        for name, values in choice["logprobs"].items():
            parts[index].setdefault(name, []).extend(values)
    for choice in whole["choices"]:
        index = choice["index"]
        assert texts[index] == choice["text"]
        assert reasons[index] == choice["finish_reason"]
        assert parts[index]["tokens"] == choice["logprobs"]["tokens"]
        assert parts[index]["text_offset"] == choice["logprobs"]["text_offset"]
        # Two runs differ slightly if their batches differ.
        for name in ("token_logprobs",):
            for one, two in zip(parts[index][name], choice["logprobs"][name], strict=True):
                assert (one is None and two is None) or one == pytest.approx(two, abs=0.05)
    assert json.loads(usage)["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


def test_max_tokens_0(base_url: str) -> None:
    body = complete(base_url, prompt=["Once", [300, 301]], max_tokens=0, n=2)
    assert [choice["text"] for choice in body["choices"]] == [""] * 4
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert body["usage"]["completion_tokens"] == 0
    again = complete(base_url, prompt=STORY, max_tokens=0)
    cached = complete(base_url, prompt=STORY, max_tokens=1)
    assert again["usage"]["prompt_tokens"] == cached["usage"]["prompt_tokens"]
    details = cached["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] == cached["usage"]["prompt_tokens"] - 1


def test_echo_of_tokens(base_url: str) -> None:
    tokens = ids(base_url, STORY)
    body = complete(base_url, prompt=[tokens, STORY], echo=True, max_tokens=2, temperature=0)
    one, two = (choice["text"] for choice in body["choices"])
    assert one == two
    assert one.startswith(STORY)


def test_with_the_openai_client(client: OpenAI) -> None:
    answer = client.completions.create(
        model=STARTER, prompt=STORY, echo=True, logprobs=5, max_tokens=0
    ).choices[0]
    assert answer.text == STORY
    assert answer.logprobs is not None
    assert "".join(answer.logprobs.tokens or ()) == STORY
    tops = (answer.logprobs.top_logprobs or [])[1:]
    assert all(5 <= len(top) <= 6 for top in tops)


# --- vLLM's prompt_logprobs -------------------------------------------------------------------


def test_prompt_logprobs(base_url: str, reference: ReferenceModel) -> None:
    tokens = ids(base_url, STORY)
    body = complete(
        base_url, prompt=STORY, prompt_logprobs=2, logprobs=0, echo=True, max_tokens=1, n=2
    )
    rows = reference.log_probabilities(tokens)
    for choice in body["choices"]:
        first, *others = choice["prompt_logprobs"]
        assert first is None
        assert len(others) == len(tokens) - 1
        for token, entry, row in zip(tokens[1:], others, rows, strict=False):
            assert entry[str(token)]["logprob"] == pytest.approx(row[token], abs=1e-4)
            ranks = sorted(item["rank"] for item in entry.values())
            assert ranks[:2] == [1, 2]
            assert len(entry) in (2, 3)
        texts = [entry[str(token)]["decoded_token"] for token, entry in
                 zip(tokens[1:], others, strict=True)]  # fmt: skip
        assert STORY.endswith("".join(texts))
        assert all(len(top) == 1 for top in choice["logprobs"]["top_logprobs"][1:])


def test_prompt_logprobs_of_a_chat(base_url: str) -> None:
    body = chat_body(prompt_logprobs=0, max_tokens=2)
    answer = request(base_url, "POST", CHAT, body).json
    first, *others = answer["prompt_logprobs"]
    assert first is None
    assert len(others) == answer["usage"]["prompt_tokens"] - 1
    assert any(item["decoded_token"] == "<|im_end|>" for entry in others for item in entry.values())
    assert "prompt_logprobs" not in request(base_url, "POST", CHAT, chat_body(max_tokens=1)).json


# --- best_of ----------------------------------------------------------------------------------


def test_best_of_takes_the_likeliest(base_url: str) -> None:
    fields: dict[str, Any] = {
        "prompt": ["Once upon a time", "In a house"], "temperature": 1.5, "top_p": 1, "seed": 3,
        "max_tokens": 6, "logprobs": 0,
    }  # fmt: skip
    candidates = complete(base_url, **fields, n=5)
    best = complete(base_url, **fields, n=2, best_of=5)

    def mean(choice: dict[str, Any]) -> float:
        logprobs = choice["logprobs"]["token_logprobs"]
        return float(sum(logprobs) / len(logprobs))

    expected = []
    for prompt in range(2):
        group = candidates["choices"][5 * prompt : 5 * prompt + 5]
        expected += sorted(group, key=mean, reverse=True)[:2]
    assert [c["text"] for c in best["choices"]] == [c["text"] for c in expected]
    assert [c["index"] for c in best["choices"]] == [0, 1, 2, 3]
    assert len({c["text"] for c in candidates["choices"]}) > 4
    assert best["usage"] == candidates["usage"]  # everything computed counts


def test_best_of_without_logprobs(base_url: str) -> None:
    fields: dict[str, Any] = {
        "prompt": "Once upon a time", "temperature": 1.5, "top_p": 1, "seed": 3, "best_of": 4,
        "max_tokens": 6,
    }  # fmt: skip
    (plain,) = complete(base_url, **fields)["choices"]
    (shown,) = complete(base_url, **fields, logprobs=0)["choices"]
    assert plain["logprobs"] is None
    assert plain["text"] == shown["text"]
    body = {"model": STARTER, "prompt": "Once", "best_of": 1, "max_tokens": 2, "stream": True}
    with Stream(base_url, TEXT, body) as stream:
        assert list(stream.events())[-1] == "[DONE]"


# --- logit_bias -------------------------------------------------------------------------------


def test_biases_of_texts(base_url: str) -> None:
    fields: dict[str, Any] = {
        "prompt": "Once upon a time", "max_tokens": 1, "temperature": 0, "ignore_eos": True
    }  # fmt: skip
    (plain,) = complete(base_url, **fields)["choices"]
    (id,) = ids(base_url, " river")
    for bias in ({" river": 100}, {str(id): 100}, [[id, 100]], [[" river", 100]]):
        (choice,) = complete(base_url, **fields, logit_bias=bias)["choices"]
        assert choice["text"] == " river" != plain["text"]
    for bias in ({plain["text"]: False}, [[plain["text"], False]]):
        (choice,) = complete(base_url, **fields, logit_bias=bias)["choices"]
        assert choice["text"] != plain["text"]
    # An id takes precedence over a text for the same token; digits in a pair are a text.
    (choice,) = complete(base_url, **fields, logit_bias={" river": 100, str(id): False})["choices"]
    assert choice["text"] != " river"
    (choice,) = complete(base_url, **fields, logit_bias=[["7", 100]])["choices"]
    assert choice["text"] == "7"


@pytest.mark.parametrize(
    ("bias", "param"),
    [
        ({"": 1}, "logit_bias"), ([[1]], "logit_bias"), ([["a", 1, 2]], "logit_bias"),
        ([[True, 1]], "logit_bias"), ([[1.5, 1]], "logit_bias"), ([[5, 101]], "logit_bias.5"),
        ({"a": "b"}, "logit_bias.a"), ([[1 << 20, 1]], "logit_bias"),
        ({str(i): 1 for i in range(1025)}, "logit_bias"), ([[5, "x"]], "logit_bias.5"),
    ],
)  # fmt: skip
def test_bad_biases(base_url: str, bias: Any, param: str) -> None:
    body = {"model": STARTER, "prompt": "x", "logit_bias": bias}
    response = request(base_url, "POST", TEXT, body)
    assert response.status == 400
    assert response.json["error"]["param"] == param
