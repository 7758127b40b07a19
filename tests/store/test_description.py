"""What the catalogue says about models on disk, without loading them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import gguf
import pytest
import tiny_models
from changed_models import with_metadata
from tiny_vision import make_seeing

from offgrid.config import load_settings
from offgrid.errors import ConfigError
from offgrid.store import description as module
from offgrid.store.catalogue import Catalogue
from offgrid.store.description import Description


def described(folder: Path, model: str, **flags: object) -> Description:
    """The description of a model of a folder."""
    models = Catalogue(load_settings({"models_dir": folder, **flags}, {}))
    return models.describe(models.get(model))


def test_the_starter(starter_path: Path) -> None:
    found = described(starter_path.parent, "offgrid-starter")
    assert found.sizes is not None
    assert dataclasses.replace(found, sizes=None) == Description(
        None, "chat", "llama", 2_755_008, "Q8_0", 2048, tools=True, reasoning=False
    )


@pytest.mark.parametrize(
    ("pooling", "kind"), [("MEAN", "embedding"), ("NONE", "embedding"), ("RANK", "rerank")]
)
def test_models_that_do_not_generate(tmp_path: Path, pooling: str, kind: str) -> None:
    path = tiny_models.make_bert(tmp_path, pooling)
    found = described(tmp_path, path.stem)
    assert (found.kind, found.generates, found.tools) == (kind, False, False)


@pytest.mark.slow
def test_a_base_model_and_templates(starter_path: Path, tmp_path: Path) -> None:
    key = "tokenizer.chat_template"
    for name, values in (
        ("base", {key: ""}),
        ("blank", {key: " \n"}),
        ("named", {key: "", f"{key}.tool_use": "{{ tools }}"}),
        ("other", {key: "", f"{key}.rag": "{{ documents }}"}),
        ("thinker", {key: "{% if enable_thinking %}<think>{% endif %}"}),
    ):
        with_metadata(starter_path, tmp_path / f"{name}.gguf", values)
    found = {name: described(tmp_path, name) for name in ("base", "blank", "named", "thinker")}
    assert {name: one.kind for name, one in found.items()} == {
        "base": "base", "blank": "base", "named": "chat", "thinker": "chat",
    }  # fmt: skip
    assert described(tmp_path, "other").kind == "base"
    assert [found["named"].tools, found["named"].reasoning] == [True, False]
    assert [found["thinker"].tools, found["thinker"].reasoning] == [False, True]
    given = described(tmp_path, "base", default_model="base", chat_template="chatml")
    assert given.kind == "chat"
    given = described(tmp_path, "blank", default_model="base", chat_template="chatml")
    assert given.kind == "base"  # it is for the default model only


def test_the_file_type_is_that_of_most_parameters_if_none_is_named(
    starter_path: Path, tmp_path: Path
) -> None:
    with_metadata(starter_path, tmp_path / "a.gguf", {"general.file_type": 9999})
    assert described(tmp_path, "a").quantization == "Q8_0"


def test_split_models(starter_path: Path, tmp_path: Path) -> None:
    """Its parts are read together; a part under another name is refused."""
    reader = gguf.GGUFReader(starter_path)
    half = len(reader.tensors) // 2
    for number, tensors in enumerate((reader.tensors[:half], reader.tensors[half:])):
        path = tmp_path / f"a-0000{number + 1}-of-00002.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        if number == 0:
            writer.add_context_length(512)
        for tensor in tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        tiny_models.finish(writer, path)
    found = described(tmp_path, "a")
    assert (found.problem, found.parameters, found.context_length) == (None, 2_755_008, 512)
    (tmp_path / "b.gguf").symlink_to("a-00001-of-00002.gguf")
    assert "it is one of 2 parts" in str(described(tmp_path, "b").problem)
    for number, name in ((1, "c-00001-of-00002"), (1, "c-00002-of-00002")):
        (tmp_path / f"{name}.gguf").symlink_to(f"a-0000{number}-of-00002.gguf")
    assert "c-00002-of-00002.gguf: it is not part 2 of 2" in str(described(tmp_path, "c").problem)


@pytest.mark.slow
def test_files_that_are_no_models(starter_path: Path, tmp_path: Path) -> None:
    make_seeing(tmp_path, "seeing")
    (projector,) = tmp_path.glob("*mmproj*")
    projector.rename(tmp_path / "eye.gguf")
    with_metadata(starter_path, tmp_path / "lora.gguf", {"general.type": "adapter"})
    writer = gguf.GGUFWriter(tmp_path / "vocab.gguf", "llama")
    tiny_models.finish(writer, tmp_path / "vocab.gguf")
    for name, reason in (
        ("eye", "it is a projector (mmproj)"),
        ("lora", "it is a LoRA adapter"),
        ("vocab", "it contains a vocabulary, but no weights"),
    ):
        found = described(tmp_path, name)
        assert str(found.problem).startswith(reason)
        assert (found.generates, found.parameters) == (False, None)


def test_the_default_model_is_one_that_generates(starter_path: Path, tmp_path: Path) -> None:
    bert = tiny_models.make_bert(tmp_path, "MEAN")
    bert.rename(tmp_path / "b.gguf")
    (tmp_path / "a.gguf").write_bytes(starter_path.read_bytes()[:1000])
    models = Catalogue(load_settings({"models_dir": tmp_path}, {}))
    assert models.default == "b"
    (tmp_path / "c.gguf").symlink_to(starter_path)
    assert models.default == models.get("").id == "c"
    (tmp_path / "b.gguf").unlink()
    (tmp_path / "c.gguf").unlink()
    assert models.default == "a"  # loading it says why it cannot be used


def test_headers_are_read_again_only_after_a_change(
    starter_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    real = module.read_header
    monkeypatch.setattr(module, "read_header", lambda path: reads.append(path) or real(path))
    path = tmp_path / "a.gguf"
    path.write_bytes(starter_path.read_bytes())
    models = Catalogue(load_settings({"models_dir": tmp_path}, {}))
    for _ in range(3):
        assert models.describe(models.get("a")).problem is None
    assert reads == [path]
    os.truncate(path, 5000)
    assert "cut off" in str(models.describe(models.get("a")).problem)
    assert reads == [path, path]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nothing.jinja", "neither a file nor one of the names chatml"),
        ("empty.jinja", "is empty"),
        ("folder", "Is a directory"),
        ("binary.jinja", "is not text in UTF-8"),
        ("null\0", "neither a file"),
    ],
)
def test_a_wrong_chat_template_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.jinja").write_text(" \n")
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=reason) as caught:
        Catalogue(load_settings({"chat_template": value}, {}))
    assert "--chat-template" in str(caught.value)
