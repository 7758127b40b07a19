"""The history: its tree of messages, lists, owners, limits, full disks, damaged files."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from offgrid.errors import HistoryFull, StoreFailed
from offgrid.store.file import Owner
from offgrid.store.history import adding, file
from offgrid.store.history.adding import Differs, Refused
from offgrid.store.history.file import delete_history
from offgrid.store.history.message import Conversation, StoredMessage
from offgrid.store.history.rows import Changes, Opened
from offgrid.store.history.store import ConversationUnknown, HistoryStore

Make = Callable[..., HistoryStore]
SECRET = "the patient's name"


def said(id: str, parent: str | None = None, content: str = "", **fields: Any) -> StoredMessage:
    fields = {"created_at": 1, "role": "user", **fields}
    return StoredMessage(id=id, parent=parent, content=content or id, **fields)


def talk(id: str, *messages: StoredMessage, **fields: Any) -> Conversation:
    return Conversation(id=id, messages=list(messages), **fields)


def opened(store: HistoryStore, id: str, since: int = 0, max_bytes: int = 1 << 62) -> Opened:
    found = store.get(id, since, max_bytes)
    assert found is not None
    return found


def ids(found: Opened) -> list[str]:
    return [msgspec.json.decode(stored.body)["id"] for stored in found.messages]


def listed(store: HistoryStore, query: str = "") -> list[str]:
    return [info.id for info in store.page(query, None, 100)[0]]


def test_a_conversation_is_read_as_it_was_stored(make: Make) -> None:
    messages = [
        said("a", content="Hello!"),
        said("b", "a", role="assistant", reasoning="Hm.", model="m", data={"n": [1, None]}),
        said("c", "a", role="tool", tool_call_id="1", content="7", status="failed"),
    ]
    new = talk("x", *messages, title="T", pinned=True, settings={"a": None}, head="b", created_at=5)
    make().create(new)
    found = opened(make(), "x")
    assert [msgspec.json.decode(one.body, type=StoredMessage) for one in found.messages] == messages
    info = found.info
    assert (info.title, info.pinned, info.created_at, info.head) == ("T", True, 5, "b")
    assert (info.settings, info.count, info.revision) == (b'{"a":null}', 3, 1)
    assert not found.more


def test_the_head_follows_new_messages(store: HistoryStore) -> None:
    assert store.create(talk("x")).head is None
    for messages, head, expected in (
        ([said("a"), said("b", "a")], None, "b"),
        ([said("c", "a")], "b", "b"),
        ([said("c", "a")], None, "b"),  # a repetition moves nothing
        ([], "c", "c"),
        ([said("d")], None, "d"),
    ):
        info = store.append("x", messages, head)
        assert info is not None
        assert info.head == expected


def test_the_revision_grows_with_each_change_and_with_no_repetition(store: HistoryStore) -> None:
    store.create(talk("x", said("a")))
    steps: list[Callable[[], Any]] = [
        lambda: store.append("x", [said("b", "a", status="running")], None),
        lambda: store.append("x", [said("b", "a", "b and more", status="running")], None),
        lambda: store.append("x", [said("b", "a", "whole")], None),
        lambda: store.update("x", Changes(title="T")),
        lambda: store.update("x", Changes(pinned=True, settings={"a": 1})),
        lambda: store.update("x", Changes(head="a")),
    ]
    for number, step in enumerate(steps, 2):
        for _ in range(2):
            assert step().revision == number
    changed = opened(store, "x", since=3)
    assert ids(changed) == ["b"]
    assert ids(opened(store, "x", since=4)) == []
    assert ids(opened(store, "x", since=99)) == []


def test_a_long_conversation_is_read_in_parts_of_whole_revisions(store: HistoryStore) -> None:
    store.create(talk("x", said("m0"), said("m1", "m0")))
    for number in range(2, 9):
        store.append("x", [said(f"m{number}", f"m{number - 1}", "text " * 40)], None)
    read: list[str] = []
    since, parts, more = 0, 0, True
    while more:
        found = opened(store, "x", since, 600)
        read += ids(found)
        since, more, parts = found.messages[-1].revision, found.more, parts + 1
    assert read == [f"m{number}" for number in range(9)]
    assert parts > 3


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([said("b", "nobody")], "messages[0].parent"),
        ([said("b", "b")], "messages[0].parent"),
        ([said("b", "c"), said("c", "b")], "messages[0].parent"),
        ([said("b", "a"), said("b", "a", "other")], "messages[1].id"),
        ([said("a", content="other")], "messages[0].id"),
        ([said("a", role="assistant")], "messages[0].id"),
    ],
)
def test_messages_that_contradict_the_tree_change_nothing(
    store: HistoryStore, messages: list[StoredMessage], place: str
) -> None:
    store.create(talk("x", said("a")))
    before = opened(store, "x")
    with pytest.raises(Refused) as caught:
        store.append("x", [said("new", "a"), *messages], None)
    index = int(place[9]) + 1
    assert caught.value.place == f"messages[{index}]{place[11:]}"
    assert opened(store, "x") == before


def test_a_running_message_cannot_move(store: HistoryStore) -> None:
    store.create(talk("x", said("a"), said("b", "a", status="running")))
    with pytest.raises(Differs, match="another parent"):
        store.append("x", [said("b")], None)


def test_unknown_heads_are_refused(store: HistoryStore) -> None:
    store.create(talk("x", said("a")))
    for call in (
        lambda: store.append("x", [said("b", "a")], "c"),
        lambda: store.update("x", Changes(title="T", head="c")),
        lambda: store.create(talk("y", said("a"), head="c")),
    ):
        with pytest.raises(Refused) as caught:
            call()
        assert caught.value.place == "head"
    info = opened(store, "x").info
    assert (info.title, info.count, listed(store)) == ("", 1, ["x"])


def test_a_conversation_has_a_largest_number_of_messages(
    store: HistoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "MAX_MESSAGES", 3)
    store.create(talk("x", said("a"), said("b"), said("c")))
    with pytest.raises(Refused, match="at most 3 messages"):
        store.append("x", [said("d")], None)
    assert store.append("x", [said("a")], None) is not None


def test_creating_again_adds_messages_and_leaves_the_rest(store: HistoryStore) -> None:
    store.create(talk("x", said("a"), title="Old"))
    store.update("x", Changes(title="Renamed"))
    info = store.create(talk("x", said("a"), said("b", "a"), title="Old", head="b"))
    assert (info.title, info.count, info.head) == ("Renamed", 2, "a")


def test_the_list_has_pinned_conversations_first_and_then_the_latest(store: HistoryStore) -> None:
    for id in "abcde":
        store.create(talk(id))
    store.append("b", [said("m")], None)
    store.update("c", Changes(pinned=True))
    store.update("a", Changes(title="A new title is no use"))
    assert listed(store) == ["c", "b", "e", "d", "a"]
    pages, after, more = [], None, True
    while more:
        page, more = store.page("", after, 2)
        after = page[-1].id
        pages.append([info.id for info in page])
    assert pages == [["c", "b"], ["e", "d"], ["a"]]
    with pytest.raises(ConversationUnknown):
        store.page("", "nobody", 2)


def test_an_owner_sees_only_what_is_its_own(make: Make) -> None:
    store = make()
    store.create(talk("old", said("a", content="otter")))
    anna, bert = store.of(Owner("anna", shared=False)), store.of(Owner("bert", shared=False))
    boss = store.of(Owner("boss", shared=True))
    anna.create(talk("x", said("a", content="otter")))
    bert.create(talk("x", said("b", content="fox")))
    assert [listed(one, "otter") for one in (anna, bert, boss)] == [["x"], [], ["old"]]
    assert ids(opened(bert, "x")) == ["b"]
    assert boss.get("x") is None
    assert boss.append("x", [said("c")], None) is None
    assert boss.update("x", Changes(title="T")) is None
    assert not boss.delete("x")
    boss.create(talk("old", said("c")))  # what was stored without keys stays without an owner
    assert ids(opened(store, "old")) == ["a", "c"]
    assert anna.delete("x")
    assert ids(opened(bert, "x")) == ["b"]
    (number,) = bert.all()
    assert bert.read(number) == bert.find("x")
    bert.delete("x")
    assert bert.read(number) is None


def test_the_cost_of_an_import_does_not_grow_with_its_square(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What SQLite computes for one more conversation is the same however many there are."""
    connect, steps = sqlite3.connect, list[int]()

    def counted(*args: Any, **more: Any) -> sqlite3.Connection:
        connection = connect(*args, **more)
        connection.set_progress_handler(lambda: steps.append(1), 100)
        return connection

    monkeypatch.setattr(sqlite3, "connect", counted)
    store, costs = make(), []
    for part in ("a", "b", "c"):
        steps.clear()
        store.bring([talk(f"{part}{number}") for number in range(300)])
        costs.append(len(steps))
    assert costs[2] < 1.3 * costs[0]


def test_a_full_history_stores_nothing_more_and_deletes_nothing(make: Make) -> None:
    store = make(max_bytes=20_000)
    store.create(talk("x", said("a")))
    before = opened(store, "x")
    for call in (
        lambda: store.append("x", [said("b", "a", "x" * 20_000)], None),
        lambda: store.create(talk("y", said("a", content="x" * 20_000))),
        lambda: store.update("x", Changes(settings={"a": "x" * 20_000})),
        lambda: store.bring([talk("z"), talk("y", said("a", content="x" * 20_000))]),
    ):
        with pytest.raises(HistoryFull, match="OFFGRID_MAX_HISTORY_MB"):
            call()
    assert opened(store, "x") == before
    assert listed(store) == ["x"]
    # Others have their own room, and deleting makes room.
    store.of(Owner("anna")).create(talk("y", said("a", content="x" * 15_000)))
    store.append("x", [said("b", "a", "x" * 15_000, status="running")], None)
    with pytest.raises(HistoryFull):
        store.create(talk("y", said("a", content="x" * 5_000)))
    store.append("x", [said("b", "a", "shorter")], None)
    store.create(talk("y", said("a", content="x" * 5_000)))


def test_the_size_is_that_of_what_is_stored(make: Make, tmp_path: Path) -> None:
    store = make()
    store.create(talk("x", said("a"), said("b", "a", status="running"), title="ä"))
    store.append("x", [said("b", "a", "much longer " * 9)], None)
    store.update("x", Changes(title="Title", settings={"a": 1}))
    store.create(talk("x", said("a"), said("c", "a")))
    with sqlite3.connect(tmp_path / "h.sqlite3") as file:
        (size,) = file.execute("SELECT size FROM conversations").fetchone()
        (bodies,) = file.execute("SELECT sum(length(body)) FROM messages").fetchone()
    file.close()
    assert size == bodies + len(b"Title") + len(b'{"a":1}') + 4 * adding._OVERHEAD


def test_an_import_is_all_or_nothing(store: HistoryStore) -> None:
    store.create(talk("x", said("a", content="Finished.")))
    with pytest.raises(Differs) as caught:
        store.bring([talk("y", said("a")), talk("x", said("b"), said("a", content="Other."))])
    assert caught.value.place == "conversations[1].messages[1].id"
    assert (listed(store), ids(opened(store, "x"))) == (["x"], ["a"])
    done = store.bring([talk("y", said("a")), talk("x", said("b")), talk("y", said("a"))])
    assert (done.created, done.changed, done.unchanged, done.messages) == (1, 1, 1, 2)
    assert done.ids == ("y", "x", "y")


def test_nothing_of_a_deleted_conversation_stays_in_the_files(make: Make, tmp_path: Path) -> None:
    store = make()
    store.create(talk("x", said("a", content=f"I am {SECRET}."), title=SECRET))
    store.create(talk("y", said("a", content="otter")))
    store.delete("x")
    store.close()  # which empties the file -wal
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"otter" in content
    # The index has pieces of three characters, sorted, without their common beginnings.
    for piece in (SECRET.encode(), b"patient"):
        assert piece not in content
    with sqlite3.connect(tmp_path / "h.sqlite3") as file:
        file.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(words, row)")
        terms = {term for (term,) in file.execute("SELECT term FROM terms")}
    file.close()
    assert {"ott", "tte", "ter"} <= terms
    assert "pat" not in terms


def test_everything_is_deleted_while_another_process_uses_the_file(
    make: Make, tmp_path: Path
) -> None:
    store, path = make(), tmp_path / "h.sqlite3"
    store.create(talk("x", said("a", content=SECRET)))
    store.create(talk("y"))
    for end in ("", "-wal", "-2"):
        path.with_name(f"h.sqlite3.damaged{end}").write_text(SECRET)
    count, freed = delete_history(path)
    assert count == 2
    assert freed > 0
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert listed(store) == []
    store.create(talk("z"))
    assert delete_history(tmp_path / "none.sqlite3") == (0, 0)
    assert not (tmp_path / "none.sqlite3").exists()


def test_a_full_disk_loses_nothing_that_was_stored(make: Make, tmp_path: Path) -> None:
    """A limit on the size of the process's files acts on SQLite like a full disk."""
    program = (
        "import sys, pathlib, resource\n"
        "from offgrid.store.history.store import *\n"
        "from offgrid.store.history.message import *\n"
        "from offgrid.errors import StoreFailed\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "store = HistoryStore(pathlib.Path(sys.argv[1]), 1 << 30)\n"
        "store.create(Conversation(id='x'))\n"
        "n = 0\n"
        "try:\n"
        "    for n in range(1000):\n"
        "        text = 'x ' * 1000\n"
        "        store.append('x', [StoredMessage(id=f'm{n}', role='user', content=text)], None)\n"
        "except StoreFailed:\n"
        "    print(n, store.find('x').count)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "h.sqlite3")],
        capture_output=True, text=True, timeout=120, check=True, cwd="/",
    )  # fmt: skip
    count, stored = map(int, result.stdout.split())
    assert count == stored
    assert count > 3
    store = make()
    assert store.append("x", [said("later")], None) is not None
    assert ids(opened(store, "x")) == [*(f"m{number}" for number in range(count)), "later"]


def test_a_damaged_file_is_set_aside(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    store = make()
    for number in range(30):
        store.create(talk(f"x{number}", said("a", content="x" * 500)))
    store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    store = make()
    store.create(talk("new"))
    assert listed(store) == ["new"]
    assert path.with_name("h.sqlite3.damaged").exists()


@pytest.mark.parametrize("table", ["words", "words_data", "words_idx", "words_config"])
@pytest.mark.parametrize("use", ["search", "append", "delete"])
def test_a_damaged_index_costs_no_conversation(
    make: Make, tmp_path: Path, table: str, use: str
) -> None:
    """It is made again: once whole pages are lost, once only what they say is wrong."""
    path = tmp_path / "h.sqlite3"
    store = make()
    for number in range(30):
        store.create(talk(f"x{number}", said("a", content=f"otter {number} {os.urandom(500)!r}")))
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        if table == "words":
            connection.execute("UPDATE words_data SET block = randomblob(length(block))")
            connection.commit()
            places = []
        else:
            places = connection.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
            ).fetchall()
    with path.open("r+b") as file:
        for (page,) in places:
            file.seek((page - 1) * 4096)
            file.write(os.urandom(4096))
    store = make()
    if use == "append":
        assert store.append("x7", [said("b", "a", content="a river")], None) is not None
        assert listed(store, "river") == ["x7"]
    if use == "delete":
        assert store.delete("x0")
    assert sorted(listed(store, "otter")) == sorted(
        f"x{number}" for number in range(use == "delete", 30)
    )
    assert ids(opened(store, "x3")) == ["a"]
    store.close()
    assert not list(tmp_path.glob("*.damaged*"))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO words (words) VALUES ('integrity-check')")


def test_a_deleted_conversation_is_in_no_file(store: HistoryStore, tmp_path: Path) -> None:
    """While the store is open, the file -wal has earlier versions of pages too."""
    store.create(talk("x", said("a", content=SECRET)))
    assert SECRET.encode() in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert store.delete("x")
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_a_conversation_is_deleted_while_another_program_reads(
    store: HistoryStore, tmp_path: Path
) -> None:
    store.create(talk("x", said("a", content=SECRET)))
    with closing(sqlite3.connect(tmp_path / "h.sqlite3", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM messages").fetchone() == (1,)
        assert store.delete("x")
        assert listed(store) == []
    store.create(talk("y"))
    assert store.delete("y")
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_a_file_of_a_later_version_is_not_changed(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreFailed, match="later version"):
        make().create(talk("a"))
    assert list(tmp_path.iterdir()) == [path]


def test_other_users_cannot_read_the_files(make: Make, tmp_path: Path) -> None:
    make().create(talk("a"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes.keys() >= {"h.sqlite3"}
    assert set(modes.values()) == {0o600}


def test_deleting_from_a_large_history_does_not_write_the_whole_index(
    store: HistoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_MANY", 1)
    store.create(talk("x", said("a", content="patient")))
    store.create(talk("y", said("a", content="otter"), said("b", content="river")))
    store.delete("x")
    assert listed(store, "patient") == []
    assert listed(store, "otter") == ["y"]
    assert delete_history(tmp_path / "h.sqlite3")[0] == 1
    assert listed(store, "otter") == []
