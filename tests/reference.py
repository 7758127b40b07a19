"""The readable definition of sampling and of the text stream, written from their sources.

Nothing here is fast and nothing here uses our kernels. Fast code has to equal it: exactly where the
definition is exact (which tokens, which text), within rounding where a real number decides.

Sources: OpenAI's API reference (penalties, logit_bias, top_p), llama.cpp's ``llama-sampler.cpp``
(repetition penalty, min_p), Salmon et al. 2011 (Philox 4x32-10), Unicode 15 section 3.9 (UTF-8).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from offgrid.sampling import SamplingParams

MASK_32 = (1 << 32) - 1


# --- random numbers ---------------------------------------------------------------------------


def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, ...]:
    """Ten rounds of Philox 4x32 as the paper's section 3.3 words them."""
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


def coin(seed: int, choice: int, position: int) -> float:
    """Return the number in [0, 1) that decides the draw at ``position``."""
    words = philox4x32(
        (position & MASK_32, position >> 32, choice, 0), (seed & MASK_32, seed >> 32)
    )
    return ((words[0] << 32 | words[1]) >> 11) / 2**53


# --- from a row to a token --------------------------------------------------------------------


def adjusted(
    logits: NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int] = (),
    generated: Sequence[int] = (),
    allowed: set[int] | None = None,
) -> NDArray[np.float32]:
    """Bias, mask and penalties, in this order, in float32 as the rows are."""
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
    return row


def kept(
    row: NDArray[np.float32], params: SamplingParams, p_shift: float = 0.0, min_p_factor: float = 1
) -> NDArray[np.float64]:
    """Return the probabilities after temperature, top_k, top_p and min_p; 0 is dropped.

    ``p_shift`` and ``min_p_factor`` move the borders, for tests that allow for rounding.
    """
    weights = np.exp((row.astype(np.float64) - row.max()) / params.temperature)
    best_first = sorted(range(len(row)), key=lambda token: (-row[token], token))
    if params.top_k:
        weights[best_first[params.top_k :]] = 0.0
    if params.top_p < 1:
        goal, mass = (np.float32(params.top_p) + p_shift) * weights.sum(), 0.0
        for rank, token in enumerate(best_first):
            if rank and mass >= goal:
                weights[token] = 0.0
            mass += weights[token]
    share = min(1.0, np.float32(params.min_p) * min_p_factor)
    weights[weights < share * weights.max()] = 0.0
    return weights / weights.sum()


def drawable(
    row: NDArray[np.float32], params: SamplingParams, u: float, tolerance: float = 1e-5
) -> set[int]:
    """Return the tokens that the coin ``u`` may draw from an adjusted row.

    More than one only where a border (of the nucleus, of min_p, of two tokens on the CDF) lies
    within the rounding of float32 weights.
    """
    if params.temperature == 0:
        return {int(np.argmax(row))}
    tokens = set()
    for p_shift in (-tolerance, 0.0, tolerance):
        for min_p_factor in (1 - tolerance, 1, 1 + tolerance):
            probabilities = kept(row, params, p_shift, min_p_factor)
            above = np.cumsum(probabilities)
            below = above - probabilities
            hits = (below - tolerance <= u) & (u <= above + tolerance) & (probabilities > 0)
            tokens.update(np.flatnonzero(hits).tolist())
    return tokens


def logprobs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-softmax of the raw row."""
    shifted = logits.astype(np.float64) - logits.max()
    with np.errstate(divide="ignore"):
        return shifted - np.log(np.exp(shifted).sum())


# --- from bytes to text -----------------------------------------------------------------------


CHARACTER_BEGINNINGS = {
    chr(code).encode()[:k]
    # The last byte holds six bits: every 64th character shows all beginnings.
    for code in range(0x80, 0x110000, 64)
    if not 0xD800 <= code <= 0xDFFF
    for k in range(1, len(chr(code).encode()))
}
"""Bytes that begin a character and need more to end it. (Python's incremental decoder would hold
back beginnings of surrogates, too, which never become a character.)"""


def first_stop(data: bytes, stops: Sequence[bytes]) -> tuple[int, int] | None:
    """Return (where the match begins, index of the stop): earliest end, then the longest."""
    for end in range(1, len(data) + 1):
        ending = [i for i, stop in enumerate(stops) if data[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=lambda i: len(stops[i]))
            return end - len(stops[longest]), longest
    return None


def whole_text(data: bytes, stops: Sequence[bytes]) -> str:
    """Return the text of a stream that has ended."""
    match = first_stop(data, stops)
    return (data if match is None else data[: match[0]]).decode("utf-8", "replace")


def shown_text(data: bytes, stops: Sequence[bytes]) -> str:
    """Return all the text that may be shown once ``data`` has come and more may follow."""
    if first_stop(data, stops) is not None:
        return whole_text(data, stops)
    held = max(
        (k for stop in stops for k in range(len(stop)) if data.endswith(stop[:k])), default=0
    )
    ready = data[: len(data) - held]
    ends = (ready[-k:] for k in (1, 2, 3))
    unfinished = max((len(end) for end in ends if end in CHARACTER_BEGINNINGS), default=0)
    return ready[: len(ready) - unfinished].decode("utf-8", "replace")


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Yield every way to cut ``data`` into pieces."""
    for cuts in range(1 << max(0, len(data) - 1)):
        pieces, begin = [], 0
        for at in range(1, len(data)):
            if cuts >> (at - 1) & 1:
                pieces.append(data[begin:at])
                begin = at
        yield [*pieces, data[begin:]]
