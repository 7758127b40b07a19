"""Compares the sampler with two plain SIMD passes, llama.cpp's chain and NumPy, in one run.

    python benchmarks/sampler.py                     # the tables
    python benchmarks/sampler.py --plot sampler.png  # time against the size of the vocabulary

Rows change with every call (eight of a kind, in turn), as in an engine: with a single row, the
processor would learn its branches. Each figure is the best of several rounds. The limit is
``limit.c``, compiled here for each instruction set; it needs a C compiler.

Results are checked before timing: kept set and probabilities against llama.cpp's chain,
log-probabilities against NumPy in double precision, and the same tokens from every instruction set.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc
import numpy as np
from numpy.typing import NDArray
from report import add_json_option, print_table, write_json

from offgrid.sampling import Sampler, SamplingParams, TextStream, instruction_sets

Row = NDArray[np.float32]
ROWS = 8
TEMPERATURE, TOP_P = 0.7, 0.95
PENALTIES = {"frequency_penalty": 0.3, "presence_penalty": 0.2, "repetition_penalty": 1.1}
FLAGS = {
    "scalar": ["-fno-tree-vectorize"],
    "sse2": ["-msse2"],
    "avx2": ["-mavx2"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"],
    "neon": [],
}
HAS_FMA = {"avx2": ["-mfma"], "avx512": ["-mfma"], "neon": []}
TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


# --- the rows ---------------------------------------------------------------------------------


def make_rows(kind: str, n: int) -> list[Row]:
    """``peaked``: a few tokens are likely, as in trained models; ``flat``: tens of thousands."""
    rng = np.random.default_rng(n)
    rows = []
    for _ in range(ROWS):
        row = rng.normal(0.0, 1.0 if kind == "flat" else 2.5, n).astype(np.float32)
        if kind == "peaked":
            likely = rng.choice(n, 40, replace=False)
            row[likely] += np.linspace(6.0, 16.0, 40, dtype=np.float32)
        rows.append(row)
    return rows


def seen_tokens(n: int, count: int) -> list[int]:
    """Distinct tokens, spread over the vocabulary."""
    chosen: list[int] = np.random.default_rng(count).choice(n, count, replace=False).tolist()
    return chosen


# --- the others -------------------------------------------------------------------------------


class Limit:
    """The two passes of ``limit.c`` for one instruction set."""

    def __init__(self, isa: str, fused: bool, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise SystemExit("the limit is compiled here: a C compiler is needed")
        library = folder / f"limit-{isa}-{fused}.so"
        flags = [*FLAGS[isa], *(HAS_FMA[isa] if fused else ["-ffp-contract=off"])]
        command = [
            compiler, "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffinite-math-only",
            "-fno-signed-zeros", "-shared", "-fPIC", *flags,
            str(Path(__file__).with_name("limit.c")), "-o", str(library),
        ]  # fmt: skip
        subprocess.run(command, check=True)
        functions = ctypes.CDLL(str(library))
        self._max = functions.max_pass
        self._max.argtypes = [ctypes.c_void_p, ctypes.c_int32]
        self._max.restype = ctypes.c_float
        self._exp = functions.exp_pass
        self._exp.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_float]
        self._exp.restype = ctypes.c_float
        self.fill = functions.fill
        self.fill.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]

    def times(self, rows: list[Row]) -> tuple[float, float]:
        """Microseconds of the two passes, without the cost of calling a C function from Python."""
        short = [row[:16] for row in rows]
        call_max, call_exp = self._call_times(short)
        whole_max, whole_exp = self._call_times(rows)
        return whole_max - call_max, whole_exp - call_exp

    def _call_times(self, rows: list[Row]) -> tuple[float, float]:
        pairs = [(row, float(row.max())) for row in rows]
        return best(self.max, rows), best(lambda pair: self.exp(*pair), pairs)

    def max(self, row: Row) -> float:
        """The maximum."""
        return float(self._max(row.ctypes.data, len(row)))

    def exp(self, row: Row, max: float) -> float:
        """The sum of exponentials."""
        return float(self._exp(row.ctypes.data, len(row), max))


class Chain:
    """llama.cpp: penalties, temperature, top_p, dist, as ``llama_sampler_sample`` applies them."""

    def __init__(self, n: int, fill: Any, seen: list[int]) -> None:
        self._fill = fill
        self.data = np.zeros(n, dtype=TOKEN_DATA)
        self._chain = lc.llama_sampler_chain_init(lc.llama_sampler_chain_default_params())
        repetition, frequency, presence = 1.1, 0.3, 0.2
        for sampler in (
            lc.llama_sampler_init_penalties(n, len(seen), repetition, frequency, presence),
            lc.llama_sampler_init_temp(TEMPERATURE),
            lc.llama_sampler_init_top_p(TOP_P, 1),
            lc.llama_sampler_init_dist(1),
        ):
            lc.llama_sampler_chain_add(self._chain, sampler)
        for token in seen:
            lc.llama_sampler_accept(self._chain, token)

    def sample(self, row: Row) -> int:
        """Sample; the candidates are left in ``data``."""
        n = len(row)
        self._fill(self.data.ctypes.data, row.ctypes.data, n)
        pointer = ctypes.cast(self.data.ctypes.data, ctypes.POINTER(lc.llama_token_data))
        self.array = lc.llama_token_data_array(pointer, n, -1, False)
        lc.llama_sampler_apply(self._chain, ctypes.byref(self.array))
        return int(self.array.selected)

    def kept(self) -> dict[int, float]:
        """Candidates of the last draw and their probabilities."""
        candidates = self.data[: self.array.size]
        weights = np.exp(candidates["logit"].astype(np.float64) - candidates["logit"].max())
        return dict(zip(candidates["id"].tolist(), (weights / weights.sum()).tolist(), strict=True))

    def close(self) -> None:
        """Free the chain."""
        lc.llama_sampler_free(self._chain)


def numpy_sample(row: Row, seen: NDArray[np.int64], rng: np.random.Generator) -> int:
    """The usual way to write it in NumPy."""
    logits = row.copy()
    l = logits[seen]  # noqa: E741
    logits[seen] = np.where(l <= 0, l * np.float32(1.1), l / np.float32(1.1)) - np.float32(0.5)
    logits = (logits - logits.max()) / np.float32(TEMPERATURE)
    p = np.exp(logits)
    p /= p.sum()
    order = np.argsort(-p)
    mass = np.cumsum(p[order])
    kept = order[: int(np.searchsorted(mass, TOP_P)) + 1]
    return int(kept[np.searchsorted(np.cumsum(p[kept]) / p[kept].sum(), rng.random())])


# --- timing -----------------------------------------------------------------------------------


def best(call: Callable[[Any], Any], arguments: list[Any], rounds: int = 12) -> float:
    """Microseconds per call in the best round; each round uses all arguments in turn."""
    for argument in arguments:
        call(argument)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for argument in arguments:
            call(argument)
        times.append(time.perf_counter() - began)
    return 1e6 * min(times) / len(arguments)


def sampler(n: int, isa: str, seen: list[int], **fields: Any) -> Sampler:
    """A sampler of the benchmark's parameters that has generated ``seen``."""
    given: dict[str, Any] = {
        "temperature": TEMPERATURE, "top_p": TOP_P, "seed": 1, "repeat_last_n": -1,
    }  # fmt: skip
    made = Sampler(n, SamplingParams(**{**given, **PENALTIES, **fields}), isa=isa)
    for token in seen:
        made.accept(token)
    return made


# --- are the answers right? -------------------------------------------------------------------


def check(n: int, rows: list[Row], limit: Limit) -> None:
    """End with an error unless our results equal those of the others."""
    seen = seen_tokens(n, 64)
    samplers = {isa: sampler(n, isa, seen) for isa in instruction_sets()}
    chain = Chain(n, limit.fill, seen)
    for row in rows[:2]:
        exact = float(np.exp(row.astype(np.float64) - row.max()).sum())
        if limit.max(row) != row.max() or abs(limit.exp(row, row.max()) / exact - 1) > 1e-4:
            raise SystemExit("the limit's passes are wrong: what they take counts for nothing")
        tokens = {made.sample(row) for made in samplers.values()}
        if len(tokens) != 1:
            raise SystemExit(f"instruction sets disagree: {tokens}")
        ours = sampler(n, instruction_sets()[-1], seen)
        result = ours.sample(row, top_logprobs=1024, post_sampling=True)
        chain.sample(row)
        theirs = chain.kept()
        top = result.top_logprobs
        if len(top) < 1024 and abs(len(theirs) - len(top)) > 2 + len(top) // 1000:
            raise SystemExit(f"{len(top)} tokens kept, llama.cpp keeps {len(theirs)}")
        for token, logprob in top[: len(top) - 2]:
            if abs(np.exp(logprob) - theirs[token]) > 1e-5 + 1e-3 * theirs[token]:
                raise SystemExit(f"token {token}: {np.exp(logprob)}, llama.cpp {theirs[token]}")
        raw = ours.sample(row, top_logprobs=20)
        wide = row.astype(np.float64) - row.max()
        expected = wide - np.log(np.exp(wide).sum())
        for token, logprob in raw.top_logprobs:
            if abs(logprob - expected[token]) > 1e-5:
                raise SystemExit(f"logprob of {token}: {logprob}, NumPy says {expected[token]}")
    chain.close()


# --- the table --------------------------------------------------------------------------------


def masks(n: int) -> dict[str, NDArray[np.uint32]]:
    """Masks as grammars give them: nearly all tokens (in a string), half, and very few."""
    words = (n + 31) // 32
    rng = np.random.default_rng(3)
    few = np.zeros(words, dtype=np.uint32)
    few[rng.choice(words, 40, replace=False)] = 0x00010100
    bits = rng.random((words, 32)) < 0.98
    dense = (bits.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(axis=1)
    half = rng.integers(0, 1 << 32, words, dtype=np.uint32)
    return {"98 %": dense.astype(np.uint32), "half": half, "80 tokens": few}


def measure(n: int, isa: str, plain: Limit, fused: Limit | None) -> Iterator[dict[str, Any]]:
    """Yield the figures of one vocabulary size and instruction set, in microseconds."""
    seen, many = seen_tokens(n, 64), seen_tokens(n, min(4096, n // 4))
    for kind in ("peaked", "flat"):
        rows = make_rows(kind, n)
        limit_max, limit_exp = plain.times(rows)
        figures: dict[str, Any] = {"n": n, "isa": isa, "rows": kind}
        figures["max pass"] = limit_max
        figures["exp pass"] = limit_exp
        if fused is not None:
            figures["fused"] = sum(fused.times(rows))
        base = sampler(n, isa, seen)
        figures["ours"] = best(base.sample, rows)
        figures["greedy"] = best(sampler(n, isa, seen, temperature=0.0).sample, rows)
        figures["top_logprobs 20"] = best(lambda row, s=base: s.sample(row, top_logprobs=20), rows)
        for name, mask in masks(n).items():
            figures[f"mask, {name}"] = best(lambda row, s=base, m=mask: s.sample(row, mask=m), rows)
        figures["4,096 seen"] = best(sampler(n, isa, many).sample, rows)
        figures["top_k 40"] = best(sampler(n, isa, seen, top_k=40).sample, rows)
        chain = Chain(n, plain.fill, seen)
        figures["llama.cpp"] = best(chain.sample, rows)
        chain.close()
        rng, where = np.random.default_rng(1), np.array(seen)
        figures["NumPy"] = best(lambda row, r=rng, w=where: numpy_sample(row, w, r), rows)
        yield figures


def small_calls(isa: str) -> dict[str, float]:
    """Calls from Python whose overhead matters."""
    rows = [row[:1000].copy() for row in make_rows("flat", 32_000)]
    one = Sampler(1000, SamplingParams(temperature=TEMPERATURE, top_p=TOP_P, seed=1), isa=isa)
    rng = np.random.default_rng(5)
    stops = [bytes(rng.integers(97, 105, 20, dtype=np.uint8)) for _ in range(16)]
    # Letters of which the stop strings consist, so that each one is always being matched.
    tokens = [bytes(rng.integers(97, 105, 5, dtype=np.uint8)) for _ in range(64)]
    stream = TextStream(stops)
    text = "".join(stream.feed(token) for token in tokens * 50)
    if stream.finished or not text:
        raise SystemExit("the stops were meant not to match")
    return {
        "sample, 1,000 logits": best(one.sample, rows * 16),
        "16 stops of 20 bytes, one token": best(stream.feed, tokens),
    }


COLUMNS = [
    "logits", "set", "rows", "two passes", "ours", "x passes", "llama.cpp", "x faster", "NumPy",
    "greedy / max pass", "top_logprobs 20", "mask 98 %", "mask half", "4,096 seen", "top_k 40",
]  # fmt: skip


def table_row(f: dict[str, Any]) -> list[Any]:
    """The figures in the order of the table's columns."""
    passes, ours = f["max pass"] + f["exp pass"], f["ours"]
    return [
        f["n"], f["isa"], f["rows"], passes, ours, ours / passes, f["llama.cpp"],
        f["llama.cpp"] / ours, f["NumPy"], f["greedy"] / f["max pass"],
        f"+{(f['top_logprobs 20'] - ours) / f['exp pass']:.2f} exp",
        *(
            f"{100 * (f[name] / ours - 1):+.0f} %"
            for name in ("mask, 98 %", "mask, half", "4,096 seen")
        ),
        f["top_k 40"],
    ]  # fmt: skip


def plot(path: Path, isa: str, folder: Path) -> None:
    """Time against vocabulary size, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    limit = Limit(isa, False, folder)
    sizes = [1000, 4000, 16_000, 32_000, 64_000, 128_256, 262_144]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, kind in zip(axes, ("peaked", "flat"), strict=True):
        lines: dict[str, list[float]] = {"NumPy": [], "llama.cpp": [], "OffGrid": [], "limit": []}
        for n in sizes:
            rows, seen = make_rows(kind, n), seen_tokens(n, 64)
            chain = Chain(n, limit.fill, seen)
            rng, where = np.random.default_rng(1), np.array(seen)
            lines["NumPy"].append(
                best(lambda row, r=rng, w=where: numpy_sample(row, w, r), rows, rounds=6)
            )
            lines["llama.cpp"].append(best(chain.sample, rows, rounds=6))
            lines["OffGrid"].append(best(sampler(n, isa, seen).sample, rows))
            lines["limit"].append(sum(limit.times(rows)))
            chain.close()
        for name, times in lines.items():
            axis.loglog(sizes, times, marker="o", label=name)
        axis.set_title(f"{kind} rows")
        axis.set_xlabel("vocabulary (logits)")
        axis.grid(True, which="both", alpha=0.3)
    axes[0].set_ylabel("one token (µs)")
    axes[0].legend()
    figure.suptitle(f"temperature 0.7, top_p 0.95, 64 seen tokens with penalties ({isa})")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", default="32000,128256,262144", help="numbers of logits")
    parser.add_argument("--isa", default="", help="instruction sets; the vector ones when omitted")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw time against size")
    add_json_option(parser)
    options = parser.parse_args()
    sets = options.isa.split(",") if options.isa else [
        isa for isa in instruction_sets() if isa not in ("scalar", "sse2")
    ]  # fmt: skip
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n, isa in itertools.product(map(int, options.sizes.split(",")), sets):
            plain = Limit(isa, False, folder)
            fused = Limit(isa, True, folder) if isa in HAS_FMA else None
            for kind in ("peaked", "flat"):
                check(n, make_rows(kind, n), plain)
            figures += measure(n, isa, plain, fused)
        if options.plot:
            plot(options.plot, sets[-1], folder)
    print_table("One token, microseconds", COLUMNS, [table_row(f) for f in figures])
    print_table(
        "What fused multiply-add would save: the two passes, microseconds",
        ["logits", "set", "rows", "separate", "fused", "ours / fused"],
        [
            [f["n"], f["isa"], f["rows"], f["max pass"] + f["exp pass"], f["fused"],
             f["ours"] / f["fused"]]
            for f in figures if "fused" in f
        ],
    )  # fmt: skip
    small = {isa: small_calls(isa) for isa in sets}
    print_table(
        "Calls from Python, microseconds",
        ["set", *next(iter(small.values()))],
        [[isa, *row.values()] for isa, row in small.items()],
    )
    write_json(options.json, {"rows": figures, "small": small})


if __name__ == "__main__":
    if not instruction_sets():
        sys.exit("offgrid.sampling is not compiled")
    main()
