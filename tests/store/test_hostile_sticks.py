"""Sticks that were made to do harm: links, pipes, lists of files and archives that lie."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sticks import content, hidden, manifest, put, sha256, visible, wheel

from offgrid.cli import main
from offgrid.store.imports import Outcome, import_models
from offgrid.store.verification import verify

SMALL = 50_000
A, B = content(1, SMALL), content(2, SMALL)


def reasons(outcomes: list[Outcome]) -> dict[str, str]:
    """Status, code and reason by the last part of the name."""
    return {Path(o.name).name: f"{o.status} {o.code}: {o.reason}" for o in outcomes}


class TestLinksAndPipes:
    """What has the name of a model or manifest and is something else."""

    def test_a_link_to_itself(self, stick: Path, models: Path) -> None:
        (stick / "loop.gguf").symlink_to("loop.gguf")
        put(stick / "a.gguf", A)
        assert "symbolic links" in reasons(import_models([stick], models))["loop.gguf"]
        assert visible(models) == {"a.gguf": A}

    def test_a_pipe_in_place_of_the_manifest(self, stick: Path, models: Path) -> None:
        os.mkfifo(stick / "manifest.json")
        put(stick / "a.gguf", A)
        assert "not a regular" in reasons(import_models([stick], models))["manifest.json"]
        assert visible(models) == {"a.gguf": A}

    def test_a_manifest_that_links_elsewhere_is_not_read(self, stick: Path, models: Path) -> None:
        secret = put(stick.parent / "secret.json", b"{not JSON")
        (stick / "manifest.json").symlink_to(secret)
        put(stick / "a.gguf", A)
        assert reasons(import_models([stick], models))["manifest.json"].startswith("skipped")

    def test_a_pipe_that_verify_meets(self, stick: Path) -> None:
        put(stick / "a.gguf", A)
        manifest(stick, **{"a.gguf": {"size": 0}})
        (stick / "a.gguf").unlink()
        os.mkfifo(stick / "a.gguf")
        (checked,) = verify(stick)
        assert (checked.state, "not a regular" in checked.reason) == ("damaged", True)

    def test_a_file_that_becomes_a_link_before_it_is_copied(
        self, stick: Path, models: Path
    ) -> None:
        """Nothing outside of the stick is read."""
        put(stick / "b.gguf", content(3, 3_000_000))
        path = put(stick / "c.gguf", B)
        other = put(stick.parent / "other.gguf", A)

        def swap(*_: object) -> None:
            if not path.is_symlink():
                path.unlink()
                path.symlink_to(other)

        outcomes = reasons(import_models([stick], models, report=swap))
        assert "leaves the folder" in outcomes["c.gguf"]
        assert "c.gguf" not in visible(models)

    def test_a_link_in_place_of_the_draft_of_an_export(self, stick: Path, models: Path) -> None:
        """The text that is written to a stick must not go through a link to another file."""
        mine = put(stick.parent / "mine", b"precious")
        for folder, name in ((stick, "README.txt"), (stick / "offgrid-models", "manifest.json")):
            folder.mkdir(exist_ok=True)
            (folder / f".{name}.new").symlink_to(mine)
        put(models / "a.gguf", A)
        result = CliRunner().invoke(main, ["export", str(stick), "--models-dir", str(models)])
        assert result.exit_code == 0, result.output
        assert mine.read_bytes() == b"precious"
        assert (stick / "README.txt").is_file()

    @pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("../mine")])
    def test_a_link_or_pipe_in_place_of_the_partial_file(
        self, stick: Path, models: Path, make: Callable[[Path], None]
    ) -> None:
        mine = put(stick.parent / "mine", b"precious")
        put(stick / "a.gguf", A)
        make(models / ".a.gguf.part")
        import_models([stick], models)
        assert visible(models) == {"a.gguf": A}
        assert mine.read_bytes() == b"precious"
        assert hidden(models) == []


class TestLyingManifests:
    """A fault in one row must not switch off what the other rows say."""

    def listing(self, stick: Path, *rows: Any) -> None:
        path = manifest(stick)
        listed = json.loads(path.read_text(encoding="utf-8"))
        listed["models"] += rows
        path.write_text(json.dumps(listed), encoding="utf-8")

    @pytest.mark.parametrize(
        "row",
        [{"file_name": "x.gguf", "size": "12", "sha256": 3}, None, 7, [], {"size": -1},
         {"file_name": "x.gguf", "size": 1e300, "sha256": "0" * 64}],
    )  # fmt: skip
    def test_a_row_of_wrong_types(self, stick: Path, models: Path, row: Any) -> None:
        path = put(stick / "a.gguf", A)
        self.listing(stick, row)
        put(path, B)
        outcomes = reasons(import_models([stick], models))
        assert "models[1]" in outcomes["manifest.json"]
        assert outcomes["a.gguf"].startswith("failed wrong_hash")

    def test_two_rows_that_contradict_each_other(self, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", A)
        self.listing(stick, {"file_name": "a.gguf", "size": SMALL, "sha256": "0" * 64})
        outcomes = reasons(import_models([stick], models))
        assert "several times" in outcomes["manifest.json"]
        assert visible(models) == {"a.gguf": A}

    def test_many_rows_are_few_lines(self, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", A)
        absent = [{"file_name": f"{i}.gguf", "size": 1, "sha256": "0" * 64} for i in range(3000)]
        faulty = [{"file_name": f"../{i}.gguf"} for i in range(3000)]
        self.listing(stick, *absent, *faulty)
        outcomes = import_models([stick], models)
        assert len(outcomes) < 30
        assert "2990 more files that are missing" in str(outcomes)
        assert "2990 more faults" in str(outcomes)

    def test_more_rows_than_any_folder_has_models(self, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", A)
        self.listing(stick, *[{}] * 10_001)
        assert "the maximum is" in reasons(import_models([stick], models))["manifest.json"]

    def test_names_in_other_case(self, stick: Path, models: Path) -> None:
        """A FAT stick may return a name as another system wrote it."""
        put(stick / "A.GGUF", B)
        row = {"file_name": "a.gguf", "size": SMALL, "sha256": sha256(A)}
        put(stick / "manifest.json", json.dumps({"models": [row]}).encode())
        for path in (stick, stick / "A.GGUF"):
            outcomes = reasons(import_models([path], models))
            assert outcomes["a.gguf"].startswith("failed wrong_hash")

    def test_a_huge_one(self, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", A)
        with (stick / "manifest.json").open("wb") as file:
            file.truncate(2**34)  # sparse
        assert "is larger than" in reasons(import_models([stick], models))["manifest.json"]

    def test_a_commit_file_with_paths(self, stick: Path, models: Path) -> None:
        """An export continues the work of an earlier one, of which the stick tells."""
        names = {"../../x-00001-of-00002.gguf": "0" * 64, "": "0", "\0": ""}
        for number, name in enumerate(names):
            text = json.dumps({"files": {name: names[name]}})
            put(models / f".{number}.commit", text.encode())
        put(models / ".9.commit", b'{"files": {}}')
        put(stick / "a.gguf", A)
        import_models([stick], models)
        assert visible(models) == {"a.gguf": A}
        assert hidden(models) == []


class TestWheels:
    """Wheels are archives of strangers."""

    def record(self, digest: bytes) -> bytes:
        text = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return f"x/a.gguf,sha256={text},{SMALL}\nx/b.py,,\n".encode()

    @pytest.mark.parametrize("right", [True, False])
    def test_the_record_is_compared(self, stick: Path, models: Path, right: bool) -> None:
        digest = hashlib.sha256(A if right else B).digest()
        members = {"x/a.gguf": A, "x-1.dist-info/RECORD": self.record(digest)}
        wheel(stick / "x-1-py3-none-any.whl", members)
        outcomes = reasons(import_models([stick], models))
        assert outcomes["a.gguf"].startswith("imported" if right else "failed wrong_hash")
        assert visible(models) == ({"a.gguf": A} if right else {})

    def test_many_models_in_one_wheel(self, stick: Path, models: Path) -> None:
        """Each would be opened several times."""
        members = {f"x/{number}.gguf": b"GGUF" for number in range(101)}
        path = wheel(stick / "x-1-py3-none-any.whl", members)
        assert "more than 100 models" in reasons(import_models([stick], models))[path.name]

    def test_a_record_with_a_huge_field(self, stick: Path, models: Path) -> None:
        members = {"x/a.gguf": A, "x-1.dist-info/RECORD": b"x" * 200_000}
        wheel(stick / "x-1-py3-none-any.whl", members)
        import_models([stick], models)
        assert visible(models) == {"a.gguf": A}

    def test_names_that_lead_out_of_the_archive(self, stick: Path, models: Path) -> None:
        members = {"../../a.gguf": A, "/etc/b.gguf": B, "..\\c.gguf": A, "x/.d.gguf": A}
        wheel(stick / "x-1-py3-none-any.whl", members)
        import_models([stick], models)
        assert visible(models) == {"a.gguf": A, "b.gguf": B}
        assert sorted(os.listdir(models.parent)) == ["models", "stick"]

    @pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_other_compression_is_refused(self, stick: Path, models: Path, method: int) -> None:
        with zipfile.ZipFile(stick / "x-1-py3-none-any.whl", "w", method) as archive:
            archive.writestr("x/a.gguf", A)
        assert "wheels do not use" in reasons(import_models([stick], models))["a.gguf"]

    @pytest.mark.parametrize("large", [True, False])
    def test_a_huge_list_of_members_is_not_read(
        self, stick: Path, models: Path, large: bool
    ) -> None:
        path = wheel(stick / "x-1-py3-none-any.whl", {"x/a.gguf": A})
        data = bytearray(path.read_bytes())
        if large:  # the end of an archive with fields of 64 bits
            end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 2**40, 0)
            data[-22:-22] = end + struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
        else:
            struct.pack_into("<L", data, len(data) - 22 + 12, 2**31)
        path.write_bytes(data)
        assert "list of members" in reasons(import_models([stick], models))[path.name]

    def test_a_member_that_claims_another_size(self, stick: Path, models: Path) -> None:
        """A bomb: what comes out must not be more than what was promised and counted."""
        path = wheel(stick / "x-1-py3-none-any.whl", {"x/a.gguf": b"GGUF" + bytes(10_000_000)})
        data = path.read_bytes()
        path.write_bytes(data.replace(struct.pack("<L", 10_000_004), struct.pack("<L", 1000)))
        outcomes = import_models([stick], models)
        assert [outcome.status for outcome in outcomes] == ["failed"]
        assert visible(models) == {}
        assert hidden(models) == []

    # A few hundred changes reach every field of the archive's end and of its first header.
    @pytest.mark.parametrize("rounds", [150, pytest.param(3000, marks=pytest.mark.slow)])
    def test_random_changes(self, stick: Path, models: Path, rounds: int) -> None:
        """Each change gives the right model, or a reason."""
        digest = hashlib.sha256(A).digest()
        members = {"x/a.gguf": A, "x-1.dist-info/RECORD": self.record(digest)}
        path = wheel(stick / "x-1-py3-none-any.whl", members)
        whole, dice = path.read_bytes(), random.Random(1)
        for _ in range(rounds):
            data = bytearray(whole)
            for _ in range(dice.randrange(1, 5)):
                place = dice.choice([dice.randrange(80), len(data) - 1 - dice.randrange(250)])
                data[place] = dice.randrange(256)
            path.write_bytes(data)
            outcomes = import_models([stick], models, replace=True)
            assert outcomes
            assert all(o.reason for o in outcomes if o.status in ("failed", "skipped"))
            assert set(visible(models).values()) <= {A}


def test_a_deep_tree(stick: Path, models: Path) -> None:
    folder = stick
    for _ in range(40):
        folder /= "d"
    put(folder / "a.gguf", A)
    put(stick / "d/b.gguf", B)
    assert "32 levels" in str(import_models([stick], models))
    assert visible(models) == {"b.gguf": B}


def test_folders_of_the_system_are_no_failure(stick: Path, models: Path) -> None:
    for name in ("lost+found", "System Volume Information", "$RECYCLE.BIN"):
        put(stick / name / "x.gguf", A)
    put(stick / "a.gguf", A)
    assert reasons(import_models([stick], models)).keys() == {"a.gguf"}


def test_a_path_with_a_null_byte(models: Path) -> None:
    (outcome,) = import_models([Path("/tmp/\0.gguf")], models)
    assert outcome.status == "failed"


class TestSameId:
    """Two files must not share an id: the second one would hide the first."""

    @pytest.mark.parametrize("names", [("a.GGUF", "a.gguf"), ("a.gguf", "a.GGUF")])
    def test_the_ending_in_other_letters(
        self, stick: Path, models: Path, names: tuple[str, str]
    ) -> None:
        there, new = names
        put(models / there, A)
        put(stick / new, B)
        (outcome,) = import_models([stick], models)
        assert outcome.code == "different"
        assert visible(models) == {there: A}
        (outcome,) = import_models([stick], models, replace=True)
        assert outcome.status == "imported"
        assert visible(models) == {there: B}

    def test_a_folder_with_the_name_of_a_model(self, stick: Path, models: Path) -> None:
        (models / "a.gguf").mkdir()
        put(stick / "a.gguf", A)
        (outcome,) = import_models([stick], models, replace=True)
        assert "a folder lies at" in outcome.reason
        assert hidden(models) == []


class TestRecords:
    """The manifest of the models directory never contradicts its files."""

    def test_a_kill_after_a_replacement_leaves_no_hash_of_the_old_file(
        self, stick: Path, models: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(stick / "a.gguf", A)
        import_models([stick], models)
        put(stick / "a.gguf", B)
        monkeypatch.setattr("offgrid.store.manifest.record", lambda *_: None)
        import_models([stick], models, replace=True)
        assert visible(models) == {"a.gguf": B}
        listed = json.loads((models / "manifest.json").read_text(encoding="utf-8"))
        assert listed["models"] == []

    def test_a_manifest_that_cannot_be_written_fails_no_import(
        self, stick: Path, models: Path
    ) -> None:
        (models / ".manifest.json.new").mkdir()
        put(models / ".manifest.json.new/x", b"")
        put(stick / "a.gguf", A)
        assert [o.status for o in import_models([stick], models)] == ["imported"]
        assert [o.status for o in import_models([stick], models)] == ["identical"]
        assert sha256(visible(models)["a.gguf"]) == sha256(A)


class TestExportNames:
    """A stick must be able to hold what is exported, and an import must accept it."""

    def export(self, models: Path, stick: Path) -> str:
        result = CliRunner().invoke(main, ["export", str(stick), "--models-dir", str(models)])
        assert result.exit_code == 1
        return result.output

    def test_characters_that_fat_does_not_have(self, stick: Path, models: Path) -> None:
        put(models / "a:b.gguf", A)
        put(models / "c.gguf", B)
        assert "rename the file" in self.export(models, stick)
        assert visible(stick / "offgrid-models") == {"c.gguf": B}

    def test_names_that_differ_only_in_letter_case(self, stick: Path, models: Path) -> None:
        put(models / "a.gguf", A)
        put(models / "A.gguf", B)
        assert "differ only in letter case" in self.export(models, stick)
        assert visible(stick / "offgrid-models") == {"A.gguf": B}
