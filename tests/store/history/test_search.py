"""The search: the same results with the index and without it, and as a simple reference finds."""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from variants import examples, few

from offgrid.store.history import file, search
from offgrid.store.history.message import MAX_SEARCHED, Conversation, StoredMessage
from offgrid.store.history.rows import Changes
from offgrid.store.history.store import HistoryStore

Make = Callable[..., HistoryStore]
WORDS = st.sampled_from(
    ["otter", "OTTER", "Straße", "STRASSE", "über", "u\u0308ber", "ab", "a", '"', "AND", "*", "a:b",
     "%", "_", "日本語", "İstanbul", "\u017fo", "\0", "-x", "ΣΊΣΥΦΟΣ", "σίσυφος"]
)  # fmt: skip
TEXTS = st.lists(WORDS, max_size=4).map(" ".join) | st.text("abß ", max_size=8)


def titled(title: str, *texts: str) -> Conversation:
    messages = [
        StoredMessage(id=f"m{number}", role="user", content=text)
        for number, text in enumerate(texts)
    ]
    return Conversation(id="x", title=title, messages=messages)


def without_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, this SQLite has no FTS5."""
    monkeypatch.setattr(file, "has_trigrams", lambda: False)


def folded(text: str) -> str:
    plain = unicodedata.normalize("NFC", text.replace("\0", " ")).casefold()
    return unicodedata.normalize("NFC", plain)


@pytest.mark.parametrize("n", few(1, [12, 60]))
@pytest.mark.parametrize("indexed", [True, False])
def test_the_results_are_those_of_a_simple_reference(
    make: Make, monkeypatch: pytest.MonkeyPatch, indexed: bool, n: int
) -> None:
    assert file.has_trigrams(), "the tests need a Python whose SQLite has FTS5"
    if not indexed:
        without_index(monkeypatch)
    store = make()

    def check(title: str, texts: list[str], query: str) -> None:
        store.create(titled(title, *texts))
        found = bool(store.page(query, None, 9)[0])
        store.delete("x")
        words = folded(query).split()
        assert found == all(any(w in folded(text) for text in (title, *texts)) for w in words)

    examples(n, check, TEXTS, st.lists(TEXTS, max_size=3), TEXTS)


def test_a_search_ends_when_its_result_is_not_wanted(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_index(monkeypatch)
    store = make()
    texts = ["The otter swims."] * 2000
    store.create(titled("T", *texts))
    asked: list[None] = []

    def wanted() -> bool:
        asked.append(None)
        return len(asked) < 3

    with pytest.raises(search.SearchEnded):
        store.page("lion", None, 9, wanted)
    assert len(asked) == 3
    # The connection is as before.
    assert store.page("otter", None, 9)[0]
    assert len(asked) == 3


def test_the_index_is_used(store: HistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []
    condition = search.condition

    def watched(connection: sqlite3.Connection, query: str) -> tuple[str, list[str]]:
        asked.append(condition(connection, query))
        return asked[-1]

    monkeypatch.setattr("offgrid.store.history.store.condition", watched)
    store.create(titled("T", "The otter swims."))
    assert store.page("swims ot", None, 9)[0]
    assert asked[0][0].count("MATCH") == 1  # two characters are too few for the index
    assert store.page("", None, 9)[0]
    assert asked[1] == ("1", [])


def test_only_texts_are_searched(store: HistoryStore) -> None:
    parts = [
        {"type": "text", "text": "Look at this"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,b3R0ZXI"}},
        {"type": "strange", "text": 7},
    ]
    told = StoredMessage(
        id="a", role="user", content=parts, reasoning="fox", data={"note": "river"}
    )
    long = StoredMessage(id="b", role="user", content="x" * MAX_SEARCHED + "end")
    store.create(Conversation(id="x", messages=[told, long]))
    found = [bool(store.page(word, None, 9)[0]) for word in ("look", "b3R0", "fox", "river", "end")]
    assert found == [True, False, False, False, False]


def test_changes_are_found_and_old_texts_are_not(store: HistoryStore) -> None:
    store.create(titled("Old title", "text"))
    store.update("x", Changes(title="New title"))
    running = StoredMessage(id="r", role="assistant", content="beginning", status="running")
    store.append("x", [running], None)
    store.append("x", [StoredMessage(id="r", role="assistant", content="another text")], None)
    found = [bool(store.page(word, None, 9)[0]) for word in ("old", "new", "beginning", "another")]
    assert found == [False, True, False, True]
    store.delete("x")
    assert store.page("another", None, 9) == ([], False)


def test_programs_with_another_sqlite_may_use_the_file(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without FTS5 the index is left alone, and made again when FTS5 is back."""
    make().create(titled("T", "first"))
    with monkeypatch.context() as patch:
        without_index(patch)
        without = make()
        without.append("x", [StoredMessage(id="n", role="user", content="second")], None)
        assert [bool(without.page(word, None, 9)[0]) for word in ("first", "second")] == [True] * 2
        without.close()
    store = make()
    assert [bool(store.page(word, None, 9)[0]) for word in ("first", "second")] == [True] * 2


def test_an_index_that_another_program_left_behind_is_not_used(make: Make, tmp_path: Path) -> None:
    store = make()
    store.create(titled("T", "first"))
    with sqlite3.connect(tmp_path / "h.sqlite3") as other:
        for name in file._TRIGGERS:
            other.execute(f"DROP TRIGGER {name}")
    other.close()
    store.append("x", [StoredMessage(id="n", role="user", content="second")], None)
    assert [bool(store.page(word, None, 9)[0]) for word in ("first", "second")] == [True] * 2
