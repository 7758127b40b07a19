"""The store of conversations: items, pages, limits shared with responses, files of version 1."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import together

from offgrid.errors import StoreFailed
from offgrid.store.conversations import ItemRepeated, ItemUnknown
from offgrid.store.file import Item, TooLong
from offgrid.store.responses import ChainUnfinished, ResponseStore, StoredResponse

EVERYTHING = 1 << 30
VERSION_1 = """
CREATE TABLE responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, previous TEXT,
    used INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX responses_by_use ON responses (used, size);
CREATE TABLE items (
    response INTEGER NOT NULL REFERENCES responses ON DELETE CASCADE, position INTEGER NOT NULL,
    output INTEGER NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (response, position)
);
CREATE INDEX items_by_id ON items (id);
INSERT INTO responses VALUES (1, 'a', NULL, 1, 8, x'7b7d');
INSERT INTO items VALUES (1, 0, 0, 'msg_1', x'6869'), (1, 1, 1, 'msg_2', x'796f');
PRAGMA user_version = 1;
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    store = ResponseStore(tmp_path / "r.sqlite3", 100, EVERYTHING)
    yield store
    store.close()


def items(*ids: str, filling: str = "") -> list[Item]:
    return [Item(id, f"{id}{filling}".encode()) for id in ids]


def response(id: str, owner: str | None = None, previous: str | None = None) -> StoredResponse:
    inputs, outputs = tuple(items(f"in_{id}")), tuple(items(f"out_{id}"))
    return StoredResponse(id, previous, b"{}", inputs, () if owner else outputs, owner)


def test_a_conversation_grows(store: ResponseStore) -> None:
    conversations = store.conversations
    conversations.create("c", b"{}", items("1", "2"))
    assert conversations.add("c", items("3"))
    assert conversations.items("c", EVERYTHING) == [b"1", b"2", b"3"]
    assert conversations.items("d", EVERYTHING) is None
    assert not conversations.add("d", items("4"))
    assert conversations.remove("c", "2")
    assert not conversations.remove("c", "2")
    assert conversations.item("c", "3") == b"3"
    assert conversations.item("c", "2") is None
    assert store.items(["3", "2"], EVERYTHING) == {"3": b"3"}
    assert conversations.update("c", b"{1}")
    assert conversations.get("c") == b"{1}"
    assert conversations.delete("c")
    assert conversations.get("c") is None
    assert not conversations.update("c", b"{}")
    assert not conversations.delete("c")


def test_the_size_is_that_of_all_items(store: ResponseStore) -> None:
    conversations = store.conversations
    conversations.create("c", b"{}", items("1", "2", filling="x" * 9))
    conversations.update("c", b"{...}")
    conversations.remove("c", "1")
    assert conversations.items("c", 15) == [b"2xxxxxxxxx"]
    with pytest.raises(TooLong):
        conversations.items("c", 14)


def test_an_item_is_in_a_conversation_once(store: ResponseStore) -> None:
    conversations = store.conversations
    conversations.create("c", b"{}", items("1"))
    with pytest.raises(ItemRepeated):
        conversations.add("c", items("2", "1"))
    assert conversations.items("c", EVERYTHING) == [b"1"]
    assert conversations.extend("c", items("2", "1"))
    assert conversations.items("c", EVERYTHING) == [b"1", b"2"]
    with pytest.raises(ItemRepeated):
        conversations.create("d", b"{}", items("1", "1"))
    assert conversations.get("d") is None


@pytest.mark.slow
@given(st.integers(1, 12), st.integers(0, 12), st.booleans())
def test_pages_hold_every_item_once(limit: int, count: int, latest_first: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ResponseStore(Path(folder) / "r.sqlite3", 100, EVERYTHING)
        ids = [str(n) for n in range(count)]
        store.conversations.create("c", b"{}", items(*ids))
        seen: list[str] = []
        more = True
        while more:
            after = seen[-1] if seen else None
            page = store.conversations.page("c", after, limit, latest_first=latest_first)
            assert page is not None
            seen += [item.id for item in page.items]
            more = page.more
        assert seen == (ids[::-1] if latest_first else ids)
        with pytest.raises(ItemUnknown):
            store.conversations.page("c", "x", limit, latest_first=latest_first)
        assert store.conversations.page("d", None, limit, latest_first=latest_first) is None
        store.close()


def test_a_response_and_its_conversation_are_stored_together(store: ResponseStore) -> None:
    store.conversations.create("c", b"{}", items("1"))
    store.put(response("a"), "c")
    assert store.conversations.items("c", EVERYTHING) == [b"1", b"in_a", b"out_a"]
    store.put(response("b"), "deleted meanwhile")
    assert store.get("b") == response("b")


def test_a_response_is_stored_before_it_is_finished(store: ResponseStore) -> None:
    store.conversations.create("c", b"{}", [])
    store.put(response("a", "somebody"))
    unfinished = store.get("a")
    assert unfinished is not None
    assert unfinished.owner == "somebody"
    with pytest.raises(ChainUnfinished):
        store.conversation("a", EVERYTHING)
    for _ in range(2):
        store.finish(response("a"), "c")
    assert store.get("a") == response("a")
    assert store.conversation("a", EVERYTHING) == [b"in_a", b"out_a"]
    assert store.conversations.items("c", EVERYTHING) == [b"in_a", b"out_a"]
    store.finish(response("evicted"))
    assert store.get("evicted") == response("evicted")


def test_responses_and_conversations_share_the_limits(tmp_path: Path) -> None:
    store = ResponseStore(tmp_path / "r.sqlite3", 3, 1000)
    store.put(response("a"))
    store.conversations.create("c", b"{}", items("1"))
    store.put(response("b"))
    store.put(response("d"))
    assert store.get("a") is None
    assert store.conversations.add("c", items("2"))  # now it is the latest
    store.put(response("e"))
    assert store.get("b") is None
    assert store.conversations.get("c") == b"{}"
    store.conversations.add("c", items("3", filling="x" * 990))
    assert [store.get(id) for id in "bde"] == [None] * 3
    for call in (
        lambda: store.conversations.add("c", items("4", filling="x" * 1000)),
        lambda: store.conversations.create("f", b"{}", items("5", filling="x" * 1000)),
    ):
        with pytest.raises(StoreFailed, match="more than the store may hold"):
            call()
    assert len(store.conversations.items("c", EVERYTHING) or ()) == 3
    assert store.conversations.get("f") is None
    store.close()


def test_a_file_of_version_1_is_extended(tmp_path: Path) -> None:
    """Several servers may open it at the same moment."""
    path = tmp_path / "r.sqlite3"
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1)
    connection.close()
    stores = [ResponseStore(path, 100, EVERYTHING) for _ in range(4)]
    together([lambda store=store: store.get("a") for store in stores])
    first = stores[0]
    assert first.conversation("a", EVERYTHING) == [b"hi", b"yo"]
    first.conversations.create("c", b"{}", items("1"))
    first.put(response("b", previous="a"), "c")
    assert stores[1].conversation("b", EVERYTHING) == [b"hi", b"yo", b"in_b", b"out_b"]
    assert stores[1].conversations.items("c", EVERYTHING) == [b"1", b"in_b", b"out_b"]
    for store in stores:
        store.close()


def test_many_threads_extend_one_conversation(store: ResponseStore) -> None:
    store.conversations.create("c", b"{}", [])

    def extend(thread: int) -> None:
        for number in range(10):
            store.put(response(f"{thread}.{number}"), "c")

    together([lambda thread=thread: extend(thread) for thread in range(4)])
    found = store.conversations.items("c", EVERYTHING)
    assert found is not None
    assert len(found) == 80
    pairs = [(a.decode()[3:], b.decode()[4:]) for a, b in zip(found[::2], found[1::2], strict=True)]
    assert all(a == b for a, b in pairs)


def test_a_store_that_is_off_has_no_conversations(tmp_path: Path) -> None:
    conversations = ResponseStore(tmp_path / "r.sqlite3", 0, EVERYTHING).conversations
    assert not conversations.enabled
    assert conversations.get("c") is None
    assert conversations.items("c", 1) is None
    assert conversations.page("c", None, 1, latest_first=False) is None
    assert conversations.item("c", "1") is None
    assert not conversations.add("c", items("1"))
    assert not conversations.extend("c", items("1"))
    assert not conversations.update("c", b"{}")
    assert not conversations.remove("c", "1")
    assert not conversations.delete("c")
    assert list(tmp_path.iterdir()) == []
