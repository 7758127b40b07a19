"""Measures the exported model as OffGrid serves it, on samples of a seed not used in training.

The corpus is random but uses few words, so another seed repeats much of the training text. Each
figure is therefore given twice: for all samples, and for only the *new* ones. In a new sample, the
conversation up to the answer (for a sum: its two numbers) is not in the training corpus.
"""

from __future__ import annotations

import argparse
import ctypes
import http.client
import itertools
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import facts
import numpy as np
from chat import ANSWER, END_OF_TURN, render
from corpus import Sample, samples
from tooluse import FUNCTIONS, describe
from words import NAMES, THINGS

from offgrid.config import load_settings
from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import PromptPart
from offgrid.engine.worker.llama.model import Model
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_PATH

TRAINING_SEED = 11611
HELD_OUT_SEED = TRAINING_SEED + 1
"""Both equal those in train.py, which is not imported because it needs torch."""
PARALLEL = 16
"""Conversations that the server answers at once."""

Json = dict[str, Any]
Check = Callable[[str], bool]


@dataclass(frozen=True)
class Case:
    """A conversation to be answered, and the check of the answer for each row of the table.

    ``None`` instead of a check stands for the check that the model ended its answer by itself.
    """

    sample: Sample
    checks: Mapping[str, Check | None]
    new: bool
    temperature: float = 0.0


class Table:
    """The figures by row, for all samples and for the new ones."""

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float, float, bool]]] = {}

    def add(self, row: str, value: float, weight: float, new: bool) -> None:
        """Add one sample's mean ``value`` over ``weight`` items."""
        self._values.setdefault(row, []).append((value, weight, new))

    def rows(self) -> list[Json]:
        """Return name, figures and sample counts. Values of perplexity rows are mean losses."""
        result = []
        for name, values in self._values.items():
            row: Json = {"name": name}
            for which, chosen in (("all", values), ("new", [v for v in values if v[2]])):
                weight = sum(w for _, w, _ in chosen)
                mean = sum(v * w for v, w, _ in chosen) / weight if weight else None
                perplexity = name.startswith("perplexity") and mean is not None
                row[which] = float(np.exp(mean)) if perplexity else mean
                row[f"{which}_samples"] = len(chosen)
            result.append(row)
        return result


# --- the training corpus ----------------------------------------------------------------------


def prefix_keys(sample: Sample) -> Iterator[int]:
    """Yield a hash of the sample's text up to each message; the last covers the whole text."""
    contents = [sample["text"]] if "text" in sample else [m["content"] for m in sample["messages"]]
    names = tuple(tool["function"]["name"] for tool in sample.get("tools", ()))
    for end in range(1, len(contents) + 1):
        yield hash((names, *contents[:end]))


def training_keys(count: int) -> set[int]:
    """Return the keys of the training corpus, for conversations and for sums such as ``2 + 3``."""
    keys: set[int] = set()
    for sample in islice(samples(TRAINING_SEED), count):
        keys.update(prefix_keys(sample))
        if sample["kind"] == "arithmetic":
            keys.update(
                hash(message["content"].split(" =")[0])
                for message in sample["messages"]
                if message["role"] == "assistant"
            )
    return keys


# --- perplexity -------------------------------------------------------------------------------


def losses(model: Model, ids: np.ndarray) -> np.ndarray:
    """Return the negative logarithm of the probability of each token from the second on."""
    result = np.empty(len(ids) - 1)
    for start in range(0, len(result), model.batch.capacity):
        chunk = ids[start : min(start + model.batch.capacity, len(result))]
        model.batch.clear()
        # Added one by one, to get the logits of every position.
        indices = [model.batch.add(0, start + i, chunk[i : i + 1], True) for i in range(len(chunk))]
        model.decode()
        for i, index in enumerate(indices):
            raw = (ctypes.c_float * model.n_vocab).from_address(model.logits(index))
            row = np.array(raw, dtype=np.float64)
            top = row.max()
            result[start + i] = top + np.log(np.exp(row - top).sum()) - row[ids[start + i + 1]]
    model.forget(0)
    return result


def in_answer(model: Model, ids: np.ndarray) -> np.ndarray:
    """Return for each token whether it belongs to an answer, including the end of turn."""
    begin = model.tokenize([PromptPart(ANSWER, True)])
    end = model.tokenize([PromptPart(END_OF_TURN, True)])[0]
    mask, inside = np.zeros(len(ids), dtype=bool), False
    for i, token in enumerate(ids):
        mask[i] = inside
        if inside and token == end:
            inside = False
        elif np.array_equal(ids[max(0, i + 1 - len(begin)) : i + 1], begin):
            inside = True
    return mask


def measure_perplexity(path: Path, keys: set[int], seed: int, count: int, table: Table) -> None:
    """Score whole held-out samples with the logits that llama.cpp computes."""
    with quiet():
        model = Model(Load(path=str(path), ctx_size=0, parallel=1))
    for sample in islice(samples(seed), count):
        *_, whole = prefix_keys(sample)
        new = whole not in keys
        ids = model.tokenize([PromptPart(render(sample).rstrip("\n"), True)])
        loss, mask = losses(model, ids), in_answer(model, ids)[1:]
        if mask.any():
            table.add("perplexity of answers", loss[mask].mean(), mask.sum(), new)
        table.add("perplexity of whole texts", loss.mean(), len(loss), new)
    with quiet():
        model.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Discard llama.cpp's output to standard error while it loads."""
    saved = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


# --- cases ------------------------------------------------------------------------------------


def arithmetic_cases(rng: random.Random, keys: set[int], count: int) -> Iterator[Case]:
    """One-digit and two-digit numbers: ``count`` random pairs, and as many new pairs if any."""
    for digits, numbers in (("one", range(10)), ("two", range(10, 100))):
        for sign in "+-*":
            pairs = [
                (a, b) for a, b in itertools.product(numbers, numbers) if sign != "-" or a >= b
            ]
            rng.shuffle(pairs)
            new = [(a, b) for a, b in pairs if hash(f"{a} {sign} {b}") not in keys]
            for a, b in dict.fromkeys(pairs[:count] + new[:count]):
                symbols = f"{a} {sign} {b}"
                right = f"{symbols} = {a + b if sign == '+' else a - b if sign == '-' else a * b}"
                question = {"role": "user", "content": f"What is {symbols}?"}
                sample = {"messages": [question, {"role": "assistant", "content": right}]}
                checks = {f"{digits}-digit {sign}": lambda text, right=right: text == right}
                yield Case(sample, checks, hash(symbols) not in keys)


def exact(row: str, *answers: str) -> dict[str, Check]:
    """Check that the answer is exactly one of these."""
    return {row: lambda text: text in answers}


def call_checks(right: Json, suffix: str = "") -> dict[str, Check]:
    """Check for one tool call: it parses, has the right name and the right arguments."""

    def call(text: str) -> Json:
        match = re.fullmatch(r"\s*<tool_call>(.*)</tool_call>\s*", text, re.DOTALL)
        return parse(match[1]) if match else {}

    usual = right["name"] in {function[0] for function in FUNCTIONS}
    naming = "function under its usual name" if usual else "function under another name"
    return {
        f"tool call parses{suffix}": lambda text: {"name", "arguments"} == set(call(text)),
        f"tool call, right function{suffix}": lambda text: call(text).get("name") == right["name"],
        f"tool call, right arguments{suffix}": lambda text: (
            call(text).get("arguments") == right["arguments"]
        ),
        f"tool call, right function and arguments{suffix}": lambda text: call(text) == right,
        **({} if suffix else {f"tool call right, {naming}": lambda text: call(text) == right}),
    }


def json_checks(right: Json) -> dict[str, Check]:
    """Check for the right keys and values, or for a list of the right length without repeats."""
    key, values = next(iter(right.items()))
    if not isinstance(values, list):
        return {
            "JSON parses": lambda text: bool(parse(text)),
            "JSON has the asked keys": lambda text: list(parse(text)) == list(right),
            "JSON has the asked keys and values": lambda text: parse(text) == right,
        }

    def fits(text: str) -> bool:
        items = parse(text).get(key)
        return isinstance(items, list) and len(set(map(str, items))) == len(values) == len(items)

    return {"JSON list: asked length, no item twice": fits}


def parse(text: str) -> Json:
    """Return the JSON object, or an empty one if the text is not an object."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def checks_of(sample: Sample) -> dict[str, Check]:
    """The checks of an answer to a sample of the corpus; empty if it cannot be checked."""
    kind, last = sample["kind"], sample.get("messages", [{}])[-1]
    right = last.get("content", "")
    if kind == "tool":
        return call_checks(last["tool_calls"][0]["function"])
    if kind == "json":
        return json_checks(json.loads(right))
    if kind == "fact":
        pool = facts.OFFGRID + facts.GENERAL
        return exact("fact that was taught", *next(known for _, known in pool if right in known))
    if kind == "no-tool":
        return {"no tool call where none fits": lambda text: "<tool_call>" not in text}
    if kind == "arithmetic":
        return exact("word problem", right) if "," in right else {}
    names = {
        "tool-result": "tool result told", "echo": "words repeated",
        "memory": "told before, asked for later",
    }  # fmt: skip
    return exact(names[kind], right) if kind in names else {}


def corpus_cases(keys: set[int], seed: int, count: int) -> Iterator[Case]:
    """Held-out samples whose answers can be checked, ``count`` per row."""
    found: Counter[str] = Counter()
    for sample in islice(samples(seed), 100 * count):
        checks = checks_of(sample)
        if not checks or found[next(iter(checks))] >= count:
            continue
        found.update(list(checks)[:1])
        yield Case(sample, checks, is_new(sample, keys))


UNKNOWN_TOOLS = [
    ("play_song", "Play a song", {"title": "string"}, "Play {word}."),
    ("rent_bike", "Rent bikes", {"count": "integer"}, "Rent {n} bikes."),
    ("call_person", "Call a person", {"name": "string"}, "Call {name}, please."),
    ("set_volume", "Set the volume", {"level": "integer"}, "Set the volume to {n}."),
]
"""Functions that are not in the corpus."""


def unknown_tool_cases(rng: random.Random, count: int) -> Iterator[Case]:
    """Calls of functions that the model has never seen."""
    for _ in range(count):
        values = {"word": rng.choice(THINGS), "n": rng.randint(1, 30), "name": rng.choice(NAMES)}
        name, description, parameters, question = rng.choice(UNKNOWN_TOOLS)
        value = next(values[key] for key in values if f"{{{key}}}" in question)
        messages = [{"role": "user", "content": question.format(**values)}, {}]
        sample = {"tools": [describe(name, description, parameters)], "messages": messages}
        right = {"name": name, "arguments": dict.fromkeys(parameters, value)}
        yield Case(sample, call_checks(right, ", unknown function"), True)


def ending_cases(keys: set[int], seed: int, count: int) -> Iterator[Case]:
    """Conversations of all kinds, each answered twice; only the ends are checked."""
    chats = (sample for sample in samples(seed) if "messages" in sample)
    for sample in islice(chats, count):
        for name, temperature in (("greedy", 0.0), ("temperature 0.7", 0.7)):
            row = f"reply ends by itself, {name}"
            yield Case(sample, {row: None}, is_new(sample, keys), temperature)


def is_new(sample: Sample, keys: set[int]) -> bool:
    """Whether the training corpus lacks the conversation up to the last answer."""
    *_, prompt, _ = prefix_keys(sample)
    return prompt not in keys


# --- asking -----------------------------------------------------------------------------------


class Client:
    """Sends requests to a running server."""

    def __init__(self, server: Server, model: str) -> None:
        self._address, self._model = ("127.0.0.1", server.port), model

    def ask(self, case: Case) -> tuple[str, bool]:
        """Return the answer and whether the model ended it.

        Prompts with tools are rendered with the template of the model file and sent to the text
        endpoint: the chat endpoint splits an answer into parts, but the checks need its raw text.
        """
        body: Json = {"model": self._model, "temperature": case.temperature, "seed": 1}
        if case.sample.get("tools"):
            path, body["prompt"] = "/v1/completions", render(case.sample, prompt_only=True)
        else:
            path, body["messages"] = "/v1/chat/completions", case.sample["messages"][:-1]
        connection = http.client.HTTPConnection(*self._address, timeout=120)
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}: {answer}")
        choice = answer["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return text, choice["finish_reason"] == "stop"


def measure_replies(path: Path, cases: list[Case], table: Table, show: bool) -> None:
    """Start a server, let it answer all cases, and check the answers."""
    with tempfile.TemporaryDirectory() as empty:
        flags = {
            "port": 0, "models_dir": empty, "default_model": str(path), "parallel": PARALLEL,
            "log_level": "warning",
        }  # fmt: skip
        server = Server(load_settings(flags, environ={}))
        server.start()
        try:
            with ThreadPoolExecutor(PARALLEL) as threads:
                replies = list(threads.map(Client(server, path.stem).ask, cases))
        finally:
            server.stop()
    for case, (text, ended) in zip(cases, replies, strict=True):
        for row, check in case.checks.items():
            right = ended if check is None else check(text)
            table.add(row, right, 1, case.new)
            if show and not right:
                question = case.sample["messages"][-2]["content"]
                print(f"{row}: {question!r} -> {text!r}", file=sys.stderr)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=STARTER_PATH, help="the GGUF file")
    parser.add_argument("--samples", type=int, default=200, help="samples of a row (200)")
    parser.add_argument("--texts", type=int, default=1000, help="texts for the perplexity (1000)")
    parser.add_argument(
        "--seed", type=int, default=HELD_OUT_SEED, help=f"of the samples ({HELD_OUT_SEED})"
    )
    parser.add_argument(
        "--trained-on", type=int, default=300_000, help="samples that train.py used (300000)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--show", action="store_true", help="print the replies that are wrong")
    options = parser.parse_args()
    if options.seed == TRAINING_SEED:
        parser.error(f"the model was trained on seed {TRAINING_SEED}")

    began, table, rng = time.monotonic(), Table(), random.Random(options.seed)
    keys = training_keys(options.trained_on)
    measure_perplexity(options.model, keys, options.seed, options.texts, table)
    cases = [
        *ending_cases(keys, options.seed, options.samples),
        *arithmetic_cases(rng, keys, options.samples),
        *sorted(
            corpus_cases(keys, options.seed, options.samples),
            key=lambda case: next(iter(case.checks)),
        ),
        *unknown_tool_cases(rng, options.samples),
    ]
    measure_replies(options.model, cases, table, options.show)
    rows = table.rows()
    print_rows(rows)
    print(f"{time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def print_rows(rows: list[Json]) -> None:
    """Print the table."""
    print(f"{'':60}{'all':>8}{'samples':>9}{'new':>8}{'samples':>9}")
    for row in rows:
        line = f"{row['name']:60}"
        for which in ("all", "new"):
            form = ".3f" if row["name"].startswith("perplexity") else ".1%"
            value = "-" if row[which] is None else format(row[which], form)
            line += f"{value:>8}{row[f'{which}_samples']:>9}"
        print(line)


if __name__ == "__main__":
    main()
