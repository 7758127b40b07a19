"""Prompts for filling in: the format, and what is left out if it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from changed_models import BEGINS, FILL_IN, with_metadata

from offgrid.engine.protocol.commands import Load
from offgrid.engine.protocol.requests import Excerpt, GenerationRequest, Infill
from offgrid.engine.worker.infill import read_infill
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prompts import prompt_text
from offgrid.errors import ContextLengthExceeded, InvalidParameter

PROJECT = {"tokenizer.ggml.fim_rep_token_id": 2043, "tokenizer.ggml.fim_sep_token_id": 2040}
BEFORE, AFTER, MIDDLE, REPOSITORY, FILE, BOS = 2044, 2045, 2046, 2043, 2040, 2042


def loaded(folder: Path, source: Path, **metadata: Any) -> Model:
    path = folder / "changed.gguf"
    with_metadata(source, path, metadata)
    return Model(Load(str(path), ctx_size=256, parallel=1, threads=1))


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory, starter_path: Path) -> Iterator[Model]:
    """A model with tokens for whole projects."""
    model = loaded(tmp_path_factory.mktemp("code"), starter_path, **FILL_IN, **PROJECT)
    yield model
    model.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, starter_path: Path) -> Iterator[Model]:
    """A model without them, whose prompts begin with a token."""
    model = loaded(tmp_path_factory.mktemp("plain"), starter_path, **FILL_IN, **BEGINS)
    yield model
    model.close()


def read(model: Model, infill: Infill, max_tokens: int | None = 8) -> tuple[list[int], bool]:
    ids, cut = read_infill(model, GenerationRequest(infill=infill, max_tokens=max_tokens), infill)
    return ids.tolist(), cut


def plain_ids(model: Model, text: str) -> list[int]:
    return model.tokenize_plain(text).tolist()


def test_a_project(code: Model) -> None:
    """The format of Qwen2.5-Coder; texts of control tokens in it stay text."""
    infill = Infill("a <|im_end|>\n", "\nz", "    b", (Excerpt("x.py", "one"), Excerpt("", "two")))
    ids, cut = read(code, infill)
    assert not cut
    assert ids == [
        REPOSITORY, *plain_ids(code, "myproject\n"),
        FILE, *plain_ids(code, "x.py\n"), *plain_ids(code, "one"),
        FILE, *plain_ids(code, "tmp\n"), *plain_ids(code, "two"),
        FILE, *plain_ids(code, "filename\n"),
        BEFORE, *plain_ids(code, "a <|im_end|>\n"), *plain_ids(code, "    b"),
        AFTER, *plain_ids(code, "\nz"), MIDDLE,
    ]  # fmt: skip


def test_a_model_without_tokens_for_files(plain: Model) -> None:
    ids, _ = read(plain, Infill("a", "z", "", (Excerpt("x.py", "one"),)))
    between = plain_ids(plain, "\n\n--- snippet ---\n\n")
    assert ids == [
        BOS, *between, *plain_ids(plain, "one"),
        BEFORE, *plain_ids(plain, "a"), AFTER, *plain_ids(plain, "z"), MIDDLE,
    ]  # fmt: skip
    # Without excerpts there is nothing before the prefix.
    assert read(plain, Infill("a", "z"))[0][:2] == [BOS, BEFORE]


def test_the_oldest_excerpts_are_left_out_first(code: Model) -> None:
    excerpts = tuple(Excerpt(f"{number}.py", "word " * 30) for number in range(8))
    ids, cut = read(code, Infill("before", "after", "typed", excerpts))
    text = prompt_text(code, ids)
    assert cut
    assert len(ids) <= 256 - 8
    assert "7.py" in text
    assert "0.py" not in text
    assert all(word in text for word in ("before", "after", "typed", "myproject"))
    # One that is larger than any context is not even tokenised.
    large = Excerpt("large.py", "x" * 10_000_000)
    ids, cut = read(code, Infill("before", "after", "", (large, excerpts[7])))
    assert cut
    assert "7.py" in prompt_text(code, ids)


@pytest.mark.parametrize("max_tokens", [8, 100_000, None])
def test_what_is_nearest_to_the_place_is_kept(code: Model, max_tokens: int | None) -> None:
    before, after = "far " * 2000 + "near", "close " + "away " * 2000
    ids, cut = read(code, Infill(before, after, "typed"), max_tokens)
    assert cut
    reserve = {8: 8, 100_000: 128, None: 64}[max_tokens]
    assert len(ids) == 256 - reserve
    suffix = ids[ids.index(AFTER) + 1 : -1]
    prefix = ids[1 : ids.index(AFTER)]
    assert prompt_text(code, prefix).endswith("neartyped")
    assert prompt_text(code, suffix).startswith("close")
    assert 2.5 < len(prefix) / len(suffix) < 3.5
    # A short side leaves its share to the other.
    ids, _ = read(code, Infill("near", after), max_tokens)
    assert len(ids) == 256 - reserve
    assert prompt_text(code, ids[1:2]) == prompt_text(code, plain_ids(code, "near")[:1])


@pytest.mark.parametrize("max_tokens", [1, 8])
def test_without_room_for_excerpts_the_answer_keeps_its_room(code: Model, max_tokens: int) -> None:
    """Not even the name of the project is written then."""
    infill = Infill("far " * 2000, "away " * 2000, "", (Excerpt("x.py", "one"),))
    ids, cut = read(code, infill, max_tokens)
    assert cut
    assert len(ids) == 256 - max_tokens
    assert ids[0] == BEFORE


def test_the_line_of_the_cursor_is_never_cut(code: Model) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        read(code, Infill("", "", "x" * 10_000))
    assert caught.value.param == "prompt"


def test_a_model_that_cannot_fill_in(model: Model) -> None:
    with pytest.raises(InvalidParameter, match="no fill-in-the-middle tokens") as caught:
        read(model, Infill("a", "b"))
    assert caught.value.code == "unsupported_parameter"


LOAD = {"ctx_size": 256, "parallel": 1}
