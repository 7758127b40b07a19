"""The same logits through llama.cpp's own samplers: equal if the definitions are the same.

Our sampler intentionally differs in these points; a test below shows each:

* Temperature comes first, and truncation acts on its result (in llama.cpp's chain it is last).
* Frequency and presence penalty count all tokens of the answer, as OpenAI's API defines;
  llama.cpp counts the last tokens of prompt and answer.
* The random number of XTC comes from a counter-based stream, not from a Mersenne Twister.
* The largest possible entropy of dynamic temperature is that of the candidates above -infinity.
* Temperature 0 stays greedy with dynamic temperature.
"""

from __future__ import annotations

import ctypes
import math

import llama_cpp.llama_cpp as llama
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offgrid.sampling import Sampler, SamplingParams

NEAR = 2e-4
"""Relative tolerance; llama.cpp adds up thousands of floats in single precision."""


def through(chain, row, accepted=()) -> dict[int, float]:
    """Return token -> probability after these samplers of llama.cpp, and free them."""
    n = len(row)
    data = (llama.llama_token_data * n)()
    for token, logit in enumerate(np.asarray(row, np.float32)):
        data[token] = llama.llama_token_data(token, float(logit), 0.0)
    array = llama.llama_token_data_array(data, n, -1, False)
    for sampler in chain:
        for token in accepted:
            llama.llama_sampler_accept(sampler, token)
        llama.llama_sampler_apply(sampler, ctypes.byref(array))
        llama.llama_sampler_free(sampler)
    logits = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    best = max(logits.values())
    weights = {token: math.exp(logit - best) for token, logit in logits.items()}
    total = sum(weights.values())
    return {token: w / total for token, w in weights.items() if w / total > 1e-30}


def ours(row, prompt=(), generated=(), **fields) -> dict[int, float]:
    """Return token -> probability with which our sampler draws it."""
    row = np.asarray(row, np.float32)
    sampler = Sampler(len(row), SamplingParams(seed=1, **fields), prompt_tokens=prompt)
    for token in generated:
        sampler.accept(token)
    result = sampler.sample(row, top_logprobs=1024, post_sampling=True)
    return {token: math.exp(lp) for token, lp in result.top_logprobs if lp > math.log(1e-30)}


def smooth(seed: int, n: int = 300, scale: float = 2.0) -> np.ndarray:
    """Return a row without ties: llama.cpp does not define the order of ties."""
    return np.random.default_rng(seed).normal(0, scale, n).astype(np.float32)


SEEDS = st.integers(0, 2**32)
SCALES = st.sampled_from([0.3, 1.0, 3.0, 8.0])


def init(name, *arguments):
    return getattr(llama, f"llama_sampler_init_{name}")(*arguments)


@pytest.mark.parametrize(
    ("fields", "chain"),
    [
        ({"top_k": 1}, [("top_k", 1)]),
        ({"top_k": 40}, [("top_k", 40)]),
        ({"top_k": 200}, [("top_k", 200)]),
        ({"top_p": 0.9}, [("top_p", 0.9, 0)]),
        ({"top_p": 0.1, "min_keep": 3}, [("top_p", 0.1, 3)]),
        ({"min_p": 0.05}, [("min_p", 0.05, 0)]),
        ({"min_p": 0.9, "min_keep": 7}, [("min_p", 0.9, 7)]),
        ({"typical_p": 0.7}, [("typical", 0.7, 0)]),
        ({"typical_p": 0.05, "min_keep": 4}, [("typical", 0.05, 4)]),
        ({"top_n_sigma": 1.2}, [("top_n_sigma", 1.2)]),
        ({"temperature": 0.6}, [("temp", 0.6)]),
        ({"temperature": 0.0}, [("temp", 0.0)]),
        ({"dynatemp_range": 0.4, "dynatemp_exponent": 1.5}, [("temp_ext", 1.0, 0.4, 1.5)]),
        ({"temperature": 0.7, "dynatemp_range": 0.9}, [("temp_ext", 0.7, 0.9, 1.0)]),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.05}, [("xtc", 1.0, 0.05, 0, 1)]),
        (
            {"xtc_probability": 1.0, "xtc_threshold": 0.02, "min_keep": 290},
            [("xtc", 1.0, 0.02, 290, 1)],
        ),
        (
            {"top_k": 100, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.02, "xtc_probability": 1.0},
            [
                ("top_k", 100),
                ("typical", 0.9, 0),
                ("top_p", 0.9, 0),
                ("min_p", 0.02, 0),
                ("xtc", 1.0, 0.1, 0, 1),
            ],
        ),
        (
            {"temperature": 0.7, "top_k": 50, "top_p": 0.8},
            [("temp", 0.7), ("top_k", 50), ("top_p", 0.8, 0)],
        ),
    ],
    ids=str,
)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=SCALES)
@example(seed=18462, scale=0.3)  # two tokens at the border are equally typical
def test_truncation_and_temperature(fields, chain, seed, scale):
    row = smooth(seed, scale=scale)
    theirs = through([init(*step) for step in chain], row)
    got = ours(row, **fields)
    if set(got) != set(theirs):
        # Rounding moves a border by at most one token, an unlikely one.
        differing = set(got) ^ set(theirs)
        if "typical_p" in fields and len(differing) == 2:
            assert equally_typical(row, *differing)
            return
        assert len(differing) == 1
        assert near_a_border(row, fields, set(got), set(theirs))
        return
    loose = 1e-2 if "dynatemp_range" in fields else NEAR
    assert got == pytest.approx(theirs, rel=loose, abs=1e-9)


def equally_typical(row, token, other) -> bool:
    """Whether single precision may take either of two tokens for the more typical one, so that
    ``min_keep`` keeps one here and the other there."""
    logprobs = row.astype(np.float64) - np.logaddexp.reduce(row.astype(np.float64))
    entropy = -np.sum(np.exp(logprobs) * logprobs)
    distance = np.abs(-logprobs - entropy)
    return abs(distance[token] - distance[other]) < 4 * np.finfo(np.float32).eps * entropy


def near_a_border(row, fields, got, theirs) -> bool:
    """Whether changing a parameter by a factor of 1 ± 1e-5 gives llama.cpp's result."""
    names = [name for name in ("top_p", "min_p", "typical_p", "top_n_sigma") if name in fields]
    for name in names:
        for factor in (1 - 1e-5, 1 + 1e-5):
            if set(ours(row, **{**fields, name: fields[name] * factor})) == theirs:
                return True
    return False


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    tokens=st.lists(st.integers(0, 29), max_size=30),
    last_n=st.sampled_from([0, 1, 5, 20, 64]),
    repeat=st.sampled_from([1.1, 1.8, 0.7]),
)
def test_repetition_penalty(seed, tokens, last_n, repeat):
    """It counts the last n tokens of prompt and answer together."""
    row = smooth(seed, 30)
    theirs = through([init("penalties", 30, last_n, repeat, 0.0, 0.0)], row, tokens)
    fields = {"repetition_penalty": repeat, "repeat_last_n": last_n}
    half = len(tokens) // 2
    assert ours(row, tokens, **fields) == pytest.approx(theirs, rel=NEAR)
    assert ours(row, tokens[:half], tokens[half:], **fields) == pytest.approx(theirs, rel=NEAR)


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    tokens=st.lists(st.integers(0, 9), max_size=30),
    frequency=st.sampled_from([-0.5, 0.0, 0.7]),
    presence=st.sampled_from([-0.5, 0.0, 1.1]),
    repeat=st.sampled_from([1.0, 1.3]),
)
def test_frequency_and_presence_where_the_window_holds_the_answer(
    seed, tokens, frequency, presence, repeat
):
    row = smooth(seed, 10)
    theirs = through([init("penalties", 10, 64, repeat, frequency, presence)], row, tokens)
    fields = {
        "repetition_penalty": repeat,
        "frequency_penalty": frequency,
        "presence_penalty": presence,
    }
    assert ours(row, (), tokens, **fields) == pytest.approx(theirs, rel=NEAR)


# --- mirostat ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([1.0, 3.0]), tau=st.sampled_from([1.0, 2.0, 3.0]))
def test_mirostat_begins_with_the_same_candidates(version, seed, scale, tau):
    row = smooth(seed, scale=scale)
    theirs = (
        init("mirostat", len(row), 1, tau, 0.1, 100)
        if version == 1
        else init("mirostat_v2", 1, tau, 0.1)
    )
    expected = through([theirs], row)
    got = ours(row, mirostat=version, mirostat_tau=tau)
    # k, a float truncated to an integer, and the border 2^-mu may differ by one token.
    assert abs(len(got) - len(expected)) <= 1
    if len(got) == len(expected):
        assert got == pytest.approx(expected, rel=NEAR)


# --- DRY --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vocab(starter_path):
    """The vocabulary of the starter, which llama.cpp needs to convert breakers to tokens."""
    settings = llama.llama_model_default_params()
    settings.vocab_only = True
    model = llama.llama_model_load_from_file(str(starter_path).encode(), settings)
    assert model
    yield llama.llama_model_get_vocab(model)
    llama.llama_model_free(model)


def their_dry(vocab, multiplier, base, allowed, last_n, breakers=()):
    texts = (ctypes.c_char_p * len(breakers))(*breakers)
    return llama.llama_sampler_init_dry(
        vocab, multiplier, base, allowed, last_n, texts, len(breakers)
    )


def tokens_with(vocab, part: bytes) -> list[int]:
    """Return the tokens with this byte, as llama.cpp expands a breaker of one byte."""
    found, buffer = [], ctypes.create_string_buffer(256)
    for token in range(llama.llama_vocab_n_tokens(vocab)):
        length = llama.llama_token_to_piece(vocab, token, buffer, 256, 0, True)
        if part in buffer.raw[:length]:
            found.append(token)
    return found


@settings(max_examples=80, deadline=None)
@given(
    seed=SEEDS,
    tokens=st.lists(st.integers(0, 3), max_size=60),
    allowed=st.integers(0, 4),
    last_n=st.sampled_from([1, 3, 20, 100]),
    base=st.sampled_from([1.0, 1.75, 3.0]),
)
def test_dry(vocab, seed, tokens, allowed, last_n, base):
    row = smooth(seed, 6)
    theirs = through([their_dry(vocab, 0.2, base, allowed, last_n)], row, tokens)
    got = ours(
        row,
        tokens[: len(tokens) // 2],
        tokens[len(tokens) // 2 :],
        dry_multiplier=0.2,
        dry_base=base,
        dry_allowed_length=allowed,
        dry_penalty_last_n=last_n,
    )
    assert got == pytest.approx(theirs, rel=NEAR, abs=1e-20)


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, places=st.lists(st.integers(0, 2), max_size=40), allowed=st.integers(0, 3))
def test_dry_with_a_breaker(vocab, seed, places, allowed):
    """llama.cpp limits a repetition during the search, ours afterwards, with the same result."""
    heads = tokens_with(vocab, b"\n")
    few = [heads[0], *[token for token in range(20) if token not in heads][:2]]
    tokens = [few[place] for place in places]
    row = smooth(seed, heads[0] + 1)
    theirs = through([their_dry(vocab, 0.2, 1.75, allowed, 64, [b"\n"])], row, tokens)
    got = ours(
        row,
        tokens,
        dry_multiplier=0.2,
        dry_allowed_length=allowed,
        dry_breakers=[[head] for head in heads],
    )
    assert got == pytest.approx(theirs, rel=NEAR, abs=1e-20)


# --- intended differences ---------------------------------------------------------------------


def test_temperature_comes_first():
    row = np.log([0.5, 0.3, 0.15, 0.05])
    assert set(ours(row, temperature=2.0, top_p=0.75)) == {0, 1, 2}
    same_order = [init("temp", 2.0), init("top_p", 0.75, 0)]
    assert set(through(same_order, row)) == {0, 1, 2}
    assert set(through([init("top_p", 0.75, 0), init("temp", 2.0)], row)) == {0, 1}


def test_frequency_and_presence_count_the_whole_answer_and_no_prompt():
    row, prompt, answer = np.zeros(3), [2] * 5, [0, *[1] * 70]
    fields = {"frequency_penalty": 0.01, "presence_penalty": 1.0}
    got = ours(row, prompt, answer, **fields)
    assert got[2] / got[0] == pytest.approx(math.exp(1.01), rel=NEAR)
    theirs = through([init("penalties", 3, 64, 1.0, 0.01, 1.0)], row, prompt + answer)
    assert theirs[2] / theirs[0] == pytest.approx(1.0), "the window holds neither any more"


def test_the_random_number_of_xtc_comes_from_our_stream():
    row = np.log([0.5, 0.3, 0.2]).astype(np.float32)
    fields = {"xtc_probability": 0.5, "xtc_threshold": 0.25}
    differ = 0
    for seed in range(40):
        sampler = Sampler(3, SamplingParams(seed=seed, **fields))
        got = {t for t, _ in sampler.sample(row, top_logprobs=3, post_sampling=True).top_logprobs}
        theirs = set(through([init("xtc", 0.5, 0.25, 0, seed)], row))
        assert got in ({0, 1, 2}, {1, 2})
        assert theirs in ({0, 1, 2}, {1, 2})
        differ += got != theirs
    assert differ > 5


def test_dynamic_temperature_counts_possible_candidates_only():
    """Three possible tokens of 100 get the temperature that they would get without the others."""
    row = np.full(100, -np.inf)
    row[:3] = [1.0, 1.0, -1.0]
    got = ours(row, dynatemp_range=0.9)
    theirs = through([init("temp_ext", 1.0, 0.9, 1.0)], row)
    alone = through([init("temp_ext", 1.0, 0.9, 1.0)], row[:3])
    assert got == pytest.approx(alone, rel=NEAR)
    assert theirs[2] < 0.2 * got[2]


def test_temperature_zero_stays_greedy_with_dynamic_temperature():
    row = [1.0, 2.0, 1.5]
    assert ours(row, temperature=0.0, dynatemp_range=0.5) == {1: 1.0}
    assert len(through([init("temp_ext", 0.0, 0.5, 1.0)], row)) == 3
