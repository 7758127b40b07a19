"""docs/LLAMA_SERVER.md names every field of the code, with its range and default."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from offgrid.api import score
from offgrid.api.fields.common import GenerationFields
from offgrid.api.fields.inert import IGNORED
from offgrid.api.llama_server import request, shapes
from offgrid.api.llama_server.request import DEFAULTS, MEDIA
from offgrid.sampling.params import MAX_TOP_LOGPROBS, RANGES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "LLAMA_SERVER.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def first_cells(text: str) -> set[str]:
    """The names in the first cells of all tables of a text."""
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def fields(kind: type[msgspec.Struct]) -> set[str]:
    return set(kind.__struct_fields__)


def test_fields_of_requests() -> None:
    common = fields(GenerationFields)
    own = fields(request.NativeRequest) - common - request.NativeRequest.PARSED
    assert first_cells(section("Completion")) >= own | {"max_tokens"}
    infill = fields(request.InfillRequest) - fields(request.NativeFields)
    assert first_cells(section("Infill")) == infill
    assert first_cells(section("Score")) == fields(score.ScoreRequest) - IGNORED
    assert all(f"`{name}`" in section("Infill") for name in fields(request.ExtraContext))


def test_defaults() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+ \| [\d.]+) \|$", PAGE, re.MULTILINE))
    assert rows == {
        name: f"{value:g} | {RANGES[name].api_default:g}" for name, value in DEFAULTS.items()
    }


def test_limits() -> None:
    completion, infill = section("Completion"), section("Infill")
    assert f"| `n_probs` | 0 to {MAX_TOP_LOGPROBS:,} |" in completion
    assert f"up to {request.MAX_PROMPTS:,}" in completion
    assert f"up to {request.MAX_EXCERPTS:,} objects" in infill
    assert f"up to {score.MAX_TEXTS:,}" in section("Score")
    assert f"`{MEDIA}`" in completion


def test_fields_of_answers() -> None:
    assert first_cells(section("Completion")) >= fields(shapes.NativeCompletion)
    assert all(f"`{name}`" in section("Completion") for name in fields(shapes.NativePart))
    assert first_cells(section("Props")) == fields(shapes.Props)
    assert first_cells(section("Slots")) == fields(shapes.SlotObject)
    assert all(f"`{name}`" in section("Slots") for name in fields(shapes.SlotNext))
