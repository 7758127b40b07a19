"""Models from peers: ``POST /v1/import`` with a peer."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from disturbed_relay import Relay, cut, flip, relay
from documented import Documented
from full_requests import copy_requests
from held_writes import closed_gate
from machines import Machine
from sticks import content, hidden, manifest, put, sha256, split_model, visible
from support import TIMEOUT, Json, request

from offgrid.cli import main
from offgrid.cli.from_peer import import_from_peer
from offgrid.cli.progress import Teller
from offgrid.cli.talk.remote import Remote, ServerError
from offgrid.peers import source
from offgrid.peers.book import Grant
from offgrid.store.disk import Disk

BIG = content(1, 3_000_000)


def post(near: Machine, **body: Any) -> Json:
    answer = request(near.server.url, "POST", "/v1/import", {"peer": "far", **body})
    assert answer.status == 200, answer.body
    made: Json = answer.json
    return made


def statuses(made: Json) -> dict[str, str]:
    return {file["id"] or file["name"]: file["status"] for file in made["files"]}


@pytest.mark.slow
def test_a_model_with_its_projector_and_a_split_one(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    put(far.models / "sub/ä b.gguf", BIG)
    put(far.models / "sub/mmproj-f16.gguf", content(9, 1000))
    parts = split_model(far.models, 3)
    made = post(near, ids=["SUB/Ä B.gguf", "big-00001-of-00003"])
    assert (made["status"], made["error"], made["peer"]) == ("completed", None, "far")
    assert statuses(made) == {
        "sub/ä b": "imported", "sub/mmproj-ä b": "imported", "big-00001-of-00003": "imported",
    }  # fmt: skip
    assert visible(near.models) == {
        "sub/ä b.gguf": BIG, "sub/mmproj-ä b.gguf": content(9, 1000), **parts,
    }  # fmt: skip
    assert hidden(near.models) == []
    details = request(near.server.url, "GET", "/v1/models/sub%2F%C3%A4%20b").json
    assert details["sha256"] == sha256(BIG)
    again = post(near, ids=["sub/ä b"])
    assert set(statuses(again).values()) == {"identical"}


def reason(made: Json) -> str:
    """Why the only file of an import failed."""
    (file,) = made["files"]
    assert (made["status"], file["status"]) == ("failed", "failed")
    told: str = file["reason"]
    return told


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for many parts of a file, as with files of gigabytes."""
    monkeypatch.setattr(source, "PART", 1 << 20)


def test_the_command(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    put(far.models / "sub/a.gguf", BIG)
    command = ["import", "--from", "FAR", "--url", near.server.url, "--no-config"]
    done = CliRunner().invoke(main, [*command, "sub/a"])
    assert (done.exit_code, done.output) == (
        0,
        f"imported  sub/a.gguf (2.9 MiB)\n1 imported, by the server at {near.server.url}\n",
    )
    assert visible(near.models) == {"sub/a.gguf": BIG}
    put(near.models / "sub/a.gguf", content(2))
    done = CliRunner().invoke(main, [*command, "sub/a"])
    assert done.exit_code == 1
    assert "--replace" in done.output
    done = CliRunner().invoke(main, [*command, "--replace", "--json", "sub/a", "none"])
    assert done.exit_code == 1
    events = [json.loads(line) for line in done.output.splitlines()]
    assert {event["event"] for event in events} - {"progress"} == {"file", "end"}
    assert events[-1] == {"event": "end", "status": "failed", "failed": 1, "imported": 1}
    assert visible(near.models) == {"sub/a.gguf": BIG}
    done = CliRunner().invoke(main, ["import", "--from", "who", *command[3:], "a"])
    assert (done.exit_code, "The peers are: far" in done.output) == (1, True)
    assert CliRunner().invoke(main, [*command, "a", "--models-dir", "x"]).exit_code == 2
    assert CliRunner().invoke(main, ["import", "x", "--url", "http://x"]).exit_code == 2


class Scripted(Remote):
    """A server that sends certain events."""

    def __init__(self, *events: Json) -> None:
        super().__init__("http://127.0.0.1:1")
        self._sent = events

    def events(self, path: str, body: Json) -> Iterator[Json]:
        yield from self._sent


def test_events_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    now = {"file": "a.gguf", "phase": "copying", "done": 5, "total": 9}
    end = {
        "type": "import.cancelled",
        "import": {"status": "cancelled", "files": [], "error": None},
    }
    remote = Scripted({"type": "import.progress", "progress": now}, end)
    assert import_from_peer(remote, "far", ["a"], False, Teller(as_json=True)) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [{"event": "progress", **now}, {"event": "end", "status": "failed"}]
    with pytest.raises(ServerError, match="ended before"):
        import_from_peer(Scripted(), "far", ["a"], False, Teller(as_json=True))


@pytest.mark.slow
def test_responses_match_the_document(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    documented = Documented.of(near.server.url)
    for full in copy_requests("far", "a"):
        for body in full.bodies():
            documented.body("post", full.path).validate(body)
            answer = request(near.server.url, "POST", full.url, body)
            assert answer.json["status"] == "completed"
            documented.check(answer, "post", full.path)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"ids": ["a"], "peer": "nobody"}, "peer"), ({"ids": []}, "ids"), ({}, "ids"),
        ({"ids": ["a"], "paths": ["/media"]}, "paths"), ({"ids": ["a"], "peer": ""}, "peer"),
        ({"ids": ["a"], "peer": 5}, "peer"),
    ],
)  # fmt: skip
def test_wrong_bodies(pair: tuple[Machine, Machine], body: Json, param: str) -> None:
    answer = request(pair[0].server.url, "POST", "/v1/import", {"peer": "far", **body})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_a_server_without_peers(base_url: str) -> None:
    answer = request(base_url, "POST", "/v1/import", {"peer": "far", "ids": ["a"]})
    assert (answer.status, answer.json["error"]["code"]) == (403, "peers_disabled")


def test_a_model_that_is_not_granted(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    for name in ("a", "b"):
        put(far.models / f"{name}.gguf", BIG)
    far.peers.book.change(
        near.peers.identity.fingerprint,
        lambda peer: msgspec.structs.replace(peer, grant=Grant(models=("b",))),
    )
    assert reason(post(near, ids=["a"])) == "far offers no model with this id; the ids are: b"
    assert statuses(post(near, ids=["b"])) == {"b": "imported"}


def test_a_machine_that_was_forgotten(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    far.peers.book.remove(near.peers.identity.fingerprint)
    made = post(near, ids=["a"])
    assert (made["status"], made["error"]["code"], made["files"]) == ("failed", "source", [])
    assert made["error"]["message"] == (
        "The peer far refuses this machine, because it has forgotten it. Pair them again: offgrid "
        "peers pair. Then the copy continues where it stopped."
    )
    assert visible(near.models) == {}


def test_a_peer_that_does_not_run(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    with socket.create_server(("127.0.0.1", 0)) as unused:
        near.reach(far, unused.getsockname()[1])
    made = post(near, ids=["a"])
    assert (made["status"], made["error"]["code"]) == ("failed", "source")
    assert "cannot be reached" in made["error"]["message"]


@pytest.mark.usefixtures("small_parts")
def test_a_file_that_is_replaced_in_between(pair: tuple[Machine, Machine]) -> None:
    """The next part would come from the new file: the copy ends. Then the new one is copied."""
    near, far = pair
    put(far.models / "a.gguf", BIG)
    with closed_gate() as gate, ThreadPoolExecutor() as pool:
        copy = pool.submit(post, near, ids=["a"])
        assert gate.reached.wait(TIMEOUT)
        put(far.models / "new", content(2)).rename(far.models / "a.gguf")
        near.ask(far, "GET", "/peer/models/a/hashes")
        gate.open.set()
        assert "the file was replaced there" in reason(copy.result())
    assert visible(near.models) == {}
    assert statuses(post(near, ids=["a"])) == {"a": "imported"}
    assert visible(near.models) == {"a.gguf": content(2)}
    assert hidden(near.models) == []


def test_one_altered_byte_at_the_source(pair: tuple[Machine, Machine]) -> None:
    """The manifest knows better; what was there before stays."""
    near, far = pair
    path = put(far.models / "a.gguf", BIG)
    manifest(far.models)
    put(near.models / "a.gguf", content(3))
    altered = bytearray(BIG)
    altered[2_000_000] ^= 1
    put(path, bytes(altered))
    made = post(near, ids=["a"], replace=True)
    assert (made["files"][0]["code"], "its SHA-256 is" in reason(made)) == ("wrong_hash", True)
    assert visible(near.models) == {"a.gguf": content(3)}
    assert hidden(near.models) == []
    put(path, BIG)
    assert statuses(post(near, ids=["a"], replace=True)) == {"a": "imported"}
    assert visible(near.models) == {"a.gguf": BIG}


@pytest.fixture
def disturbed(pair: tuple[Machine, Machine]) -> Iterator[Relay]:
    """A relay through which near reaches far."""
    near, far = pair
    with relay(far.peers.port) as made:
        near.reach(far, made.port)
        yield made


def test_a_link_that_breaks(pair: tuple[Machine, Machine], disturbed: Relay) -> None:
    """The next import asks only for the bytes that are missing."""
    near, far = pair
    put(far.models / "a.gguf", BIG)
    far.hashes().put(far.models / "a.gguf", sha256(BIG))
    disturbed.disturb(2_200_000, cut)
    assert "cannot be read" in reason(post(near, ids=["a"]))
    assert visible(near.models) == {}
    before = disturbed.sent
    assert statuses(post(near, ids=["a"])) == {"a": "imported"}
    assert disturbed.sent - before < 1_500_000
    assert visible(near.models) == {"a.gguf": BIG}
    assert hidden(near.models) == []


def test_one_altered_byte_on_the_way(pair: tuple[Machine, Machine], disturbed: Relay) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    disturbed.disturb(2_200_000, flip)
    assert "cannot be read" in reason(post(near, ids=["a"]))
    assert visible(near.models) == {}
    assert statuses(post(near, ids=["a"])) == {"a": "imported"}
    assert visible(near.models) == {"a.gguf": BIG}


def test_a_cancelled_copy_continues(pair: tuple[Machine, Machine], disturbed: Relay) -> None:
    """Also while it waits for a peer that is silent."""
    near, far = pair
    put(far.models / "a.gguf", BIG)
    silent, go_on = threading.Event(), threading.Event()

    def wait(data: bytes) -> bytes:
        silent.set()
        go_on.wait(TIMEOUT)
        return b""

    disturbed.disturb(2_200_000, wait)
    begun = post(near, ids=["a"], background=True)
    assert silent.wait(TIMEOUT)
    path = f"/v1/import/{begun['id']}/cancel"
    assert request(near.server.url, "POST", path).json["status"] == "cancelled"
    go_on.set()
    assert visible(near.models) == {}
    assert ".a.gguf.part.json" in hidden(near.models)
    before = disturbed.sent
    assert statuses(post(near, ids=["a"])) == {"a": "imported"}
    assert disturbed.sent - before < 2_500_000
    assert visible(near.models) == {"a.gguf": BIG}


def test_a_full_disk(pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "free", lambda self, folder: 1000)
        made = post(near, ids=["a"])
        assert (made["error"]["code"], made["files"]) == ("disk_full", [])

    def full(self: Disk, file: FileIO, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "write", full)
        assert post(near, ids=["a"])["files"][0]["code"] == "disk_full"
    assert visible(near.models) == {}
    assert statuses(post(near, ids=["a"])) == {"a": "imported"}
    assert visible(near.models) == {"a.gguf": BIG}


@pytest.mark.slow
def test_the_end_of_the_server_that_imports(make_machine: Callable[..., Machine]) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    put(far.models / "a.gguf", BIG)
    with closed_gate() as gate:
        begun = post(near, ids=["a"], background=True)
        assert gate.reached.wait(TIMEOUT)
        gate.open_when_cancelled(near.server.imports)
        near.server.stop()
    assert near.server.imports.find(begun["id"]).snapshot()["status"] == "cancelled"
    assert visible(near.models) == {}
    assert ".a.gguf.part.json" in hidden(near.models)
