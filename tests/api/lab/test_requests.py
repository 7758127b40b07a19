"""Requests to the lab: prompts, errors, states without effect, limits, and who may ask."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from support import STARTER, Json, chat_body, request
from tiny_models import make_bert, make_wordy

from offgrid.api.lab.call import AT_ONCE, turn
from offgrid.api.lab.samples import chi_square_tail, fit
from offgrid.api.lab.steps import STEPS
from offgrid.config import load_settings
from offgrid.engine.client.client import ClientGone
from offgrid.sampling import Sampler, SamplingParams, distribution
from offgrid.server import Server

LAB = "/v1/lab/distribution"


def ask(url: str, status: int = 200, **fields: object) -> Json:
    response = request(url, "POST", LAB, {"model": STARTER, **fields})
    assert response.status == status, response.body
    result: Json = response.json if status == 200 else response.json["error"]
    return result


def steps_of(answer: Json) -> dict[str, Json]:
    return {step["step"]: step for step in answer["steps"]}


# --- prompts ------------------------------------------------------------------------------------


def test_a_conversation_is_rendered_as_in_chat(base_url: str) -> None:
    seeds = range(5)
    for seed in seeds:
        fields = {"seed": seed, "temperature": 2, "top_p": 1}
        body = chat_body("Name a colour.", max_tokens=1, **fields)
        message = request(base_url, "POST", "/v1/chat/completions", body).json["choices"][0]
        answer = ask(base_url, messages=body["messages"], **fields)
        assert answer["drawn"]["piece"] == message["message"]["content"]
    count = request(base_url, "POST", "/v1/chat/completions/input_tokens", body).json
    assert answer["prompt_tokens"] == count["input_tokens"]


def test_tools_are_part_of_the_prompt(base_url: str) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    messages = chat_body()["messages"]
    plain, offered = (
        ask(base_url, messages=messages),
        ask(base_url, messages=messages, tools=[tool]),
    )
    assert offered["prompt_tokens"] > plain["prompt_tokens"]
    tool["function"]["strict"] = True
    error = ask(base_url, 400, messages=messages, tools=[tool])
    assert (error["param"], error["code"]) == ("tools", "unsupported_parameter")


def test_text_and_token_ids_are_the_same_prompt(base_url: str) -> None:
    text = "Once upon a time there was an otter who lived beside a wide river. " * 3
    body = {"model": STARTER, "content": text, "add_special": True}
    ids = request(base_url, "POST", "/tokenize", body).json["tokens"]
    first, second = ask(base_url, prompt=text, seed=1), ask(base_url, tokens=ids, seed=1)
    assert first["prompt_tokens"] == second["prompt_tokens"] == len(ids)
    assert second["cached_tokens"] == len(ids) - 1  # the first has left its prefix
    chosen = [token["id"] for token in first["final"]["tokens"]]
    assert chosen == [token["id"] for token in second["final"]["tokens"]]


def test_a_continuation_as_text_and_as_ids(base_url: str) -> None:
    text = ask(base_url, prompt="Once", continuation=" upon a", presence_penalty=2)
    ids = [token["id"] for token in text["continuation"]]
    assert "".join(token["piece"] for token in text["continuation"]) == " upon a"
    same = ask(base_url, prompt="Once", continuation=ids, presence_penalty=2)
    assert same["continuation"] == text["continuation"]
    step = steps_of(same)["presence_penalty"]
    assert step["active"]
    assert [t["id"] for t in step["tokens"]] == [
        t["id"] for t in steps_of(text)["presence_penalty"]["tokens"]
    ]
    control = ask(base_url, prompt="Once", continuation="<|im_end|>")
    assert len(control["continuation"]) > 1  # it stays text


def test_bytes_of_a_piece_that_is_no_text(base_url: str) -> None:
    answer = ask(base_url, prompt="é", continuation="😀", top=2048, temperature=1, top_p=1)
    broken = [t for t in answer["steps"][0]["tokens"] if "\ufffd" in t["piece"]]
    assert broken
    for token in broken:
        with pytest.raises(UnicodeDecodeError):
            bytes(token["bytes"]).decode()


# --- steps --------------------------------------------------------------------------------------


def test_steps_are_in_their_order_with_their_parameters(base_url: str) -> None:
    answer = ask(base_url, prompt="Once", top_k=3, dry_multiplier=1)
    names = [step["step"] for step in answer["steps"]]
    assert names == ["model", *(step.name for step in STEPS)]
    steps = steps_of(answer)
    assert steps["top_k"]["parameters"] == {"top_k": 3}
    assert steps["temperature"]["parameters"]["temperature"] == 0.7  # the API's default
    assert steps["dry"]["parameters"]["dry_sequence_breakers"] == ["\n", ":", '"', "*"]
    off = {name for name, step in steps.items() if step["inactive"] == "neutral"}
    assert {"min_p", "xtc", "mirostat", "adaptive_p", "logit_bias"} <= off
    assert not off & {"top_k", "top_p", "temperature", "dry"}


def test_greedy_draws_ignore_what_follows(base_url: str) -> None:
    fields = {"temperature": 0, "top_k": 5, "top_p": 0.5, "adaptive_target": 0.5, "mirostat": 2}
    answer = ask(base_url, prompt="Once", **fields, samples=10)
    steps = steps_of(answer)
    for name in ("top_k", "top_p", "mirostat", "adaptive_p"):
        assert steps[name]["inactive"] == "greedy"
    assert steps["temperature"]["temperature"] == 0
    assert steps["temperature"]["kept"] == answer["final"]["kept"] == 1
    best = answer["steps"][0]["tokens"][0]
    assert answer["drawn"]["id"] == best["id"]
    assert answer["samples"]["counts"][0]["count"] == 10
    assert answer["samples"]["p_value"] is None


def test_mirostat_replaces_the_truncation(base_url: str) -> None:
    steps = steps_of(ask(base_url, prompt="Once", mirostat=2, top_k=5, adaptive_target=0.5))
    assert [steps[name]["inactive"] for name in ("top_k", "top_p", "adaptive_p")] == [
        "mirostat"
    ] * 3
    assert steps["mirostat"]["state"] == {"mu": 10.0}


def test_the_temperature_that_dynatemp_has_chosen(base_url: str) -> None:
    answer = ask(base_url, prompt="x", temperature=1, dynatemp_range=0.5)
    assert 0.5 < steps_of(answer)["temperature"]["temperature"] < 1.5


def test_both_outcomes_of_xtc(base_url: str) -> None:
    fields = {"temperature": 1.5, "xtc_probability": 0.25, "xtc_threshold": 0.02, "top": 2048}
    answer = ask(base_url, tokens=[5, 6, 7, 8, 9], **fields, adaptive_target=0.2)
    xtc, adaptive = steps_of(answer)["xtc"], steps_of(answer)["adaptive_p"]
    assert [(o["applied"], o["chance"]) for o in xtc["outcomes"]] == [(True, 0.25), (False, 0.75)]
    applied, other = xtc["outcomes"]
    assert applied["removed"] > 0
    assert other["removed"] == xtc["removed"] == 0  # the mixture can still draw them
    assert [o["applied"] for o in adaptive["outcomes"]] == [True, False]
    assert adaptive["state"]["mean"] == adaptive["state"]["goal"] == pytest.approx(0.2, abs=1e-6)
    always = steps_of(ask(base_url, tokens=[5, 6, 7, 8, 9], **{**fields, "xtc_probability": 1}))[
        "xtc"
    ]
    assert [o["applied"] for o in always["outcomes"]] == [True]
    assert always["removed"] == applied["removed"]


def test_biases_of_texts_are_those_of_their_tokens(base_url: str) -> None:
    answer = ask(base_url, prompt="Once", logit_bias={" upon": -5, "3": False})
    step = steps_of(answer)["logit_bias"]
    assert step["parameters"]["logit_bias"]["3"] is False
    assert -5.0 in step["parameters"]["logit_bias"].values()
    assert [token["id"] for token in step["removed_tokens"]] == [3]
    assert step["removed"] == 1


def test_end_tokens_that_cannot_come(base_url: str) -> None:
    never = steps_of(ask(base_url, prompt="Once", ignore_eos=True))["end_tokens"]
    early = steps_of(ask(base_url, prompt="Once", min_tokens=2, continuation=[5]))["end_tokens"]
    late = steps_of(ask(base_url, prompt="Once", min_tokens=2, continuation=[5, 6]))["end_tokens"]
    ends = {token["piece"] for token in never["removed_tokens"]}
    assert ends == {"<|endoftext|>", "<|im_end|>"}
    assert {token["piece"] for token in early["removed_tokens"]} == ends
    assert late["inactive"] == "neutral"


@pytest.mark.slow
def test_settings_of_the_model_apply(tmp_path: Path) -> None:
    config = tmp_path / "offgrid.toml"
    config.write_text(f'[models."{STARTER}"]\nsampling = {{ top_k = 7 }}\n', encoding="utf-8")
    flags = {"port": 0, "models_dir": tmp_path, "default_model": STARTER, "threads": 1}
    server = Server(load_settings(flags, environ={}, config_file=config))
    server.start()
    try:
        assert steps_of(ask(server.url, prompt="Once"))["top_k"]["parameters"] == {"top_k": 7}
        own = steps_of(ask(server.url, prompt="Once", top_k=9))
        assert own["top_k"]["parameters"] == {"top_k": 9}
    finally:
        server.stop()


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({}, "prompt", "One of prompt, messages and tokens"),
        ({"prompt": "a", "tokens": [1]}, "tokens", "mutually exclusive"),
        ({"prompt": "a", "tools": []}, "tools", "needs messages"),
        ({"prompt": ""}, "prompt", ""),
        ({"tokens": []}, "tokens", ""),
        ({"tokens": [2048]}, "tokens", "outside the model's vocabulary"),
        ({"prompt": "a", "continuation": [2048]}, "continuation", "outside the model's vocabulary"),
        ({"prompt": "a", "continuation": [1] * 5000}, "continuation", "maximum context length"),
        ({"prompt": "a", "continuation": "b" * 99_999}, "continuation", "maximum context length"),
        ({"prompt": "a", "top": 2049}, "top", "between 1 and 2048"),
        ({"prompt": "a", "samples": -1}, "samples", "between 0 and 10000"),
        ({"prompt": "a", "temperature": 3}, "temperature", "between 0 and 2"),
        ({"prompt": "a", "repeat_penalty": 0}, "repeat_penalty", "between 0.01 and 100"),
        ({"prompt": "a", "samplers": ["nothing"]}, "samplers", "unknown"),
        ({"prompt": "a", "stream": True}, "stream", "Unknown field"),
        ({"prompt": "a", "max_tokens": 3}, "max_tokens", "Unknown field"),
        ({"prompt": "a", "grammar": "x"}, "grammar", ""),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
    ],
)
def test_errors_name_the_field(base_url: str, fields: Json, param: str, words: str) -> None:
    error = ask(base_url, 400, **fields)
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.slow
def test_a_model_that_does_not_generate_is_refused(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    name = make_bert(tmp_path, "MEAN").stem
    response = request(make_server().url, "POST", LAB, {"model": name, "prompt": "a"})
    assert response.status == 400
    assert response.json["error"]["param"] == "model"


@pytest.mark.slow
def test_a_large_vocabulary(make_server: Callable[..., Server], tmp_path: Path) -> None:
    name = make_wordy(tmp_path).stem
    body = {"model": name, "tokens": [1, 2, 3], "samples": 10_000, "top": 2, "typical_p": 0.9}
    answer = request(make_server().url, "POST", LAB, body).json
    assert answer["vocabulary"] == 65_536
    assert answer["samples"]["n"] == 10_000


def test_few_requests_have_their_distributions_in_memory() -> None:
    with contextlib.ExitStack() as others:
        for _ in range(AT_ONCE):
            others.enter_context(turn(lambda: True))
        with pytest.raises(ClientGone), turn(lambda: False):
            pass
    with turn(lambda: False):  # there is room at once
        pass


# --- the test of the counts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statistic", "degrees", "expected"),
    [
        # From the definition: one degree is erfc(sqrt(x/2)), two are exp(-x/2).
        (3.0, 1, math.erfc(math.sqrt(1.5))),
        (25.0, 1, math.erfc(math.sqrt(12.5))),
        (1.0, 2, math.exp(-0.5)),
        (60.0, 2, math.exp(-30)),
        (0.0, 5, 1.0),
        # An even number of degrees is a sum of Poisson probabilities.
        (12.0, 10, sum(math.exp(-6) * 6**k / math.factorial(k) for k in range(5))),
        (200.0, 40, sum(math.exp(-100) * 100**k / math.factorial(k) for k in range(20))),
    ],
)
def test_the_tail_of_chi_squared(statistic: float, degrees: int, expected: float) -> None:
    assert chi_square_tail(statistic, degrees) == pytest.approx(expected, rel=1e-12)


def test_counts_that_do_not_fit() -> None:
    row = memoryview(bytes(4 * 8)).cast("f")
    even = distribution(Sampler(8, SamplingParams()), row)
    good = fit([*range(8)] * 100, even)
    assert (good.degrees, good.chi_square) == (7, pytest.approx(0, abs=1e-6))
    assert good.p_value == pytest.approx(1, abs=1e-9)
    bad = fit([0] * 200 + [*range(8)] * 75, even)
    assert bad.p_value is not None
    assert bad.p_value < 1e-9
    few = fit([0, 1, 2], even)  # all cells together
    assert (few.degrees, few.p_value) == (0, None)
