"""``samplers``: only what a request names acts, in every endpoint that generates."""

from __future__ import annotations

from typing import Any

import pytest

from offgrid.api.chat.request import parse_chat
from offgrid.api.completions.request import parse_completion
from offgrid.api.fields import notices
from offgrid.api.fields.common import GenerationFields
from offgrid.api.responses.request import parse_responses, to_chat
from offgrid.errors import InvalidParameter
from offgrid.sampling.params import SamplingParams

MESSAGES = [{"role": "user", "content": "Hello!"}]
USUAL = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc",
         "temperature"]  # fmt: skip
OWN = ["penalties", "dry", "temperature", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p",
       "xtc"]  # fmt: skip
GIVEN: dict[str, Any] = {
    "temperature": 0.5, "dynatemp_range": 0.1, "top_k": 7, "top_p": 0.8, "min_p": 0.2,
    "typical_p": 0.9, "top_n_sigma": 2.0, "xtc_probability": 0.3, "dry_multiplier": 0.4,
    "repetition_penalty": 1.2, "presence_penalty": 0.1, "frequency_penalty": 0.2,
}  # fmt: skip
OFF: dict[str, Any] = {
    "temperature": 1.0, "dynatemp_range": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
    "typical_p": 1.0, "top_n_sigma": 0.0, "xtc_probability": 0.0, "dry_multiplier": 0.0,
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip


def chat(**fields: Any) -> GenerationFields:
    return parse_chat({"messages": MESSAGES, **fields})


def text(**fields: Any) -> GenerationFields:
    return parse_completion({"prompt": "x", **fields})


def responses(**fields: Any) -> GenerationFields:
    request, items = parse_responses({"input": "x", **fields})
    return to_chat(request, [i for i in items if isinstance(i, dict)], range(len(items))).chat


def params(request: GenerationFields) -> dict[str, Any]:
    """The sampling parameters, with those that a model's settings would set."""
    found: SamplingParams = request.sampling.with_defaults({"top_k": 99, "min_p": 0.9})
    return {name: getattr(found, name) for name in GIVEN}


@pytest.mark.parametrize("endpoint", [chat, text, responses])
def test_what_is_not_named_is_off(endpoint: Any) -> None:
    """Also what the settings of the model say, and what the request says of it."""
    notices.begin(tolerant=False)
    named = {"min_p", "temperature", "dynatemp_range"}  # as llama.vim's instructions
    found = params(endpoint(**GIVEN, samplers=["temperature", "min_p"]))
    assert found == {name: (GIVEN if name in named else OFF)[name] for name in GIVEN}
    assert params(endpoint(samplers=["temperature"]))["top_k"] == 0
    assert notices.ignored() == ()


@pytest.mark.parametrize("value", [[], "", OWN, ";".join(OWN), USUAL, "edskypmxt", "edtskypmx"])
def test_all_of_them(value: Any) -> None:
    """llama.cpp's usual order has no effect, and the response names it."""
    notices.begin(tolerant=False)
    assert params(chat(**GIVEN, samplers=value)) == params(chat(**GIVEN))
    usual = value in (USUAL, "edskypmxt")
    assert notices.ignored() == (("samplers",) if usual else ())


@pytest.mark.parametrize(
    "value", ["kt", "top_k;temperature", ["top_k", "temperature"], ["top_k", "tfs_z", "temp"]]
)
def test_forms(value: Any) -> None:
    found = params(chat(**GIVEN, samplers=value))
    assert (found["top_k"], found["temperature"], found["top_p"]) == (7, 0.5, 1.0)


def test_the_sampler_for_code_takes_the_likeliest_token() -> None:
    notices.begin(tolerant=False)
    found = params(chat(**GIVEN, samplers=["top_k", "top_p", "infill"]))
    assert (found["temperature"], found["top_k"], found["min_p"]) == (0.0, 7, 0.0)
    assert notices.ignored() == ("samplers",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (USUAL[::-1], "order"),
        (["min_p", "top_k"], "order"),
        ([*USUAL, "magic"], "magic is unknown"),
        ("xyz", "xyz is unknown"),
        ([5], "must be a string"),
        (5, "must be"),
    ],
)
def test_refusals(value: Any, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words) as caught:
        chat(samplers=value)
    assert (caught.value.param or "").startswith("samplers")
