"""The catalogue on real folders: the models, their ids, and the files that are left out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import STARTER, together

from offgrid.config import Settings, load_settings
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


def settings_of(folder: Path, default_model: str = "", **flags: Any) -> Settings:
    flags |= {"models_dir": folder, "default_model": default_model}
    return load_settings(flags, environ={})


def catalogue(folder: Path, default_model: str = "", **flags: Any) -> Catalogue:
    return Catalogue(settings_of(folder, default_model, **flags))


def unconfigured(folder: Path) -> Catalogue:
    """The catalogue whose default folder this is, as if no setting named it."""
    return Catalogue(dataclasses.replace(settings_of(folder), models_dir_source=""))


def skipped(folder: Path) -> dict[str, str]:
    """The reason of each file that is left out."""
    found = catalogue(folder).survey()[1]
    return {file.path.relative_to(folder).as_posix(): file.reason for file in found}


def ids(folder: Path, default_model: str = "") -> list[str]:
    return [entry.id for entry in catalogue(folder, default_model).entries()]


def test_without_settings_and_models_it_is_the_starter(folder: Path) -> None:
    for place in (folder, folder / "missing", folder / "file"):
        (folder / "file").write_bytes(b"no folder")
        models = unconfigured(place)
        models.check()
        [entry] = models.entries()
        assert (entry.id, entry.path) == (STARTER, STARTER_PATH)
        assert models.get(STARTER) == models.get("") == entry
        assert (models.default_id, models.default) == (None, STARTER)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (".", "contains no model"),
        ("missing", "does not exist"),
        ("file", "is not a folder"),
        ("null\0", "is not a valid path"),
    ],
)
def test_a_configured_folder_without_models_is_an_error(
    folder: Path, place: str, reason: str
) -> None:
    """Whatever configured it; the starter is not served in its place, not even later."""
    (folder / "file").write_bytes(b"no folder")
    file = folder.parent / "settings.toml"
    path = folder / place
    written = str(path).replace("\0", "\\u0000")
    file.write_text(f'models_dir = "{written}"\n', encoding="utf-8")
    for source, made in (
        ("--models-dir", load_settings({"models_dir": str(path)}, {})),
        ("OFFGRID_MODELS_DIR", load_settings({}, {"OFFGRID_MODELS_DIR": str(path)})),
        (f"{file}: models_dir", load_settings({}, {}, file)),
    ):
        models = Catalogue(made)
        with pytest.raises(ConfigError) as caught:
            models.check()
        assert str(caught.value).startswith(f"{source}: {path} {reason}")
        assert (models.entries(), models.default) == ([], None)
        with pytest.raises(ModelNotFound, match="no model now"):
            models.get("")


def test_an_empty_folder_will_do_if_the_model_is_named(
    folder: Path, put: Put, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(GGUF)
    for wanted, found in ((STARTER, STARTER), (str(other), "other")):
        models = catalogue(folder, wanted)
        models.check()
        assert [entry.id for entry in models.entries()] == [found]
        missing = catalogue(folder / "missing", wanted)
        with pytest.raises(ConfigError, match="does not exist"):
            missing.check()


def test_an_error_names_the_files_that_are_skipped(folder: Path, put: Put) -> None:
    put("empty.gguf", b"")
    put("text.gguf", b"# Of")
    with pytest.raises(ConfigError) as caught:
        catalogue(folder).check()
    assert "empty.gguf: the file is empty; text.gguf: not a GGUF file: it begins with '# Of'" in (
        str(caught.value)
    )


def test_a_model_takes_the_starters_place_until_it_is_gone(folder: Path, put: Put) -> None:
    models = unconfigured(folder)
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
    reasons = {file.reason for file in catalogue(folder).survey()[1]}
    assert reasons == {"its name is not valid UTF-8; rename it"}


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
    assert skipped(folder) == {
        "empty.gguf": "the file is empty",
        "short.gguf": "not a GGUF file: it begins with 'GGU'",
        "other.gguf": "not a GGUF file: it begins with 'PK\\x03\\x04'",
        "reversed.gguf": "not a GGUF file: it begins with 'FUGG'",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_pipes_and_devices_are_left_out_unopened(folder: Path, put: Put) -> None:
    put("good.gguf")
    # Opening a FIFO would wait for its other end.
    os.mkfifo(folder / "pipe.gguf")
    (folder / "link.gguf").symlink_to("pipe.gguf")
    (folder / "endless.gguf").symlink_to("/dev/zero")
    assert together([lambda: ids(folder)]) == [["good"]]
    assert set(skipped(folder).values()) == {"it is not a regular file"}
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
    assert skipped(folder)["dangling.gguf"] == "does not exist"
    assert set(skipped(folder)) == {"dangling.gguf", "self.gguf"}
    assert catalogue(folder).get("linked").path == folder / "linked.gguf"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(folder)
    assert ids(elsewhere) == ["linked", "sub/model"]


def test_split_models_are_listed_once(folder: Path, put: Put) -> None:
    parts = [put(f"big-0000{part}-of-00003.gguf", GGUF + b"x" * part) for part in range(1, 4)]
    for part in range(1, 3):
        put(f"sub/big2-0000{part}-of-00002.GGUF")
    put("v-00002-of-00003-final.gguf")
    assert ids(folder) == [
        "big-00001-of-00003", "sub/big2-00001-of-00002", "v-00002-of-00003-final"
    ]  # fmt: skip
    entry = catalogue(folder).get("big")
    assert (entry.path, entry.parts, entry.size) == (parts[0], tuple(parts), 3 * 8 + 6)


@pytest.mark.parametrize(
    ("names", "named", "reason"),
    [
        (("a-00001-of-00003", "a-00003-of-00003"), "a-00001-of-00003", "a-00002-of-00003"),
        (("a-00002-of-00003", "a-00003-of-00003"), "a-00002-of-00003", "a-00001-of-00003"),
        (("a-00001-of-99999",), "a-00001-of-99999", "a-00002-of-99999"),
    ],
)
def test_a_split_model_with_a_missing_part_is_skipped(
    folder: Path, put: Put, names: tuple[str, ...], named: str, reason: str
) -> None:
    for name in names:
        put(f"{name}.gguf")
    assert ids(folder) == []
    assert skipped(folder) == {f"{named}.gguf": f"its part {reason}.gguf is missing"}
    with pytest.raises(ModelNotFound, match=f"its part {reason}.gguf is missing"):
        catalogue(folder).get(named)


def test_a_faulty_part_is_named(folder: Path, put: Put) -> None:
    put("a-00001-of-00002.gguf")
    put("a-00002-of-00002.gguf", b"")
    put("b-00001-of-00000.gguf")
    assert skipped(folder) == {
        "a-00002-of-00002.gguf": "its part a-00002-of-00002.gguf: the file is empty",
        "b-00001-of-00000.gguf": "its name says that it is one of 0 parts",
    }


def test_of_two_files_with_one_id_the_lower_case_ending_wins(folder: Path, put: Put) -> None:
    put("a.GGUF", GGUF + b"upper")
    lower = put("a.gguf")
    if len(list(folder.iterdir())) == 1:
        pytest.skip("this file system does not tell them apart")
    [entry] = catalogue(folder).entries()
    assert (entry.id, entry.path) == ("a", lower)
    assert skipped(folder) == {"a.GGUF": "a.gguf has the same id"}
    lower.unlink()
    assert catalogue(folder).get("a").path.name == "a.GGUF"


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "../outside", "/etc/passwd", "inside/../inside", "./inside",
     "nside", "inside/", "inside\0", " ", ".", "..", "ins\ud800ide", "x" * 5000, ".gguf"],
    ids=lambda name: ascii(name)[:24],
)  # fmt: skip
def test_ids_are_looked_up_never_opened(folder: Path, put: Put, name: str) -> None:
    put("inside.gguf")
    put("../outside.gguf")
    with pytest.raises(ModelNotFound) as caught:
        catalogue(folder).get(name)
    assert (caught.value.status, caught.value.param) == (404, "model")
    assert caught.value.message.endswith(". The only model is inside.")
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Qwen3-4B", "Qwen3-4B"),
        ("Qwen3-4B.gguf", "Qwen3-4B"),
        ("Qwen3-4B.GGUF", "Qwen3-4B"),
        ("qwen3-4b", "Qwen3-4B"),
        ("QWEN3-4B.gguf", "Qwen3-4B"),
        ("qwen3-8b-q", "sub/none"),  # an alias
        ("Qwen3-8B-Q8", "Qwen3-8B-Q8_0"),
        ("gem", "gemma"),
        ("gemma", "gemma"),
        ("GEMMA", None),  # gemma or Gemma
        ("qwen3-8b", None),  # two begin like this
        ("sub/", "sub/none"),
        ("none", None),
        ("gpt-4o", "gemma"),
        ("GPT-4O", "gemma"),
        ("gone", None),
        ("", "Gemma"),
    ],
)
def test_names_that_mean_one_model(folder: Path, put: Put, name: str, found: str | None) -> None:
    for model in ("Qwen3-4B", "Qwen3-4B-Instruct", "Qwen3-8B-Q4_0", "Qwen3-8B-Q8_0", "sub/none",
                  "gemma", "gemma-2"):  # fmt: skip
        put(f"{model}.gguf")
    put("Gemma.gguf")
    aliases = {"gpt-4o": "gemma.gguf", "qwen3-8b-q": "SUB/N", "gone": "gone-model", "gemma": "sub"}
    models = catalogue(folder, model_aliases=aliases)
    if name == "gem":
        for model in ("Gemma", "gemma-2"):
            (folder / f"{model}.gguf").unlink()
    if found is not None:
        assert models.get(name).id == found
        return
    with pytest.raises(ModelNotFound) as caught:
        models.get(name)
    assert caught.value.message.startswith(f"Model not found: {name}")


def test_the_error_lists_the_ids_nearest_first(folder: Path, put: Put) -> None:
    for number in range(30):
        put(f"model-{number}.gguf")
    put("smollm2-135m-q4.gguf")
    put("smollm2-360m-q4.gguf")

    def advice(name: str) -> str:
        with pytest.raises(ModelNotFound) as caught:
            catalogue(folder, model_aliases="small=smolm").get(name)
        return caught.value.message.split(". The models are ")[1]

    for name in ("smollm2-1360m", "SmolLM2", "small"):
        assert advice(name).startswith("smollm2-")
        assert advice(name).endswith(" and 22 more.")
    assert catalogue(folder, model_aliases="a=model-3,b=nothing").aliases() == {"model-3": ["a"]}
    assert catalogue(folder, model_aliases="b=nothing").unknown_aliases() == [("b", "nothing")]


def test_an_alias_that_is_the_id_of_another_model(folder: Path, put: Put) -> None:
    """Requests for it get the model with that id."""
    put("a.gguf")
    put("b.gguf")
    found = catalogue(folder, model_aliases="b=a,a=a,B=a,c=b,gone=nothing")
    assert found.hidden_aliases() == [("b", "a")]
    assert found.get("b").id == "b"
    assert found.aliases() == {"a": ["B"], "b": ["c"]}


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


# --- paths that are given -------------------------------------------------------------------------


def test_files_and_folders_that_are_given(folder: Path, put: Put, tmp_path: Path) -> None:
    put("sub/b.gguf")
    put("a.gguf")
    single, other = tmp_path / "x.gguf", tmp_path / "other"
    single.write_bytes(GGUF)
    other.mkdir()
    (other / "a.gguf").write_bytes(GGUF)
    given = [single, folder, other]
    models = Catalogue(load_settings({}, {}, model_paths=given))
    models.check()
    assert [entry.id for entry in models.entries()] == ["a", "sub/b", "x"]
    assert (models.default_id, models.get("a").path) == ("x", folder / "a.gguf")
    (clash,) = models.survey()[1]
    assert clash.path == other / "a.gguf"
    assert clash.reason == "another file has the same id a"
    assert models.places == [single, folder, other]
    by_flag = Catalogue(load_settings({"models_dir": folder}, {}, model_paths=[single]))
    assert [entry.id for entry in by_flag.entries()] == ["a", "sub/b", "x"]
    assert Catalogue(load_settings({}, {}, model_paths=[folder])).default == "a"


def test_each_wrong_path_has_its_own_message(folder: Path, put: Put) -> None:
    reasons = {
        folder / "missing.gguf": "does not exist",
        put("text.gguf", b"# Offline"): "not a GGUF file: it begins with '# Of'",
        put("empty.gguf", b""): "the file is empty",
        put("a-00001-of-00002.gguf"): "its part a-00002-of-00002.gguf is missing",
        put("sub/notes.txt").parent: "the folder contains no model",
        put("other/e.gguf", b"").parent: "the folder contains no model (skipped: e.gguf: the file "
        "is empty)",
        put("mmproj-a.gguf"): "it is a projector (mmproj) and not a model; its model finds it by "
        "its name",
    }
    with pytest.raises(ConfigError) as caught:
        Catalogue(load_settings({}, {}, model_paths=[*reasons, put("good.gguf")])).check()
    assert str(caught.value) == "; ".join(f"{path}: {text}" for path, text in reasons.items())
    put("b-00001-of-00002.gguf")
    with pytest.raises(ConfigError, match="later part of a model; give the first, b-00001-of-000"):
        Catalogue(load_settings({}, {}, model_paths=[put("b-00002-of-00002.gguf")])).check()


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
    with pytest.raises(ModelNotFound, match="does not exist"):
        models.get("")


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
    with pytest.raises(ConfigError, match=r"OFFGRID_MODEL \(--model\)") as caught:
        catalogue(folder, wanted)
    reason = {
        "text.gguf": "it begins with 'text'",
        "folder.gguf": "is a folder; offgrid serve",
        "nothing": "no model 'nothing'; there are no models in",
        "nothing.gguf": "no GGUF file at",
    }.get(wanted, "")
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("wanted", ["Own.gguf", "OWN", "ow", "mine"])
def test_the_default_model_may_be_named_freely(folder: Path, put: Put, wanted: str) -> None:
    put("own.gguf")
    put("another.gguf")
    assert catalogue(folder, wanted, model_aliases="mine=own").default_id == "own"


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
