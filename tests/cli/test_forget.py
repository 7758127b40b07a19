"""``offgrid forget``: nothing that was stored can be read afterwards."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from processes import program
from support import request

from offgrid.api.anthropic.signature import Signer
from offgrid.cli import main
from offgrid.config import load_settings
from offgrid.server import Server
from offgrid.store.file import Item
from offgrid.store.history.message import Conversation, StoredMessage
from offgrid.store.history.store import HistoryStore
from offgrid.store.responses import ResponseStore, StoredResponse
from offgrid.store.signing_key import SigningKey

SECRET = b"the patient's name"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "responses.sqlite3"


def run(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["forget", "--responses-file", str(file), *arguments])


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_ctrl_c_at_the_question(file: Path) -> None:
    from terminals import CTRL_C, Terminal

    fill(ResponseStore(file, 100, 2**20))
    screen = Terminal(program("offgrid"), "forget", "--responses-file", str(file))
    try:
        screen.find("Delete all")
        screen.type(CTRL_C)
        assert screen.wait() == 130
        screen.find("^offgrid: stopped")  # on a line of its own
    finally:
        screen.end()
    assert SECRET in file.read_bytes()


def response(id: str) -> StoredResponse:
    return StoredResponse(id, None, b"{}", (Item(f"in_{id}", SECRET * 500),), ())


def fill_history(file: Path) -> HistoryStore:
    history = HistoryStore(file.with_name("history.sqlite3"), 1 << 30)
    said = StoredMessage(id="m", role="user", content=SECRET.decode() * 500)
    history.create(Conversation(id="x", title=SECRET.decode(), messages=[said]))
    return history


def fill(store: ResponseStore) -> None:
    for number in range(20):
        store.put(response(f"resp_{number}"))
    store.conversations.create("conv_1", b"{}", [Item("item_1", SECRET)])


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_nothing_of_it_is_left_while_another_process_has_the_file_open(file: Path) -> None:
    store = ResponseStore(file, 100, 1 << 30)
    fill(store)
    for end in ("", "-wal", "-2"):
        file.with_name(f"responses.sqlite3.damaged{end}").write_bytes(SECRET)
        file.with_name(f"responses.sqlite3.before-restore{end}").write_bytes(SECRET)
    assert SECRET in bytes_of(file.parent)
    result = run(file, "--yes")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"deleted 20 responses and 1 conversations from {file}; 0.")
    assert SECRET not in bytes_of(file.parent)
    # The server that has the file open finds nothing, and stores again.
    assert store.get("resp_1") is None
    store.put(response("resp_new"))
    assert store.get("resp_new") is not None
    store.close()
    result = run(file, "--yes", "--json")
    assert json.loads(result.output)["responses"] == 1
    assert json.loads(result.output)["signing_key"] is False


def test_signatures_of_reasoning_are_not_known_any_more(file: Path) -> None:
    signer = Signer(SigningKey(file))
    signature = signer.sign("Hm.", packed=True)
    assert signer.opened("", signature) == "Hm."
    assert "deleted the key that signs reasoning" in run(file, "--yes").output
    assert not file.with_name("signing.key").exists()
    assert signer.opened("", signature) is None


def test_nothing_of_the_history_is_left(file: Path) -> None:
    history = fill_history(file)
    for end in ("", "-wal", "-2"):
        file.with_name(f"history.sqlite3.damaged{end}").write_bytes(SECRET)
        file.with_name(f"history.sqlite3.before-restore{end}").write_bytes(SECRET)
    assert SECRET in bytes_of(file.parent)
    result = run(file, "--yes")
    assert result.exit_code == 0, result.output
    assert "deleted 1 conversations of the history from" in result.output
    assert SECRET not in bytes_of(file.parent)
    assert history.get("x") is None
    fill_history(file).close()
    deleted = json.loads(run(file, "--yes", "--json").output)
    assert deleted["history"] == 1
    assert deleted["history_file"] == str(file.with_name("history.sqlite3"))
    assert history.get("x") is None
    history.close()


def test_without_a_file_none_is_created(file: Path) -> None:
    assert run(file, "--yes").output.startswith("deleted 0 responses and 0 conversations")
    assert not file.exists()
    assert not file.with_name("history.sqlite3").exists()


def test_it_asks_first(file: Path) -> None:
    store = ResponseStore(file, 100, 1 << 30)
    fill(store)
    result = run(file)
    assert result.exit_code == 2
    assert "add --yes" in result.output
    assert store.get("resp_1") is not None
    store.close()


@pytest.mark.slow
def test_a_locked_file_is_reported(file: Path) -> None:
    store = ResponseStore(file, 100, 1 << 30)
    fill(store)
    store.close()
    with sqlite3.connect(file) as connection:
        connection.execute("BEGIN IMMEDIATE")
        result = run(file, "--yes")
        connection.rollback()
    connection.close()
    assert result.exit_code == 1
    assert "Another process has locked the file" in result.output


def test_a_running_server_forgets(file: Path, tmp_path: Path) -> None:
    server = Server(
        load_settings(
            {"port": 0, "models_dir": tmp_path, "default_model": "offgrid-starter", "threads": 1,
             "responses_file": file, "drain_timeout": 0},
            environ={},
        )
    )  # fmt: skip
    server.start()
    try:
        body = {"input": "Hello!", "max_output_tokens": 4}
        id = request(server.url, "POST", "/v1/responses", body).json["id"]
        assert request(server.url, "GET", f"/v1/responses/{id}").status == 200
        assert run(file, "--yes").exit_code == 0
        assert request(server.url, "GET", f"/v1/responses/{id}").status == 404
        id = request(server.url, "POST", "/v1/responses", body).json["id"]
        assert request(server.url, "GET", f"/v1/responses/{id}").status == 200
    finally:
        server.stop()
