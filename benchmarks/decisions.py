"""How well the probabilities of ``/v1/decisions`` are calibrated, and what many questions cost.

The 200 questions are made here, of numbers, simple facts and a short text, with a fixed seed:

- *sums*: is ``a + b = c`` true?
- *sizes*: is ``a`` greater than ``b``?
- *facts*: is a sparrow a bird?
- *people*: one of four choices, which the text above the questions tells.

Calibration is measured on the most likely option of each question. The expected calibration error
(ECE) is the mean difference, over ten bins of equal width, between how likely that option was said
to be and how often it was right.

Usage: ``python benchmarks/decisions.py MODEL.gguf [MODEL.gguf ...] [--json FILE]``
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from report import add_json_option, print_table, write_json

from offgrid.config import load_settings
from offgrid.server import Server

EACH = 50
"""Questions of each kind."""
BINS = 10
MANY = 100
LONG = 2000
"""Questions, and tokens of the input, of the measurement of costs."""
BESIDE = 30
"""Questions that are asked while another request streams."""
SLOTS = (1, 4)
"""How many slots answer the questions of the measurement of costs."""
ROOM = 256
"""Tokens of the context that are left for a question if the input does not fit otherwise."""

KINDS_OF_THINGS = {
    "bird": ["a sparrow", "an eagle", "a penguin", "an owl", "a duck", "a parrot", "a swan"],
    "fish": ["a salmon", "a trout", "a shark", "a tuna", "a herring", "a carp"],
    "fruit": ["an apple", "a banana", "a cherry", "a pear", "a peach", "a mango", "a lemon"],
    "metal": ["iron", "copper", "gold", "silver", "zinc", "tin"],
    "musical instrument": ["a piano", "a violin", "a flute", "a trumpet", "a drum", "a guitar"],
    "vehicle": ["a car", "a bus", "a bicycle", "a truck", "a train", "a tram"],
}
KNOWN = "Judge by what everybody knows."
"""The input of the questions that need none."""
NAMES = ["Anna", "Boris", "Chen", "Dina", "Emil", "Farah", "Georg", "Hana", "Igor", "Julia"]
CITIES = ["Oslo", "Lima", "Cairo", "Delhi", "Rome", "Quito", "Seoul", "Paris", "Accra", "Boston"]
JOBS = ["baker", "nurse", "pilot", "teacher", "farmer", "lawyer", "painter", "driver", "cook",
        "doctor"]  # fmt: skip
PETS = ["dog", "cat", "horse", "parrot", "rabbit", "goat", "hamster", "turtle", "canary", "pony"]
DRINKS = ["tea", "coffee", "milk", "juice", "water", "cocoa", "beer", "wine", "lemonade", "cider"]
TRAITS = {"city": CITIES, "job": JOBS, "pet": PETS, "favourite drink": DRINKS}
_SENTENCE = "{name} lives in {city}, works as a {job}, has a {pet} and likes to drink {drink}."


@dataclass(frozen=True)
class Case:
    """A question, and the index of the option that is right (0 is true for a predicate)."""

    kind: str
    question: dict[str, Any]
    right: int


@dataclass(frozen=True)
class Judged:
    """The probabilities of a case's options."""

    case: Case
    probabilities: list[float]

    @property
    def top(self) -> int:
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def correct(self) -> bool:
        return self.top == self.case.right

    @property
    def likely(self) -> float:
        return self.probabilities[self.top]

    @property
    def brier(self) -> float:
        """Squared distance of the probabilities from the truth, 0 to 2."""
        truth = [float(index == self.case.right) for index in range(len(self.probabilities))]
        return sum((p - t) ** 2 for p, t in zip(self.probabilities, truth, strict=True))


def predicate(kind: str, text: str, true: bool) -> Case:
    return Case(kind, {"type": "predicate", "instructions": text}, 0 if true else 1)


def make_cases(seed: int = 1) -> tuple[str, list[Case]]:
    """Return the text to which the questions belong, and the questions."""
    draw = random.Random(seed)
    cases = []
    for index in range(EACH):
        a, b, true = draw.randrange(2, 60), draw.randrange(2, 60), index % 2 == 0
        wrong = a + b + draw.choice([-10, -3, -2, -1, 1, 2, 3, 10])
        cases.append(predicate("sums", f"{a} + {b} = {a + b if true else wrong}", true))
    for index in range(EACH):
        low, high = sorted(draw.sample(range(1, 1000), 2))
        a, b = (high, low) if index % 2 == 0 else (low, high)
        cases.append(predicate("sizes", f"{a} is greater than {b}.", a > b))
    things = [(thing, kind) for kind, those in KINDS_OF_THINGS.items() for thing in those]
    for index in range(EACH):
        thing, kind = draw.choice(things)
        true = index % 2 == 0
        told = kind if true else draw.choice([one for one in KINDS_OF_THINGS if one != kind])
        cases.append(predicate("facts", f"{thing.capitalize()} is a {told}.", true))
    columns = [draw.sample(values, len(NAMES)) for values in TRAITS.values()]
    people = dict(zip(NAMES, zip(*columns, strict=True), strict=True))
    text = " ".join(
        _SENTENCE.format(name=name, city=city, job=job, pet=pet, drink=drink)
        for name, (city, job, pet, drink) in people.items()
    )
    every = [(name, place) for name in NAMES for place in range(len(TRAITS))]
    for name, place in itertools.islice(itertools.cycle(draw.sample(every, len(every))), EACH):
        trait, right = [*TRAITS][place], people[name][place]
        wrong = draw.sample([one for one in columns[place] if one != right], 3)
        choices = draw.sample([right, *wrong], 4)
        question = {
            "type": "choice",
            "instructions": f"What is the {trait} of {name}?",
            "choices": [{"value": value} for value in choices],
        }
        cases.append(Case("people", question, choices.index(right)))
    return text, cases


def ask(url: str, model: str, text: str, cases: list[Case]) -> tuple[list[Judged], dict[str, Any]]:
    """Ask all questions in one request; return them with probabilities, and the usage."""
    body = {"model": model, "input": text, "questions": [case.question for case in cases]}
    request = urllib.request.Request(
        f"{url}/v1/decisions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=3600) as response:
        answer = json.load(response)
    judged = []
    for case, given in zip(cases, answer["answers"], strict=True):
        if given["type"] == "predicate":
            found = [given["probability"], 1 - given["probability"]]
        else:
            found = [one["probability"] for one in given["probabilities"]]
        assert abs(sum(found) - 1) < 1e-6
        judged.append(Judged(case, found))
    return judged, answer["usage"]


def judge(url: str, model: str, text: str, cases: list[Case]) -> list[Judged]:
    """Ask all questions: those about the text after it, the others after a sentence."""
    about = [case for case in cases if case.kind == "people"]
    others = [case for case in cases if case.kind != "people"]
    return ask(url, model, KNOWN, others)[0] + ask(url, model, text, about)[0]


def bins_of(judged: list[Judged]) -> Iterator[tuple[float, float, list[Judged]]]:
    """Yield the bins that are not empty: lower and upper end, and what is in them."""
    for index in range(BINS):
        low, high = index / BINS, (index + 1) / BINS
        inside = [one for one in judged if low < one.likely <= high]
        if inside:
            yield low, high, inside


def calibration_error(judged: list[Judged]) -> float:
    gaps = (
        abs(sum(one.likely for one in inside) - sum(one.correct for one in inside))
        for _, _, inside in bins_of(judged)
    )
    return sum(gaps) / len(judged)


def change_by_order(url: str, model: str, text: str, judged: list[Judged]) -> float:
    """Return by how much probabilities change on average if the choices are listed otherwise."""
    draw = random.Random(2)
    cases, orders = [], []
    for one in judged:
        choices = one.case.question["choices"]
        order = draw.sample(range(len(choices)), len(choices))
        question = {**one.case.question, "choices": [choices[place] for place in order]}
        cases.append(Case(one.case.kind, question, order.index(one.case.right)))
        orders.append(order)
    again, _ = ask(url, model, text, cases)
    return statistics.fmean(
        abs(other.probabilities[index] - one.probabilities[place])
        for one, other, order in zip(judged, again, orders, strict=True)
        for index, place in enumerate(order)
    )


def count_tokens(url: str, model: str, text: str) -> int:
    """Return how many tokens a text has."""
    body = json.dumps({"model": model, "content": text}).encode()
    request = urllib.request.Request(f"{url}/tokenize", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return len(json.load(response)["tokens"])


def cost(url: str, model: str, cases: list[Case]) -> dict[str, Any]:
    """Compare one question about a long input with many."""
    sentence = "The committee met again and wrote down what it had decided about the harbour. "
    with urllib.request.urlopen(f"{url}/props?model={model}") as response:
        context = json.load(response)["default_generation_settings"]["n_ctx"]
    length = min(LONG, context - ROOM)
    found: dict[str, Any] = {}
    for number in (1, MANY):
        text = f"{number} {sentence * (length // count_tokens(url, model, sentence))}"
        began, before = time.perf_counter(), worker_seconds()
        _, usage = ask(url, model, text, cases[:number])
        found[str(number)] = {
            "seconds": time.perf_counter() - began,
            "processor": worker_seconds() - before,
            **usage,
        }
    return found


def worker_seconds() -> float:
    """Return the processor time of the workers, which other programs hardly change."""
    times = [child.cpu_times() for child in psutil.Process().children()]
    return sum(one.user + one.system for one in times)


class Stream:
    """A request that streams until it is left, and how many tokens came."""

    def __init__(self, url: str, model: str) -> None:
        body = {
            "model": model, "prompt": "Once upon a time", "stream": True, "ignore_eos": True,
            "max_tokens": 4000,
        }  # fmt: skip
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        self.tokens = 0
        self._response = urllib.request.urlopen(request)
        self._begun = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        self._begun.wait()

    def _read(self) -> None:
        for line in self._response:
            self.tokens += line.startswith(b"data: {")
            self._begun.set()


def beside_stream(url: str, model: str, cases: list[Case]) -> dict[str, Any]:
    """Ask questions while another request streams."""
    stream = Stream(url, model)
    before, began, used = stream.tokens, time.perf_counter(), worker_seconds()
    ask(url, model, KNOWN * 20, cases[:BESIDE])
    return {
        "seconds": time.perf_counter() - began,
        "processor": worker_seconds() - used,
        "stream_tokens": stream.tokens - before,
    }


def costs_by_slots(path: Path, threads: int, cases: list[Case]) -> dict[str, dict[str, Any]]:
    """Measure what questions cost, alone and beside a stream, with few and more slots."""
    found: dict[str, dict[str, Any]] = {}
    for slots in SLOTS:
        with serving(path, threads, slots) as url:
            found[str(slots)] = cost(url, path.stem, cases)
        with serving(path, threads, slots + 1) as url:
            ask(url, path.stem, "The model is loaded.", cases[:1])
            found[str(slots)]["beside"] = beside_stream(url, path.stem, cases)
    return found


@contextlib.contextmanager
def serving(path: Path, threads: int, slots: int) -> Iterator[str]:
    """Serve a model; return the URL."""
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "port": 0, "models_dir": path.parent, "ctx_size": 4096, "parallel": slots,
            "threads": threads, "cache_ram_mb": 0, "cache_disk_mb": 0, "drain_timeout": 0,
            "responses_file": Path(folder) / "responses.sqlite3",
        }  # fmt: skip
        server = Server(load_settings(flags, environ={}))
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


def report(model: str, judged: list[Judged], changed: float, costs: dict[str, Any]) -> None:
    """Print the tables of a model."""
    rows = []
    for kind in [*dict.fromkeys(one.case.kind for one in judged), "all"]:
        those = [one for one in judged if kind in (one.case.kind, "all")]
        rows.append([
            kind,
            len(those),
            statistics.fmean(one.correct for one in those),
            statistics.fmean(one.likely for one in those),
            calibration_error(those),
            statistics.fmean(one.brier for one in those),
        ])  # fmt: skip
    columns = ["questions", "number", "right", "said to be right", "ECE", "Brier"]
    print_table(f"Calibration of {model}", columns, rows)
    bins = [
        [
            f"{low:.1f} to {high:.1f}",
            len(inside),
            statistics.fmean(one.likely for one in inside),
            statistics.fmean(one.correct for one in inside),
        ]
        for low, high, inside in bins_of(judged)
    ]
    print_table("By how likely answers were said to be", ["", "number", "mean", "right"], bins)
    print(f"\nOther orders of the choices change probabilities by {changed:.6f} on average.")
    used = [
        [slots, number, one["input_tokens"], one["output_tokens"], one["seconds"], one["processor"]]
        for slots, each in costs.items()
        for number, one in each.items()
        if number != "beside"
    ]
    columns = ["slots", "questions about one input", "input tokens", "tokens of choices", "seconds",
               "processor seconds"]  # fmt: skip
    print_table("What questions cost", columns, used)
    beside = [
        [slots, one["seconds"], one["processor"], one["stream_tokens"]]
        for slots, each in costs.items()
        for one in (each["beside"],)
    ]
    columns = ["slots besides the stream's", "seconds", "processor seconds",
               "tokens of the stream"]  # fmt: skip
    print_table(f"{BESIDE} questions while another request streams", columns, beside)


def main() -> None:
    """Measure the models that are named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help="GGUF files")
    parser.add_argument("--threads", type=int, default=0)
    add_json_option(parser)
    given = parser.parse_args()
    text, cases = make_cases()
    figures = {}
    for path in given.models:
        with serving(path, given.threads, 1) as url:
            judged = judge(url, path.stem, text, cases)
            choices = [one for one in judged if one.case.question["type"] == "choice"]
            changed = change_by_order(url, path.stem, text, choices)
        costs = costs_by_slots(path, given.threads, cases)
        report(path.stem, judged, changed, costs)
        figures[path.stem] = {
            "right": statistics.fmean(one.correct for one in judged),
            "ece": calibration_error(judged),
            "brier": statistics.fmean(one.brier for one in judged),
            "change_by_order": changed,
            "costs": costs,
        }
    write_json(given.json, {"models": figures})


if __name__ == "__main__":
    main()
