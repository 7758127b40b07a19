"""The readable definition of sampling, written from its sources, in the order of the steps.

Nothing here is fast, and nothing here uses our kernels. The fast code must equal it: exactly where
the definition is exact, within rounding where a real number decides (``readings``).

Sources: OpenAI's API reference (frequency and presence penalty, logit_bias, top_p), llama.cpp's
``llama-sampler.cpp`` (repetition penalty, DRY, min_p, XTC, dynamic temperature, adaptive-p), Tang
et al. 2024 (top-n-sigma), Meister et al. 2023 (typical_p), Tan et al. 2025 (p-less), Basu et al.
2021 (mirostat), Salmon et al. 2011 (Philox 4x32-10).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from offgrid.sampling import SamplingParams

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MASK_32 = (1 << 32) - 1
DRAW, XTC = 0, 1
"""Streams of the random numbers."""
LEAST_WEIGHT = 2.0**-127
"""A token less likely than this, relative to the most likely token, is never drawn."""


# --- random numbers ---------------------------------------------------------------------------


def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, ...]:
    """Ten rounds of Philox 4x32 as section 3.3 of the paper defines them."""
    left_0, right_0, left_1, right_1 = counter
    key_0, key_1 = key
    for _ in range(10):
        product_0, product_1 = 0xD2511F53 * left_0, 0xCD9E8D57 * left_1
        left_0, left_1, right_0, right_1 = (
            (product_1 >> 32) ^ right_0 ^ key_0,
            (product_0 >> 32) ^ right_1 ^ key_1,
            product_1 & MASK_32,
            product_0 & MASK_32,
        )
        key_0, key_1 = (key_0 + 0x9E3779B9) & MASK_32, (key_1 + 0xBB67AE85) & MASK_32
    return left_0, right_0, left_1, right_1


def coin(seed: int, choice: int, position: int, stream: int = DRAW) -> float:
    """Return the random number in [0, 1) for the draw at ``position``."""
    words = philox4x32(
        (position & MASK_32, position >> 32, choice, stream), (seed & MASK_32, seed >> 32)
    )
    return ((words[0] << 32 | words[1]) >> 11) / 2**53


# --- bias, mask, penalties --------------------------------------------------------------------


@np.errstate(over="ignore")
def adjusted(
    logits: NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int] = (),
    generated: Sequence[int] = (),
    allowed: set[int] | None = None,
    ends: Sequence[int] = (),
) -> NDArray[np.float32]:
    """Apply bias, mask and penalties, in this order, in float32 like the rows."""
    row = logits.astype(np.float32, copy=True)
    for token, bias in (params.logit_bias or {}).items():
        row[token] += np.float32(-np.inf if bias is False else bias)
    if allowed is not None:
        for token in range(len(row)):
            if token not in allowed:
                row[token] = -np.inf
    everything = [*prompt, *generated]
    last_n = len(everything) if params.repeat_last_n < 0 else params.repeat_last_n
    penalty = np.float32(params.repetition_penalty)
    for token in set(everything[max(0, len(everything) - last_n) :]):
        row[token] = row[token] * penalty if row[token] <= 0 else row[token] / penalty
    for token, count in Counter(generated).items():
        row[token] -= np.float32(
            np.float32(count) * np.float32(params.frequency_penalty)
        ) + np.float32(params.presence_penalty)
    for token, lowered in dry_penalties(everything, params).items():
        row[token] -= np.float32(lowered)
    if len(generated) < params.min_tokens:
        row[list(ends)] = -np.inf
    return row


def dry_penalties(everything: Sequence[int], params: SamplingParams) -> dict[int, float]:
    """Return the penalty for each token that would continue a repetition."""
    if params.dry_multiplier == 0:
        return {}
    last_n = len(everything) if params.dry_penalty_last_n < 0 else params.dry_penalty_last_n
    seen = list(everything[max(0, len(everything) - last_n) :])
    breakers = [list(breaker) for breaker in params.dry_breakers]
    unbroken = len(seen)
    for begin in reversed(range(len(seen))):
        here = [len(b) for b in breakers if seen[begin : begin + len(b)] == b]
        if here:
            unbroken = len(seen) - begin - max(here)
            break
    longest: dict[int, int] = {}
    for at in range(1, len(seen)):
        same = max(k for k in range(at + 1) if seen[at - k : at] == seen[len(seen) - k :])
        length = min(same, unbroken)
        if length >= params.dry_allowed_length and [seen[at]] not in breakers:
            longest[seen[at]] = max(length, longest.get(seen[at], 0))
    multiplier, base = float(np.float32(params.dry_multiplier)), float(np.float32(params.dry_base))
    most = float(np.finfo(np.float32).max)
    return {
        token: min(multiplier * base ** (length - params.dry_allowed_length), most)
        for token, length in longest.items()
    }


# --- temperature and truncation ---------------------------------------------------------------


@dataclass(frozen=True)
class Slack:
    """How far rounding may move each threshold; all 0 is the definition itself."""

    top_n_sigma: float = 0.0
    typical_p: float = 0.0
    entropy: float = 0.0
    top_p: float = 0.0
    min_p: float = 0.0
    p_less: float = 0.0
    xtc_threshold: float = 0.0
    mirostat: float = 0.0


EXACT = Slack()


def temperature_of(row: NDArray[np.float32], params: SamplingParams) -> float:
    """Return the temperature, which moves with the entropy if ``dynatemp_range`` says so."""
    middle, around = float(np.float32(params.temperature)), float(np.float32(params.dynatemp_range))
    candidates = np.count_nonzero(row > -np.inf)
    if middle == 0 or around == 0 or candidates == 1:
        return middle
    low, high = max(0.0, middle - around), middle + around
    share = entropy_of(np.exp(row.astype(np.float64) - row.max())) / math.log(candidates)
    return low + (high - low) * share ** float(np.float32(params.dynatemp_exponent))


def entropy_of(weights: Floats) -> float:
    """Entropy in nats."""
    p = weights[weights > 0] / weights.sum()
    return max(0.0, float(-(p * np.log(p)).sum()))


def kept(
    row: NDArray[np.float32],
    params: SamplingParams,
    xtc_coin: float = 1.0,
    mu: float = math.inf,
    slack: Slack = EXACT,
) -> Floats:
    """Return the probability of drawing each token; a removed token has 0."""
    temperature = temperature_of(row, params)
    if temperature == 0:
        return np.eye(len(row))[np.argmax(row)]
    logits = row.astype(np.float64)
    weights = np.exp((logits - row.max()) / temperature)
    weights[weights < LEAST_WEIGHT] = 0.0
    if params.mirostat:
        weights[~mirostat(logits / temperature, weights, params, mu, slack)] = 0.0
        return weights / weights.sum()
    for step in (top_n_sigma, top_k, typical_p, top_p, min_p, p_less):
        dropped = ~step(logits, weights, params, slack)
        logits[dropped], weights[dropped] = -np.inf, 0.0
    if xtc_coin < np.float32(params.xtc_probability):
        weights[~xtc(logits, weights, params, slack)] = 0.0
    return weights / weights.sum()


def first_of(order: NDArray[np.intp], count: int, params: SamplingParams) -> Bools:
    """Mark the first ``count`` tokens of an order, but at least min_keep."""
    marks = np.zeros(len(order), dtype=bool)
    marks[order[: max(count, params.min_keep)]] = True
    return marks


def best_first(values: Floats) -> NDArray[np.intp]:
    """Order tokens by logit or weight, largest first; ties are in order of token id."""
    return np.argsort(-values, kind="stable")


def until(reached: Bools) -> int:
    """Count the items up to the first one that reaches the limit; all if none does."""
    return int(np.argmax(reached)) + 1 if reached.any() else len(reached)


def top_n_sigma(logits: Floats, weights: Floats, params: SamplingParams, slack: Slack) -> Bools:
    """Keep logits within n standard deviations of the largest."""
    if params.top_n_sigma == 0:
        return weights >= 0
    deviations = float(np.float32(params.top_n_sigma)) * (1 + slack.top_n_sigma)
    below = logits.max() - logits
    enough = below <= deviations * below[below < np.inf].std()
    return first_of(best_first(logits), np.count_nonzero(enough), params)


def top_k(logits: Floats, weights: Floats, params: SamplingParams, slack: Slack) -> Bools:
    """Keep the k most likely tokens."""
    return first_of(best_first(logits), params.top_k or len(logits), params)


def typical_p(logits: Floats, weights: Floats, params: SamplingParams, slack: Slack) -> Bools:
    """Keep the tokens with information nearest to the entropy until their sum exceeds p."""
    if params.typical_p == 1:
        return weights >= 0
    with np.errstate(divide="ignore"):
        information = -np.log(weights / weights.sum())
    distance = np.abs(information - entropy_of(weights) - slack.entropy)
    # Tokens on both sides of the entropy may be equally far; rounding keeps them equal here too.
    order = np.argsort(np.round(distance / 1e-5), kind="stable")
    mass = np.cumsum(weights[order]) / weights.sum()
    goal = float(np.float32(params.typical_p)) + slack.typical_p
    return first_of(order, until(mass > goal), params)


def top_p(logits: Floats, weights: Floats, params: SamplingParams, slack: Slack) -> Bools:
    """Keep the most likely tokens until their probabilities add up to p."""
    if params.top_p == 1:
        return weights >= 0
    order = best_first(weights)
    mass = np.cumsum(weights[order]) / weights.sum()
    goal = float(np.float32(params.top_p)) + slack.top_p
    return first_of(order, until(mass >= goal), params)


def min_p(logits: Floats, weights: Floats, params: SamplingParams, slack: Slack) -> Bools:
    """Keep tokens at least min_p times as likely as the most likely one."""
    share = min(1.0, float(np.float32(params.min_p)) * (1 + slack.min_p))
    enough = np.count_nonzero(weights >= share * weights.max())
    return first_of(best_first(weights), enough, params)


def p_less(logits: Floats, weights: Floats, params: SamplingParams, slack: Slack) -> Bools:
    """Keep tokens at least as likely as the sum of the squares of all probabilities."""
    if not params.p_less:
        return weights >= 0
    p = weights / weights.sum()
    least = min(p.max(), (p**2).sum() * (1 + slack.p_less))
    return first_of(best_first(weights), np.count_nonzero(p >= least), params)


def xtc(logits: Floats, weights: Floats, params: SamplingParams, slack: Slack) -> Bools:
    """Of the tokens with at least this probability, keep only the least likely."""
    threshold = float(np.float32(params.xtc_threshold)) * (1 + slack.xtc_threshold)
    order = [token for token in best_first(weights) if weights[token] > 0]
    above = sum(weights[order] / weights.sum() >= threshold)
    stays = weights > 0
    if params.xtc_threshold <= 0.5 and above >= 2 and len(order) - (above - 1) >= params.min_keep:
        stays[order[: above - 1]] = False
    return stays


# --- adaptive-p -------------------------------------------------------------------------------


def adapted(probabilities: Floats, mean: float, params: SamplingParams) -> Floats:
    """Return ``probabilities`` changed so that those near a goal become likelier.

    ``mean``: the running mean of the probabilities of drawn tokens, initially the target.
    """
    goal = min(1.0, max(0.0, 2 * float(np.float32(params.adaptive_target)) - mean))
    x = np.abs(probabilities - goal) / 0.3
    weights = np.where(probabilities > 0, np.exp(-10 * x**2 / (1 + x)), 0.0)
    return weights / weights.sum()


def next_mean(mean: float, probability: float, params: SamplingParams) -> float:
    """Return the mean after drawing a token with this probability (before ``adapted``)."""
    decay = float(np.float32(params.adaptive_decay))
    return decay * mean + (1 - decay) * probability


# --- mirostat ---------------------------------------------------------------------------------


def mirostat(
    logits: Floats, weights: Floats, params: SamplingParams, mu: float, slack: Slack
) -> Bools:
    """Keep tokens with a surprise of at most mu (version 2), or the k expected for mu (1)."""
    if params.mirostat == 2:
        surprise = -np.log2(np.maximum(weights / weights.sum(), 1e-300))
        return (surprise <= mu + slack.mirostat) | (weights == weights.max())
    order, n = best_first(logits), len(logits)
    best = [float(logits[token]) for token in order[:100] if logits[token] > -np.inf]
    t = [math.log((i + 2) / (i + 1)) for i in range(len(best) - 1)]
    b = [best[i] - best[i + 1] for i in range(len(best) - 1)]
    if not t:
        k = 1.0
    else:
        s = sum(x * y for x, y in zip(t, b, strict=True)) / sum(x * x for x in t)
        k = mirostat_k(s, mu, n) * (1 + slack.mirostat)
    marks = np.zeros(n, dtype=bool)
    marks[order[: max(1, int(min(k, n)))]] = True
    return marks


def mirostat_k(s: float, mu: float, n: int) -> float:
    """The paper's equation for k; all tokens if their probabilities do not decrease."""
    if s <= 0:
        return n
    epsilon = s - 1
    try:
        return (epsilon * 2**mu / (1 - n**-epsilon)) ** (1 / s)
    except (OverflowError, ZeroDivisionError):
        return n


def next_mu(mu: float, probability: float, params: SamplingParams) -> float:
    """Return mirostat's state after drawing a token with this probability."""
    error = -math.log2(probability) - float(np.float32(params.mirostat_tau))
    return mu - float(np.float32(params.mirostat_eta)) * error


# --- rounding, and the draw -------------------------------------------------------------------


def readings(params: SamplingParams, tolerance: float = 1e-5) -> Iterator[Slack]:
    """Yield the definition, then every variant whose thresholds are moved within rounding."""
    used = {
        "top_n_sigma": params.top_n_sigma > 0,
        "typical_p": params.typical_p < 1,
        "entropy": params.typical_p < 1,
        "top_p": params.top_p < 1,
        "min_p": params.min_p > 0,
        "p_less": params.p_less,
        "xtc_threshold": params.xtc_probability > 0,
    }
    if params.mirostat:
        used = {"mirostat": True}
    moves = [
        (0.0, -tolerance, tolerance) if used.get(field.name) else (0.0,) for field in fields(Slack)
    ]
    for values in itertools.product(*moves):
        yield Slack(*values)


def drawn_by(probabilities: Floats, u: float, tolerance: float = 1e-5) -> set[int]:
    """Return the tokens at which the cumulative sum exceeds u: one, or two if u is at a border."""
    above = np.cumsum(probabilities)
    below = above - probabilities
    hits = (below - tolerance <= u) & (u <= above + tolerance) & (probabilities > 0)
    return set(np.flatnonzero(hits).tolist())


def drawable(
    row: NDArray[np.float32],
    params: SamplingParams,
    u: float,
    xtc_coin: float = 1.0,
    mu: float = math.inf,
) -> set[int]:
    """Return the tokens that the coin ``u`` may draw from an adjusted row.

    There is more than one only where a border lies within the rounding of float32 weights.
    """
    tokens = set()
    for slack in readings(params):
        tokens |= drawn_by(kept(row, params, xtc_coin, mu, slack), u)
    return tokens


def logprobs(logits: NDArray[np.float32]) -> Floats:
    """Log-softmax of the raw row."""
    shifted = logits.astype(np.float64) - logits.max()
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum())
