"""``offgrid bench`` with the starter in a real worker."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psutil
import pytest
from changed_models import with_metadata
from click.testing import CliRunner, Result

from offgrid.cli import main

FAST = ("--prompt", "12", "--generate", "4", "--repeat", "2", "--threads", "1")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments])


@pytest.mark.slow
def test_bench_measures_each_test(starter_path: Path) -> None:
    ended = bench("offgrid-starter", *FAST, "--streams", "1,3", "--json")
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert (found["model"], found["quantization"]) == ("offgrid-starter", "Q8_0")
    assert found["size"] == starter_path.stat().st_size
    rows = [(r["test"], r["tokens"], r["streams"], r["threads"]) for r in found["results"]]
    assert rows == [
        ("prefill", 12, 1, 1), ("prefill", 12, 3, 1), ("generate", 4, 1, 1), ("generate", 4, 3, 1),
    ]  # fmt: skip
    for result in found["results"]:
        slow, fast = sorted(result["repetitions"])
        assert 0 < slow <= result["tokens_per_second"] <= fast


def test_bench_prints_a_table(starter_path: Path) -> None:
    ended = bench(str(starter_path), *FAST, "--streams", "1")
    assert ended.exit_code == 0, ended.output
    title, empty, head, *rows = ended.stdout.splitlines()
    assert (title, empty) == ("offgrid-starter (2.76 M parameters, 2.9 MiB, Q8_0)", "")
    assert head == "TEST           STREAMS THREADS    TOKENS/S"
    assert [re.split("  +", row)[0] for row in rows] == ["prefill 12", "generate 4"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nothing"], 2, "Model not found: nothing"),
        (["offgrid-starter", "--streams", "x"], 2, "'x' is not numbers with commas, such as 1,4"),
        (["offgrid-starter", "--streams", "0"], 2, "'0': use numbers from 1 to 256"),
        (["offgrid-starter", "--prompt", "0"], 2, "0 is not in the range"),
    ],
)
def test_bench_refuses(arguments: list[str], status: int, message: str) -> None:
    ended = bench(*arguments)
    assert ended.exit_code == status
    assert message in ended.output


def test_bench_says_if_the_context_is_too_short(starter_path: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    with_metadata(starter_path, short, {"llama.context_length": 128})
    ended = bench(str(short), "--prompt", "100", "--generate", "4")
    assert ended.exit_code == 1
    assert "its context is 128 tokens, and 100 plus 64 are needed" in ended.output


def test_bench_says_if_memory_does_not_suffice(starter_path: Path) -> None:
    ended = CliRunner().invoke(
        main, ["bench", str(starter_path), *FAST], env={"OFFGRID_MEMORY_BUDGET": "50"}
    )
    assert ended.exit_code == 1
    assert "cannot be loaded: it needs" in ended.output
    assert "and 50 MiB of memory is free" in ended.output


@pytest.mark.slow
def test_bench_says_that_the_machine_is_busy(
    starter_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for load, is_said in ((0.0, False), (1000.0, True)):
        monkeypatch.setattr(psutil, "getloadavg", lambda load=load: (load, load, load))
        ended = bench(str(starter_path), *FAST, "--streams", "1")
        assert ended.stderr.startswith("offgrid: other programs use this machine") == is_said
