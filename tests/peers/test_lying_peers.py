"""Imports from a paired machine that is faulty or hostile: nothing false is placed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lying_peer import Answer, LyingPeer, listing, lying_peer, model, response
from machines import Machine
from sticks import content, sha256, visible
from support import Json, request

from offgrid.peers import source

DATA = content(1, 300_000)
Ask = Callable[[Answer], Json]


def file(name: str = "a.gguf", **changes: Any) -> dict[str, Any]:
    """A file of a list."""
    return {"name": name, "size": len(DATA), "sha256": sha256(DATA), **changes}


def part(headers: dict[str, str], data: bytes = DATA, **changes: str) -> bytes:
    """The part of a file that a request wants."""
    first, last = headers["range"].removeprefix("bytes=").split("-")
    begin, end = int(first), int(last) + 1
    told = {"Content_Range": f"bytes {begin}-{end - 1}/{len(data)}", **changes}
    return response(data[begin:end], "206 Partial Content", **told)


def honest(*files: dict[str, Any], id: str = "a") -> Answer:
    """Answers the truth about some files, as far as the list is true."""

    def answer(path: str, headers: dict[str, str]) -> bytes:
        if path == "/peer/models":
            return listing(model(*(files or (file(),)), id=id))
        return part(headers)

    return answer


@pytest.fixture
def near(pair: tuple[Machine, Machine]) -> Machine:
    machine, far = pair
    machine.peers.book.remove(far.peers.identity.fingerprint)
    return machine


@pytest.fixture
def ask(near: Machine, tmp_path: Path) -> Iterator[Ask]:
    """Import from a machine that gives certain answers; return the import."""
    running: list[Any] = []

    def import_from(answer: Answer, *ids: str) -> Json:
        context = lying_peer(tmp_path / "far", near.as_peer(), answer)
        peer: LyingPeer = context.__enter__()
        running.append(context)
        near.peers.book.add(peer.as_peer())
        body = {"peer": "far", "ids": ids or ["a"]}
        made: Json = request(near.server.url, "POST", "/v1/import", body).json
        return made

    yield import_from
    for context in running:
        context.__exit__(None, None, None)


def test_an_honest_one(near: Machine, ask: Ask) -> None:
    assert ask(honest())["status"] == "completed"
    assert visible(near.models) == {"a.gguf": DATA}


@pytest.mark.parametrize(
    "files",
    [
        [file("../a.gguf")], [file("/tmp/a.gguf")], [file("b.gguf")], [file("sub/a.gguf")],
        [file("a.txt")], [file(".a.gguf")], [file("a.gguf/../../b.gguf")], [file("a\\b.gguf")],
        [file("a.gguf\0")], [file("a\n.gguf")], [file(""), file()], [file(), file("b.gguf")],
        [file(), file("../mmproj-a.gguf")], [file(), file("mmproj-b.gguf")],
        [file(), file("sub/mmproj-a.gguf")], [file(), file("mmproj-a.gguf"), file("c.gguf")],
        [file(), file()], [file("mmproj-a.gguf")], [file("\ud800.gguf")],
        [file("a-00001-of-00002.gguf")], [file("A.gguf")],
    ],
)  # fmt: skip
def test_names_of_other_files(near: Machine, ask: Ask, files: list[dict[str, Any]]) -> None:
    """Only the files that the id of the model has may be written."""
    made = ask(honest(*files))
    assert made["status"] == "failed"
    assert visible(near.models) == {}
    assert [path.name for path in near.models.parent.glob("*.gguf")] == []


@pytest.mark.parametrize(
    "names",
    [
        ["a-00001-of-00002.gguf"], ["a-00001-of-00002.gguf", "a-00002-of-00003.gguf"],
        ["a-00001-of-00002.gguf", "b-00002-of-00002.gguf"],
        ["a-00001-of-00002.gguf", "sub/a-00002-of-00002.gguf"],
        ["a-00001-of-99999.gguf", "a-00002-of-99999.gguf"],
        ["a-00001-of-00002.gguf", "a-00001-of-00002.gguf"],
        ["a-00002-of-00002.gguf", "a-00001-of-00002.gguf"],
    ],
)  # fmt: skip
def test_parts_that_do_not_belong_together(near: Machine, ask: Ask, names: list[str]) -> None:
    id = names[0].removesuffix(".gguf")
    made = ask(honest(*map(file, names), id=id), id)
    assert made["status"] == "failed"
    assert visible(near.models) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"size": len(DATA) - 1}, {"size": len(DATA) + 1}, {"size": 0}, {"size": -1},
        {"size": 1 << 62}, {"size": 1 << 70}, {"size": "5"}, {"sha256": "0" * 64},
        {"sha256": "zz"}, {"sha256": sha256(DATA).upper()}, {"problem": "it is mine"},
    ],
)  # fmt: skip
def test_sizes_and_hashes_that_are_false(near: Machine, ask: Ask, changes: dict[str, Any]) -> None:
    made = ask(honest(file(**changes)))
    assert made["status"] == "failed"
    assert visible(near.models) == {}


def test_no_hash(near: Machine, ask: Ask) -> None:
    """Content without a hash gets no name, whatever it is."""

    def answer(path: str, headers: dict[str, str]) -> bytes:
        if path.endswith("/hashes"):
            return response(b'{"file":0,"done":5}\n')
        return honest(file(sha256=None))(path, headers)

    (failed,) = ask(answer)["files"]
    assert failed["reason"] == "the peer states no hash of it"
    assert visible(near.models) == {}


@pytest.mark.parametrize(
    "lines",
    [
        b'{"file":1,"sha256":"%b"}\n' % (b"0" * 64), b'{"file":-1}\n', b"x" * 5000, b"[]\n",
        b'{"file":0,"sha256":"%b"}' % (b"0" * 64), b'{"file":0,"sha256":"1"}\n', b"\n",
    ],
)  # fmt: skip
def test_lines_about_hashes_that_are_not_valid(near: Machine, ask: Ask, lines: bytes) -> None:
    def answer(path: str, headers: dict[str, str]) -> bytes:
        told = honest(file(sha256=None))
        return response(lines) if path.endswith("/hashes") else told(path, headers)

    made = ask(answer)
    assert (made["status"], made["error"]["code"]) == ("failed", "source")
    assert visible(near.models) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda headers: part(headers, content(2, 300_000)),
        lambda headers: part(headers, DATA[:-1] + b"x"),
        lambda headers: part(headers, Content_Range="bytes 1-299999/300000"),
        lambda headers: part(headers, Content_Range="bytes 0-299999/300001"),
        lambda headers: part(headers, Content_Range=""),
        lambda headers: part(headers, Content_Length="299999"),
        lambda headers: part(headers, Content_Length="300001"),
        lambda headers: part(headers, Content_Length=""),
        lambda headers: part(headers, Transfer_Encoding="chunked"),
        lambda headers: response(DATA),
        lambda headers: response(b"", "204 No Content"),
        lambda headers: response(b"", "302 Found", Location="/peer/models/b/files/0"),
        lambda headers: response(b"x" * 100_000, "500 Internal Server Error"),
        lambda headers: response(b'{"error":{"message":"no"}}', "404 Not Found"),
        lambda headers: b"nonsense\r\n\r\n",
        lambda headers: b"",
    ],
)  # fmt: skip
def test_answers_that_are_not_the_file(
    near: Machine, ask: Ask, wrong: Callable[[dict[str, str]], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(source, "SILENCE", 0.5)

    def answer(path: str, headers: dict[str, str]) -> bytes:
        return honest()(path, headers) if path == "/peer/models" else wrong(headers)

    made = ask(answer)
    assert made["status"] == "failed"
    assert visible(near.models) == {}


def test_more_than_was_said_is_not_read(near: Machine, ask: Ask) -> None:
    def answer(path: str, headers: dict[str, str]) -> bytes:
        return honest()(path, headers) + (b"more" if "range" in headers else b"")

    assert ask(answer)["status"] == "completed"
    assert visible(near.models) == {"a.gguf": DATA}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'{"data": 5}', b'{"data": [{"id": "a"}]}',
        b'{"data": [{"id": "a", "files": []}]}',
        b"\xff", b"{" * 100_000, b" " * (5 << 20),
        json.dumps({"data": [model(*[file()] * 1001)]}).encode(),
    ],
)  # fmt: skip
def test_lists_that_are_not_valid(near: Machine, ask: Ask, body: bytes) -> None:
    made = ask(lambda path, headers: response(body))
    assert (made["status"], made["error"]["code"], made["files"]) == ("failed", "source", [])
    assert visible(near.models) == {}


def test_a_list_with_other_models(near: Machine, ask: Ask) -> None:
    """Two of them have the same name on some disks; the draft model comes along, and no other."""

    def answer(path: str, headers: dict[str, str]) -> bytes:
        if path != "/peer/models":
            return part(headers)
        drafting = {**model(file()), "draft_model": "d"}
        others = [model(file(f"{id}.gguf"), id=id) for id in ("A", "b", "d")]
        return listing(drafting, *others)

    assert ask(answer)["status"] == "completed"
    assert visible(near.models).keys() == {"a.gguf", "d.gguf"}
