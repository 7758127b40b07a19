"""The sampling parameters known from llama.cpp, as request fields: each one has an effect."""

from __future__ import annotations

from typing import Any

import pytest
from support import STARTER, chat_body, request

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def story(base_url: str, **fields: Any) -> dict[str, Any]:
    body = {"model": STARTER, "prompt": "Once upon a time", "max_tokens": 40, "seed": 11, **fields}
    response = request(base_url, "POST", TEXT, body)
    assert response.status == 200, response.body
    choice: dict[str, Any] = response.json["choices"][0]
    return choice


@pytest.mark.parametrize(
    "fields",
    [
        {"top_n_sigma": 0.01}, {"typical_p": 0.05}, {"min_p": 1.0}, {"top_k": 1},
        {"xtc_probability": 1.0, "xtc_threshold": 0.01}, {"dynatemp_range": 1.9},
        {"mirostat": 1, "mirostat_tau": 0.1}, {"mirostat": 2, "mirostat_tau": 0.1},
        {"dry_multiplier": 5.0, "dry_allowed_length": 0}, {"repetition_penalty": 2.0},
        {"repeat_penalty": 2.0}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0},
    ],
    ids=str,
)  # fmt: skip
def test_each_changes_the_answer(base_url: str, fields: dict[str, Any]) -> None:
    plain = {"temperature": 1.9, "top_p": 1.0}
    text = story(base_url, **plain)["text"]
    assert story(base_url, **plain)["text"] == text
    changed = story(base_url, **plain, **fields)["text"]
    assert changed != text
    assert story(base_url, **plain, **fields)["text"] == changed


def test_min_tokens(base_url: str) -> None:
    short = request(base_url, "POST", CHAT, chat_body(temperature=0)).json
    assert short["usage"]["completion_tokens"] < 50
    long = request(base_url, "POST", CHAT, chat_body(temperature=0, min_tokens=50)).json
    assert long["usage"]["completion_tokens"] >= 50
    error = request(base_url, "POST", CHAT, chat_body(min_tokens=5, max_tokens=4)).json["error"]
    assert error["param"] == "min_tokens"


@pytest.mark.parametrize(
    ("path", "fields", "limit"),
    [
        (CHAT, {"max_tokens": 4}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 4}, "max_completion_tokens"),
        (CHAT, {"max_completion_tokens": 4, "max_tokens": 8}, "max_completion_tokens"),
        (CHAT, {"n_predict": 4}, "n_predict"),
        (CHAT, {"options": {"num_predict": 4}}, "options.num_predict"),
        ("/v1/responses", {"max_output_tokens": 4}, "max_output_tokens"),
        ("/v1/messages", {"max_tokens": 4}, "max_tokens"),
    ],
)
def test_min_tokens_is_at_most_the_limit_that_is_in_force(
    base_url: str, path: str, fields: dict[str, Any], limit: str
) -> None:
    body = {**chat_body(), **fields, "min_tokens": 5}
    if path == "/v1/responses":
        body["input"] = body.pop("messages")
    answer = request(base_url, "POST", path, body)
    assert answer.status == 400
    error = answer.json["error"]
    assert error.get("param", "min_tokens") == "min_tokens"
    assert error["message"] == f"min_tokens must not be greater than {limit}."


def test_a_limit_that_is_not_in_force_does_not_limit_min_tokens(base_url: str) -> None:
    body = chat_body(max_completion_tokens=6, max_tokens=4, min_tokens=6)
    answer = request(base_url, "POST", CHAT, body)
    assert answer.json["usage"]["completion_tokens"] == 6


def test_min_keep(base_url: str) -> None:
    """top_p alone would keep one token; min_keep keeps three."""
    fields = {"temperature": 2.0, "top_p": 0.0, "min_keep": 3, "logprobs": 5, "max_tokens": 8}
    tops = story(base_url, post_sampling_probs=True, **fields)["logprobs"]["top_logprobs"]
    assert {len(top) for top in tops} == {3}


def test_logprobs_before_and_after_sampling(base_url: str) -> None:
    fields = {"temperature": 1.0, "top_p": 0.0, "logprobs": 3}
    raw = story(base_url, **fields)["logprobs"]
    after = story(base_url, post_sampling_probs=True, **fields)["logprobs"]
    assert after["tokens"] == raw["tokens"]
    assert min(raw["token_logprobs"]) < 0
    assert set(after["token_logprobs"]) == {0}


def test_dry_ends_a_loop(base_url: str) -> None:
    """A small model repeats itself in a long greedy answer; DRY prevents that."""

    def repeats(**fields: Any) -> int:
        choice = story(
            base_url, temperature=0, ignore_eos=True, max_tokens=300, logprobs=0, **fields
        )
        tokens = choice["logprobs"]["tokens"]
        windows = [tuple(tokens[i : i + 12]) for i in range(len(tokens) - 12)]
        return len(windows) - len(set(windows))

    looping = repeats()
    assert looping > 20
    assert repeats(dry_multiplier=5.0, dry_sequence_breakers=[]) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("typical_p", 1.1), ("xtc_probability", -0.1), ("xtc_threshold", 2), ("mirostat", 3),
        ("mirostat_tau", -1), ("mirostat_eta", "x"), ("dynatemp_range", -1),
        ("dynatemp_exponent", -1), ("dry_multiplier", -1), ("dry_base", 0.5),
        ("dry_allowed_length", -1), ("dry_penalty_last_n", -2), ("min_tokens", -1),
        ("min_keep", -1), ("top_n_sigma", -2), ("post_sampling_probs", 1),
        ("dry_sequence_breakers", "x"),
    ],
)  # fmt: skip
def test_bad_values_name_their_field(base_url: str, field: str, value: Any) -> None:
    error = request(base_url, "POST", CHAT, chat_body(**{field: value})).json["error"]
    assert error["param"] == field


def test_an_id_of_very_many_digits(base_url: str) -> None:
    """Python refuses integers of more than 4,300 digits, and before 3.11 parses them slowly."""
    for digits in ("1" * 5000, "1" * 200_000):
        response = request(base_url, "POST", CHAT, chat_body(logit_bias={digits: 1}))
        assert response.status == 400
        assert response.json["error"]["param"] == "logit_bias"


def test_bad_breakers(base_url: str) -> None:
    for breakers in ([""], ["x" * 41], [5], ["x"] * 65):
        body = chat_body(dry_multiplier=1, dry_sequence_breakers=breakers)
        error = request(base_url, "POST", CHAT, body).json["error"]
        assert error["param"].startswith("dry_sequence_breakers")
