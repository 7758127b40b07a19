"""``docs/OLLAMA.md`` describes every field and every option with its default."""

from __future__ import annotations

import re
from pathlib import Path

from offgrid.api.ollama.convert import DEFAULTS
from offgrid.api.ollama.embed import OllamaEmbeddingsRequest, OllamaEmbedRequest
from offgrid.api.ollama.request import (
    UNSUPPORTED,
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaMessage,
)
from offgrid.api.openapi.document import document
from offgrid.sampling.params import RANGES

PAGE = (Path(__file__).parents[3] / "docs" / "OLLAMA.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.partition(f"## {title}\n")[2], maxsplit=1, flags=re.M)[0]


def named(text: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", text))


def test_every_endpoint() -> None:
    paths = {path for path in document()["paths"] if path.startswith("/api/")}
    assert paths == set(re.findall(r"(/api/[\w/{}]+)`", PAGE.partition("## Names")[0]))


def test_every_field() -> None:
    fields = named(section("Fields of chat and generate"))
    for struct in (OllamaChatRequest, OllamaGenerateRequest, OllamaMessage):
        assert fields >= set(struct.__struct_fields__) - {"name"}
    assert fields >= UNSUPPORTED.keys()
    embedding = named(section("Embeddings")) | {"model"}
    for kind in (OllamaEmbedRequest, OllamaEmbeddingsRequest):
        assert embedding >= set(kind.__struct_fields__)


def test_the_defaults() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", section("Options"), re.M))
    names = {"repeat_penalty": "repetition_penalty"}
    for name, told in rows.items():
        own = names.get(name, name)
        assert float(told) == DEFAULTS.get(own, RANGES[own].api_default)
    assert rows.keys() >= DEFAULTS.keys()
    compared = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+)", section("Options"), re.M)
    assert {name: float(ours) for name, ours, _ in compared} == DEFAULTS
    for name, _, other in compared:
        assert float(other) == RANGES[name].api_default
