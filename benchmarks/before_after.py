"""Compares two versions of OffGrid: each runs its engine.py and server.py, in turns.

    python benchmarks/before_after.py \\
        --before old/venv/bin/python old/checkout --after venv/bin/python .

Each version is a Python that has it installed, and the checkout with its benchmarks. In each round,
both versions run the same benchmark, one directly after the other, and the order changes from round
to round. The table has the median of the tokens per second of each version, and the median over the
rounds of after / before with the smallest and the largest one: the noise. The shares of the bare
loop are not compared, because each version has a bare loop that loads the model as it does. The
benchmarks check their answers themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from report import add_json_option, print_table, write_json

BENCHMARKS = {
    "engine": ["benchmarks/engine.py"],
    "server": ["benchmarks/server.py", "--no-llama-cpp-python"],
}
SPEED = {"engine": "engine", "server": "tokens_per_s"}
"""The figure in the rows of each benchmark."""
Case = tuple[str, int]
"""A benchmark and a number of streams."""


def speeds(version: tuple[str, Path], name: str, options: argparse.Namespace) -> dict[Case, float]:
    """Run one benchmark of one version; return its tokens per second for each case."""
    python, checkout = version
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures.json")
        ran = subprocess.run(
            [python, *BENCHMARKS[name], "--streams", options.streams,
             "--tokens", str(options.tokens), "--repeat", str(options.repeat), "--json", str(file)],
            cwd=checkout, stdout=subprocess.DEVNULL,
            # The installed version is measured, not the sources in the checkout.
            env={key: text for key, text in os.environ.items() if key != "PYTHONPATH"},
        )  # fmt: skip
        if ran.returncode:
            raise SystemExit(f"{name}.py of {checkout} ended with status {ran.returncode}")
        rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"]
    return {(name, row["streams"]): row[SPEED[name]] for row in rows}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all rounds; return a row of figures for each case."""
    versions = [(python, Path(folder)) for python, folder in (options.before, options.after)]
    found: list[dict[Case, list[float]]] = [{}, {}]
    for number in range(options.rounds):
        for name in options.benchmarks.split(","):
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                for case, speed in speeds(versions[index], name, options).items():
                    found[index].setdefault(case, []).append(speed)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    before, after = found
    if before.keys() != after.keys():
        raise SystemExit("the two versions have measured different cases")
    rows = []
    for case in before:
        ratios = [new / old for old, new in zip(before[case], after[case], strict=True)]
        rows.append({
            "benchmark": case[0], "streams": case[1], "before": median(before[case]),
            "after": median(after[case]), "ratio": median(ratios),
            "lowest": min(ratios), "highest": max(ratios),
        })  # fmt: skip
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("--before", "--after"):
        parser.add_argument(
            name, nargs=2, required=True, metavar=("PYTHON", "CHECKOUT"), help="a version"
        )
    parser.add_argument("--benchmarks", default="engine,server", help="those to run")
    parser.add_argument("--streams", default="1,4,8", help="numbers of streams")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--repeat", type=int, default=2, help="of each case within a round")
    parser.add_argument("--rounds", type=int, default=7, help="of both versions")
    add_json_option(parser)
    options = parser.parse_args()
    rows = measure(options)
    print_table(
        f"tokens per second, {options.tokens} tokens an answer, {options.rounds} rounds",
        ["benchmark", "streams", "before", "after", "after / before", "lowest", "highest"],
        [list(row.values()) for row in rows],
    )
    write_json(options.json, {"rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
