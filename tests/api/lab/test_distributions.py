"""The lab's numbers against ``offgrid.sampling``, the naive reference and real requests."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import strategies as st
from support import STARTER, Json, request
from variants import examples, few

from offgrid.sampling import Sampler, SamplingParams

LAB = "/v1/lab/distribution"
N_VOCAB = 2048
NEUTRAL = {"temperature": 1.0, "top_p": 1.0}
"""Turns off what requests have by default."""
PROMPTS = ("4 + 7 =", "The otter and the", "One two one two one", "x")
ENDS = (2041, 2043)
"""The starter's `<|endoftext|>` and `<|im_end|>`."""
FIELDS: dict[str, tuple[str, ...]] = {
    "logit_bias": ("logit_bias",),
    "repetition_penalty": ("repetition_penalty", "repeat_last_n"),
    "frequency_penalty": ("frequency_penalty",),
    "presence_penalty": ("presence_penalty",),
    "dry": ("dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n"),
    "end_tokens": ("min_tokens",),
    "temperature": ("temperature", "dynatemp_range", "dynatemp_exponent"),
    "top_n_sigma": ("top_n_sigma",),
    "top_k": ("top_k",),
    "typical_p": ("typical_p",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "p_less": ("p_less",),
    "xtc": ("xtc_probability", "xtc_threshold"),
    "mirostat": ("mirostat", "mirostat_tau", "mirostat_eta"),
    "adaptive_p": ("adaptive_target", "adaptive_decay"),
}
"""The fields that each step reads, in the order of the steps."""
ids = st.integers(0, 60)
STRATEGIES: dict[str, Any] = {
    "temperature": st.sampled_from([0.0, 0.3, 0.7, 1.5, 2.0]),
    "dynatemp_range": st.sampled_from([0.3, 1.0]),
    "dynatemp_exponent": st.sampled_from([0.5, 2.0]),
    "top_p": st.sampled_from([0.0, 0.3, 0.9, 0.99]),
    "top_k": st.sampled_from([1, 5, 40, 1500]),
    "min_p": st.sampled_from([0.01, 0.3, 1.0]),
    "p_less": st.just(True),
    "top_n_sigma": st.sampled_from([0.5, 2.0]),
    "typical_p": st.sampled_from([0.2, 0.8]),
    "xtc_probability": st.sampled_from([0.3, 1.0]),
    "xtc_threshold": st.sampled_from([0.02, 0.2]),
    "frequency_penalty": st.sampled_from([-1.0, 0.5, 2.0]),
    "presence_penalty": st.sampled_from([-2.0, 1.5]),
    "repetition_penalty": st.sampled_from([0.5, 1.3]),
    "repeat_last_n": st.sampled_from([-1, 0, 3]),
    "dry_multiplier": st.sampled_from([0.5, 3.0]),
    "dry_allowed_length": st.sampled_from([1, 2]),
    "mirostat": st.sampled_from([1, 2]),
    "mirostat_tau": st.sampled_from([1.0, 3.0]),
    "adaptive_target": st.sampled_from([0.1, 0.6]),
    "min_tokens": st.sampled_from([1, 9]),
    "min_keep": st.sampled_from([1, 30]),
    "logit_bias": st.dictionaries(ids, st.sampled_from([-5.0, 3.0, False]), max_size=3),
}


@st.composite
def chosen(draw: Any) -> Json:
    names = draw(st.lists(st.sampled_from(sorted(STRATEGIES)), max_size=5, unique=True))
    values = {name: draw(STRATEGIES[name]) for name in names}
    return {**NEUTRAL, "seed": draw(st.integers(0, 2**63)), **values}


def ask(url: str, status: int = 200, **fields: Any) -> Json:
    body = {"model": STARTER, "dry_sequence_breakers": [], **fields}
    response = request(url, "POST", LAB, body)
    assert response.status == status, response.body
    result: Json = response.json
    return result


def tokens_of(url: str, text: str) -> list[int]:
    body = {"model": STARTER, "content": text, "add_special": True}
    found: list[int] = request(url, "POST", "/tokenize", body).json["tokens"]
    return found


def dense(tokens: list[Json], name: str = "probability", missing: float = 0.0) -> Any:
    row = np.full(N_VOCAB, missing)
    for token in tokens:
        row[token["id"]] = token[name]
    return row


def params_of(body: Json, steps: list[str]) -> SamplingParams:
    """The parameters of a request, as far as some steps read them."""
    values = {
        name: body[name] for step in steps for name in FIELDS[step] if name in body
    }  # fmt: skip
    biases = values.pop("logit_bias", None)
    if biases:
        values["logit_bias"] = {int(token): bias for token, bias in biases.items()}
    return SamplingParams(seed=body["seed"], min_keep=body.get("min_keep", 0), **values)


class Checked:
    """One answer of the lab, and what the reference makes of the same row."""

    def __init__(self, answer: Json, body: Json, prompt: list[int], generated: list[int]) -> None:
        self.answer, self.body = answer, body
        self.prompt, self.generated = prompt, generated
        model, *self.steps = answer["steps"]
        self.row = dense(model["tokens"], "logit", -np.inf).astype(np.float32)
        self.mu = next((s["state"]["mu"] for s in self.steps if s["step"] == "mirostat"
                        and "state" in s), math.inf)  # fmt: skip
        self.mean = next((s["state"]["mean"] for s in self.steps if s["step"] == "adaptive_p"
                          and "state" in s), 0.0)  # fmt: skip
        probabilities = np.exp(reference.logprobs(self.row))
        assert np.abs(dense(model["tokens"]) - probabilities).max() < 1e-6

    def expected(self, place: int, applied: bool | None) -> list[Any]:
        """The readings of the reference after the first steps; in one case of XTC."""
        names = [*FIELDS][: place + 1]
        params = params_of(self.body, names)
        ends = ENDS if "end_tokens" in names else ()
        row = reference.adjusted(self.row, params, self.prompt, self.generated, ends=ends)
        found = []
        for slack in reference.readings(params):
            kept = reference.kept(row, params, 0.0 if applied else 1.0, self.mu, slack)
            adapts = params.adaptive_target >= 0 and not params.mirostat and params.temperature
            if "adaptive_p" in names and adapts:
                kept = reference.adapted(kept, self.mean, params)
            found.append(kept)
        return found

    def check(self) -> None:
        before = dense(self.answer["steps"][0]["tokens"])
        for place, step in enumerate(self.steps):
            if not step["active"]:
                assert not step["tokens"]
                assert (step["removed"], step["removed_probability"]) == (0, 0.0)
                assert step["kept"] == np.count_nonzero(before)
                continue
            after = dense(step["tokens"])
            self._check_change(step, before, after)
            for outcome in step.get("outcomes", []):
                self._agrees(place, dense(outcome["tokens"]), outcome["applied"])
            if "outcomes" in step:
                mixed = sum(o["chance"] * dense(o["tokens"]) for o in step["outcomes"])
                assert np.abs(mixed - after).max() < 1e-9
            else:
                self._agrees(place, after, None)
            before = after
        final = self.answer["final"]
        assert np.abs(dense(final["tokens"]) - before).max() == 0
        assert final["kept"] == np.count_nonzero(before)

    @staticmethod
    def _check_change(step: Json, before: Any, after: Any) -> None:
        assert step["kept"] == np.count_nonzero(after)
        assert after.sum() == pytest.approx(1, abs=1e-6)
        gone = (before > 0) & (after == 0)
        assert step["removed"] == np.count_nonzero(gone)
        assert step["removed_probability"] == pytest.approx(before[gone].sum(), abs=1e-9)
        assert {t["id"] for t in step["removed_tokens"]} == set(np.flatnonzero(gone).tolist())
        for token in (*step["tokens"], *step["removed_tokens"]):
            assert token["before"] == before[token["id"]]
        some = after[after > 0]
        assert step["entropy"] == pytest.approx(float(-(some * np.log2(some)).sum()), abs=1e-5)
        order = [(-token["probability"], token["id"]) for token in step["tokens"]]
        assert order == sorted(order)

    def _agrees(self, place: int, got: Any, applied: bool | None) -> None:
        readings = self.expected(place, applied)
        distance = min(np.abs(got - expected).max() for expected in readings)
        assert distance < 1e-6, (self.body, [*FIELDS][place], distance)

    def check_sampler(self) -> None:
        """The last distribution and the drawn token are the real sampler's."""
        params = params_of(self.body, [*FIELDS])
        sampler = Sampler(N_VOCAB, params, prompt_tokens=self.prompt, end_tokens=ENDS)
        for token in self.generated:
            sampler.accept(token)
        mu = self.mu if math.isfinite(self.mu) else 0.0
        sampler.state = (len(self.generated), mu, self.mean)
        result = sampler.sample(self.row, top_logprobs=1024, post_sampling=True)
        assert result.token == self.answer["drawn"]["id"]
        if params.xtc_probability not in (0.0, 1.0):
            return  # the lab's is the mixture of both cases
        final = dense(self.answer["final"]["tokens"])
        for token, logprob in result.top_logprobs:
            assert final[token] == pytest.approx(math.exp(logprob), abs=1e-6)


def compare(url: str, data: Any) -> None:
    body = data.draw(chosen())
    prompt = tokens_of(url, data.draw(st.sampled_from(PROMPTS)))
    stateful = body.get("mirostat") or "adaptive_target" in body
    generated = [] if stateful else data.draw(st.lists(st.sampled_from(prompt), max_size=5))
    answer = ask(url, tokens=prompt, continuation=generated, top=N_VOCAB, **body)
    checked = Checked(answer, body, prompt, generated)
    checked.check()
    checked.check_sampler()


@pytest.mark.parametrize("n", few(1, [8, 200]))
def test_every_step_is_that_of_the_sampler_and_of_the_reference(base_url: str, n: int) -> None:
    examples(n, lambda data: compare(base_url, data), st.data())


STATES: list[Json] = [
    {"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 0.3, "temperature": 1.5},
    {"adaptive_target": 0.3, "adaptive_decay": 0.6, "min_p": 0.001},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05, "frequency_penalty": 1.0},
    {"mirostat": 1, "mirostat_tau": 2.0, "mirostat_eta": 0.5},
    {"top_k": 40, "top_p": 0.9, "dry_multiplier": 1.0, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("fields", few(3, STATES), ids=lambda fields: next(iter(fields)))
def test_each_token_of_a_real_answer_is_the_one_that_the_lab_draws(
    base_url: str, fields: Json
) -> None:
    """With the state that the answer so far has left."""
    body = {**NEUTRAL, "temperature": 1.3, "seed": 11, "dry_sequence_breakers": [],
            "ignore_eos": True, **fields}  # fmt: skip
    text = "The otter and the"
    real = request(
        base_url, "POST", "/completion",
        {"model": STARTER, "prompt": text, "n_predict": 6, "return_tokens": True,
         "top_k": 0, "min_p": 0, **body},
    ).json["tokens"]  # fmt: skip
    assert len(real) == 6
    state = {"mu": 2 * body.get("mirostat_tau", 0), "mean": body.get("adaptive_target", 0)}
    params = params_of(body, [*FIELDS])
    top = N_VOCAB if {"mirostat", "adaptive_target"} & {*body} else 1
    for place, token in enumerate(real):
        answer = ask(base_url, prompt=text, continuation=real[:place], top=top, **body)
        assert answer["drawn"]["id"] == token
        assert [one["id"] for one in answer["continuation"]] == real[:place]
        steps = {step["step"]: step for step in answer["steps"]}
        if "mirostat" in body:
            found = steps["mirostat"]
            assert found["state"]["mu"] == pytest.approx(state["mu"], abs=1e-4)
            state["mu"] = reference.next_mu(state["mu"], dense(found["tokens"])[token], params)
        if "adaptive_target" in body:
            found = steps["adaptive_p"]
            assert found["state"]["mean"] == pytest.approx(state["mean"], abs=1e-5)
            before = next(t["before"] for t in found["tokens"] if t["id"] == token)
            state["mean"] = reference.next_mean(state["mean"], before, params)


def test_the_first_token_of_a_completion_is_the_one_that_the_lab_draws(base_url: str) -> None:
    for seed in range(8):
        body = {"model": STARTER, "prompt": "4 + 7 =", "seed": seed, "temperature": 2}
        answer = ask(base_url, **body)
        real = request(base_url, "POST", "/v1/completions", {**body, "max_tokens": 1}).json
        assert answer["drawn"]["piece"] == real["choices"][0]["text"]
        assert answer["seed"] == seed


def test_the_row_is_the_models(base_url: str) -> None:
    """The logprobs of a completion are those of the lab's first step."""
    body = {"model": STARTER, "prompt": "One two", "max_tokens": 1, "logprobs": 20}
    real = request(base_url, "POST", "/v1/completions", body).json["choices"][0]["logprobs"]
    model = ask(base_url, prompt="One two", top=20)["steps"][0]
    expected = {token["piece"]: math.log(token["probability"]) for token in model["tokens"]}
    found = real["top_logprobs"][0]
    assert {*expected} <= {*found}
    for piece, logprob in expected.items():
        assert found[piece] == pytest.approx(logprob, abs=1e-4)


def test_counts_are_those_of_the_real_sampler(base_url: str) -> None:
    prompt = tokens_of(base_url, "The otter and the")
    body = {**NEUTRAL, "temperature": 1.5, "top_k": 12, "xtc_probability": 0.4, "seed": 5,
            "xtc_threshold": 0.05}  # fmt: skip
    answer = ask(base_url, tokens=prompt, samples=1000, top=N_VOCAB, **body)
    row = dense(answer["steps"][0]["tokens"], "logit", -np.inf).astype(np.float32)
    sampler = Sampler(N_VOCAB, params_of(body, [*FIELDS]), prompt_tokens=prompt)
    drawn = Counter(sampler.sample(row) for _ in range(1000))
    samples = answer["samples"]
    assert {c["id"]: c["count"] for c in samples["counts"] if c["count"]} == drawn
    assert samples["n"] == sum(drawn.values()) == 1000
    assert samples["others"] == {"count": 0, "expected": pytest.approx(0, abs=1e-2)}
    final = dense(answer["final"]["tokens"])
    for count in samples["counts"]:
        assert count["expected"] == pytest.approx(1000 * final[count["id"]], abs=1e-6)
    assert samples["p_value"] > 1e-3
    assert samples["degrees_of_freedom"] == np.count_nonzero(1000 * final >= 5) - (
        1 if 1000 * final[1000 * final < 5].sum() < 5 else 0
    )


def test_what_is_not_listed_is_counted_together(base_url: str) -> None:
    answer = ask(base_url, prompt="x", samples=500, top=3, temperature=2, top_p=1)
    samples = answer["samples"]
    assert len(samples["counts"]) == 3
    assert sum(c["count"] for c in samples["counts"]) + samples["others"]["count"] == 500
    total = math.fsum(c["expected"] for c in samples["counts"]) + samples["others"]["expected"]
    assert total == pytest.approx(500, abs=1e-3)
