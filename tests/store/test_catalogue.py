"""The catalogue on real folders: the models, their ids, and the files that are left out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import STARTER, together

from offgrid.config import load_settings
from offgrid.errors import ConfigError, ModelNotFound
from offgrid.store.catalogue import STARTER_PATH, Catalogue

GGUF = b"GGUF\x03\0\0\0"
Put = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def put(folder: Path) -> Put:
    def put(name: str, content: bytes = GGUF) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return put


def catalogue(folder: Path, default_model: str = "", **flags: Any) -> Catalogue:
    flags |= {"models_dir": folder, "default_model": default_model}
    return Catalogue(load_settings(flags, environ={}))


def ids(folder: Path, default_model: str = "") -> list[str]:
    return [entry.id for entry in catalogue(folder, default_model).entries()]


def test_without_models_it_is_the_starter(folder: Path) -> None:
    for place in (folder, folder / "missing", folder / "file"):
        (folder / "file").write_bytes(b"no folder")
        [entry] = catalogue(place).entries()
        assert (entry.id, entry.path) == (STARTER, STARTER_PATH)
        assert catalogue(place).get(STARTER) == entry
    assert catalogue(folder).default_id is None


def test_a_model_takes_the_starters_place_until_it_is_gone(folder: Path, put: Put) -> None:
    models = catalogue(folder)
    path = put("own.gguf")
    assert [entry.id for entry in models.entries()] == ["own"]
    with pytest.raises(ModelNotFound):
        models.get(STARTER)
    path.unlink()
    assert [entry.id for entry in models.entries()] == [STARTER]
    assert ids(folder, STARTER) == [STARTER]
    put("own.gguf")
    assert ids(folder, STARTER) == [STARTER, "own"]


def test_an_entry_describes_the_file_in_its_folder(folder: Path, put: Put) -> None:
    path = put("own.gguf", GGUF + b"x" * 100)
    os.utime(path, (1_600_000_000.9, 1_700_000_000.9))
    entry = catalogue(folder).get("own")
    assert (entry.path, entry.created, entry.size) == (path, 1_700_000_000, 108)
    assert catalogue(folder).get("own") == entry


def test_ids_are_paths_below_the_folder(folder: Path, put: Put) -> None:
    for name in ("b.gguf", "meta/llama/8b.gguf", "a.Q4_K_M.gguf", "UPPER.GGUF", "1/2/3/4/in.gguf",
                 "1/2/3/4/5/too-deep.gguf", "x.gguf/inner.gguf"):  # fmt: skip
        put(name)
    expected = ["1/2/3/4/in", "UPPER", "a.Q4_K_M", "b", "meta/llama/8b", "x.gguf/inner"]
    assert ids(folder) == expected
    for name in expected:
        assert catalogue(folder).get(name).path.is_relative_to(folder)


def test_names_of_all_kinds(folder: Path, put: Put) -> None:
    names = [
        "Qwen 3 (chat)",
        "модель",
        "モデル",
        "é",
        "e\u0301",
        "😀",
        "a'b\"c",
        "new\nline",
        "%2e",
    ]
    for name in names:
        put(f"{name}.gguf")
    assert ids(folder) == sorted(names)
    for name in names:
        assert catalogue(folder).get(name).path == folder / f"{name}.gguf"


def test_a_name_that_json_cannot_represent_is_left_out(folder: Path, put: Put) -> None:
    put("good.gguf")
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.gguf")).write_bytes(GGUF)
        other = Path(os.fsdecode(os.fsencode(folder) + b"/dir\xff"))
        other.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (other / "in.gguf").write_bytes(GGUF)
    assert ids(folder) == ["good"]


def test_files_that_are_not_models(folder: Path, put: Put) -> None:
    put("good.gguf")
    put("empty.gguf", b"")
    put("short.gguf", b"GGU")
    put("other.gguf", b"PK\x03\x04")
    put("reversed.gguf", b"FUGG")
    put("no-ending")
    put("model.gguf.part")
    put("notes.txt")
    put(".hidden.gguf")
    put(".gguf")
    put(".cache/model.gguf")
    put("sub/.cache/model.gguf")
    (folder / "folder.gguf").mkdir()
    assert ids(folder) == ["good"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_pipes_and_devices_are_left_out_unopened(folder: Path, put: Put) -> None:
    put("good.gguf")
    # Opening a FIFO would wait for its other end.
    os.mkfifo(folder / "pipe.gguf")
    (folder / "link.gguf").symlink_to("pipe.gguf")
    (folder / "endless.gguf").symlink_to("/dev/zero")
    assert together([lambda: ids(folder)]) == [["good"]]
    for name in ("pipe.gguf", "endless.gguf"):
        with pytest.raises(ConfigError):
            catalogue(folder, str(folder / name))


def test_links(folder: Path, put: Put, tmp_path: Path) -> None:
    blob = tmp_path / "sha256-0123"
    blob.write_bytes(GGUF)
    (folder / "linked.gguf").symlink_to(blob)
    (folder / "dangling.gguf").symlink_to("nowhere")
    (folder / "self.gguf").symlink_to("self.gguf")
    put("sub/model.gguf")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "round").symlink_to(".")
    assert ids(folder) == ["linked", "sub/model"]
    assert catalogue(folder).get("linked").path == folder / "linked.gguf"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(folder)
    assert ids(elsewhere) == ["linked", "sub/model"]


def test_split_models_are_listed_once(folder: Path, put: Put) -> None:
    for part in range(1, 4):
        put(f"big-0000{part}-of-00003.gguf")
        put(f"big2-0000{part}-of-00012.GGUF")
    put("v-00002-of-00003-final.gguf")
    assert ids(folder) == ["big-00001-of-00003", "big2-00001-of-00012", "v-00002-of-00003-final"]


def test_of_two_files_with_one_id_the_lower_case_ending_wins(folder: Path, put: Put) -> None:
    put("a.GGUF", GGUF + b"upper")
    lower = put("a.gguf")
    if len(list(folder.iterdir())) == 1:
        pytest.skip("this file system does not tell them apart")
    [entry] = catalogue(folder).entries()
    assert (entry.id, entry.path) == ("a", lower)
    lower.unlink()
    assert catalogue(folder).get("a").path.name == "a.GGUF"


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "../outside", "/etc/passwd", "inside/../inside", "./inside", "inside.gguf",
     "INSIDE", "inside/", "inside\0", "", ".", "..", "ins\ud800ide", "x" * 5000],
    ids=lambda name: ascii(name)[:24],
)  # fmt: skip
def test_ids_are_looked_up_never_opened(folder: Path, put: Put, name: str) -> None:
    put("inside.gguf")
    put("../outside.gguf")
    with pytest.raises(ModelNotFound) as caught:
        catalogue(folder).get(name)
    assert (caught.value.status, caught.value.param) == (404, "model")


def test_a_file_that_vanishes_during_the_scan(
    folder: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("going.gguf")
    put("staying.gguf")
    real = Path.open

    def vanish(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "going.gguf":
            path.unlink()
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", vanish)
    assert ids(folder) == ["staying"]


# --- the default model ----------------------------------------------------------------------------


def test_default_model_by_id(folder: Path, put: Put) -> None:
    put("sub/a.gguf")
    put("b.gguf")
    assert catalogue(folder, "sub/a").default_id == "sub/a"
    assert ids(folder, "sub/a") == ["b", "sub/a"]


def test_default_model_by_path(
    folder: Path, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("b.gguf")
    other = tmp_path / "else where" / "My.Model v1.5.GGUF"
    other.parent.mkdir()
    other.write_bytes(GGUF)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (other, "else where/My.Model v1.5.GGUF", "~/else where/My.Model v1.5.GGUF"):
        models = catalogue(folder, str(given))
        assert models.default_id == "My.Model v1.5"
        assert models.get("My.Model v1.5").path == other
        assert [entry.id for entry in models.entries()] == ["My.Model v1.5", "b"]
    other.unlink()
    assert [entry.id for entry in models.entries()] == ["b"]


def test_default_model_by_path_keeps_its_name(folder: Path, tmp_path: Path) -> None:
    blob = tmp_path / "sha256-1.5"
    blob.write_bytes(GGUF)
    link = tmp_path / "chat.gguf"
    link.symlink_to(blob)
    assert catalogue(folder, str(link)).default_id == "chat"
    assert catalogue(folder, str(link)).get("chat").path == link
    assert catalogue(folder, str(blob)).default_id == "sha256-1.5"


def test_default_model_by_path_wins_over_the_same_id(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    put("a.gguf")
    other = tmp_path / "a.gguf"
    other.write_bytes(GGUF)
    [entry] = catalogue(folder, str(other)).entries()
    assert entry.path == other


def test_an_id_wins_over_a_file_beside_the_shell(
    folder: Path, put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = put("llama.gguf")
    (tmp_path / "llama").write_bytes(b"\x7fELF")
    monkeypatch.chdir(tmp_path)
    assert catalogue(folder, "llama").get("llama").path == model


@pytest.mark.parametrize(
    "wanted",
    ["nothing", "nothing.gguf", "/no/where.gguf", "text.gguf", "text", "folder.gguf", "loop.gguf",
     "a/b", "~nobody-of-this-name/x.gguf", "null\0.gguf", "x" * 5000, "x" * 300 + ".gguf", "..",
     "\ud800.gguf"],
    ids=lambda name: ascii(name)[:24],
)  # fmt: skip
def test_a_wrong_default_model_names_the_setting(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.gguf").write_bytes(b"text")
    (tmp_path / "text").write_bytes(b"text")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    with pytest.raises(ConfigError, match=r"OFFGRID_DEFAULT_MODEL \(--model\)"):
        catalogue(folder, wanted)


# --- projectors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["mmproj-a.gguf", "a-mmproj.gguf", "a.mmproj.gguf", "MMPROJ-A.GGUF", "mmproj-other-f16.gguf"],
)
def test_a_projector_belongs_to_the_model_beside_it(folder: Path, put: Put, name: str) -> None:
    model, projector = put("a.gguf"), put(name)
    (entry,) = catalogue(folder).entries()
    assert (entry.id, entry.path, entry.projector) == ("a", model, projector)


def test_among_several_models_a_projector_is_assigned_by_its_name(folder: Path, put: Put) -> None:
    for name in ("a.gguf", "b.gguf", "c-00001-of-00002.gguf", "c-00002-of-00002.gguf"):
        put(name)
    put("sub/d.gguf")
    own = put("mmproj-a.gguf"), put("c-mmproj.gguf")
    put("mmproj-unknown.gguf")
    found = {entry.id: entry.projector for entry in catalogue(folder).entries()}
    assert found == {"a": own[0], "b": None, "c-00001-of-00002": own[1], "sub/d": None}


def test_a_split_model_is_one_model(folder: Path, put: Put) -> None:
    put("c-00001-of-00002.gguf")
    put("c-00002-of-00002.gguf")
    projector = put("mmproj-f16.gguf")
    (entry,) = catalogue(folder).entries()
    assert entry.projector == projector


def test_a_file_that_is_not_gguf_is_no_projector(folder: Path, put: Put) -> None:
    put("a.gguf")
    put("mmproj-a.gguf", b"not a model")
    (entry,) = catalogue(folder).entries()
    assert entry.projector is None


def test_the_default_model_has_its_projector(folder: Path, put: Put, tmp_path: Path) -> None:
    put("../elsewhere/x.gguf")
    projector = put("../elsewhere/mmproj-x.gguf")
    entry = catalogue(folder, str(tmp_path / "elsewhere" / "x.gguf")).get("x")
    assert entry.projector is not None
    assert entry.projector.samefile(projector)


@pytest.mark.parametrize(
    "name", ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "mmproj-a.gguf"]
)
def test_a_change_of_any_of_its_files_makes_it_another_model(
    folder: Path, put: Put, name: str
) -> None:
    """A change of its size, of its modification time alone, or of its inode alone."""
    for file in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "mmproj-a.gguf", "b.gguf"):
        put(file)
    found = catalogue(folder)
    path = folder / name
    modified = path.stat().st_mtime_ns
    stamps = []

    def look() -> None:
        os.utime(path, ns=(modified, modified))
        stamps.append(found.get("a-00001-of-00002").stamp)
        assert found.get("a-00001-of-00002").stamp == stamps[-1]

    look()
    put(name, GGUF + b"more")
    look()
    modified += 1
    look()
    put("other", GGUF + b"more").rename(path)
    look()
    assert len(set(stamps)) == 4
