"""docs/LIMITS.md lists the limits that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offgrid.api import embeddings, moderations, rerank
from offgrid.api.chat import request as chat
from offgrid.api.chat import tools
from offgrid.api.completions import request as completions
from offgrid.api.decisions import request as decisions
from offgrid.api.fields import body, bounds, common, sampling
from offgrid.api.http import rates
from offgrid.api.http.waitress import channel, parser
from offgrid.api.lab import request as lab
from offgrid.api.responses import items
from offgrid.chat import images
from offgrid.config import BY_NAME
from offgrid.grammar import compilable

PAGE = (Path(__file__).parent.parent / "docs" / "LIMITS.md").read_text(encoding="utf-8")
KIB = 1024
SIZES = {
    "size of the body": 8 << 20,
    "size of the headers": 16 * KIB,
    "levels of lists and objects": bounds.MAX_DEPTH,
    "fields of the body": body.MAX_FIELDS,
    "values of the body": body.MAX_VALUES,
    "texts and keys": body.MAX_STRINGS,
    "lists and objects": body.MAX_CONTAINERS,
    "messages of a conversation": bounds.MAX_MESSAGES,
    "items of `input` in `/v1/responses`": items.MAX_ITEMS,
    "images": images.MAX_IMAGES,
    "tools": tools.MAX_TOOLS,
    "`documents`": chat.MAX_DOCUMENTS,
    "tokens of an answer": None,
    "`n`": common.MAX_N,
    "`best_of`": completions.MAX_BEST_OF,
    "stop strings": common.MAX_STOPS,
    "characters of a stop string": common.MAX_STOP_LENGTH,
    "banned strings": common.MAX_BANNED,
    "characters of a banned string": common.MAX_BANNED_LENGTH,
    "entries of `logit_bias`": sampling.MAX_BIASES,
    "prompts of a completion, and its answers": completions.MAX_PROMPTS,
    "inputs of an embeddings request": embeddings.MAX_INPUTS,
    "documents of a rerank request": rerank.MAX_DOCUMENTS,
    "questions of a decisions request": decisions.MAX_QUESTIONS,
    "choices, or levels, of a question": decisions.MAX_CHOICES,
    "characters of a choice, or of a label": decisions.MAX_VALUE,
    "texts of a moderations request": moderations.MAX_INPUTS,
    "tokens of each distribution of the lab": lab.MAX_TOP,
    "samples of the lab": lab.MAX_SAMPLES,
    "size of a JSON schema": compilable.MAX_SOURCE["json_schema"],
    "size of a GBNF or Lark grammar": compilable.MAX_SOURCE["gbnf"],
    "size of a regular expression": compilable.MAX_SOURCE["regex"],
}
UNITS = {"": 1, "KiB": KIB, "MiB": KIB * KIB}


def rows(section: str) -> list[list[str]]:
    """The rows of the first table with a column Value of a section."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def number(value: str) -> int | None:
    match = re.fullmatch(r"([0-9,]+) ?(KiB|MiB)?", value)
    return None if match is None else int(match[1].replace(",", "")) * UNITS[match[2] or ""]


def test_the_page_lists_the_sizes() -> None:
    listed = {what: number(value) for what, value, *_ in rows("The size of a request")}
    assert listed == SIZES


def test_the_page_names_settings_with_their_defaults() -> None:
    for section in ("The size of a request", "Time"):
        for what, value, setting, *_ in rows(section):
            if not setting:
                continue
            row = BY_NAME[setting.strip("`")]
            factor = {"max_body_mb": KIB * KIB, "max_schema_kb": KIB}.get(row.name, 1)
            expected = number(value)
            assert row.default * factor == (expected or 0), what
            assert row.low is not None, what
            if expected:
                assert row.high is not None, what


def test_no_setting_allows_more_than_the_code() -> None:
    for name, most in (
        ("max_json_depth", bounds.MAX_DEPTH), ("max_messages", bounds.MAX_MESSAGES),
        ("max_schema_kb", bounds.MAX_SCHEMA // KIB),
    ):  # fmt: skip
        assert BY_NAME[name].high == BY_NAME[name].default == most


@pytest.mark.parametrize(
    "sentence",
    [
        f"arrival of the headers of a request | {parser._HEAD_SECONDS:g} s",
        f"{parser._BODY_SECONDS:g} s and 1 s per {parser._LEAST_RATE // 1000} kB",
        f"reads nothing while bytes wait for it | {channel._STALLED_SECONDS:g} s",
        f"reads less than {channel._LEAST_READ // KIB} KiB while bytes wait for it | "
        f"{channel._READING_SECONDS:g} s",
        f"{channel._GOOD_RATE // 1000} kB per second",
        f"{rates.MAX_CALLERS:,} callers",
    ],
)
def test_the_page_has_the_figures_of_the_code(sentence: str) -> None:
    assert sentence in " ".join(PAGE.split())


def test_the_page_names_every_header_of_limits() -> None:
    assert {f"`{name}`" for name in rates.HEADERS} <= set(re.findall(r"`[^`]+`", PAGE))
