"""Time of a step with flash attention and without, and what is chosen when a model is loaded.

    python benchmarks/attention.py                                   # three models, 3 minutes
    python benchmarks/attention.py --models smollm2 --contexts 64,1000,3000
    python benchmarks/attention.py --models smollm2 --kv-types f16,q8_0,q8_0/f16,q4_0

Each model is loaded twice into this process, once with flash attention and once without. Prompts of
random tokens fill the context; then both compute a decode step in turn, and the least time counts.
``on / off`` is the time of a step with flash attention over the time without. ``measured`` is the
same ratio as the worker finds it when it loads the model, without filling a context. ``chosen /
best`` compares the setting that the worker chooses with the better one of the row, and ``chosen /
on`` with llama-server's setting.

With ``--kv-types`` the types of keys and values are compared instead, all with flash attention: the
memory of the cache and the time of prompts and steps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import models
import numpy as np
from report import add_json_option, print_table, write_json

from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.attention_choice import Case
from offgrid.engine.worker.llama import attention_trial
from offgrid.engine.worker.llama.attention import PREFILL_ROWS, WEIGHTS
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.llama.weights import Weights

CHUNK = 512
WAYS = ("on", "off")


def fill(model: Model, start: int, end: int) -> float:
    """Compute random tokens in the first slot; return the seconds."""
    tokens = np.random.default_rng(start).integers(0, model.n_vocab, end - start, dtype=np.int32)
    began = time.perf_counter()
    for at in range(0, len(tokens), CHUNK):
        part = tokens[at : at + CHUNK]
        model.batch.clear()
        last = model.batch.add(0, start + at, part, 1)
        model.decode()
    model.logits(last)
    return time.perf_counter() - began


def step(model: Model, streams: int, position: int) -> float:
    """Time one decode step of so many streams."""
    model.batch.clear()
    token = np.zeros(1, dtype=np.int32)
    for slot in range(streams):
        last = model.batch.add(slot, position, token, 1)
    began = time.perf_counter()
    model.decode()
    model.logits(last)
    return time.perf_counter() - began


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one model."""
    contexts = sorted(int(text) for text in options.contexts.split(","))
    counts = [int(text) for text in options.streams.split(",")]
    loads = {
        way: Load(
            str(path), ctx_size=contexts[-1] + options.steps + 1, parallel=max(counts),
            threads=options.threads, flash_attention=way,
        )
        for way in WAYS
    }  # fmt: skip
    both = {way: Model(load) for way, load in loads.items()}
    rows, filled = [], 0
    for context in contexts:
        seconds = {way: fill(model, filled, context) for way, model in both.items()}
        rows.append({
            "what": f"prompt, tokens {filled:,} to {context:,}", "streams": 1,
            "context": context, "prefill": True, **seconds,
        })  # fmt: skip
        filled = context
        for model in both.values():
            for slot in range(1, max(counts)):
                model.forget(slot)
                model.copy(0, slot)
        for streams in counts:
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(options.steps):
                for way, model in both.items():
                    times[way].append(step(model, streams, context + number))
            for model in both.values():
                for slot in range(streams):
                    model.cut(slot, context)
            rows.append({
                "what": "step", "streams": streams, "context": context, "prefill": False,
                **{way: min(found) for way, found in times.items()},
            })  # fmt: skip
    for model in both.values():
        model.close()
    return {"model": path.stem, "rows": rows, **choose(path, options)}


def measure_types(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compare types of keys and values; ``K/V`` names two, a single one stands for both."""
    context = max(int(text) for text in options.contexts.split(","))
    streams = max(int(text) for text in options.streams.split(","))
    pairs = [(text.split("/") * 2)[:2] for text in options.kv_types.split(",")]
    loaded = [
        Model(
            Load(
                str(path), ctx_size=context + options.steps + 1, parallel=streams,
                threads=options.threads, flash_attention="on", kv_type_k=keys, kv_type_v=values,
            )
        )
        for keys, values in pairs
    ]  # fmt: skip
    prompts = [fill(model, 0, context) for model in loaded]
    times: dict[int, list[list[float]]] = {}
    for model in loaded:
        for slot in range(1, streams):
            model.copy(0, slot)
    for count in (1, streams):
        times[count] = [[] for _ in loaded]
        for number in range(options.steps):
            for model, found in zip(loaded, times[count], strict=True):
                found.append(step(model, count, context + number))
        for model in loaded:
            for slot in range(count):
                model.cut(slot, context)
    rows = [
        {
            "keys": keys, "values": values, "cache_bytes": model.kv_bytes, "prompt": prompt,
            "one": min(one), "many": min(many),
        }
        for (keys, values), model, prompt, one, many in zip(
            pairs, loaded, prompts, times[1], times[streams], strict=True
        )
    ]  # fmt: skip
    for model in loaded:
        model.close()
    print_table(
        f"{path.stem}: types of keys and values, {streams} slots of {context:,} tokens",
        ["keys", "values", "cache MiB", "prompt ms", "step ms, 1 stream",
         f"step ms, {streams} streams", "relative step"],
        [[row["keys"], row["values"], row["cache_bytes"] / 2**20, 1e3 * row["prompt"],
          1e3 * row["one"], 1e3 * row["many"], row["many"] / rows[0]["many"]] for row in rows],
    )  # fmt: skip
    return {"model": path.stem, "context": context, "streams": streams, "types": rows}


def choose(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure and choose as the worker does, and also where it would not measure."""
    weights = Weights(Load(str(path), parallel=4, threads=options.threads))
    began = time.process_time()
    choice = attention_trial.measured_attention(weights)
    seconds = time.process_time() - began
    shape = attention_trial.shape_of(weights)
    cases: list[Case] = []
    if shape is not None:
        contexts = [case for case in WEIGHTS if case[0] <= weights.n_ctx]
        rest = attention_trial.measured_rest(weights)
        cases = attention_trial.measured_cases(weights, shape, rest, contexts)
    weights.close()
    return {
        "chosen": "on" if choice.on else "off", "reason": choice.reason, "cpu_seconds": seconds,
        "cases": [
            {"context": case.context, "rows": case.rows, "on": case.on, "off": case.off}
            for case in cases
        ],
    }  # fmt: skip


def nearest(found: dict[str, Any], row: dict[str, Any]) -> float | None:
    """Return the measured ratio of the case that is most like a row."""
    rows = PREFILL_ROWS if row["prefill"] else min(4, row["streams"])
    cases = [case for case in found["cases"] if case["rows"] == rows]
    if not cases:
        return None
    case = min(cases, key=lambda case: abs(np.log(case["context"] / row["context"])))
    return float(case["on"] / case["off"])


def show(found: dict[str, Any]) -> None:
    """Print the table of a model."""
    chosen = found["chosen"]
    print_table(
        f"{found['model']}: flash attention {chosen} ({found['reason']}); measured in "
        f"{found['cpu_seconds']:.2f} s of processor time",
        ["what", "streams", "context", "on ms", "off ms", "on / off", "measured",
         "chosen / best", "chosen / on"],
        [[row["what"], row["streams"], row["context"], 1e3 * row["on"], 1e3 * row["off"],
          row["on"] / row["off"], nearest(found, row),
          row[chosen] / min(row["on"], row["off"]), row[chosen] / row["on"]]
         for row in found["rows"]],
    )  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--models", default="smollm2,gemma3,llama-1b",
        help="paths, names of models.py, or of real weights: smollm2, gemma3",
    )  # fmt: skip
    parser.add_argument("--contexts", default="64,1000", help="tokens of each sequence")
    parser.add_argument("--streams", default="1,4,8", help="numbers of sequences")
    parser.add_argument("--steps", type=int, default=20, help="steps, the quickest of which counts")
    parser.add_argument("--threads", type=int, default=0, help="of llama.cpp")
    parser.add_argument("--kv-types", metavar="TYPES", help="compare these, the first is the base")
    add_json_option(parser)
    options = parser.parse_args()
    results = []
    for name in options.models.split(","):
        if options.kv_types:
            results.append(measure_types(models.resolve(name), options))
        else:
            results.append(measure(models.resolve(name), options))
            show(results[-1])
        write_json(options.json, {"models": results})


if __name__ == "__main__":
    main()
