"""Another program locks, removes or replaces the file of stored responses while it is used."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Child, serving
from responses_calls import PATH, ask, body, stream, text_of
from support import request, together

pytestmark = pytest.mark.usefixtures("access")
FILES = ("responses.sqlite3", "responses.sqlite3-wal", "responses.sqlite3-shm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(folder: Path, access: str) -> Iterator[Child]:
    with serving(folder) as child:
        child.wait_ready()
        yield child


@contextlib.contextmanager
def locked(path: Path, mode: str = "NORMAL") -> Iterator[None]:
    """Begin to write to the file as another program; EXCLUSIVE mode also prevents reading."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"PRAGMA locking_mode = {mode}")
        other.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.slow
def test_all_clients_are_told_that_the_file_cannot_be_read(server: Child, folder: Path) -> None:
    """Locked before the server opens it. Responses are not lost; they say they are not stored."""
    url = server.url
    with locked(folder / FILES[0], "EXCLUSIVE"):
        answers = together([lambda: request(url, "GET", f"{PATH}/resp_none")] * 10)
        for answer in answers:
            assert answer.status == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json["error"]["code"] == "store_busy"
            assert str(folder) not in answer.json["error"]["message"]
        answer = ask(url, max_output_tokens=16)
        assert answer["store"] is False
        assert text_of(answer)
        refused = request(url, "POST", PATH, body(previous_response_id="resp_none"))
        assert (refused.status, refused.json["error"]["code"]) == (503, "store_busy")
    assert ask(url, max_output_tokens=16)["store"] is True
    server.err.find("is no longer locked")


@pytest.mark.slow
def test_a_file_that_is_being_written_to_can_be_read(server: Child, folder: Path) -> None:
    url = server.url
    kept = ask(url, max_output_tokens=16)
    with locked(folder / FILES[0]):
        assert request(url, "GET", f"{PATH}/{kept['id']}").json == kept
        assert request(url, "GET", f"{PATH}/{kept['id']}/input_items").status == 200
        removed = request(url, "DELETE", f"{PATH}/{kept['id']}")
        assert (removed.status, removed.json["error"]["code"]) == (503, "store_busy")
        assert int(removed.headers["retry-after"]) >= 1
        answer = ask(url, max_output_tokens=16, previous_response_id=kept["id"])
        assert (answer["output"] != [], answer["store"]) == (True, False)
        first, *_, last = stream(url, max_output_tokens=16)
        assert (last["response"]["output"] != [], last["response"]["store"]) == (True, False)
        assert first["response"]["store"] is False  # known since the previous response
    first, *_, last = stream(url, max_output_tokens=16)
    assert [event["response"]["store"] for event in (first, last)] == [True, True]
    again = request(url, "GET", f"{PATH}/{last['response']['id']}")
    assert again.json == last["response"]
    assert ask(url, max_output_tokens=16)["store"] is True
    assert request(url, "DELETE", f"{PATH}/{kept['id']}").status == 200


@pytest.mark.slow
def test_a_removed_file_is_noticed(server: Child, folder: Path) -> None:
    """A response reported as stored survives a restart, even after the file was removed."""
    url = server.url
    lost = ask(url, max_output_tokens=16)
    for name in FILES:
        (folder / name).unlink()
    assert request(url, "GET", f"{PATH}/{lost['id']}").status == 404
    server.err.find("was removed or replaced while it was in use")
    kept = [ask(url, max_output_tokens=16)]
    (folder / FILES[1]).unlink()
    kept.append(ask(url, max_output_tokens=16))
    assert [response["store"] for response in kept] == [True, True]
    server.process.kill()
    server.wait()
    with serving(folder) as again:
        for response in kept:
            assert request(again.url, "GET", f"{PATH}/{response['id']}").json == response
