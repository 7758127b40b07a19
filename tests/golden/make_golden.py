"""Writes draws.csv: the tokens that seeds must give, now and in every later version.

The guarantee: the same seed, choice, parameters and logits give the same tokens, on every platform,
with every instruction set and in every later version of OffGrid LLM. A change that makes
``tests/sampling/test_golden.py`` fail breaks it; running this program again does not repair that.
Run it only to add cases.

This program is a second implementation of sampling, in Python and NumPy float64, and shares no
code with the first: not the kernels, not the package, not ``tests/lib/reference.py``. The
definitions are those of ``csrc/og_sampler.h`` and ``csrc/og_dry.h``.

Rows need no files: logit ``i`` of step ``k`` is a multiple of 2^-12, exact in float32::

    h = (i * 2654435761 + k * 2246822519) mod 2^32
    logit = ((h >> 16) / 2^12 - 8) * 2^spread

Each case draws ``STEPS`` tokens, each from a different row, and accepts it. A token is written as
``~token`` if a border (between two tokens, of the nucleus, of min_p, ...) is so near that float32
rounding may decide; such a token is accepted like the others, but the test does not require it.
With mirostat no token may be uncertain, because the drawn token, not the accepted one, moves its
state.

Rare parameters are together in the last column, as ``name=value name=value``; a line without them
lacks it. It has all parameters of a family (``dry_``, ``xtc_``, ...) or none.

Usage: python tests/golden/make_golden.py
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).with_name("draws.csv")
STEPS = 50
MARGIN = 2e-6
"""Distance to a border, as a share of the total weight, below which a token is uncertain. Each
weight of the kernels is exact to 2e-7 + 1e-7 * exponent, and the sums are more exact."""

MASK_32 = (1 << 32) - 1
Row = NDArray[np.float32]
Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One line of the file: the rows, the parameters, and the tokens."""

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
    # The last column.
    top_n_sigma: float = 0.0
    typical_p: float = 1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_breakers: str = ""  # "token-token/token": two breakers
    min_keep: int = 0
    min_tokens: int = 0
    end_tokens: str = ""  # "token-token"


N_COLUMNS = 16
COLUMNS = [field.name for field in fields(Case)[:N_COLUMNS]]
MORE = fields(Case)[N_COLUMNS:]

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
    Case("top-n-sigma", 32000, top_n_sigma=0.25, seed=36),
    Case("top-n-sigma-128256", 128256, 1, 1.5, top_n_sigma=0.2, seed=37),
    Case("typical-p", 3000, typical_p=0.5, seed=38),
    Case("typical-p-0", 700, typical_p=0.0, seed=39),
    Case("typical-p-128256", 128256, 3, typical_p=0.9, seed=40),
    Case("xtc", 40, xtc_probability=0.5, xtc_threshold=0.05, seed=41),
    Case("xtc-always", 9, -2, xtc_probability=1.0, xtc_threshold=0.125, seed=42),
    Case("xtc-choice", 128256, 6, xtc_probability=0.5, xtc_threshold=0.004, seed=43, choice=3),
    Case("dynatemp", 2000, dynatemp_range=0.5, seed=44),
    Case("dynatemp-exponent", 500, 1, 1.5, dynatemp_range=2.0, dynatemp_exponent=2.5, seed=45),
    Case("dynatemp-128256", 128256, 4, 0.9, 0.95, dynatemp_range=0.75, seed=46),
    Case("mirostat-1", 200, 3, mirostat=1, mirostat_tau=2.0, seed=47),
    Case("mirostat-1-2000", 2000, 4, mirostat=1, mirostat_tau=3.0, mirostat_eta=0.25, seed=48),
    Case("mirostat-1-128256", 128256, 7, mirostat=1, mirostat_tau=4.0, seed=65),
    Case("mirostat-2", 3000, mirostat=2, seed=49),
    Case("mirostat-2-128256", 128256, 6, 0.9, mirostat=2, mirostat_tau=3.5, seed=50),
    Case("min-keep-top-p", 1000, 3, top_p=0.1, min_keep=5, seed=51),
    Case("min-keep-top-k", 5000, 4, top_k=2, min_keep=7, seed=52),
    Case("min-keep-typical-p", 5000, 4, typical_p=0.1, min_keep=7, seed=66),
    Case("min-keep-min-p", 5000, 6, min_p=0.9, min_keep=7, seed=67),
    Case("min-keep-sigma", 32000, top_n_sigma=0.001, min_keep=20, seed=53),
    Case("min-keep-xtc", 6, -3, xtc_probability=1.0, xtc_threshold=0.12, min_keep=4, seed=54),
    Case("min-tokens", 8, -2, logit_bias="3:2", min_tokens=25, end_tokens="3-5", seed=55),
    Case("dry", 5, -3, dry_multiplier=1.5, dry_allowed_length=1, seed=56),
    Case(
        "dry-prompt",
        600,
        -3,
        logit_bias="5:7 6:7 7:7 599:7",
        prompt="5 6 7 599 5 6 7 599 5 6",
        dry_multiplier=0.5,
        dry_base=2.0,
        seed=57,
    ),
    Case("dry-window", 4, -3, dry_multiplier=2.0, dry_base=1.5, dry_penalty_last_n=10, seed=58),
    Case(
        "dry-breakers",
        4,
        -3,
        prompt="0 1 2 3 0 1",
        dry_multiplier=3.0,
        dry_allowed_length=1,
        dry_breakers="0-1/0-1-2/3-3/2-0-2",
        seed=59,
    ),
    Case(
        "dry-breakers-window",
        5,
        -3,
        prompt="4 0 1 2 4 0",
        dry_multiplier=1.0,
        dry_base=3.0,
        dry_allowed_length=1,
        dry_penalty_last_n=12,
        dry_breakers="4-0/2-1-3",
        seed=60,
    ),
    Case(
        "dry-128256",
        128256,
        logit_bias="9:16 8:16 70000:16 128255:16",
        prompt="9 8 70000 128255 9 8 70000 128255",
        dry_multiplier=3.0,
        dry_allowed_length=1,
        dry_breakers="70000/8-9",
        seed=61,
    ),
    Case(
        "rare-usual",
        128256,
        6,
        0.8,
        0.9,
        150,
        0.25,
        typical_p=0.9,
        top_n_sigma=0.004,
        xtc_probability=0.5,
        xtc_threshold=0.012,
        min_keep=8,
        seed=62,
    ),
    Case(
        "rare-everything",
        40,
        -1,
        0.9,
        0.9,
        12,
        0.1,
        0.25,
        0.125,
        1.125,
        16,
        "0:2 38:1",
        "0 6 0",
        mask_every=2,
        seed=63,
        choice=1,
        top_n_sigma=1.5,
        typical_p=0.9,
        xtc_probability=0.5,
        xtc_threshold=0.1,
        dynatemp_range=0.5,
        dynatemp_exponent=1.5,
        dry_multiplier=1.0,
        dry_allowed_length=1,
        dry_penalty_last_n=20,
        dry_breakers="0-4/38",
        min_keep=2,
        min_tokens=10,
        end_tokens="0-2",
    ),
    Case(
        "rare-mirostat",
        64,
        0,
        0.8,
        0.5,
        5,
        0.5,
        0.5,
        mirostat=2,
        mirostat_tau=2.5,
        mirostat_eta=0.5,
        xtc_probability=1.0,
        min_keep=50,
        seed=64,
    ),
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


def coin(case: Case, position: int, stream: int = 0) -> float:
    words = philox([position, 0, case.choice, stream], [case.seed & MASK_32, case.seed >> 32])
    return (words[0] << 21 | words[1] >> 11) / 2**53


# --- a row and its changes ---------------------------------------------------------------------


def logits(n_vocab: int, spread: int, step: int) -> Row:
    token = np.arange(n_vocab, dtype=np.uint64)
    h = token * np.uint64(2654435761) + np.uint64(step * 2246822519) & np.uint64(MASK_32)
    return (((h >> np.uint64(16)) / 2**12 - 8) * 2.0**spread).astype(np.float32)


def changed(case: Case, row: Row, generated: list[int]) -> Row:
    """Apply bias, mask and penalties, in float32 like the rows."""
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
    for token, length in repetitions(case, seen).items() if case.dry_multiplier else ():
        power = float32(case.dry_base) ** (length - case.dry_allowed_length)
        row[token] -= np.float32(float32(case.dry_multiplier) * power)
    if len(generated) < case.min_tokens:
        row[numbers(case.end_tokens)] = -np.inf
    return row


def repetitions(case: Case, seen: list[int]) -> dict[int, int]:
    """Return the tokens that would continue a repetition, and the length of the longest."""
    last_n = case.dry_penalty_last_n
    text = seen if last_n < 0 else seen[max(0, len(seen) - last_n) :]
    breakers = [numbers(breaker) for breaker in case.dry_breakers.split("/")]
    # The last breaker is the one that begins last; if several begin there, the longest.
    ends = {
        (begin, begin + len(breaker))
        for breaker in breakers
        for begin in range(len(text))
        if breaker and text[begin : begin + len(breaker)] == breaker
    }
    unbroken = len(text) - max(ends)[1] if ends else len(text)
    longest: dict[int, int] = {}
    for length in range(case.dry_allowed_length, unbroken + 1):
        ending = text[len(text) - length :]
        for at in range(length, len(text)):
            if text[at - length : at] == ending and [text[at]] not in breakers:
                longest[text[at]] = length
    return longest


def numbers(joined: str) -> list[int]:
    return [int(number) for number in joined.split("-")] if joined else []


# --- a draw ------------------------------------------------------------------------------------


def float32(value: float) -> float:
    """Round to float32, the type in which the sampler stores parameters."""
    return float(np.float32(value))


def best_first(weights: Weights) -> NDArray[np.intp]:
    """Order tokens by weight, largest first; ties are in order of token id."""
    return np.argsort(-weights, kind="stable")


def temperatures(case: Case, wide: Weights) -> Iterator[float]:
    """Yield the temperature, then the temperatures that rounding may give."""
    middle, around = float32(case.temperature), float32(case.dynatemp_range)
    yield middle if not around else moved(case, wide, middle, around)
    if around:
        for factor in (1 - MARGIN, 1 + MARGIN):
            yield moved(case, wide, middle, around) * factor


def moved(case: Case, wide: Weights, middle: float, around: float) -> float:
    """Return the temperature for the entropy of a row relative to the largest possible one."""
    candidates = wide[wide > -np.inf]
    share = entropy(np.exp(candidates - candidates.max())) / np.log(len(candidates))
    low, high = max(0.0, middle - around), middle + around
    return float(low + (high - low) * share ** float32(case.dynatemp_exponent))


def entropy(weights: Weights) -> float:
    p = weights[weights > 0] / weights.sum()
    return float(-(p * np.log(p)).sum())


def first(case: Case, weights: Weights, order: NDArray[np.intp], count: int) -> Weights:
    """Return the weights with only the first ``count`` of an order, but at least min_keep."""
    kept = weights.copy()
    kept[order[max(count, case.min_keep) :]] = 0.0
    return kept


def top_n_sigma(case: Case, wide: Weights, weights: Weights) -> Iterator[Weights]:
    deviation = wide[wide > -np.inf].std()
    for factor in (1.0, 1 - MARGIN, 1 + MARGIN):
        border = wide.max() - float32(case.top_n_sigma) * deviation * factor
        yield first(case, weights, best_first(wide), np.count_nonzero(wide >= border))


def top_k(case: Case, wide: Weights, weights: Weights) -> Iterator[Weights]:
    yield first(case, weights, best_first(weights), case.top_k)


def typical_p(case: Case, wide: Weights, weights: Weights) -> Iterator[Weights]:
    with np.errstate(divide="ignore"):
        surprise = np.log(weights.sum()) - np.log(weights) - entropy(weights)
    for nearer in (0.0, -1e-5, 1e-5):
        order = np.argsort(np.abs(surprise + nearer), kind="stable")
        mass = np.cumsum(weights[order]) / weights.sum()
        for shift in (0.0, -MARGIN, MARGIN):
            goal = float32(case.typical_p) + shift
            yield first(case, weights, order, int(np.searchsorted(mass, goal, side="right")) + 1)


def top_p(case: Case, wide: Weights, weights: Weights) -> Iterator[Weights]:
    order = best_first(weights)
    mass, total = np.cumsum(weights[order]), weights.sum()
    for shift in (0.0, -MARGIN, MARGIN):
        goal = (float32(case.top_p) + shift) * total
        yield first(case, weights, order, int(np.searchsorted(mass, goal)) + 1)


def min_p(case: Case, wide: Weights, weights: Weights) -> Iterator[Weights]:
    for factor in (1.0, 1 - 1e-5, 1 + 1e-5):
        border = min(1.0, float32(case.min_p) * factor) * weights.max()
        yield first(case, weights, best_first(weights), np.count_nonzero(weights >= border))


def xtc(case: Case, wide: Weights, weights: Weights) -> Iterator[Weights]:
    """Drop the tokens above the threshold except the least likely, if min_keep allows it."""
    for factor in (1.0, 1 - 1e-5, 1 + 1e-5):
        border = float32(case.xtc_threshold) * factor * weights.sum()
        dropped = best_first(weights)[: max(1, np.count_nonzero(weights >= border)) - 1]
        kept = weights.copy()
        if np.count_nonzero(weights) - len(dropped) >= case.min_keep:
            kept[dropped] = 0.0
        yield kept


def mirostat_1(weights: Weights, mu: float) -> Iterator[Weights]:
    """Keep k tokens: Basu et al. 2021, algorithm 1, with m = 100."""
    order, n = best_first(weights), len(weights)
    best = weights[order[:100]]
    with np.errstate(divide="ignore"):
        falls = -np.diff(np.log(best[best > 0]))
    ranks = np.arange(1, len(falls) + 1)
    t = np.log((ranks + 1) / ranks)
    for factor in (1.0, 1 - MARGIN, 1 + MARGIN):
        s = float(t @ falls) / float(t @ t) * factor
        for shift in (0.0, -MARGIN, MARGIN):
            base = (s - 1) * 2 ** (mu + shift) / (1 - n ** (1 - s))
            k = n if np.log(base) / s > np.log(n) else int(base ** (1 / s))
            kept = weights.copy()
            kept[order[max(1, k) :]] = 0.0
            yield kept


def mirostat_2(weights: Weights, mu: float) -> Iterator[Weights]:
    """Keep tokens with a surprise of at most mu, and the most likely token in any case."""
    for shift in (0.0, -1e-5, 1e-5):
        border = min(weights.max(), weights.sum() * 2 ** -(mu + shift))
        yield np.where(weights >= border, weights, 0.0)


def different(candidates: Iterable[Weights]) -> list[Weights]:
    """Drop weights that keep the same tokens as earlier ones."""
    found: dict[bytes, Weights] = {}
    for weights in candidates:
        found.setdefault(np.packbits(weights > 0).tobytes(), weights)
    return list(found.values())


def truncated(
    case: Case, wide: Weights, temperature: float, mu: float, position: int
) -> list[Weights]:
    """Return the weights after truncation, then those that rounding may leave."""
    weights = np.exp((wide - wide.max()) / temperature)
    if case.mirostat:
        return different((mirostat_1 if case.mirostat == 1 else mirostat_2)(weights, mu))
    steps = {
        top_n_sigma: case.top_n_sigma > 0,
        top_k: 0 < case.top_k < case.n_vocab,
        typical_p: case.typical_p < 1,
        top_p: case.top_p < 1,
        min_p: case.min_p > 0,
        xtc: case.xtc_threshold <= 0.5 and coin(case, position, 1) < float32(case.xtc_probability),
    }
    found = [weights]
    for step in [step for step, on in steps.items() if on]:
        found = different(after for before in found for after in step(case, wide, before))
    return found


def draw(case: Case, row: Row, mu: float, position: int) -> tuple[int, bool, float]:
    """Return the token, whether it is certain, and its surprise in bits."""
    if case.temperature == 0:
        return int(np.argmax(row)), True, 0.0
    wide, u = row.astype(np.float64), coin(case, position)
    drawn, surprises = [], []
    for temperature in temperatures(case, wide):
        for weights in truncated(case, wide, temperature, mu, position):
            above = np.cumsum(weights)
            for shift in (0.0, -MARGIN, MARGIN):
                # At the ends of [0, 1) there is no neighbouring token.
                target = min(max(u + shift, 0.0), 1.0 - 2.0**-53) * above[-1]
                drawn.append(int(np.searchsorted(above, target, side="right")))
                surprises.append(float(np.log2(above[-1] / weights[drawn[-1]])))
    return drawn[0], len(set(drawn)) == 1, surprises[0]


def tokens(case: Case) -> Iterator[str]:
    generated: list[int] = []
    tau, eta = float32(case.mirostat_tau), float32(case.mirostat_eta)
    mu = 2 * tau
    for step in range(STEPS):
        row = changed(case, logits(case.n_vocab, case.spread, step), generated)
        token, certain, surprise = draw(case, row, mu, step)
        mu -= eta * (surprise - tau)
        generated.append(token)
        yield str(token) if certain else f"~{token}"


# --- the file ----------------------------------------------------------------------------------


def more(case: Case) -> str:
    """Return the last column."""

    def family(name: str) -> str:
        return name.split("_")[0]

    used = {family(f.name) for f in MORE if getattr(case, f.name) != f.default}
    return " ".join(f"{f.name}={getattr(case, f.name)}" for f in MORE if family(f.name) in used)


def main() -> None:
    with PATH.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, "tokens", "more"])
        for case in CASES:
            drawn = list(tokens(case))
            unsure = sum(token.startswith("~") for token in drawn)
            if unsure > (0 if case.mirostat else STEPS // 3):
                raise SystemExit(f"{case.name}: {unsure} of {STEPS} draws are not certain")
            print(f"{case.name}: {unsure} of {STEPS} not certain, {len(set(drawn))} different")
            line = [*(getattr(case, name) for name in COLUMNS), " ".join(drawn)]
            writer.writerow([*line, more(case)] if more(case) else line)


if __name__ == "__main__":
    main()
