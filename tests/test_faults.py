"""docs/FAULTS.md names a test of every fault, and every test exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "FAULTS.md"
IDS = [
    f"{group}{number}"
    for group, last in (("A", 18), ("B", 18), ("C", 24), ("D", 16), ("E", 21))
    for number in range(1, last + 1)
]
ROWS = {
    cells[0]: cells
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [A-E]\d", line)
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
_TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def test_every_fault_has_one_row() -> None:
    assert list(ROWS) == IDS


@pytest.mark.parametrize("id", IDS)
def test_its_tests_exist(id: str) -> None:
    _, fault, promise, tests = ROWS[id]
    assert fault
    assert promise
    named = _TEST.findall(tests)
    assert named or tests.startswith("Does not apply: ")
    for file, name in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"def {name}\b", source), f"{file} has no {name}"


def test_all_tests_of_the_page_exist() -> None:
    """Also those of faults without an id."""
    named = _TEST.findall(PAGE.read_text(encoding="utf-8"))
    assert len(named) > len(IDS)
    for file, name in named:
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"def {name}\b", source), f"{file} has no {name}"
