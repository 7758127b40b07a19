"""``/completion``: llama-server's own form, whole and streamed, through a real server."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scripted_model import write
from support import STARTER, Json, Stream, request
from tiny_vision import make_seeing, pixels, png

from offgrid.api.llama_server.shapes import NativeCompletion
from offgrid.server import Server

COMPLETION, TEXT = "/completion", "/v1/completions"
STORY = "Once upon a time"
GREEDY: Json = {"temperature": 0}
SAYS = "if ready:\n    go()\n    stop()\nelse:\n    wait()\n"
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"


def complete(base_url: str, path: str = COMPLETION, **fields: Any) -> Any:
    response = request(base_url, "POST", path, fields)
    assert response.status == 200, response.body
    return response.json


def streamed(base_url: str, path: str = COMPLETION, **fields: Any) -> list[Json]:
    with Stream(base_url, path, {**fields, "stream": True}) as stream:
        return [json.loads(event) for event in stream.events()]


def refused(base_url: str, path: str = COMPLETION, **fields: Any) -> Json:
    response = request(base_url, "POST", path, fields)
    assert response.status == 400, response.body
    error: Json = response.json["error"]
    assert (error["code"], error["type"]) == (400, "invalid_request_error")
    assert str(error["param"]) in error["message"]
    return error


@pytest.fixture
def said(tmp_path: Path, make_server: Callable[..., Server]) -> str:
    """A server whose model says an indented text."""
    write(tmp_path / "said.gguf", TEMPLATE, [], SAYS)
    return make_server().url


@pytest.mark.parametrize("path", [COMPLETION, "/completions"])
def test_a_whole_answer(base_url: str, path: str) -> None:
    """The text is that of the endpoint in OpenAI's form with the same parameters."""
    same: Json = {"seed": 7, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    other = complete(base_url, TEXT, prompt=STORY, max_tokens=6, **same)
    answer = complete(base_url, path, prompt=STORY, n_predict=6, seed=7)
    assert answer["content"] == other["choices"][0]["text"]
    assert answer["model"] == STARTER
    assert answer["stop"] is True
    assert (answer["stop_type"], answer["stopping_word"]) == ("limit", "")
    assert (answer["tokens_predicted"], answer["tokens_evaluated"]) == (6, 4)
    assert answer["tokens_cached"] == 10
    assert answer["prompt"] == STORY
    assert answer["tokens"] == []
    assert answer["id_slot"] >= 0
    assert answer["truncated"] is False
    assert answer["timings"]["predicted_n"] == 6
    settings = answer["generation_settings"]
    assert {name: settings[name] for name in same} == same
    assert (settings["n_predict"], settings["stop"]) == (6, [])


def test_a_stream(base_url: str) -> None:
    fields: Json = {"prompt": STORY, "n_predict": 5, **GREEDY, "n_probs": 1}
    whole = complete(base_url, **fields, return_tokens=True)
    *parts, last = streamed(base_url, **fields)
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert [token for part in parts for token in part["tokens"]] == whole["tokens"]
    assert not any(part["stop"] for part in parts)
    assert [part["tokens_predicted"] for part in parts] == [1, 2, 3, 4, 5]
    assert (last["content"], last["tokens"], last["stop"]) == ("", [], True)
    assert last["generation_settings"]["stream"] is True
    told = [entry for part in parts for entry in part["completion_probabilities"]]
    assert [entry["id"] for entry in told] == whole["tokens"]
    assert "completion_probabilities" not in last
    assert len(whole["completion_probabilities"]) == 5
    with Stream(base_url, COMPLETION, {**fields, "stream": True}) as stream:
        assert "[DONE]" not in list(stream.events())


def test_the_defaults_are_those_of_llama_server(base_url: str) -> None:
    settings = complete(base_url, prompt=STORY, n_predict=1)["generation_settings"]
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
    assert [settings[name] for name in names] == [0.8, 40, 0.95, 0.05, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "ends"),
    [
        ({"stop": ["stop("]}, ("word", "stop(", "if ready:\n    go()\n    ")),
        ({}, ("eos", "", SAYS)),
        ({"n_predict": 1}, ("limit", "", None)),
        ({"n_indent": 4}, ("limit", "", "if ready:\n    go()\n    stop()\n")),
        ({"n_indent": 5}, ("limit", "", "if ready:\n    ")),
        ({"n_indent": 4, "stop": ["go"]}, ("word", "go", "if ready:\n    ")),
    ],
    ids=lambda value: str(value)[:24],
)
def test_how_an_answer_ends(said: str, fields: Json, ends: tuple[str, str, str | None]) -> None:
    """Streamed and whole."""
    body: Json = {"prompt": "Go on: ", **GREEDY, **fields}
    whole = complete(said, **body)
    kind, word, text = ends
    assert (whole["stop_type"], whole["stopping_word"]) == (kind, word)
    assert text is None or whole["content"] == text
    *parts, last = streamed(said, **body)
    assert "".join(part["content"] for part in parts) == whole["content"]
    assert (last["stop_type"], last["stopping_word"]) == (kind, word)
    assert last["has_new_line"] == whole["has_new_line"] == ("\n" in whole["content"])


def test_an_answer_whose_time_is_over_ends_with_its_line(said: str) -> None:
    """A limit of one millisecond has passed when the first line ends: the model needs several
    tokens for it. In all endpoints."""
    body: Json = {"prompt": "Go on: ", **GREEDY, "t_max_predict_ms": 1}
    answer = complete(said, **body)
    assert answer["stop_type"] == "limit"
    assert answer["content"].count("\n") >= 1
    assert SAYS.startswith(answer["content"])
    assert complete(said, **body | {"t_max_predict_ms": 3_600_000})["content"] == SAYS
    assert complete(said, **body | {"t_max_predict_ms": -1})["content"] == SAYS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TEXT, {"prompt": "Go on: "}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Go on: "}]}),
        ("/v1/responses", {"input": "Go on: "}),
    ],
)
def test_other_endpoints_have_the_indent_too(said: str, path: str, body: Json) -> None:
    answer = complete(said, path, **body, **GREEDY, n_indent=4)
    text = json.dumps("if ready:\n    go()\n    stop()\n")
    assert text in json.dumps(answer)


def test_probabilities(base_url: str) -> None:
    answer = complete(base_url, prompt=STORY, n_predict=3, n_probs=30, **GREEDY)
    assert len(answer["completion_probabilities"]) == 3
    for entry in answer["completion_probabilities"]:
        assert len(entry["top_logprobs"]) == 30
        first = entry["top_logprobs"][0]
        assert first["id"] == entry["id"]
        assert first["logprob"] == entry["logprob"]
        assert bytes(entry["bytes"]).decode() == entry["token"]
    answer = complete(
        base_url, prompt=STORY, n_predict=3, n_probs=5, post_sampling_probs=True, top_k=2
    )
    for entry in answer["completion_probabilities"]:
        assert 1 <= len(entry["top_probs"]) <= 2
        assert math.isclose(sum(top["prob"] for top in entry["top_probs"]), 1.0, abs_tol=1e-5)
        assert "logprob" not in entry


def test_some_fields_only(base_url: str) -> None:
    wanted = ["content", "timings/predicted_n", "generation_settings/n_predict", "none", "model/x"]
    answer = complete(base_url, prompt=STORY, n_predict=2, **GREEDY, response_fields=wanted)
    assert answer.keys() == {"content", "timings/predicted_n", "generation_settings/n_predict"}
    assert (answer["timings/predicted_n"], answer["generation_settings/n_predict"]) == (2, 2)
    assert complete(base_url, prompt=STORY, n_predict=0, response_fields=[""]) == {}
    *_, last = streamed(base_url, prompt=STORY, n_predict=2, response_fields=["stop"])
    assert last == {"stop": True}


def test_several_prompts_and_choices(base_url: str) -> None:
    ids = request(base_url, "POST", "/tokenize", {"content": STORY}).json["tokens"]
    forms = [STORY, ids, [*ids[:2], STORY[len("Once upon") :]], {"prompt_string": STORY}]
    answers = complete(base_url, prompt=forms, n_predict=3, **GREEDY)
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3]
    assert {answer["content"] for answer in answers} == {answers[0]["content"]}
    assert {answer["prompt"] for answer in answers} == {STORY}
    assert {answer["tokens_evaluated"] for answer in answers} == {len(ids)}
    (one, two) = complete(base_url, prompt=STORY, n_predict=2, n_cmpl=2)
    assert (one["index"], two["index"]) == (0, 1)
    events = streamed(base_url, prompt=[STORY, "In a"], n_predict=2)
    assert [event["index"] for event in events if event["stop"]] in ([0, 1], [1, 0])
    # One prompt in a list is one answer.
    assert complete(base_url, prompt=[STORY], n_predict=1)["index"] == 0


def test_images(tmp_path: Path, make_server: Callable[..., Server], base_url: str) -> None:
    make_seeing(tmp_path, "seeing")
    url = make_server().url
    image = base64.b64encode(png(pixels(1))).decode()
    prompt = {"prompt_string": "Look: <__media__> What?", "multimodal_data": [image]}
    answer = complete(url, prompt=prompt, n_predict=2)
    assert answer["tokens_evaluated"] > 5
    assert answer["prompt"] == "Look: <__media__> What?"
    more = {**prompt, "prompt_string": "Look!"}
    assert "not 0 times" in refused(url, prompt=more)["message"]
    broken = {**prompt, "multimodal_data": ["%"]}
    assert refused(url, prompt=broken)["param"] == "prompt.multimodal_data[0]"
    assert "no vision support" in refused(base_url, prompt=prompt)["message"]


def test_samplers_that_are_not_named_are_off(base_url: str) -> None:
    """llama-server applies only those that are named."""
    given: Json = {"top_k": 1, "min_p": 0.5, "repeat_penalty": 1.2}
    answer = complete(
        base_url, prompt=STORY, n_predict=1, samplers=["top_k", "temperature"], **given
    )
    settings = answer["generation_settings"]
    assert (settings["top_k"], settings["min_p"], settings["top_p"]) == (1, 0.0, 1.0)
    assert (settings["repeat_penalty"], settings["temperature"]) == (1.0, 0.8)
    assert settings["samplers"] == ["top_k", "temperature"]
    letters = complete(base_url, prompt=STORY, n_predict=1, samplers="kt", **given)
    assert letters["generation_settings"]["samplers"] == ["top_k", "temperature"]
    order = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"
    usual = complete(base_url, prompt=STORY, n_predict=1, samplers=order, **given)
    assert usual["generation_settings"]["min_p"] == 0.5
    # What llama.cpp's sampler for code keeps is, in most cases, the likeliest token.
    response = request(
        base_url, "POST", COMPLETION,
        {"prompt": STORY, "n_predict": 1, "samplers": ["top_k", "top_p", "infill"]},
    )  # fmt: skip
    assert response.json["generation_settings"]["temperature"] == 0.0
    assert response.headers["x-offgrid-ignored"] == "samplers"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": None}, "prompt", "Missing"),
        ({"prompt": []}, "prompt", "must be text"),
        ({"prompt": [1.5]}, "prompt[0]", "token ids"),
        ({"prompt": {"text": "x"}}, "prompt.text", "unknown"),
        ({"prompt": {"prompt_string": 1}}, "prompt.prompt_string", "must be text"),
        ({"prompt": [9999999]}, "prompt", "outside the model's vocabulary"),
        ({"n_predict": "x"}, "n_predict", "must be an integer"),
        ({"n_probs": -1}, "n_probs", "between 0"),
        ({"n_indent": -1}, "n_indent", "between 0"),
        ({"t_max_predict_ms": -2}, "t_max_predict_ms", "between -1"),
        ({"samplers": ["magic"]}, "samplers", "magic is unknown"),
        ({"samplers": ["min_p", "top_k"]}, "samplers", "order"),
        ({"lora": [{"id": 0, "scale": 0.5}]}, "lora", "adapters"),
        ({"image_data": [{"data": "x", "id": 1}]}, "image_data", "images"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "not supported"),
        ({"prompt_logprobs": 1}, "prompt_logprobs", "not supported"),
        ({"grammar_lazy": True}, "grammar_lazy", "nknown"),
        ({"repeat_penalty": 0}, "repeat_penalty", "between"),
        ({"n_cmpl": 3, "prompt": ["x"] * 1000}, "prompt", "3000 answers"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals_name_the_field(base_url: str, fields: Json, param: str, words: str) -> None:
    error = refused(base_url, **{"prompt": STORY, **fields})
    assert error["param"] == param
    assert words in error["message"]


def test_a_prompt_that_is_too_long(base_url: str) -> None:
    response = request(base_url, "POST", COMPLETION, {"prompt": "word " * 3000})
    error = response.json["error"]
    assert (response.status, error["code"]) == (400, 400)
    assert error["type"] == "exceed_context_size_error"


def test_errors_have_llama_servers_shape(base_url: str) -> None:
    missing = request(base_url, "POST", COMPLETION, {"prompt": "x", "model": "none"})
    error = missing.json["error"]
    assert (missing.status, error["code"], error["type"]) == (404, 404, "not_found_error")
    broken = request(base_url, "POST", COMPLETION, b"{").json["error"]
    assert (broken["code"], broken["type"]) == (400, "invalid_request_error")
    method = request(base_url, "GET", COMPLETION)
    assert (method.status, method.json["error"]["code"]) == (405, 405)


def test_an_error_in_a_stream(base_url: str) -> None:
    """After "Hello" the grammar requires a token that the bias bans."""
    *_, last = streamed(
        base_url, prompt=STORY, **GREEDY, json_schema={"const": "Hello!"},
        logit_bias={"!": False},
    )  # fmt: skip
    assert last["error"]["code"] == 400
    assert last["error"]["type"] == "invalid_request_error"


def test_timings_and_progress(base_url: str) -> None:
    parts = streamed(base_url, prompt=STORY * 40, n_predict=3, timings_per_token=True,
                     return_progress=True, cache_prompt=False)  # fmt: skip
    assert any("prompt_progress" in part for part in parts)
    assert [part["timings"]["predicted_n"] for part in parts if part.get("tokens")] == [1, 2, 3]


def test_foreign_fields_are_named(base_url: str) -> None:
    body = {"prompt": STORY, "n_predict": 1, "id_slot": 0, "n_keep": 4, "t_max_prompt_ms": 500,
            "n_cache_reuse": 256}  # fmt: skip
    response = request(base_url, "POST", COMPLETION, body)
    assert response.status == 200, response.body
    told = set(response.headers["x-offgrid-ignored"].split(", "))
    assert told == {"id_slot", "n_keep", "t_max_prompt_ms", "n_cache_reuse"}


def test_the_content_filter(tmp_path: Path, make_server: Callable[..., Server]) -> None:
    """No token id of what the filter forbids is sent."""
    (tmp_path / "models").mkdir()
    write(tmp_path / "models" / "said.gguf", TEMPLATE, [], "It is the Secret Plan, all right.")
    (tmp_path / "filter.txt").write_text("secret plan\n")
    url = make_server(models_dir=tmp_path / "models", filter_file=str(tmp_path / "filter.txt")).url
    fields: Json = {"prompt": "What? ", **GREEDY, "return_tokens": True}
    answer = complete(url, **fields)
    assert answer["stop_type"] == "content_filter"
    assert answer["content"] == "It is the "
    tokens = request(url, "POST", "/detokenize", {"tokens": answer["tokens"]}).json["content"]
    assert "secret" not in tokens.lower()
    sent = [token for part in streamed(url, **fields) for token in part["tokens"]]
    assert sent == answer["tokens"]
    refusal = refused(url, prompt="The Secret Plan is")
    assert refusal["param"] == "prompt"


def test_an_answer_is_of_the_documented_type(base_url: str) -> None:
    answer = complete(base_url, prompt=STORY, n_predict=2, n_probs=2)
    msgspec.convert(answer, NativeCompletion)
