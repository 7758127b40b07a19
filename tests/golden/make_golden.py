"""Writes draws.csv: the tokens that seeds have to give, now and in every later version.

The promise: the same seed, choice, parameters and logits give the same tokens, on every platform,
with every instruction set and in every later version of OffGrid LLM. A change that makes
``tests/sampling/test_golden.py`` fail breaks it; running this program again does not mend that. It
is run only to add cases.

This program is a second implementation of sampling, in Python and NumPy float64, and shares no
code with the first: not the kernels, not the package, not ``tests/reference.py``. The definitions
are those of ``csrc/og_sampler.h``.

Rows need no files: logit ``i`` of step ``k`` is a multiple of 2^-12, exact in float32::

    h = (i * 2654435761 + k * 2246822519) mod 2^32
    logit = ((h >> 16) / 2^12 - 8) * 2^spread

Each case draws ``STEPS`` tokens, each from its own row, and accepts it. A token is written as
``~token`` where a border (between two tokens, of the nucleus, of min_p) lies so near that float32
rounding may decide; such a token is accepted like the others, but nobody is held to it.

Usage: python tests/golden/make_golden.py
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).with_name("draws.csv")
STEPS = 50
MARGIN = 2e-6
"""Distance of a border, as a share of the mass, below which a token is not certain. The weights of
the kernels are right to 2e-7 + 1e-7 * exponent each, the sums better than that."""

MASK_32 = (1 << 32) - 1
Row = NDArray[np.float32]
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One line of the file: how rows look, how tokens are drawn, and which come out."""

    name: str
    n_vocab: int
    spread: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = 64
    logit_bias: str = ""  # "token:bias token:bias"
    prompt: str = ""  # "token token token"
    mask_every: int = 0  # allow every n-th token only; 0 is no mask
    seed: int = 0
    choice: int = 0


CASES = [
    Case("greedy", 1000, temperature=0.0, seed=1),
    Case("greedy-ties", 128256, temperature=0.0, seed=1),
    Case("greedy-penalties", 50, spread=-4, temperature=0.0, frequency_penalty=0.25),
    Case("plain-2", 2, spread=-3, seed=2),
    Case("plain-17", 17, seed=3),
    Case("plain-512", 512, seed=4),
    Case("plain-513", 513, spread=-1, seed=5),
    Case("plain-32000", 32000, seed=6),
    Case("plain-128256", 128256, seed=7),
    Case("peaked-128256", 128256, spread=4, seed=8),
    Case("cold", 32000, temperature=0.25, seed=9),
    Case("hot", 5000, temperature=2.0, seed=10),
    Case("top-p-0", 3000, top_p=0.0, seed=11),
    Case("top-p-half", 3000, top_p=0.5, seed=12),
    Case("top-p-151936", 151936, spread=2, top_p=0.95, seed=13),
    Case("top-p-128256", 128256, top_p=0.95, seed=14),
    Case("top-p-128256-peaked", 128256, spread=5, temperature=0.7, top_p=0.9, seed=15),
    Case("top-p-128256-flat", 128256, spread=-1, top_p=0.9, seed=16),
    Case("top-k-1", 1000, top_k=1, seed=17),
    Case("top-k-40", 128256, top_k=40, seed=18),
    Case("top-k-1000", 32000, top_k=1000, seed=19),
    Case("min-p", 32000, min_p=0.05, seed=20),
    Case("min-p-1", 4096, min_p=1.0, seed=21),
    Case("usual", 128256, 2, 0.7, 0.95, 0, 0.0, 0.5, 0.25, seed=22),
    Case("llama-cpp-usual", 128256, 2, 0.8, 0.95, 40, 0.05, seed=23),
    Case("everything", 32000, 1, 0.9, 0.9, 200, 0.02, 0.5, 0.5, 1.25, 16, seed=24),
    Case("frequency", 20, -2, frequency_penalty=0.5, seed=25),
    Case("frequency-negative", 40, -1, frequency_penalty=-0.5, seed=26),
    Case("presence", 64, -2, presence_penalty=2.0, seed=27),
    Case("repetition", 30, -1, repetition_penalty=2.0, repeat_last_n=-1, seed=28),
    Case("repetition-window", 30, -1, repetition_penalty=1.5, repeat_last_n=4, seed=29),
    Case("repetition-prompt", 600, 0, repetition_penalty=4.0, prompt="0 1 2 599 1 0", seed=30),
    Case("bias", 700, logit_bias="0:8 699:12 5:-100 100:10.5 511:9 512:9", seed=31),
    Case("ban", 8, -3, logit_bias="0:-inf 7:-inf 3:-inf", seed=32),
    Case("mask", 1030, mask_every=7, seed=33),
    Case("mask-top-p", 128256, 1, top_p=0.9, mask_every=100, seed=34),
    Case("seed-64-bits", 2000, seed=2**64 - 1),
    Case("seed-33-bits", 2000, seed=2**32 + 5),
    Case("choice-1", 2000, seed=35, choice=1),
    Case("choice-last", 2000, seed=35, choice=2**32 - 1),
]


# --- random numbers: Philox 4x32-10 (Salmon et al. 2011) ----------------------------------------


def philox(counter: list[int], key: list[int]) -> list[int]:
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        ac, cc = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = cc >> 32 ^ b ^ k0, cc & MASK_32, ac >> 32 ^ d ^ k1, ac & MASK_32
        k0, k1 = k0 + 0x9E3779B9 & MASK_32, k1 + 0xBB67AE85 & MASK_32
    return [a, b, c, d]


def coin(case: Case, position: int) -> float:
    words = philox([position, 0, case.choice, 0], [case.seed & MASK_32, case.seed >> 32])
    return (words[0] << 21 | words[1] >> 11) / 2**53


# --- a row and what changes it -----------------------------------------------------------------


def logits(n_vocab: int, spread: int, step: int) -> Row:
    token = np.arange(n_vocab, dtype=np.uint64)
    h = token * np.uint64(2654435761) + np.uint64(step * 2246822519) & np.uint64(MASK_32)
    return (((h >> np.uint64(16)) / 2**12 - 8) * 2.0**spread).astype(np.float32)


def changed(case: Case, row: Row, generated: list[int]) -> Row:
    """Bias, mask and penalties, in float32 as the rows are."""
    row = row.copy()
    for entry in case.logit_bias.split():
        token, bias = entry.split(":")
        row[int(token)] += np.float32(bias)
    if case.mask_every:
        row[np.arange(case.n_vocab) % case.mask_every != 0] = -np.inf
    seen = [int(token) for token in case.prompt.split()] + generated
    window = seen if case.repeat_last_n < 0 else seen[max(0, len(seen) - case.repeat_last_n) :]
    penalty = np.float32(case.repetition_penalty)
    for token in set(window):
        row[token] = row[token] * penalty if row[token] <= 0 else row[token] / penalty
    for token, count in Counter(generated).items():
        row[token] -= np.float32(count * case.frequency_penalty + case.presence_penalty)
    return row


# --- a draw ------------------------------------------------------------------------------------


def float32(value: float) -> float:
    """Parameters travel as float32."""
    return float(np.float32(value))


def nuclei(case: Case, weights: Weights, best_first: NDArray[np.intp]) -> list[int]:
    """Return how many tokens top_p keeps; more numbers behind it where rounding decides."""
    mass, total = np.cumsum(weights[best_first]), weights.sum()
    goals = [(float32(case.top_p) + shift) * total for shift in (0.0, -MARGIN, MARGIN)]
    counts = [int(np.searchsorted(mass, goal)) + 1 for goal in goals]
    return list(dict.fromkeys(counts))


def truncated(case: Case, row: Row) -> Iterator[Weights]:
    """Yield the weights that top_k, top_p and min_p leave, then those that rounding may leave."""
    wide = row.astype(np.float64)
    weights = np.exp((wide - wide.max()) / float32(case.temperature))
    best_first = np.argsort(-wide, kind="stable")
    if 0 < case.top_k < case.n_vocab:
        weights[best_first[case.top_k :]] = 0.0
    for count in nuclei(case, weights, best_first) if case.top_p < 1 else [case.n_vocab]:
        for factor in (1.0, 1 - 1e-5, 1 + 1e-5) if case.min_p else [0.0]:
            kept = weights.copy()
            kept[best_first[count:]] = 0.0
            border = min(1.0, float32(case.min_p) * factor) * weights.max()
            kept[kept < border] = 0.0
            yield kept


def draw(case: Case, row: Row, u: float) -> tuple[int, bool]:
    """Return the token and whether it is certain."""
    if case.temperature == 0:
        return int(np.argmax(row)), True
    drawn = []
    for weights in truncated(case, row):
        above = np.cumsum(weights)
        for shift in (0.0, -MARGIN, MARGIN):
            # In [0, 1): at its ends there is no other token to be taken for this one.
            target = min(max(u + shift, 0.0), 1.0 - 2.0**-53) * above[-1]
            drawn.append(int(np.searchsorted(above, target, side="right")))
    return drawn[0], len(set(drawn)) == 1


def tokens(case: Case) -> Iterator[str]:
    generated: list[int] = []
    for step in range(STEPS):
        row = changed(case, logits(case.n_vocab, case.spread, step), generated)
        token, certain = draw(case, row, coin(case, step))
        generated.append(token)
        yield str(token) if certain else f"~{token}"


def main() -> None:
    with PATH.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*(field.name for field in fields(Case)), "tokens"])
        for case in CASES:
            drawn = list(tokens(case))
            unsure = sum(token.startswith("~") for token in drawn)
            if unsure > STEPS // 3:
                raise SystemExit(f"{case.name}: {unsure} of {STEPS} draws are not certain")
            print(f"{case.name}: {unsure} of {STEPS} not certain, {len(set(drawn))} different")
            writer.writerow([*asdict(case).values(), " ".join(drawn)])


if __name__ == "__main__":
    main()
