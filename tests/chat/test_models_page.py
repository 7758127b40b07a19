"""docs/MODELS.md has a row for every family of the table."""

from __future__ import annotations

import re
from pathlib import Path

from offgrid.chat.formats import FAMILIES

ROOT = Path(__file__).parents[2]


def test_every_family_has_a_row() -> None:
    page = (ROOT / "docs" / "MODELS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(named) == sorted(family.name for family in FAMILIES)
    said = re.search(
        r"lists (\d+) families", (ROOT / "docs" / "API.md").read_text(encoding="utf-8")
    )
    assert said is not None
    assert int(said[1]) == len(FAMILIES)
