"""The default model and pinned models that requests set; removal; progress of loading."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from documented import Documented
from keyed import bearer, new_key
from sticks import content, put, split_model
from support import Json, Response, Stream, eventually, request
from variants import few

from offgrid.config import load_settings
from offgrid.engine.client.use import ModelStatus
from offgrid.errors import StoreFailed
from offgrid.server import Server
from offgrid.store.catalogue import Catalogue
from offgrid.store.disk import Disk, locked
from offgrid.store.preferences import MOST_PINNED, NOTHING, Preferences, Preferred

MODELS = "/v1/models"
MakeServer = Callable[..., Server]


@pytest.fixture
def folder(tmp_path: Path, starter_path: Path) -> Path:
    """A models directory with two chat models."""
    made = tmp_path / "models"
    made.mkdir()
    for name in ("a", "b"):
        shutil.copy(starter_path, made / f"{name}.gguf")
    return made


@pytest.fixture
def serve(folder: Path, make_server: MakeServer) -> MakeServer:
    """Serve these models; nothing is loaded at start, unless a preference says so."""
    return lambda **flags: make_server(models_dir=folder, ctx_size=256, parallel=1, **flags)


def act(server: Server, name: str, action: str, body: Json | None = None) -> Response:
    return request(server.url, "POST", f"{MODELS}/{name}/{action}", body)


def done(answer: Response) -> Json:
    assert answer.status == 200, answer.body
    return dict(answer.json)


def refused(answer: Response) -> tuple[int, str, str | None]:
    error = answer.json["error"]
    return answer.status, error["code"], error["param"]


def models(server: Server, query: str = "") -> dict[str, Json]:
    listed = request(server.url, "GET", f"{MODELS}{query}")
    assert listed.status == 200, listed.body
    return {model["id"]: model for model in listed.json["data"]}


def started(server: Server) -> list[str]:
    """The models that the server began to load at start."""
    return [client.name for client in server.pool.loaded()]


class TestDefault:
    """``POST /v1/models/{id}/default``"""

    @pytest.mark.slow
    def test_it_answers_at_once_and_after_a_restart(self, serve: MakeServer) -> None:
        server = serve()
        assert [model["default"] for model in models(server).values()] == [True, False]
        made = done(act(server, "b", "default"))
        assert (made["id"], made["default"], made["fixed"]) == ("b", True, [])
        answer = request(server.url, "POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})
        assert answer.json["model"] == "b"
        server.stop()
        server = serve()
        assert started(server) == ["b"]
        assert [model["default"] for model in models(server).values()] == [False, True]
        assert done(act(server, "a", "default", {"default": False}))["default"] is False
        assert models(server)["b"]["default"] is True
        assert done(act(server, "b", "default", {"default": False}))["default"] is False
        assert models(server)["a"]["default"] is True

    def test_without_its_file_another_one_answers(self, serve: MakeServer, folder: Path) -> None:
        server = serve()
        done(act(server, "b", "default"))
        (folder / "b.gguf").rename(folder.parent / "b.gguf")
        assert models(server)["a"]["default"] is True
        server.stop()
        server = serve()
        assert models(server)["a"]["default"] is True
        (folder.parent / "b.gguf").rename(folder / "b.gguf")
        assert models(server)["b"]["default"] is True

    @pytest.mark.parametrize("set_before", few(1, [True, False]))
    def test_the_setting_comes_first(self, serve: MakeServer, set_before: bool) -> None:
        if set_before:
            server = serve()
            done(act(server, "b", "default"))
            server.stop()
        server = serve(model="a", keep_alive="0")
        found = models(server)
        assert (found["a"]["default"], found["b"]["default"]) == (True, False)
        assert found["b"]["fixed"] == ["default"]
        answer = act(server, "b", "default")
        assert refused(answer) == (409, "set_by_settings", "model")
        assert "OFFGRID_MODEL" in answer.json["error"]["message"]

    def test_a_file_of_the_command_line_comes_first(
        self, folder: Path, make_server: MakeServer, tmp_path: Path
    ) -> None:
        settings = load_settings(
            {"responses_file": tmp_path / "r.sqlite3"},
            environ={},
            model_paths=[folder / "b.gguf", folder / "a.gguf"],
        )
        Preferences.beside(settings.responses_file).set_default("a")
        assert Catalogue(settings).default == "b"

    def test_refusals(self, serve: MakeServer, folder: Path) -> None:
        put(folder / "broken.gguf", content(1, 1000)[:-1])
        server = serve()
        for name, action, body, expected in (
            ("none", "default", None, (404, "model_not_found", "model")),
            ("../a", "default", None, (404, "model_not_found", "model")),
            ("broken", "default", None, (500, "model_load_failed", "model")),
            ("broken", "pin", None, (500, "model_load_failed", "model")),
            ("a", "default", {"default": "yes"}, (400, "invalid_value", "default")),
            ("a", "default", {"for": "me"}, (400, "unknown_parameter", "for")),
            ("a", "pin", {"pin": True}, (400, "unknown_parameter", "pin")),
            ("a", "pin/unpin", None, (404, "model_not_found", "model")),
        ):
            assert refused(act(server, name, action, body)) == expected
        assert not (folder.parent / "preferences.json").exists()


class TestPin:
    """``POST /v1/models/{id}/pin`` and ``unpin``"""

    def test_it_stays_loaded_also_after_a_restart(self, serve: MakeServer) -> None:
        server = serve(max_models=1, keep_alive="0")
        assert done(act(server, "b", "pin"))["status"] == "unloaded"
        done(act(server, "b", "load", {"keep_alive": 0}))
        (loaded,) = request(server.url, "GET", "/v1/loaded").json["data"]
        assert (loaded["id"], loaded["pinned"], loaded["until"]) == ("b", True, None)
        assert act(server, "a", "load", {"wait": False}).status == 503
        server.stop()
        server = serve(max_models=1, keep_alive="0")
        assert started(server) == ["b"]
        found = models(server)
        assert [(m["pinned"], m["fixed"]) for m in found.values()] == [(False, []), (True, [])]
        assert request(server.url, "GET", f"{MODELS}/b").json["settings"]["pin"] is True
        eventually(lambda: models(server)["b"]["status"] == "loaded", "it is loaded")
        assert done(act(server, "b", "unpin"))["pinned"] is False
        eventually(lambda: models(server)["b"]["status"] == "unloaded", "its keep_alive holds")
        server.stop()
        assert started(serve(keep_alive="0")) == []

    def test_a_loaded_model_is_not_loaded_anew(self, serve: MakeServer) -> None:
        server = serve()
        server.pool.engine("a")
        (before,) = server.pool.loaded()
        for action, pinned in (("pin", True), ("unpin", False), ("pin", True)):
            assert done(act(server, "a", action))["pinned"] is pinned
        body = {"prompt": "a", "max_tokens": 1, "keep_alive": "5m"}
        answer = request(server.url, "POST", "/v1/completions", body)
        assert answer.headers["x-offgrid-ignored"] == "keep_alive"
        (after,) = server.pool.loaded()
        assert after is before

    def test_the_setting_comes_first(
        self, folder: Path, tmp_path: Path, make_server: MakeServer
    ) -> None:
        file = tmp_path / "offgrid.toml"
        file.write_text("[models.a]\npin = true\n[models.b]\npin = false\n", encoding="utf-8")
        before = file.read_bytes()
        flags = {
            "models_dir": folder, "responses_file": tmp_path / "responses.sqlite3", "port": 0,
            "threads": 1, "drain_timeout": 0, "ctx_size": 256, "parallel": 1,
        }  # fmt: skip
        server = Server(load_settings(flags, environ={}, config_file=file))
        server.start()
        try:
            assert models(server)["a"]["fixed"] == ["pinned"]
            answer = act(server, "a", "unpin")
            assert refused(answer) == (409, "set_by_settings", "model")
            assert "pin" in answer.json["error"]["message"]
            assert done(act(server, "a", "pin"))["pinned"] is True
            assert done(act(server, "b", "pin"))["pinned"] is True
            assert file.read_bytes() == before
        finally:
            server.stop()
        assert Preferences.beside(tmp_path / "responses.sqlite3").read().pinned == ("b",)


class TestFile:
    """``preferences.json``"""

    @pytest.mark.parametrize(
        "text",
        [
            "", "{", "[]", '{"version": 2, "default": "b"}', '{"version": 1, "default": 5}',
            '{"version": 1, "pinned": "b"}', "[" * 100_000, '{"version": 1} ' + " " * (1 << 20),
        ],
    )  # fmt: skip
    def test_a_damaged_file_chooses_nothing(self, tmp_path: Path, text: str) -> None:
        path = put(tmp_path / "preferences.json", text.encode())
        preferences = Preferences(path)
        assert preferences.read() == NOTHING
        preferences.set_default("a")
        assert Preferences(path).read() == Preferred("a")

    def test_another_process_changes_it(self, tmp_path: Path) -> None:
        one, two = (Preferences(tmp_path / "new" / "preferences.json") for _ in range(2))
        one.set_pinned("a", True)
        assert two.read().pinned == ("a",)
        two.set_pinned("b", True)
        two.set_pinned("b", True)
        assert one.read().pinned == ("a", "b")
        one.set_default("a")
        one.forget("a")
        assert two.read() == Preferred("", ("b",))
        (tmp_path / "new" / "preferences.json").unlink()
        assert one.read() == NOTHING

    def test_while_the_disk_writes_nothing_waits(self, tmp_path: Path) -> None:
        """Every request reads the preferences."""
        seen: list[Preferred] = []

        class Busy(Disk):
            def sync(self, file: Any) -> None:
                seen.append(preferences.read())

        preferences = Preferences(tmp_path / "p.json", Busy())
        preferences.set_default("a")
        preferences.set_default("b")
        assert [before.default for before in seen] == ["", "a"]
        assert preferences.read().default == "b"

    def test_it_does_not_grow_without_end(self, tmp_path: Path) -> None:
        path = tmp_path / "preferences.json"
        many = [f"m{number}" for number in range(MOST_PINNED)]
        path.write_text(json.dumps({"version": 1, "pinned": many}), encoding="utf-8")
        preferences = Preferences(path)
        with pytest.raises(StoreFailed, match="unpin one"):
            preferences.set_pinned("one more", True)
        preferences.set_pinned("m5", False)
        preferences.set_pinned("one more", True)

    def test_it_cannot_be_written(
        self, serve: MakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = serve()

        def fail(self: Disk, file: Any, data: bytes) -> None:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patch:
            patch.setattr(Disk, "write", fail)
            answer = act(server, "b", "default")
        assert refused(answer) == (500, "store_failed", None)
        assert "the disk is full" in answer.json["error"]["message"]
        assert str(folder.parent) not in answer.json["error"]["message"]
        assert models(server)["a"]["default"] is True
        done(act(server, "b", "default"))

    @pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
    def test_only_its_owner_may_read_it(self, tmp_path: Path) -> None:
        Preferences(tmp_path / "preferences.json").set_default("a")
        assert (tmp_path / "preferences.json").stat().st_mode & 0o077 == 0


class TestRemove:
    """``POST /v1/models/{id}/remove``"""

    def test_a_loaded_model_with_preferences(self, serve: MakeServer, folder: Path) -> None:
        server = serve()
        for action in ("load", "pin", "default"):
            done(act(server, "b", action))
        size = (folder / "b.gguf").stat().st_size
        made = done(act(server, "b", "remove", {"confirm": "b"}))
        assert made == {
            "id": "b", "object": "model.removed", "removed": True, "files": ["b.gguf"],
            "bytes_freed": size,
        }  # fmt: skip
        assert sorted(path.name for path in folder.iterdir()) == ["a.gguf"]
        assert models(server).keys() == {"a"}
        assert server.pool.loaded() == []
        assert Preferences.beside(server.settings.responses_file).read() == NOTHING
        assert refused(act(server, "b", "remove", {"confirm": "b"}))[0] == 404

    def test_all_parts_the_projector_and_the_manifest(
        self, serve: MakeServer, folder: Path
    ) -> None:
        """A file that cannot be used can be removed too, and nothing else is."""
        split_model(folder / "sub", 3)
        put(folder / "sub/mmproj-big.gguf", content(1, 1000))
        put(folder / "sub/mmproj-other.gguf", content(1, 1000))
        put(folder / "broken.gguf", content(1, 1000)[:-1])
        rows = [{"file_name": f"sub/big-0000{n}-of-00003.gguf", "size": 1, "sha256": 64 * "0"}
                for n in (1, 2, 3)]  # fmt: skip
        put(folder / "manifest.json", json.dumps({"models": rows}).encode())
        server = serve()
        name = "sub/big-00001-of-00003"
        made = done(act(server, name, "remove", {"confirm": name}))
        assert made["files"] == [
            *(f"sub/big-0000{n}-of-00003.gguf" for n in (1, 2, 3)), "sub/mmproj-big.gguf",
        ]  # fmt: skip
        assert json.loads((folder / "manifest.json").read_text("utf-8"))["models"] == []
        listed = request(server.url, "GET", MODELS).json["unusable"]
        assert {(file["file"], file["code"], file["id"]) for file in listed} == {
            ("broken.gguf", "damaged", "broken"), ("sub/mmproj-other.gguf", "projector", None),
        }  # fmt: skip
        done(act(server, "broken", "remove", {"confirm": "broken"}))
        left = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.gguf"))
        assert left == ["a.gguf", "b.gguf", "sub/mmproj-other.gguf"]

    def test_without_the_whole_id_nothing_is_removed(self, serve: MakeServer, folder: Path) -> None:
        server = serve()
        for name, confirm in (("b", "B"), ("b", ""), ("b", "b.gguf"), ("B.gguf", "B.gguf")):
            answer = act(server, name, "remove", {"confirm": confirm})
            assert refused(answer) == (400, "invalid_value", "confirm")
        assert refused(act(server, "b", "remove"))[0] == 400
        assert (folder / "b.gguf").exists()

    def test_what_is_no_file_of_one_model_alone(
        self, folder: Path, tmp_path: Path, make_server: MakeServer
    ) -> None:
        file = tmp_path / "offgrid.toml"
        file.write_text('[models.made]\nbase = "a"\n', encoding="utf-8")
        flags = {
            "models_dir": folder, "responses_file": tmp_path / "responses.sqlite3", "port": 0,
            "threads": 1, "drain_timeout": 0,
        }  # fmt: skip
        server = Server(load_settings(flags, environ={}, config_file=file))
        server.start()
        try:
            for name in ("made", "a"):
                answer = act(server, name, "remove", {"confirm": name})
                assert refused(answer) == (409, "not_removable", "model")
            assert "other models of it: made" in answer.json["error"]["message"]
            with locked(folder):
                answer = act(server, "b", "remove", {"confirm": "b"})
            assert refused(answer) == (409, "not_removable", "model")
            assert "another import" in answer.json["error"]["message"]
        finally:
            server.stop()
        assert len([*folder.glob("*.gguf")]) == 2

    def test_the_starter(self, make_server: MakeServer) -> None:
        server = make_server()
        answer = act(server, "offgrid-starter", "remove", {"confirm": "offgrid-starter"})
        assert refused(answer) == (409, "not_removable", "model")

    def test_a_link_is_removed_and_not_what_it_points_to(
        self, serve: MakeServer, folder: Path, starter_path: Path
    ) -> None:
        (folder / "c.gguf").symlink_to(starter_path)
        server = serve()
        done(act(server, "c", "remove", {"confirm": "c"}))
        assert starter_path.exists()
        assert not (folder / "c.gguf").is_symlink()

    def test_a_key_removes_only_its_models(self, serve: MakeServer, tmp_path: Path) -> None:
        keys = tmp_path / "keys.sqlite3"
        secret = new_key(keys, "limited", "models", models=frozenset({"a"}))[1]
        server = serve(keys_file=keys)
        answer = request(server.url, "POST", f"{MODELS}/b/remove", {"confirm": "b"}, bearer(secret))
        assert refused(answer)[:2] == (403, "model_not_allowed")


class TestProgress:
    """How far loading is."""

    @pytest.mark.slow
    def test_events(self, serve: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        server = serve()
        states = [
            ModelStatus("waiting"), ModelStatus("loading", 0.25), ModelStatus("loading", 0.25),
            ModelStatus("loading", 0.5),
        ]  # fmt: skip
        status = server.pool.status
        monkeypatch.setattr("offgrid.api.models.following._PAUSE", 0.0)
        monkeypatch.setattr(
            server.pool, "status", lambda entry: states.pop(0) if states else status(entry)
        )
        documented = Documented.of(server.url)
        server.pool.engine("b")
        answer = act(server, "b", "load", {"stream": True})
        documented.check(answer, "post", f"{MODELS}/{{model}}/load")
        lines = [line for line in answer.body.decode().splitlines() if line.startswith("data: ")]
        events = [json.loads(line[6:]) for line in lines]
        assert [(e.get("status"), e.get("progress")) for e in events[:-1]] == [
            ("waiting", 0.0), ("loading", 0.25), ("loading", 0.5),
        ]  # fmt: skip
        assert events[-1]["type"] == "model.loaded"
        assert (events[-1]["model"]["id"], events[-1]["model"]["status"]) == ("b", "loaded")
        (loaded,) = request(server.url, "GET", "/v1/loaded").json["data"]
        assert (loaded["progress"], loaded["pinned"]) == (1.0, False)

    @pytest.mark.slow
    def test_a_client_that_leaves_loads_it_nevertheless(self, serve: MakeServer) -> None:
        server = serve()
        with Stream(server.url, f"{MODELS}/b/load", {"stream": True}) as stream:
            stream.leave()
        eventually(lambda: models(server)["b"]["status"] == "loaded", "it is loaded")

    def test_a_model_that_cannot_be_loaded(self, serve: MakeServer, folder: Path) -> None:
        """Its header is sound, and its tensors are not those of its architecture."""
        put(folder / "odd.gguf", content(1, 1000))
        server = serve()
        with Stream(server.url, f"{MODELS}/odd/load", {"stream": True}) as stream:
            events = [json.loads(event) for event in stream.events()]
        assert events[-1]["type"] == "model.failed"
        assert events[-1]["error"]["code"] == "model_load_failed"
        assert "odd cannot be loaded" in events[-1]["error"]["message"]
        assert models(server)["odd"]["status"] == "failed"


def test_the_list_with_details(serve: MakeServer, folder: Path) -> None:
    put(folder / "text.gguf", b"no model at all")
    put(folder / "empty.gguf", b"")
    tiny_models.make("llama", folder)
    server = serve()
    found = models(server, "?details=true")
    assert found.keys() >= {"a", "b"}
    for name, model in found.items():
        assert model["memory"].pop("free") > 0  # it changes at any time
        alone = request(server.url, "GET", f"{MODELS}/{name}").json
        alone["memory"].pop("free")
        assert model == alone
    listed = request(server.url, "GET", f"{MODELS}?details=true")
    Documented.of(server.url).check(listed, "get", MODELS)
    assert {file["file"]: file["code"] for file in listed.json["unusable"]} == {
        "text.gguf": "not_gguf", "empty.gguf": "empty",
    }  # fmt: skip
    answer = request(server.url, "GET", f"{MODELS}?details=1")
    assert refused(answer) == (400, "invalid_value", "details")
