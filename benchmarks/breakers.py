"""Measures DRY's sequence breakers on a large vocabulary, with and without the index.

    python benchmarks/breakers.py

Before timing, the results are compared with a search of every token. Without the index only some of
the breakers are searched, and the time is multiplied.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import resolve
from report import add_json_option, machine, print_table, write_json

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.engine.worker.dry_breakers import PieceIndex, expand_breakers
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prepare import Preparer
from offgrid.errors import InvalidParameter
from offgrid.sampling import SamplingParams

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lib"))
from reference_breakers import expand_breaker

ROUNDS = 5
DEFAULT = ("\n", ":", '"', "*")


def longest(first: str) -> tuple[str, ...]:
    """As many and as long breakers as a request may have."""
    return tuple(f"{first}{number:02}".ljust(40, "z") for number in range(64))


CASES = {
    "the default": DEFAULT,
    "64 of 40 characters that few tokens end with": longest("7"),
    "64 of 40 characters that many tokens end with": longest("e"),
    "a space": (" ",),
}


def seconds(call: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """The median time of a call."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def found(model: Model, index: PieceIndex, texts: tuple[str, ...]) -> int | None:
    """Return the number of token sequences for the texts, None if there are too many."""
    try:
        return len(expand_breakers(texts, index, model._tokenize_tail))
    except InvalidParameter:
        return None


def prepared(model: Model, texts: tuple[str, ...], n: int) -> float | None:
    """The time until a request is in the queue; None if it is refused."""
    preparer = Preparer(model)
    sampling = SamplingParams(dry_multiplier=1.0)
    request = GenerationRequest(
        (PromptPart("Hello", False),), sampling=sampling, dry_breakers=texts, n=n
    )

    def call() -> None:
        model._breakers.clear()
        preparer.prepare(1, request)

    try:
        return seconds(call)
    except InvalidParameter:
        return None


def without_index(model: Model, pieces: list[bytes], text: str) -> float:
    """The time of one breaker by searching every token; also checks the result of the index."""
    began = time.perf_counter()
    expected = expand_breaker(text, pieces, model._tokenize_tail)
    took = time.perf_counter() - began
    index = PieceIndex(pieces)
    if (count := found(model, index, (text,))) is not None:
        sequences = expand_breakers([text], index, model._tokenize_tail)
        if sequences != sorted(expected):
            raise SystemExit(f"{text!r}: {count} sequences found, {len(expected)} there are")
    return took


def milliseconds(value: float | None) -> str:
    """A cell of the table."""
    return "refused" if value is None else f"{1000 * value:,.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="many-tokens", help="a recipe of models.py or a GGUF")
    add_json_option(parser)
    options = parser.parse_args()
    model = Model(Load(str(resolve(options.model)), ctx_size=512, parallel=1))
    pieces = model._read_pieces()
    index = PieceIndex(pieces)
    figures: list[dict[str, Any]] = []
    for name, texts in CASES.items():
        before = without_index(model, pieces, texts[0]) * len(texts)
        figures.append({
            "case": name,
            "sequences": found(model, index, texts),
            "without": before,
            "find": seconds(lambda texts=texts: found(model, index, texts)),
            "prepare": prepared(model, texts, 1),
            "prepare_16": prepared(model, texts, 16),
        })  # fmt: skip
    reading, building = seconds(model._read_pieces), seconds(lambda: PieceIndex(pieces))
    print_table(
        f"Sequence breakers with {model.n_vocab:,} tokens, milliseconds; at load "
        f"{1000 * reading:,.0f} to read the pieces and {1000 * building:,.0f} for their index",
        ("breakers", "sequences", "every token", "index", "whole request", "n = 16"),
        [
            (
                f["case"], f["sequences"] or "too many", f"{1000 * f['without']:,.0f}",
                milliseconds(f["find"]), milliseconds(f["prepare"]), milliseconds(f["prepare_16"]),
            )
            for f in figures
        ],
    )  # fmt: skip
    at_load = {"read": reading, "index": building}
    write_json(options.json, {"machine": machine(), "at_load": at_load, "breakers": figures})
    model.close()


if __name__ == "__main__":
    main()
