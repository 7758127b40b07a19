"""``/v1/import``: what sticks hold; how it is imported, followed, cancelled; what is refused."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from documented import Documented
from held_writes import Gate, Impatient
from sticks import content, hidden, manifest, put, sha256, visible, wheel
from support import TIMEOUT, Json, Stream, eventually, no_threads, request

from offgrid.api.transfers import imports as resource
from offgrid.server import Server
from offgrid.store.disk import Disk, locked

PATH = "/v1/import"
BIG = content(1, 3_000_000)
MakeServer = Callable[..., Server]


def post(url: str, **body: Any) -> Json:
    answer = request(url, "POST", PATH, body)
    assert answer.status == 200, answer.body
    made: Json = answer.json
    return made


def refused(url: str, **body: Any) -> tuple[int, str | None, str]:
    answer = request(url, "POST", PATH, body)
    error = answer.json["error"]
    return answer.status, error["param"], error["message"]


def ids(url: str) -> set[str]:
    return {model["id"] for model in request(url, "GET", "/v1/models").json["data"]}


def events(stream: Stream) -> list[Json]:
    return [json.loads(event) for event in stream.events()]


def statuses(made: Json) -> dict[str, str]:
    return {Path(file["name"]).name: file["status"] for file in made["files"]}


def test_what_a_stick_holds(url: str, stick: Path) -> None:
    put(stick / "deep/a.gguf", BIG)
    put(stick / "text.gguf", b"no model at all, but text")
    wheel(stick / "w-1-py3-none-any.whl", {"w/b.gguf": BIG})
    for part in (1, 2):
        put(stick / f"big-0000{part}-of-00002.gguf", BIG)
    listed = request(url, "GET", PATH).json
    assert {model["id"]: model["parts"] for model in listed["data"]} == {
        "a": 1, "b": 1, "big-00001-of-00002": 2,
    }  # fmt: skip
    assert listed["data"][-1]["size"] in (len(BIG), 2 * len(BIG))
    assert [Path(file["path"]).name for file in listed["skipped"]] == ["text.gguf"]
    assert listed["roots"] == [str(stick.parent)]
    assert [medium["path"] for medium in listed["media"]] == [str(stick.parent)]
    assert (listed["complete"], listed["running"]) == (True, None)


def test_a_model_on_two_sticks(url: str, stick: Path, models: Path) -> None:
    """Both are listed; a request has to say which one it wants."""
    other = put(stick.parent / "other/a.gguf", content(2))
    put(stick / "a.gguf", BIG)
    listed = request(url, "GET", PATH).json
    assert sorted(model["path"] for model in listed["data"]) == [str(other), str(stick / "a.gguf")]
    assert listed["skipped"] == []
    made = post(url, ids=["a"])
    assert made["status"] == "failed"
    assert "has the same name" in made["files"][0]["reason"]
    made = post(url, ids=["a"], paths=[str(other.parent)], replace=True)
    assert made["status"] == "completed"
    assert visible(models) == {"a.gguf": content(2)}


def test_an_imported_model_is_served_at_once(
    url: str, stick: Path, models: Path, starter_path: Path
) -> None:
    shutil.copy(starter_path, stick / "new.gguf")
    made = post(url, paths=[str(stick)])
    assert (made["status"], statuses(made)) == ("completed", {"new.gguf": "imported"})
    assert made["files"][0]["id"] == "new"
    assert made["error"] is None
    assert "new" in ids(url)
    assert request(url, "GET", PATH).json["data"][0]["present"] is True
    details = request(url, "GET", "/v1/models/new").json
    assert details["sha256"] == sha256(starter_path.read_bytes())
    asked = {"model": "new", "prompt": "a", "max_tokens": 1}
    answer = request(url, "POST", "/v1/completions", asked)
    assert answer.status == 200
    again = post(url, paths=[str(stick / "new.gguf")])
    assert (again["status"], statuses(again)) == ("completed", {"new.gguf": "identical"})
    assert request(url, "GET", f"{PATH}/{made['id']}").json == made


def test_models_by_id(url: str, stick: Path, models: Path) -> None:
    for name in ("a", "b", "c"):
        put(stick / name / f"{name}.gguf", BIG)
    put(stick / "b/mmproj-F16.gguf", content(2, 1000))
    made = post(url, ids=["A.gguf", "b"])
    assert made["status"] == "completed"
    assert set(visible(models)) == {"a.gguf", "b.gguf", "mmproj-b.gguf"}
    made = post(url, ids=["c", "nothing"], paths=[str(stick / "c")])
    assert made["status"] == "failed"
    assert statuses(made) == {"c.gguf": "imported", "nothing": "failed"}


def test_a_different_file_stays_unless_replace_is_set(url: str, stick: Path, models: Path) -> None:
    put(models / "a.gguf", content(2))
    put(stick / "a.gguf", BIG)
    made = post(url, ids=["a"])
    assert (made["status"], made["files"][0]["code"]) == ("failed", "different")
    assert "replace: true" in made["files"][0]["reason"]
    assert visible(models) == {"a.gguf": content(2)}
    assert post(url, ids=["a"], replace=True)["status"] == "completed"
    assert visible(models) == {"a.gguf": BIG}


def test_a_cut_off_file_is_refused(url: str, stick: Path, models: Path) -> None:
    put(stick / "a.gguf", BIG[:-1])
    put(models / "a.gguf", content(2))
    made = post(url, paths=[str(stick)], replace=True)
    (file,) = made["files"]
    assert (made["status"], file["status"], file["code"]) == ("failed", "failed", "unusable")
    assert "the file is cut off: it has 2,999,999 of 3,000,000 bytes" in file["reason"]
    assert visible(models) == {"a.gguf": content(2)}


class TestRefusedPaths:
    """Only what is below an import root is looked at."""

    def test_paths_outside_and_links_that_leave(self, url: str, stick: Path, models: Path) -> None:
        """The answer does not say whether such a path exists."""
        outside = put(models.parent / "private/a.gguf", BIG)
        (stick / "link.gguf").symlink_to(outside)
        (stick / "dangling.gguf").symlink_to(outside.with_name("nothing.gguf"))
        (stick / "folder").symlink_to(outside.parent)
        told = set()
        for path in (
            str(outside), str(outside.with_name("nothing.gguf")), "/etc", "/nowhere", "/",
            str(stick / "link.gguf"), str(stick / "dangling.gguf"), str(stick / "folder"),
            str(stick / "folder/a.gguf"), str(stick / "folder/nothing.gguf"),
            f"{stick}/../../private/a.gguf", "a.gguf", f"{stick.parent}-other/a.gguf",
            f"{stick}/\0",
        ):  # fmt: skip
            status, param, message = refused(url, paths=[path])
            assert (status, param) == (403, "paths")
            told.add(message.replace(repr(path), "PATH"))
        assert len(told) == 1
        assert "OFFGRID_IMPORT_ROOTS" in told.pop()
        made = post(url, paths=[str(stick)])
        assert statuses(made) == {"link.gguf": "skipped", "dangling.gguf": "skipped"}
        assert visible(models) == {}

    def test_a_root_that_is_a_link(
        self, make_server: MakeServer, stick: Path, models: Path, tmp_path: Path
    ) -> None:
        put(stick / "a.gguf", BIG)
        (tmp_path / "usb").symlink_to(stick)
        url = make_server(models_dir=models, import_roots=str(tmp_path / "usb")).url
        assert post(url, paths=[str(tmp_path / "usb/a.gguf")])["status"] == "completed"
        assert post(url, paths=[str(stick / "a.gguf")])["status"] == "completed"

    def test_no_roots(self, make_server: MakeServer, stick: Path, models: Path) -> None:
        url = make_server(models_dir=models, import_roots="none").url
        assert refused(url, paths=[str(stick)])[0] == 403
        assert request(url, "GET", PATH).json["data"] == []

    def test_a_path_that_does_not_exist_below_a_root(self, url: str, stick: Path) -> None:
        made = post(url, paths=[str(stick / "nothing.gguf")])
        assert (made["status"], made["files"][0]["status"]) == ("failed", "failed")

    def test_reasons_name_no_folder_of_this_machine(
        self, url: str, stick: Path, models: Path
    ) -> None:
        put(stick / "a.gguf", BIG)
        (models / "a.gguf").mkdir()
        (models / ".b.gguf.part").mkdir()
        put(stick / "b.gguf", BIG)
        made = post(url, paths=[str(stick)])
        assert statuses(made) == {"a.gguf": "skipped", "b.gguf": "failed"}
        assert str(models) not in json.dumps(made)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "paths"), ({"paths": []}, "paths"), ({"paths": "x"}, "paths"), ({"ids": [1]}, "ids"),
        ({"paths": [""]}, "paths"), ({"paths": ["/x"] * 101}, "paths"),
        ({"paths": ["/x"], "replace": "yes"}, "replace"), ({"pathes": ["/x"]}, "pathes"),
    ],
)  # fmt: skip
def test_wrong_bodies(url: str, body: Json, param: str) -> None:
    status, named, _ = refused(url, **body)
    assert status == 400
    assert named is not None
    assert named.startswith(param)


def test_a_server_of_named_files_imports_nothing(
    served: Server, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would not serve what was imported."""
    monkeypatch.setattr(served.catalogue._now, "_folders", [])  # as with "offgrid serve FILE"
    status, _, message = refused(served.url, paths=[str(stick)])
    assert (status, "offgrid import" in message) == (400, True)


class TestStreams:
    """Events of an import."""

    def test_events(self, url: str, stick: Path, gate: Gate) -> None:
        put(stick / "a.gguf", BIG)
        manifest(stick)
        put(stick / "b.gguf", b"x")
        gate.open.set()
        with Stream(url, PATH, {"paths": [str(stick)], "stream": True}) as stream:
            assert stream.response.getheader("Content-Type") == "text/event-stream; charset=utf-8"
            found = events(stream)
        assert [found[0]["type"], found[-1]["type"]] == ["import.created", "import.failed"]
        files = [event["file"] for event in found if event["type"] == "import.file"]
        assert {Path(file["name"]).name: file["status"] for file in files} == {
            "a.gguf": "imported", "b.gguf": "failed",
        }  # fmt: skip
        assert found[-1]["import"]["files"] == files

    def test_progress(self, url: str, stick: Path, gate: Gate) -> None:
        put(stick / "a.gguf", BIG)
        with Stream(url, PATH, {"paths": [str(stick)], "stream": True}) as stream:
            gate.reached.wait(TIMEOUT)
            made = request(url, "GET", PATH).json["running"]
            gate.open.set()
            found = events(stream)
        assert found[0]["import"]["id"] == made
        progress = found[-1]["import"]["progress"]
        assert (progress["done"], progress["total"]) == (len(BIG), len(BIG))
        assert (progress["all_done"], progress["all_total"]) == (len(BIG), len(BIG))

    def test_the_events_of_an_import_that_has_ended(self, url: str, stick: Path) -> None:
        put(stick / "a.gguf", BIG)
        made = post(url, ids=["a"])
        answer = request(url, "GET", f"{PATH}/{made['id']}?stream=true")
        assert b"event: import.created\n" in answer.body
        found = [json.loads(line[6:]) for line in answer.body.splitlines() if line[:5] == b"data:"]
        # A client that collects the files has each of them once.
        told = [*found[0]["import"]["files"], *(one["file"] for one in found if "file" in one)]
        assert told == made["files"] == found[-1]["import"]["files"]
        assert [file["status"] for file in told] == ["imported"]
        assert answer.body.rstrip().splitlines()[-2] == b"event: import.completed"
        assert request(url, "GET", f"{PATH}/{made['id']}?stream=yes").status == 400


def running(url: str, stick: Path, gate: Gate, **body: Any) -> str:
    """Start an import in the background that waits at the gate; return its path."""
    put(stick / "a.gguf", BIG)
    made = post(url, paths=[str(stick)], background=True, **body)
    assert made["status"] == "in_progress"
    assert gate.reached.wait(TIMEOUT)
    return f"{PATH}/{made['id']}"


class TestOneAtATime:
    """While an import runs."""

    def test_a_second_one_is_refused(self, url: str, stick: Path, gate: Gate) -> None:
        path = running(url, stick, gate)
        answer = request(url, "POST", PATH, {"ids": ["a"]})
        assert (answer.status, answer.json["error"]["code"]) == (409, "import_running")
        assert path in answer.json["error"]["message"]
        gate.open.set()
        eventually(lambda: request(url, "GET", path).json["status"] == "completed", "it ends")
        assert post(url, ids=["a"])["status"] == "completed"

    def test_others_are_answered(self, url: str, stick: Path, gate: Gate) -> None:
        running(url, stick, gate)
        for path in ("/health", "/v1/models", PATH):
            assert request(url, "GET", path).status == 200
        body = {"prompt": "Once", "max_tokens": 1}
        assert request(url, "POST", "/v1/completions", body).status == 200

    @pytest.mark.parametrize(("method", "end"), [("POST", "/cancel"), ("DELETE", "")])
    def test_cancel(
        self,
        served: Server,
        url: str,
        stick: Path,
        models: Path,
        gate: Gate,
        method: str,
        end: str,
    ) -> None:
        """The next import continues where this one stopped."""
        path = running(url, stick, gate)
        gate.open_when_cancelled(served.imports)
        answer = request(url, method, path + end)
        assert answer.status == 200
        if method == "POST":
            assert answer.json["status"] == "cancelled"
            assert request(url, method, path + end).json == answer.json
        else:
            assert answer.json["deleted"] is True
            assert request(url, "GET", path).status == 404
        assert visible(models) == {}
        assert hidden(models) == [".a.gguf.part", ".a.gguf.part.json"]
        assert post(url, ids=["a"])["status"] == "completed"
        assert visible(models) == {"a.gguf": BIG}

    @pytest.mark.parametrize("stream", [True, False])
    def test_a_client_that_leaves_cancels(
        self, served: Server, url: str, stick: Path, models: Path, gate: Gate, stream: bool
    ) -> None:
        put(stick / "a.gguf", BIG)
        body = {"paths": [str(stick)], "stream": stream}
        if stream:
            with Stream(url, PATH, body) as open_stream:
                assert gate.reached.wait(TIMEOUT)
                open_stream.leave()
        else:
            client = Impatient(url, PATH, body)
            assert gate.reached.wait(TIMEOUT)
            client.leave()
        made = served.imports.running
        assert made is not None
        eventually(made._cancelled.is_set, "the server notices")
        gate.open.set()
        eventually(lambda: made.snapshot()["status"] == "cancelled", "it is cancelled")
        assert visible(models) == {}

    def test_in_the_background_it_goes_on(
        self, url: str, stick: Path, models: Path, gate: Gate
    ) -> None:
        put(stick / "a.gguf", BIG)
        body = {"paths": [str(stick)], "stream": True, "background": True}
        with Stream(url, PATH, body) as stream:
            assert gate.reached.wait(TIMEOUT)
            stream.leave()
        gate.open.set()
        eventually(lambda: visible(models) == {"a.gguf": BIG}, "it is imported")

    def test_the_end_of_the_server_stops_it(
        self, make_server: MakeServer, stick: Path, models: Path, gate: Gate
    ) -> None:
        server = make_server(models_dir=models, import_roots=str(stick.parent))
        running(server.url, stick, gate)
        gate.open_when_cancelled(server.imports)
        server.stop()
        assert visible(models) == {}
        assert ".a.gguf.part.json" in hidden(models)


class TestFailures:
    """What fails is told, and a later import finishes the work."""

    def test_a_full_disk(
        self, url: str, stick: Path, models: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(stick / "a.gguf", BIG)
        with monkeypatch.context() as patch:
            patch.setattr(Disk, "free", lambda self, folder: 1000)
            with Stream(url, PATH, {"paths": [str(stick)], "stream": True}) as stream:
                last = events(stream)[-1]
        assert last["type"] == "import.failed"
        assert last["import"]["error"]["code"] == "disk_full"
        assert str(models) not in last["import"]["error"]["message"]

        def full(self: Disk, file: FileIO, data: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(Disk, "write", full)
            made = post(url, paths=[str(stick)])
        assert made["files"][0]["code"] == "disk_full"
        assert post(url, paths=[str(stick)])["status"] == "completed"

    def test_a_pulled_stick(self, url: str, stick: Path, models: Path, gate: Gate) -> None:
        path = running(url, stick, gate)
        shutil.rmtree(stick)
        gate.open.set()
        eventually(lambda: request(url, "GET", path).json["status"] == "failed", "it fails")
        (file,) = request(url, "GET", path).json["files"]
        assert (file["status"], file["code"]) == ("failed", "source")
        put(stick / "a.gguf", BIG)
        assert post(url, paths=[str(stick)])["status"] == "completed"

    def test_the_command_imports_meanwhile(self, url: str, stick: Path, models: Path) -> None:
        put(stick / "a.gguf", BIG)
        with locked(models):
            made = post(url, paths=[str(stick)])
        assert (made["status"], made["error"]["code"]) == ("failed", "busy")

    def test_no_thread_can_be_started(
        self, url: str, stick: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(stick / "a.gguf", BIG)
        with monkeypatch.context() as patch:
            no_threads(patch, "import")
            assert request(url, "POST", PATH, {"ids": ["a"]}).status == 503
        assert post(url, ids=["a"])["status"] == "completed"


def test_unknown_ids(url: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel")):
        answer = request(url, method, f"{PATH}/import_none{path}")
        assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")


def test_too_many_folders_are_not_searched(
    url: str, stick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "_MAX_FOLDERS", 3)
    put(stick / "a.gguf", BIG)
    for number in range(5):
        (stick / str(number)).mkdir()
    listed = request(url, "GET", PATH).json
    assert ([model["id"] for model in listed["data"]], listed["complete"]) == (["a"], False)


def test_names_that_are_not_utf_8(url: str, stick: Path) -> None:
    put(stick / os.fsdecode(b"\xff.gguf"), BIG)
    assert request(url, "GET", PATH).json["skipped"][0]["path"].endswith("\ufffd.gguf")
    (file,) = post(url, paths=[str(stick)])["files"]
    assert file["name"].endswith("\ufffd.gguf")


def test_answers_and_events_match_the_document(url: str, stick: Path) -> None:
    put(stick / "a.gguf", BIG)
    put(stick / "b.gguf", b"x")
    documented = Documented.of(url)

    def check(method: str, path: str, end: str = "", body: Any = None) -> Any:
        answer = request(url, method, PATH + end, body)
        documented.check(answer, method.lower(), path)
        return answer

    check("GET", PATH)
    made = check("POST", PATH, body={"paths": [str(stick)]}).json
    check("POST", PATH, body={"paths": [str(stick)], "replace": True, "stream": True})
    one, end = f"{PATH}/{{id}}", f"/{made['id']}"
    check("GET", one, end)
    check("GET", one, f"{end}?stream=true")
    check("POST", f"{one}/cancel", f"{end}/cancel")
    check("DELETE", one, end)
    check("GET", one, end)
