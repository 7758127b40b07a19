"""What a machine offers to its peers: ``/peer/models`` and the files below it."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from machines import Machine, ask
from sticks import content, manifest, put, put_large, sha256, split_model
from support import TIMEOUT, Json, eventually, request

from offgrid.api.http.gate import never_waits
from offgrid.api.http.waitress.lanes import Lane, lane_of
from offgrid.api.peers import models
from offgrid.caller import Limits
from offgrid.config import load_settings
from offgrid.peers.book import Grant
from offgrid.peers.contexts import client_context
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes
from offgrid.store.offers import Offer, Offers

BIG = content(1, 700_000)


def listed(near: Machine, far: Machine) -> dict[str, Json]:
    answer = near.ask(far, "GET", "/peer/models")
    assert answer.status == 200
    return {model["id"]: model for model in json.loads(answer.content)["data"]}


def get(near: Machine, far: Machine, path: str, **headers: str) -> Any:
    context = client_context(near.peers.identity, far.as_peer())
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(far, context, "GET", path, headers=named)


def grant(far: Machine, near: Machine, ids: tuple[str, ...]) -> None:
    far.peers.book.change(
        near.peers.identity.fingerprint,
        lambda peer: msgspec.structs.replace(peer, grant=Grant(models=ids)),
    )


def test_models_with_their_files(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    put(far.models / "sub/ä b.gguf", BIG)
    put(far.models / "eyes/e.gguf", BIG)
    put(far.models / "eyes/mmproj-f16.gguf", content(9, 1000))
    parts = split_model(far.models, 3)
    put(far.models / "text.gguf", b"no model")
    put(far.models / "cut.gguf", BIG[:-1])
    manifest(far.models)
    found = listed(near, far)
    assert found.keys() == {"sub/ä b", "eyes/e", "big-00001-of-00003"}
    assert found["sub/ä b"]["files"] == [
        {"name": "sub/ä b.gguf", "size": len(BIG), "sha256": sha256(BIG), "problem": None}
    ]
    assert [file["name"] for file in found["eyes/e"]["files"]] == [
        "eyes/e.gguf", "eyes/mmproj-e.gguf",
    ]  # fmt: skip
    split = found["big-00001-of-00003"]
    assert {file["name"]: file["sha256"] for file in split["files"]} == {
        name: sha256(data) for name, data in parts.items()
    }
    assert split["size"] == sum(map(len, parts.values()))


def test_a_hash_that_is_not_known_is_computed_first(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    put(far.models / "b.gguf", content(2))
    manifest(far.models, **{"b.gguf": {"file_name": "none.gguf"}})
    file = "/peer/models/b/files/0"
    assert listed(near, far)["b"]["files"][0]["sha256"] is None
    assert near.ask(far, "GET", file).status == 409
    lines = near.ask(far, "GET", "/peer/models/b/hashes").content.splitlines()
    assert json.loads(lines[-1]) == {"file": 0, "done": 3_000_000, "sha256": sha256(content(2))}
    assert listed(near, far)["b"]["files"][0]["sha256"] == sha256(content(2))
    answer = near.ask(far, "GET", file)
    assert (answer.status, answer.getheader("ETag")) == (200, f'"{sha256(content(2))}"')
    assert answer.content == content(2)
    lines = near.ask(far, "GET", "/peer/models/a/hashes").content.splitlines()
    assert json.loads(lines[-1])["sha256"] == sha256(BIG)  # before it, progress after a second


@pytest.mark.parametrize(
    "id", ["a", "sub/b.c-d_é 1", "x/files/0", "x/hashes", "-1", "100% #1 'q'+", "日本/模型"]
)
def test_ids_with_odd_characters(pair: tuple[Machine, Machine], id: str) -> None:
    near, far = pair
    put(far.models / f"{id}.gguf", BIG)
    put(far.models / "other.gguf", content(2, 1000))
    manifest(far.models)
    assert id in listed(near, far)
    answer = get(near, far, f"/peer/models/{quote(id, safe='')}/files/0")
    assert (answer.status, answer.content) == (200, BIG)


@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [
        ("bytes=0-0", 0, 1), ("bytes=5-", 5, None), ("bytes=-7", -7, None),
        ("bytes=0-99999999", 0, None), ("bytes=699999-699999", 699_999, None),
    ],
)  # fmt: skip
def test_parts(pair: tuple[Machine, Machine], wanted: str, begin: int, end: int | None) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    manifest(far.models)
    etag = f'"{sha256(BIG)}"'
    answer = get(near, far, "/peer/models/a/files/0", Range=wanted, If_Range=etag)
    assert (answer.status, answer.content) == (206, BIG[begin:end])
    first = len(BIG) + begin if begin < 0 else begin
    last = first + len(answer.content) - 1
    assert answer.getheader("Content-Range") == f"bytes {first}-{last}/{len(BIG)}"
    assert answer.getheader("ETag") == etag
    answer = get(near, far, "/peer/models/a/files/0", Range=wanted, If_Range='"another"')
    assert (answer.status, answer.content) == (200, BIG)


@pytest.mark.parametrize("wanted", ["bytes=700000-", "bytes=-0", "bytes=5-4", "bytes=0-1,5-6", "x"])
def test_parts_that_do_not_exist(pair: tuple[Machine, Machine], wanted: str) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    manifest(far.models)
    assert get(near, far, "/peer/models/a/files/0", Range=wanted).status in (400, 416)


@pytest.mark.parametrize(
    "path",
    [
        "a/files/1", "a/files/-1", "a/files/x", "a/files/", "a/files", "a", "A/files/0",
        "a.gguf/files/0", "..%2Fsecret/files/0", "../secret/files/0", "%2E%2E/secret/files/0",
        "secret/files/0", "offgrid-starter/files/0", "a%00/files/0", "/files/0", "a/hashes/0",
        "sub/../a/files/0", "none/hashes",
    ],
)  # fmt: skip
def test_only_models_and_files_of_the_list(pair: tuple[Machine, Machine], path: str) -> None:
    """A path, a beginning of an id or another spelling is none."""
    near, far = pair
    put(far.models / "a.gguf", BIG)
    put(far.models.parent / "secret.gguf", BIG)
    manifest(far.models)
    answer = get(near, far, f"/peer/models/{path}")
    assert (answer.status, b"GGUF" in answer.content) == (404, False)
    whole = str(far.models / "a.gguf")
    assert get(near, far, f"/peer/models/{quote(whole, safe='')}/files/0").status == 404
    assert get(near, far, f"/peer/models/{whole}/files/0").status == 404


def test_a_peer_gets_only_models_of_its_grant(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    for name in ("a", "b"):
        put(far.models / f"{name}.gguf", BIG)
    manifest(far.models)
    grant(far, near, ("b",))
    assert listed(near, far).keys() == {"b"}
    assert get(near, far, "/peer/models/b/files/0").status == 200
    for path in ("a/files/0", "a/hashes"):
        told = [get(near, far, f"/peer/models/{one}") for one in (path, f"none{path}")]
        assert [answer.status for answer in told] == [404, 404]
        first, second = (json.loads(answer.content)["error"]["message"] for answer in told)
        assert first == second  # it does not learn that there is such a model
    grant(far, near, ())
    assert listed(near, far) == {}


def test_other_clients_reach_none_of_it(pair: tuple[Machine, Machine]) -> None:
    _, far = pair
    put(far.models / "a.gguf", BIG)
    manifest(far.models)
    for path in ("", "/a/files/0", "/a/hashes"):
        assert request(far.server.url, "GET", f"/peer/models{path}").status == 404


def test_a_file_that_differs_from_its_manifest_is_not_given(
    pair: tuple[Machine, Machine],
) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    put(far.models / "b.gguf", BIG)
    wrong = {"sha256": sha256(b"other")}
    manifest(far.models, **{"a.gguf": wrong, "b.gguf": {**wrong, "size": 5}})
    assert listed(near, far)["b"]["files"][0]["problem"].startswith("it is not the file")
    assert get(near, far, "/peer/models/b/files/0").status == 409
    assert listed(near, far)["a"]["files"][0]["problem"] is None  # its hash is not known yet
    far.hashes().put(far.models / "a.gguf", sha256(BIG))
    assert "offgrid verify" in listed(near, far)["a"]["files"][0]["problem"]
    assert get(near, far, "/peer/models/a/files/0").status == 409


class Slow:
    """A peer that asks for a file and reads nothing more than the head of the answer."""

    def __init__(self, near: Machine, far: Machine, path: str) -> None:
        context = client_context(near.peers.identity, far.as_peer())
        plain = socket.create_connection(("127.0.0.1", far.peers.port), TIMEOUT)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.sock = context.wrap_socket(plain)
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: far\r\n\r\n".encode())
        assert self.sock.recv(12) == b"HTTP/1.1 200"

    def read(self) -> int:
        """Read to the end; return how many bytes came."""
        size = 0
        with contextlib.suppress(ssl.SSLEOFError, ConnectionResetError):
            while data := self.sock.recv(1 << 16):
                size += len(data)
        return size


def test_a_slow_peer_takes_no_place_and_little_memory(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    size = 200 << 20
    put_large(far.models / "a.gguf", size)
    far.hashes().put(far.models / "a.gguf", "a" * 64)
    slow = Slow(near, far, "/peer/models/a/files/0")

    def kept() -> int:
        return max(channel.total_outbufs_len for channel in far.server.http.channels)

    eventually(lambda: kept() > 0, "the socket is full")
    assert kept() < 1 << 20
    stats = request(far.server.url, "GET", "/v1/stats").json
    assert stats["places"]["taken"] == 0
    assert request(far.server.url, "GET", "/health").status == 200
    assert near.ask(far, "GET", "/peer/models").status == 200
    slow.sock.close()


def test_what_is_sent_to_a_peer_that_is_forgotten_ends(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    size = 200 << 20
    put_large(far.models / "a.gguf", size)
    far.hashes().put(far.models / "a.gguf", "a" * 64)
    slow = Slow(near, far, "/peer/models/a/files/0")
    far.peers.book.remove(near.peers.identity.fingerprint)
    assert slow.read() < size
    slow.sock.close()


def test_what_is_sent_ends_when_the_grant_changes(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    size = 200 << 20
    put_large(far.models / "a.gguf", size)
    far.hashes().put(far.models / "a.gguf", "a" * 64)
    slow = Slow(near, far, "/peer/models/a/files/0")
    grant(far, near, ("b",))
    assert slow.read() < size
    slow.sock.close()


def test_the_lane_and_the_gate() -> None:
    path = "/peer/models/sub/a/files/0"
    assert lane_of("GET", path, refused=False) is Lane.FILES
    assert lane_of("GET", path, refused=True) is Lane.SHORT
    assert lane_of("GET", "/peer/models", refused=False) is Lane.SHORT
    assert never_waits("GET", path)


def test_progress_of_a_hash(pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_PAUSE", 0)
    near, far = pair
    put(far.models / "a.gguf", content(2))
    lines = near.ask(far, "GET", "/peer/models/a/hashes").content.splitlines()
    told = [json.loads(line) for line in lines]
    assert [line.get("done") for line in told] == [1 << 20, 2 << 20, 3_000_000, 3_000_000]
    assert [line.get("sha256") for line in told] == [None, None, None, sha256(content(2))]


def test_files_do_not_count_for_the_limits_of_a_peer(pair: tuple[Machine, Machine]) -> None:
    near, far = pair
    put(far.models / "a.gguf", BIG)
    manifest(far.models)
    grant = Grant(limits=Limits(requests_per_minute=1, concurrent_requests=1))
    far.peers.book.change(
        near.peers.identity.fingerprint, lambda peer: msgspec.structs.replace(peer, grant=grant)
    )
    for _ in range(5):
        assert get(near, far, "/peer/models/a/files/0").status == 200


@pytest.mark.slow
def test_a_server_that_ends_does_not_wait_for_a_slow_peer(
    make_machine: Callable[..., Machine],
) -> None:
    near, far = make_machine("near"), make_machine("far")
    near.know(far)
    size = 200 << 20
    put_large(far.models / "a.gguf", size)
    far.hashes().put(far.models / "a.gguf", "a" * 64)
    slow = Slow(near, far, "/peer/models/a/files/0")
    ending = threading.Thread(target=far.server.stop)
    ending.start()
    assert slow.read() < size
    ending.join(TIMEOUT)
    assert not ending.is_alive()
    slow.sock.close()


def offers(tmp_path: Path, settings: str) -> dict[str, Offer]:
    """What a server with a configuration file offers."""
    file = tmp_path / "offgrid.toml"
    file.write_text(settings, encoding="utf-8")
    flags = {"models_dir": tmp_path / "models", "responses_file": tmp_path / "r.sqlite3"}
    read = load_settings(flags, environ={}, config_file=file)
    found = Offers(read, Catalogue(read), Hashes(None)).all(lambda entry: entry.id != "secret")
    return {offer.id: offer for offer in found}


def test_draft_models(tmp_path: Path) -> None:
    """Those of the settings, also if they lie elsewhere, but none that the peer may not have."""
    for name in ("a", "b", "c", "small", "secret"):
        put(tmp_path / f"models/{name}.gguf", content(1, 1000))
    put(tmp_path / "elsewhere/other.gguf", content(2, 1000))
    found = offers(
        tmp_path,
        '[models."a"]\ndraft_model = "small"\n[models."b"]\ndraft_model = "elsewhere/other.gguf"\n'
        '[models."c"]\ndraft_model = "secret"\n',
    )
    assert {id: offer.draft for id, offer in found.items()} == {
        "a": "small", "b": "other", "c": "", "small": "", "other": "",
    }  # fmt: skip
    assert found["other"].files[0].path == tmp_path / "elsewhere/other.gguf"


def test_hashes_are_kept_if_their_file_cannot_be_written(tmp_path: Path) -> None:
    path = put(tmp_path / "models/a.gguf", content(1, 1000))
    read = load_settings({"models_dir": tmp_path / "models"}, environ={}, config_file="")
    made = Offers(read, Catalogue(read), Hashes(None))
    (offer,) = made.all(lambda entry: True)
    assert offer.files[0].sha256 == ""
    assert [*made.hash(offer.files[0])][-1] == (1000, sha256(content(1, 1000)))
    (offer,) = made.all(lambda entry: True)
    assert offer.files[0].sha256 == sha256(content(1, 1000))
    put(path, content(2, 1000))
    (offer,) = made.all(lambda entry: True)
    assert offer.files[0].sha256 == ""
