"""lm-evaluation-harness: ``local-completions`` with the tokeniser of this server."""

from __future__ import annotations

import math

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from support import STARTER, request

PAIRS = [
    ("Once upon a time", " there was a fox"),
    ("Once upon a time", " there was a bicycle"),
    ("The capital of Norway is", " Oslo"),
    ("", "Hello"),
]


@pytest.fixture
def model(base_url: str) -> LocalCompletionsAPI:
    return LocalCompletionsAPI(
        model=STARTER,
        base_url=f"{base_url}/v1/completions",
        tokenizer_backend="remote",
        batch_size=2,
        num_concurrent=1,
        max_retries=1,
    )


def instances(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=argument, idx=index)
        for index, argument in enumerate(arguments)
    ]


def test_likelihoods(base_url: str, model: LocalCompletionsAPI) -> None:
    results = model.loglikelihood(instances("loglikelihood", PAIRS), disable_tqdm=True)
    for (context, continuation), (logprob, greedy) in zip(PAIRS, results, strict=True):
        assert -200 < logprob < 0
        told = scored(base_url, context or model.tokenizer.eos_token, continuation)
        assert logprob == pytest.approx(sum(entry for entry, _ in told), abs=1e-4)
        assert greedy == all(best for _, best in told)
    assert results[0][0] > results[1][0]


def scored(base_url: str, context: str, continuation: str) -> list[tuple[float, bool]]:
    """Compute by hand the logprob of each token of the continuation and whether it is likeliest."""

    def ids(text: str) -> list[int]:
        body = {"prompt": text, "add_special_tokens": False}
        return request(base_url, "POST", "/tokenize", body).json["tokens"]

    tokens, n_context = ids(context + continuation), len(ids(context))
    result = []
    for end in range(n_context, len(tokens)):
        body = {
            "model": STARTER, "prompt": tokens[:end], "max_tokens": 1, "temperature": 0,
            "logprobs": 0, "logit_bias": {str(tokens[end]): 100},
        }  # fmt: skip
        forced = request(base_url, "POST", "/v1/completions", body).json["choices"][0]
        best = request(base_url, "POST", "/v1/completions", {**body, "logit_bias": {}}).json
        logprob = forced["logprobs"]["token_logprobs"][0]
        result.append((logprob, logprob == best["choices"][0]["logprobs"]["token_logprobs"][0]))
    return result


def test_rolling_likelihoods(model: LocalCompletionsAPI) -> None:
    """Perplexity of a text."""
    (logprob,) = model.loglikelihood_rolling(
        instances("loglikelihood_rolling", [("Once upon a time there was a fox.",)]),
        disable_tqdm=True,
    )
    assert -200 < logprob < 0
    assert math.exp(-logprob / 8) < 2048  # better than a uniform distribution


def test_generation(model: LocalCompletionsAPI) -> None:
    (text,) = model.generate_until(
        instances(
            "generate_until",
            [("Once upon a time", {"until": ["fox", ".", "\n", "a", "e", "i"], "max_gen_toks": 9})],
        ),
        disable_tqdm=True,
    )
    assert not set("aei.\n") & set(text)
