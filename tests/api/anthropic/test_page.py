"""docs/ANTHROPIC.md names every field, block, tool, reason and error of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec

from offgrid.api.anthropic import blocks, request, shapes, tools
from offgrid.api.anthropic.models import DEFAULT_LIMIT, MAX_LIMIT
from offgrid.api.fields.common import MAX_STOPS
from offgrid.api.http.error_bodies import ANTHROPIC_TYPES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "ANTHROPIC.md").read_text(encoding="utf-8")


def text_of(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows_of(title: str) -> list[str]:
    """The rows of the tables of a section, without their heads."""
    tables = re.findall(r"^\|---.*\n((?:\|.*\n)+)", text_of(title), re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


def first_cells(title: str) -> set[str]:
    """The names in the first cells of these rows."""
    cells = [row.split("|")[1] for row in rows_of(title)]
    return {name for cell in cells for name in re.findall(r"`([a-z_0-9]+)`", cell)}


def test_fields() -> None:
    fields = set(request.MessageRequest.__struct_fields__) - request.MessageRequest.PARSED
    assert first_cells("Fields") == fields
    named = set(re.findall(r"`([a-z_0-9]+)`", text_of("Fields")))
    assert named >= request.UNSUPPORTED.keys()
    assert f"up to {MAX_STOPS} texts" in PAGE
    assert f"| {request.TEMPERATURE:g}, or the model's own" in PAGE
    assert f"(1 to {MAX_LIMIT:,}, default {DEFAULT_LIMIT})" in PAGE


def test_blocks_and_tools() -> None:
    kinds = {msgspec.inspect.type_info(kind).tag for kind in get_args(blocks.Block)}
    assert first_cells("Messages") == kinds
    thinking = {msgspec.inspect.type_info(kind).tag for kind in get_args(request.Thinking)}
    assert first_cells("Thinking") == thinking | {"budget_tokens"}
    assert set(re.findall(r"`(\w+_20\d+)`", text_of("Tools"))) == tools.CLIENT_TOOLS.keys()
    choices = {msgspec.inspect.type_info(kind).tag for kind in get_args(tools.ToolChoice)}
    assert first_cells("Tools") == choices | {"name"}


def test_answers_and_errors() -> None:
    assert first_cells("Answers") == set(get_args(shapes.StopReason))
    told = {}
    for row in rows_of("Errors"):
        _, statuses, kind, _ = row.split("|")
        told.update({int(s): kind.split("`")[1] for s in re.findall(r"\d+", statuses)})
    assert ANTHROPIC_TYPES.items() <= told.items()
    (kinds,) = (
        get_args(field.type)
        for field in msgspec.structs.fields(shapes.MessageErrorDetail)
        if field.name == "type"
    )
    assert set(kinds) == set(told.values())
