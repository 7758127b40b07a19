"""Helpers of all benchmarks: a description of the machine, a printed table, a JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def cpu_name() -> str:
    """The name of the processor, if the system provides it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """A description of the machine that was measured."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.system()}


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table that can be pasted into README.md."""
    print(f"\n{title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "|".join("---" if i == 0 else "--:" for i in range(len(columns))) + "|")
    for row in rows:
        print("| " + " | ".join(_cell(value) for value in row) + " |")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a ``share`` (0 to 1) of the values is."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option to write the figures to a file."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write the figures with a description of the measured machine."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **content}, indent=2) + "\n")
