"""The sampler against the readable definition, and with invalid rows and calls."""

from __future__ import annotations

import ctypes
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_cases import chosen_from, old_fields, rows, words_of

from offgrid.sampling import (
    InvalidParameter,
    Sampler,
    SampleResult,
    SamplingError,
    SamplingParams,
    philox4x32,
    sample_rows,
    score_rows,
)


def params(n: int, greedy: bool = True):
    """Parameters of OpenAI's API, top_k, min_p and the repetition penalty."""
    coldest = st.sampled_from([0.0, 0.1, 0.7, 1.0, 1.3, 3.0] if greedy else [0.7, 1.0])
    return chosen_from({**old_fields(n), "temperature": coldest}, 9)


def draws_are_allowed(data):
    row = data.draw(rows())
    n = len(row)
    ids = st.lists(st.integers(0, n - 1), max_size=8)
    chosen, prompt, generated = data.draw(params(n)), data.draw(ids), data.draw(ids)
    allowed = data.draw(st.one_of(st.none(), st.sets(st.integers(0, n - 1))))
    sampler = Sampler(n, chosen, prompt_tokens=prompt)
    for token in generated:
        sampler.accept(token)
    mask = None if allowed is None else words_of(allowed, n)
    before = row.copy()
    expected = reference.adjusted(row, chosen, prompt, generated, allowed)
    if expected.max() == -np.inf:
        with pytest.raises(SamplingError) as error:
            sampler.sample(row, mask=mask)
        assert error.value.code == "no_candidate"
        assert sampler.position == 0
        return
    for position in range(4):
        u = reference.coin(sampler.seed, 0, position)
        assert sampler.sample(row, mask=mask) in reference.drawable(expected, chosen, u)
    assert np.array_equal(row, before), "the caller's row was written to"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_draw_is_one_that_the_definition_allows(data):
    draws_are_allowed(data)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.data())
def test_every_draw_is_one_that_the_definition_allows_at_length(data):
    """The default run covers 100 examples."""
    draws_are_allowed(data)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_penalties_follow_an_answer_token_by_token(data):
    row = data.draw(rows(min_size=2, max_size=40))
    chosen = data.draw(params(len(row), greedy=False))
    prompt = data.draw(st.lists(st.integers(0, len(row) - 1), max_size=5))
    sampler, generated = Sampler(len(row), chosen, prompt_tokens=prompt), []
    for position in range(30):
        expected = reference.adjusted(row, chosen, prompt, generated)
        if expected.max() == -np.inf:
            break
        token = sampler.sample(row)
        u = reference.coin(sampler.seed, 0, position)
        assert token in reference.drawable(expected, chosen, u)
        sampler.accept(token)
        generated.append(token)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_logprobs_are_log_softmax_of_the_raw_row(data):
    row = data.draw(rows())
    chosen = data.draw(params(len(row)))
    sampler = Sampler(len(row), chosen)
    wanted = data.draw(st.integers(0, 25))
    try:
        result = sampler.sample(row, top_logprobs=wanted)
    except SamplingError:
        return
    expected = reference.logprobs(row)
    assert result.logprob == pytest.approx(expected[result.token], abs=2e-5, rel=1e-6)
    best = sorted(range(len(row)), key=lambda token: (-row[token], token))[:wanted]
    assert [token for token, _ in result.top_logprobs] == best
    for token, logprob in result.top_logprobs:
        assert logprob == pytest.approx(expected[token], abs=2e-5, rel=1e-6)
        assert token != result.token or logprob == result.logprob
    again = Sampler(len(row), chosen)
    assert again.sample(row) == result.token, "logprobs changed the draw"


@pytest.mark.parametrize("n", [32_000, 128_256])
@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3])
def test_vocabularies_of_real_size(n, scale, top_p):
    row = np.random.default_rng(n).normal(0, scale, n).astype(np.float32)
    chosen = SamplingParams(temperature=0.7, top_p=top_p, seed=3)
    sampler = Sampler(n, chosen)
    probabilities = reference.kept(row, chosen)
    for position in range(5):
        u = reference.coin(3, 0, position)
        token = sampler.sample(row)
        # Among so many tokens a border is always near: the CDF at the drawn token must be near u.
        above = probabilities[: token + 1].sum()
        assert above - probabilities[token] - 1e-5 <= u <= above + 1e-5


def test_greedy_takes_the_lowest_id_of_a_tie():
    row = np.array([0, 3, 1, 3, 3], dtype=np.float32)
    assert Sampler(5, SamplingParams(temperature=0)).sample(row) == 1


@pytest.mark.parametrize("chosen", [SamplingParams(top_k=1), SamplingParams(top_p=0.0)])
def test_minus_zero_ties_with_zero(chosen):
    row = np.array([-1.0, -0.0, 0.0], dtype=np.float32)
    assert {Sampler(3, chosen).sample(row) for _ in range(20)} == {1}


def test_tiny_temperature_is_greedy_and_huge_one_is_flat():
    row = np.array([0, 10, 9.99, -5], dtype=np.float32)
    assert {Sampler(4, SamplingParams(temperature=1e-6)).sample(row) for _ in range(50)} == {1}
    drawn = Sampler(4, SamplingParams(temperature=1e6, seed=1))
    assert {drawn.sample(row) for _ in range(100)} == {0, 1, 2, 3}


def test_top_p_zero_and_top_k_one_keep_one_token():
    row = np.array([1, 2, 2, 0], dtype=np.float32)
    for chosen in (SamplingParams(top_p=0.0), SamplingParams(top_k=1), SamplingParams(min_p=1.0)):
        drawn = {Sampler(4, chosen).sample(row) for _ in range(60)}
        assert drawn == ({1, 2} if chosen.min_p else {1})


def test_top_p_keeps_the_token_that_crosses():
    row = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    sampler = Sampler(4, SamplingParams(top_p=0.6, seed=5))
    assert {sampler.sample(row) for _ in range(200)} == {0, 1}


def test_repetition_window_counts_the_prompt_and_forgets():
    row = np.array([2.0, 1.9], dtype=np.float32)
    chosen = SamplingParams(temperature=0, repetition_penalty=2.0, repeat_last_n=2)
    sampler = Sampler(2, chosen, prompt_tokens=[1, 1, 0])
    drawn = []
    for _ in range(6):
        drawn.append(sampler.sample(row))
        sampler.accept(drawn[-1])
    # Windows: [1 0] both halved -> 0; [0 0] -> 1; [0 1] -> 0; [1 0] -> 0; ...
    assert drawn == [0, 1, 0, 0, 1, 0]


def test_frequency_penalty_ignores_the_prompt():
    row = np.array([2.0, 1.0], dtype=np.float32)
    chosen = SamplingParams(temperature=0, frequency_penalty=0.6)
    sampler = Sampler(2, chosen, prompt_tokens=[0] * 50)
    assert sampler.sample(row) == 0
    sampler.accept(0)
    assert sampler.sample(row) == 0
    sampler.accept(0)
    assert sampler.sample(row) == 1


def test_many_different_tokens_are_counted():
    """More than the initial capacity of the table, so that it grows several times."""
    n = 5000
    sampler = Sampler(n, SamplingParams(temperature=0, presence_penalty=1.0))
    row = np.zeros(n, dtype=np.float32)
    for expected in range(1000):
        assert sampler.sample(row) == expected
        sampler.accept(expected)


def test_banned_tokens_are_never_drawn():
    row = np.zeros(8, dtype=np.float32)
    chosen = SamplingParams(seed=1, logit_bias={0: False, 1: -math.inf})
    sampler = Sampler(8, chosen, banned=[2, 3])
    assert {sampler.sample(row) for _ in range(200)} == {4, 5, 6, 7}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("value", "code"), [(math.nan, "nan_logits"), (math.inf, "infinite_logits")]
)
@pytest.mark.parametrize("at", [0, 40, 99])
def test_bad_rows_are_errors_and_change_nothing(value, code, at, temperature):
    row = np.zeros(100, dtype=np.float32)
    sampler = Sampler(100, SamplingParams(temperature=temperature, seed=9))
    bad = row.copy()
    bad[at] = value
    with pytest.raises(SamplingError) as error:
        sampler.sample(bad)
    assert error.value.code == code
    assert sampler.position == 0
    again = Sampler(100, SamplingParams(temperature=temperature, seed=9))
    assert sampler.sample(row) == again.sample(row)


def test_rows_without_a_candidate():
    nothing = np.full(33, -np.inf, dtype=np.float32)
    for row, mask in ((nothing, None), (np.zeros(33, np.float32), np.zeros(2, np.uint32))):
        with pytest.raises(SamplingError) as error:
            Sampler(33).sample(row, mask=mask)
        assert error.value.code == "no_candidate"


def test_row_by_address_and_read_only_row():
    row = np.linspace(-3, 3, 200, dtype=np.float32)
    row.flags.writeable = False
    chosen = SamplingParams(seed=11)
    by_row, by_address = Sampler(200, chosen), Sampler(200, chosen)
    for _ in range(20):
        assert by_row.sample(row) == by_address.sample(row.ctypes.data)


def test_wrong_buffers_are_refused():
    sampler = Sampler(10)
    for wrong, error in [
        (np.zeros(9, np.float32), ValueError),
        (np.zeros(11, np.float32), ValueError),
        (np.zeros(10, np.float64), ValueError),
        (np.zeros(20, np.float32)[::2], ValueError),
        (np.zeros((2, 5), np.float32), ValueError),
        ([0.0] * 10, TypeError),
        (None, TypeError),
        (0, ValueError),
        (-1, OverflowError),
    ]:
        with pytest.raises(error):
            sampler.sample(wrong)
    for mask in (np.zeros(2, np.uint32), np.zeros(1, np.int64)):
        with pytest.raises(ValueError, match=r"mask words|Buffer dtype"):
            sampler.sample(np.zeros(10, np.float32), mask=mask)
    assert sampler.position == 0


def test_ids_outside_the_vocabulary_name_the_field():
    for make, param in [
        (lambda: Sampler(4, SamplingParams(logit_bias={4: 1.0})), "logit_bias"),
        (lambda: Sampler(4, SamplingParams(repetition_penalty=2.0), [4]), "prompt_tokens"),
        (lambda: Sampler(4).accept(-1), "token"),
        (lambda: Sampler(4).accept(4), "token"),
        (lambda: Sampler(0), "n_vocab"),
        (lambda: Sampler(2**31), "n_vocab"),
        (lambda: Sampler(4, choice=-1), "choice"),
        (lambda: Sampler(4).sample(np.zeros(4, np.float32), top_logprobs=-1), "top_logprobs"),
        (lambda: Sampler(4).sample(np.zeros(4, np.float32), top_logprobs=1025), "top_logprobs"),
    ]:
        with pytest.raises(InvalidParameter) as error:
            make()
        assert error.value.param == param


@pytest.mark.parametrize("number", [10**20, -(10**5000)], ids=["large", "tiny"])
def test_numbers_that_python_does_not_write_name_the_field(number):
    row = np.zeros(4, np.float32)
    for make, param in [
        (lambda: Sampler(number), "n_vocab"),
        (lambda: Sampler(4, choice=number), "choice"),
        (lambda: Sampler(4, SamplingParams(repetition_penalty=2.0), [number]), "prompt_tokens"),
        (lambda: Sampler(4, banned=[number]), "banned"),
        (lambda: Sampler(4, end_tokens=[number]), "end_tokens"),
        (lambda: Sampler(4).accept(number), "token"),
        (lambda: Sampler(4).sample(row, top_logprobs=number), "top_logprobs"),
        (lambda: score_rows(Sampler(4), [row.ctypes.data], [number]), "tokens"),
    ]:
        with pytest.raises(InvalidParameter, match="a number of more than 20 digits") as error:
            make()
        assert error.value.param == param


def test_more_top_logprobs_than_tokens():
    result = Sampler(3).sample(np.zeros(3, np.float32), top_logprobs=20)
    assert [token for token, _ in result.top_logprobs] == [0, 1, 2]


# --- sample_rows ------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_batch_gives_the_same_as_each_row_alone(data):
    batch = data.draw(st.lists(rows(min_size=5, max_size=60), min_size=1, max_size=6))
    chosen = [data.draw(params(len(row))) for row in batch]
    wanted = [data.draw(st.integers(-1, 5)) for _ in batch]
    threads = data.draw(st.integers(1, 8))
    alone = [Sampler(len(row), p) for row, p in zip(batch, chosen, strict=True)]
    together = [Sampler(len(row), p) for row, p in zip(batch, chosen, strict=True)]
    for _ in range(3):
        addresses = [row.ctypes.data for row in batch]
        got = sample_rows(addresses, together, top_logprobs=wanted, threads=threads)
        for row, sampler, top, result in zip(batch, alone, wanted, got, strict=True):
            top_logprobs = None if top < 0 else top
            if isinstance(result, SamplingError):
                with pytest.raises(SamplingError, match=str(result)):
                    sampler.sample(row, top_logprobs=top_logprobs)
                continue
            expected = sampler.sample(row, top_logprobs=top_logprobs)
            assert result == (SampleResult(expected) if top < 0 else expected)
            sampler.accept(result.token)


def test_a_bad_row_leaves_the_others_alone():
    good, bad = np.zeros(8, np.float32), np.full(8, np.nan, np.float32)
    samplers = [Sampler(8, SamplingParams(seed=i)) for i in range(3)]
    first, error, last = sample_rows(
        [good.ctypes.data, bad.ctypes.data, good.ctypes.data], samplers
    )
    assert isinstance(error, SamplingError)
    assert first.token == Sampler(8, SamplingParams(seed=0)).sample(good)
    assert last.token == Sampler(8, SamplingParams(seed=2)).sample(good)
    assert [sampler.position for sampler in samplers] == [1, 0, 1]


def test_sample_rows_refuses_arguments_that_do_not_fit():
    row = np.zeros(4, np.float32)
    address, sampler = row.ctypes.data, Sampler(4)
    for arguments, keywords in [
        (([address], [sampler, Sampler(4)]), {}),
        (([0], [sampler]), {}),
        (([address] * 2, [sampler] * 2), {}),
        (([address], [sampler]), {"top_logprobs": [1, 2]}),
        (([address], [sampler]), {"threads": 0}),
    ]:
        with pytest.raises(ValueError, match=r"row|address|sampler|threads"):
            sample_rows(*arguments, **keywords)
    with pytest.raises(TypeError):
        sample_rows([address], ["no sampler"])
    assert sample_rows([], []) == []
    assert sampler.position == 0
    assert sampler.sample(row) in range(4), "a refused call left the sampler taken"


def test_accept_false_counts_nothing():
    row = np.array([1.0, 0.0], np.float32)
    sampler = Sampler(2, SamplingParams(temperature=0, presence_penalty=2.0))
    for _ in range(2):
        assert sample_rows([row.ctypes.data], [sampler], accept=False)[0].token == 0
    assert sample_rows([row.ctypes.data], [sampler])[0].token == 0
    assert sample_rows([row.ctypes.data], [sampler])[0].token == 1


# --- wrong calls ------------------------------------------------------------------------------


def unfinished() -> Sampler:
    """A sampler whose constructor failed while a reference to it was kept."""
    sampler = Sampler.__new__(Sampler)
    with pytest.raises(InvalidParameter):
        sampler.__init__(100, SamplingParams(frequency_penalty=1.0), banned=[500])
    return sampler


@pytest.mark.parametrize("make", [lambda: Sampler.__new__(Sampler), unfinished])
def test_an_unconstructed_sampler_refuses_everything(make):
    row = np.zeros(100, np.float32)
    for call in (
        lambda s: s.sample(row.ctypes.data),
        lambda s: s.accept(0),
        lambda s: s.isa,
        lambda s: sample_rows([row.ctypes.data], [s]),
    ):
        with pytest.raises((RuntimeError, InvalidParameter)):
            call(make())


@pytest.mark.parametrize("wrong", [1.7, "1", None, [1]])
def test_numbers_that_are_not_whole_are_refused(wrong):
    row = np.zeros(4, np.float32)
    for call in (
        lambda: Sampler(wrong),
        lambda: Sampler(4, choice=wrong),
        lambda: Sampler(4).accept(wrong),
        lambda: Sampler(4, SamplingParams(repetition_penalty=2.0), [wrong]),
        lambda: Sampler(4, banned=[wrong]),
        lambda: Sampler(4).sample(row, top_logprobs=2.5),
    ):
        with pytest.raises(TypeError):
            call()


def test_other_wrong_arguments_are_refused():
    row = np.zeros(4, np.float32)
    for call in (
        lambda: sample_rows([row.ctypes.data], [None]),
        lambda: Sampler(4, {"temperature": 1.0}),
        lambda: Sampler(4, isa=3),
    ):
        with pytest.raises(TypeError):
            call()
    for counter, key in (([1, 2, 3], [1, 2]), ([1, 2, 3, 4], [1]), ([1] * 5, [1, 2])):
        with pytest.raises(ValueError, match="counter"):
            philox4x32(counter, key)


def test_buffers_of_ctypes():
    row = (ctypes.c_float * 10)(*range(10))
    mask = (ctypes.c_uint32 * 1)(0b111)
    assert Sampler(10, SamplingParams(temperature=0)).sample(row) == 9
    assert Sampler(10, SamplingParams(temperature=0)).sample(row, mask=mask) == 2


# --- threads ----------------------------------------------------------------------------------


def test_samplers_on_many_threads_draw_the_same_as_alone():
    n = 20_000
    row = np.random.default_rng(1).normal(0, 2, n).astype(np.float32)
    fields = [
        {"top_p": 0.9, "frequency_penalty": 0.3},
        {"top_k": 50, "typical_p": 0.9, "dry_multiplier": 1.0},
        {"mirostat": 1, "mirostat_tau": 3.0},
        {"mirostat": 2, "dynatemp_range": 0.3},
        {"top_n_sigma": 1.0, "xtc_probability": 0.5, "xtc_threshold": 0.01},
    ]

    def run(seed):
        return draw_some(Sampler(n, SamplingParams(seed=seed, **fields[seed % 5])), row)

    expected = [run(seed) for seed in range(10)]
    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(run, range(10))) == expected


def draw_some(sampler, row):
    tokens = []
    for _ in range(30):
        tokens.append(sampler.sample(row))
        sampler.accept(tokens[-1])
    return tokens


def test_one_sampler_on_two_threads_is_refused_or_served_whole():
    """Every call either draws or raises RuntimeError; each draw moves the position by one."""
    n = 50_000
    row = np.random.default_rng(2).normal(0, 2, n).astype(np.float32)
    sampler = Sampler(n, SamplingParams(seed=1))
    outcomes = []

    def run():
        for _ in range(100):
            try:
                outcomes.append(sampler.sample(row) < n)
            except RuntimeError:
                outcomes.append(False)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 400
    assert sampler.position == sum(outcomes) > 0
