"""``/v1/export``: where to; how models are exported, followed, cancelled; what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from documented import Documented
from held_writes import Gate, Impatient
from keyed import bearer, new_key
from sticks import content, hidden, put, sha256, split_model, visible
from support import TIMEOUT, Json, Stream, eventually, no_threads, request

from offgrid.api.transfers.running import without_folder
from offgrid.server import Server
from offgrid.store import transfer
from offgrid.store.disk import FAT32_LIMIT, Disk, locked
from offgrid.store.media import media_of
from offgrid.store.names import MODELS_FOLDER
from offgrid.store.roots import Roots

PATH = "/v1/export"
BIG = content(1, 3_000_000)
SMALL = content(2, 1000)
MakeServer = Callable[..., Server]
Partition = namedtuple("Partition", "device mountpoint fstype opts")


def post(url: str, stick: Path, **body: Any) -> Json:
    answer = request(url, "POST", PATH, {"path": str(stick), **body})
    assert answer.status == 200, answer.body
    made: Json = answer.json
    return made


def refused(url: str, path: object, **body: Any) -> tuple[int, str | None, str]:
    answer = request(url, "POST", PATH, {"path": str(path), **body})
    error = answer.json["error"]
    return answer.status, error["param"], error["message"]


def statuses(made: Json) -> dict[str, str]:
    return {file["id"] or file["name"]: file["status"] for file in made["files"]}


def written(stick: Path) -> dict[str, bytes]:
    """The models on a stick."""
    return visible(stick / "offgrid-models")


class TestMedia:
    """What is listed as a place for models."""

    def test_a_root_of_the_settings(self, url: str, stick: Path) -> None:
        listed = request(url, "GET", PATH).json
        (medium,) = listed["data"]
        usage = shutil.disk_usage(stick)
        assert (medium["path"], medium["name"]) == (str(stick.parent), "media")
        assert medium["size"] == usage.total
        assert medium["free"] <= usage.total
        assert medium["writable"] is True
        assert listed["running"] is None

    def test_mounted_sticks(self, url: str, stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """File systems that are mounted elsewhere are left out."""
        mounts = [
            Partition("/dev/sda1", "/", "ext4", "rw"),
            Partition("/dev/sdb1", "/boot", "vfat", "rw"),
            Partition("/dev/sdc1", str(stick), "vfat", "rw"),
        ]  # fmt: skip
        monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
        found = {medium["path"]: medium for medium in request(url, "GET", PATH).json["data"]}
        assert found.keys() == {str(stick), str(stick.parent)}
        assert found[str(stick)]["file_system"] == "vfat"
        assert found[str(stick)]["largest_file"] == FAT32_LIMIT
        assert found[str(stick.parent)]["file_system"] == "ext4"
        assert found[str(stick.parent)]["largest_file"] is None

    def test_the_places_of_sticks_are_no_media(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(psutil, "disk_partitions", lambda all: [])
        assert media_of(Roots(["removable"])) == []
        assert media_of(Roots(["none"])) == []

    def test_a_system_that_lists_no_file_systems(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(all: bool) -> None:
            raise OSError

        monkeypatch.setattr(psutil, "disk_partitions", fail)
        (medium,) = media_of(Roots([str(tmp_path)]))
        assert (medium.path, medium.file_system) == (tmp_path.resolve(), "")


@pytest.mark.slow
def test_all_models_and_the_way_back(
    url: str, stick: Path, models: Path, make_server: MakeServer, tmp_path: Path
) -> None:
    put(models / "sub/a.gguf", BIG)
    split_model(models / "parts", 7)
    put(models / "eyes/e.gguf", SMALL)
    put(models / "eyes/mmproj-f16.gguf", content(9, 1000))
    made = post(url, stick)
    assert (made["status"], made["error"], made["path"]) == ("completed", None, str(stick))
    assert statuses(made) == {
        "sub/a": "exported", "parts/big-00001-of-00003": "exported", "eyes/e": "exported",
        "eyes/mmproj-e.gguf": "exported",
    }  # fmt: skip
    assert made["progress"]["all_done"] == made["progress"]["all_total"]
    assert hidden(stick) == []
    rows = json.loads((stick / "offgrid-models/manifest.json").read_text("utf-8"))["models"]
    assert {row["file_name"]: row["sha256"] for row in rows}["sub/a.gguf"] == sha256(BIG)
    assert not (stick / "offgrid.toml").exists()
    again = post(url, stick)
    assert (again["status"], set(statuses(again).values())) == ("completed", {"identical"})
    assert request(url, "GET", f"{PATH}/{made['id']}").json == made
    (tmp_path / "other").mkdir()
    other = make_server(
        models_dir=tmp_path / "other", import_roots=str(stick), model="offgrid-starter"
    )
    back = request(other.url, "POST", "/v1/import", {"paths": [str(stick)]}).json
    assert back["status"] == "completed"
    assert visible(tmp_path / "other") == written(stick)


def test_models_by_id(url: str, stick: Path, models: Path) -> None:
    for name in ("a", "ab", "b"):
        put(models / f"{name}.gguf", content(3, 1000))
    made = post(url, stick, ids=["A.gguf", "b"])
    assert statuses(made) == {"a": "exported", "b": "exported"}
    assert written(stick).keys() == {"a.gguf", "b.gguf"}


@pytest.mark.parametrize("ids", [["a", "nothing"], ["a."], ["../a"], [""], "a", ["a"] * 101])
def test_unknown_ids(url: str, stick: Path, models: Path, ids: Any) -> None:
    """Nothing is exported then; the beginning of an id is none."""
    put(models / "ab.gguf", SMALL)
    put(models / "a.gguf", SMALL)
    status, param, message = refused(url, stick, ids=ids)
    assert (status, (param or "").partition("[")[0]) == (400, "ids")
    assert "ids" in message
    assert [*stick.iterdir()] == []


def test_no_models(url: str, stick: Path) -> None:
    assert refused(url, stick)[:2] == (400, "ids")


def test_a_file_that_cannot_be_used_is_named(url: str, stick: Path, models: Path) -> None:
    put(models / "a.gguf", SMALL)
    put(models / "text.gguf", b"no model at all")
    made = post(url, stick)
    assert made["status"] == "failed"
    assert statuses(made) == {"a": "exported", "text.gguf": "failed"}


def test_a_different_file_stays_unless_replace_is_set(url: str, stick: Path, models: Path) -> None:
    put(models / "a.gguf", SMALL)
    put(stick / "offgrid-models/a.gguf", BIG)
    made = post(url, stick)
    (file,) = made["files"]
    assert (made["status"], file["status"], file["code"]) == ("failed", "skipped", "different")
    assert "replace: true" in file["reason"]
    assert written(stick) == {"a.gguf": BIG}
    assert post(url, stick, replace=True)["status"] == "completed"
    assert written(stick) == {"a.gguf": SMALL}


class TestRefusedPaths:
    """Nothing is written but below an import root."""

    def test_paths_outside_and_links_that_leave(self, url: str, stick: Path, models: Path) -> None:
        """The answer does not say whether such a path exists."""
        put(models / "a.gguf", SMALL)
        outside = models.parent / "private"
        outside.mkdir()
        (stick / "folder").symlink_to(outside)
        told = set()
        for path in (
            str(outside), str(outside / "nothing"), "/tmp", "/nowhere", "/", "stick", ".",
            f"{stick}/../../private", f"{stick.parent}-other", f"{stick}/\0", str(stick / "folder"),
            str(stick / "folder/nothing"), "~",
        ):  # fmt: skip
            status, param, message = refused(url, path)
            assert (status, param) == (403, "path")
            told.add(message.replace(repr(path), "PATH"))
        assert len(told) == 1
        assert [*outside.iterdir()] == []

    def test_an_admin_has_no_more_paths(
        self, make_server: MakeServer, stick: Path, tmp_path: Path
    ) -> None:
        put(tmp_path / "models/a.gguf", SMALL)
        key = bearer(new_key(tmp_path / "keys.sqlite3", "boss", "admin")[1])
        server = make_server(
            models_dir=tmp_path / "models",
            import_roots=str(stick),
            keys_file=tmp_path / "keys.sqlite3",
        )
        (tmp_path / "elsewhere").mkdir()
        body = {"path": str(tmp_path / "elsewhere")}
        assert request(server.url, "POST", PATH, body, key).status == 403
        assert request(server.url, "POST", PATH, {"path": str(stick)}, key).status == 200

    @pytest.mark.parametrize("name", ["nothing", "a.txt", "x" * 300])
    def test_no_folder(self, url: str, stick: Path, models: Path, name: str) -> None:
        put(models / "a.gguf", SMALL)
        put(stick / "a.txt", b"x")
        status, param, message = refused(url, stick / name)
        assert (status, param) == (400, "path")
        assert "Mount the stick there" in message

    def test_the_models_directory(self, make_server: MakeServer, tmp_path: Path) -> None:
        models = tmp_path / MODELS_FOLDER
        put(models / "sub/a.gguf", SMALL)
        server = make_server(models_dir=models, import_roots=str(tmp_path))
        for path in (models, models / "sub", tmp_path):  # the last one gets that folder
            status, param, message = refused(server.url, path)
            assert (status, param, "models directory" in message) == (400, "path", True)

    def test_links_on_a_stick(self, url: str, stick: Path, models: Path) -> None:
        """A stick that was prepared to get files written elsewhere."""
        outside = models.parent / "private"
        outside.mkdir()
        put(models / "sub/a.gguf", SMALL)
        put(models / "b.gguf", SMALL)
        (stick / "offgrid-models").symlink_to(outside)
        made = post(url, stick)
        assert (made["status"], made["error"]["code"]) == ("failed", "unwritable")
        assert "a link leads out" in made["error"]["message"]
        (stick / "offgrid-models").unlink()
        (stick / "offgrid-models").mkdir()
        (stick / "offgrid-models/sub").symlink_to(outside)
        (stick / "README.txt").symlink_to(outside / "README.txt")
        (stick / "offgrid-models/.b.gguf.part").symlink_to(outside / "part")
        made = post(url, stick)
        assert statuses(made) == {"sub/a": "failed", "b": "exported"}
        assert [*outside.iterdir()] == []
        assert str(models) not in json.dumps(made)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "path"), ({"path": ""}, "path"), ({"path": ["/x"]}, "path"), ({"paths": []}, "paths"),
        ({"path": "/x", "replace": "yes"}, "replace"), ({"path": "/x", "with_config": True},
                                                        "with_config"),
    ],
)  # fmt: skip
def test_wrong_bodies(url: str, body: Json, param: str) -> None:
    answer = request(url, "POST", PATH, body)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_a_key_for_some_models_exports_only_those(
    make_server: MakeServer, stick: Path, tmp_path: Path
) -> None:
    for name in ("a", "secret"):
        put(tmp_path / f"models/{name}.gguf", SMALL)
    put(tmp_path / "models/secret-text.gguf", b"x")
    keys = tmp_path / "keys.sqlite3"
    key = bearer(new_key(keys, "limited", "import", models=frozenset({"a"}))[1])
    server = make_server(
        models_dir=tmp_path / "models", import_roots=str(stick), keys_file=keys, model="a"
    )
    answer = request(server.url, "POST", PATH, {"path": str(stick), "ids": ["secret"]}, key)
    assert answer.status == 400
    assert "the ids are: a." in answer.json["error"]["message"]
    answer = request(server.url, "POST", PATH, {"path": str(stick)}, key)
    assert (answer.json["status"], statuses(answer.json)) == ("completed", {"a": "exported"})


class TestStreams:
    """Events of an export."""

    def test_events_and_progress(self, url: str, stick: Path, models: Path, gate: Gate) -> None:
        put(models / "a.gguf", BIG)
        with Stream(url, PATH, {"path": str(stick), "stream": True}) as stream:
            assert gate.reached.wait(TIMEOUT)
            running = request(url, "GET", PATH).json["running"]
            gate.open.set()
            found = [json.loads(event) for event in stream.events()]
        assert [found[0]["type"], found[-1]["type"]] == ["export.created", "export.completed"]
        assert found[0]["export"]["id"] == running
        files = [event["file"] for event in found if event["type"] == "export.file"]
        assert [(file["id"], file["status"]) for file in files] == [("a", "exported")]
        assert found[-1]["export"]["files"] == files
        progress = found[-1]["export"]["progress"]
        assert (progress["all_done"], progress["all_total"]) == (len(BIG), len(BIG))
        again = request(url, "GET", f"{PATH}/{running}?stream=true")
        assert again.body.rstrip().splitlines()[-2] == b"event: export.completed"
        assert request(url, "GET", f"{PATH}/{running}?stream=yes").status == 400


def begun(url: str, stick: Path, models: Path, gate: Gate) -> str:
    """Start an export in the background that waits at the gate; return its path."""
    put(models / "a.gguf", BIG)
    made = post(url, stick, background=True)
    assert made["status"] == "in_progress"
    assert gate.reached.wait(TIMEOUT)
    return f"{PATH}/{made['id']}"


class TestOneAtATime:
    """While an export runs."""

    def test_a_second_one_is_refused(self, url: str, stick: Path, models: Path, gate: Gate) -> None:
        path = begun(url, stick, models, gate)
        answer = request(url, "POST", PATH, {"path": str(stick)})
        assert (answer.status, answer.json["error"]["code"]) == (409, "export_running")
        assert path in answer.json["error"]["message"]
        # An import has other files to write.
        assert request(url, "POST", "/v1/import", {"ids": ["none"]}).json["status"] == "failed"
        gate.open.set()
        eventually(lambda: request(url, "GET", path).json["status"] == "completed", "it ends")
        assert post(url, stick)["status"] == "completed"

    @pytest.mark.parametrize(("method", "end"), [("POST", "/cancel"), ("DELETE", "")])
    def test_cancel(
        self, served: Server, stick: Path, models: Path, gate: Gate, method: str, end: str
    ) -> None:
        """The next export continues where this one stopped."""
        url = served.url
        path = begun(url, stick, models, gate)
        gate.open_when_cancelled(served.exports)
        answer = request(url, method, path + end)
        assert answer.status == 200
        if method == "POST":
            assert answer.json["status"] == "cancelled"
        else:
            assert answer.json == {
                "id": path.rpartition("/")[2], "object": "export.deleted", "deleted": True,
            }  # fmt: skip
            assert request(url, "GET", path).status == 404
        assert written(stick) == {}
        assert hidden(stick) == [".a.gguf.part", ".a.gguf.part.json"]
        assert post(url, stick)["status"] == "completed"
        assert written(stick) == {"a.gguf": BIG}

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_client_that_leaves_cancels(
        self, served: Server, stick: Path, models: Path, gate: Gate, stream: bool
    ) -> None:
        put(models / "a.gguf", BIG)
        body = {"path": str(stick), "stream": stream}
        if stream:
            with Stream(served.url, PATH, body) as open_stream:
                assert gate.reached.wait(TIMEOUT)
                open_stream.leave()
        else:
            client = Impatient(served.url, PATH, body)
            assert gate.reached.wait(TIMEOUT)
            client.leave()
        made = served.exports.running
        assert made is not None
        eventually(made._cancelled.is_set, "the server notices")
        gate.open.set()
        eventually(lambda: made.snapshot()["status"] == "cancelled", "it is cancelled")
        assert written(stick) == {}

    def test_in_the_background_it_goes_on(
        self, url: str, stick: Path, models: Path, gate: Gate
    ) -> None:
        put(models / "a.gguf", BIG)
        body = {"path": str(stick), "stream": True, "background": True}
        with Stream(url, PATH, body) as stream:
            assert gate.reached.wait(TIMEOUT)
            stream.leave()
        gate.open.set()
        eventually(lambda: written(stick) == {"a.gguf": BIG}, "it is exported")

    def test_the_end_of_the_server_stops_it(
        self, make_server: MakeServer, stick: Path, tmp_path: Path, gate: Gate
    ) -> None:
        put(tmp_path / "models/a.gguf", BIG)
        server = make_server(models_dir=tmp_path / "models", import_roots=str(stick))
        begun(server.url, stick, tmp_path / "models", gate)
        gate.open_when_cancelled(server.exports)
        server.stop()
        assert written(stick) == {}
        assert ".a.gguf.part.json" in hidden(stick)


class TestFailures:
    """What fails is told, and a later export finishes the work."""

    def test_a_full_stick(
        self, url: str, stick: Path, models: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(models / "a.gguf", BIG)
        with monkeypatch.context() as patch:
            patch.setattr(Disk, "free", lambda self, folder: 1000)
            made = post(url, stick)
        assert (made["status"], made["error"]["code"]) == ("failed", "disk_full")
        assert "copy fewer models" in made["error"]["message"]
        assert written(stick) == {}

        def full(self: Disk, file: FileIO, data: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(Disk, "write", full)
            made = post(url, stick)
        assert made["status"] == "failed"
        assert hidden(stick) == []
        assert post(url, stick)["status"] == "completed"

    def test_a_file_that_is_too_large_for_the_stick(
        self, url: str, stick: Path, models: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(models / "a.gguf", BIG)
        monkeypatch.setattr(transfer, "largest_file", lambda folder: len(BIG) - 1)
        made = post(url, stick)
        assert (made["status"], made["error"]["code"]) == ("failed", "too_large")
        assert "exFAT" in made["error"]["message"]

    def test_a_pulled_stick(self, url: str, stick: Path, models: Path, gate: Gate) -> None:
        path = begun(url, stick, models, gate)
        shutil.rmtree(stick)
        gate.open.set()
        eventually(lambda: request(url, "GET", path).json["status"] == "failed", "it fails")
        (file,) = request(url, "GET", path).json["files"]
        assert (file["status"], file["code"]) == ("failed", "unwritable")
        stick.mkdir()
        assert post(url, stick)["status"] == "completed"

    def test_a_model_that_is_replaced_meanwhile(
        self, url: str, stick: Path, models: Path, gate: Gate
    ) -> None:
        path = begun(url, stick, models, gate)
        put(models / "a.gguf", content(5, 3_000_000))
        gate.open.set()
        eventually(lambda: request(url, "GET", path).json["status"] == "failed", "it fails")
        (file,) = request(url, "GET", path).json["files"]
        assert file["code"] in ("changed", "source")
        assert str(models) not in file["reason"]

    def test_a_command_exports_there_meanwhile(self, url: str, stick: Path, models: Path) -> None:
        put(models / "a.gguf", SMALL)
        with locked(stick / "offgrid-models"):
            made = post(url, stick)
        assert (made["status"], made["error"]["code"]) == ("failed", "busy")

    def test_no_thread_can_be_started(
        self, url: str, stick: Path, models: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(models / "a.gguf", SMALL)
        with monkeypatch.context() as patch:
            no_threads(patch, "export")
            assert request(url, "POST", PATH, {"path": str(stick)}).status == 503
        assert post(url, stick)["status"] == "completed"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/models/a.gguf: gone", "a.gguf: gone"),
        ("/srv/models: cannot be written", "the models directory: cannot be written"),
        ("It is in /srv/models.", "It is in the models directory."),
        ("/srv/models.old/a.gguf: full", "/srv/models.old/a.gguf: full"),
        ("/srv/models-usb/a.gguf: full", "/srv/models-usb/a.gguf: full"),
    ],
)
def test_only_the_models_directory_is_left_out_of_reasons(text: str, told: str) -> None:
    assert without_folder(text, Path("/srv/models")) == told


def test_unknown_transfers(url: str) -> None:
    made = "import_" + 24 * "0"
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        for name in ("export_none", made):
            answer = request(url, method, f"{PATH}/{name}{path}")
            assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
            assert answer.json["error"]["param"] == "export_id"


def test_answers_and_events_match_the_document(url: str, stick: Path, models: Path) -> None:
    put(models / "a.gguf", SMALL)
    put(models / "b.gguf", b"x")
    documented = Documented.of(url)

    def check(method: str, path: str, end: str = "", body: Any = None) -> Any:
        answer = request(url, method, PATH + end, body)
        documented.check(answer, method.lower(), path)
        return answer

    check("GET", PATH)
    made = check("POST", PATH, body={"path": str(stick)}).json
    check("POST", PATH, body={"path": str(stick), "replace": True, "stream": True})
    one, end = f"{PATH}/{{id}}", f"/{made['id']}"
    check("GET", one, end)
    check("GET", one, f"{end}?stream=true")
    check("POST", f"{one}/cancel", f"{end}/cancel")
    check("DELETE", one, end)
    check("GET", one, end)
