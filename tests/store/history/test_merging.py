"""Devices that change one conversation at the same time lose nothing.

Each device does steps, and its requests arrive in any order with those of the others; a request
whose answer was lost arrives again, also late. The history is compared with a small model of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from variants import examples, few

from offgrid.store.history.message import Conflict, Conversation, Json, StoredMessage, merged
from offgrid.store.history.rows import Changes
from offgrid.store.history.store import HistoryStore

ID = "shared"
ROOT = StoredMessage(id="root", role="user", content="Hello!", created_at=1)


def message(id: str, parent: str, content: str, status: Any = "done") -> StoredMessage:
    return StoredMessage(
        id=id, parent=parent, role="assistant", content=content, status=status, created_at=1
    )


@st.composite
def devices(draw: DrawFn) -> list[list[tuple[str, Any]]]:
    """The steps of up to three devices: each answers, edits and streams in separate branches."""
    all_steps = []
    for device in range(draw(st.integers(1, 3))):
        steps: list[tuple[str, Any]] = []
        parents = ["root"]
        for number in range(draw(st.integers(1, 5))):
            kind = draw(st.sampled_from(["say", "stream", "rename", "pin", "head", "settings"]))
            id, parent = f"d{device}_{number}", draw(st.sampled_from(parents))
            if kind == "say":
                steps.append(("append", [message(id, parent, f"text of {id}")]))
                parents.append(id)
            elif kind == "stream":
                lengths = sorted(draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
                steps += [("append", [message(id, parent, "x" * n, "running")]) for n in lengths]
                end = draw(st.sampled_from(["done", "stopped", "failed", "running"]))
                steps.append(("append", [message(id, parent, "x" * (lengths[-1] + 1), end)]))
                parents.append(id)
            else:
                value = {
                    "rename": {"title": f"title {id}"},
                    "pin": {"pinned": draw(st.booleans())},
                    "head": {"head": draw(st.sampled_from(parents))},
                    "settings": {"settings": {"by": id}},
                }[kind]  # fmt: skip
                steps.append(("update", value))
        all_steps.append(steps)
    return all_steps


@st.composite
def arrivals(draw: DrawFn) -> tuple[list[list[tuple[str, Any]]], list[tuple[str, Any]]]:
    """The steps of the devices, and the order in which they arrive, with repetitions."""
    steps = draw(devices())
    left = [list(one) for one in steps]
    arrived: list[tuple[str, Any]] = []
    seen: list[tuple[str, Any]] = []
    while any(left):
        queue = draw(st.sampled_from([one for one in left if one]))
        step = queue.pop(0)
        arrived.append(step)
        if step[0] == "append":
            seen.append(step)
        if seen and draw(st.booleans()):
            arrived.append(draw(st.sampled_from(seen)))
    return steps, arrived


def play(store: HistoryStore, steps: Sequence[tuple[str, Any]]) -> None:
    for kind, value in steps:
        if kind == "append":
            assert store.append(ID, value, None) is not None
        else:
            assert store.update(ID, Changes(**value)) is not None


def expected(steps: Sequence[tuple[str, Any]]) -> tuple[dict[str, StoredMessage], Json]:
    """The model: the furthest version of each message, and the last value of each field."""
    messages = {"root": ROOT}
    fields: Json = {"title": "", "pinned": False, "settings": {}, "head": "root"}
    for kind, value in steps:
        if kind == "update":
            fields |= value
            continue
        for one in value:
            old = messages.get(one.id)
            if old is None:
                fields["head"] = one.id
            if old is None or (old.status == "running" and (
                one.status != "running" or len(one.content) > len(old.content)
            )):  # fmt: skip
                messages[one.id] = one
    return messages, fields


def check_devices(
    arrivals: tuple[list[list[tuple[str, Any]]], list[tuple[str, Any]]],
) -> None:
    steps, arrived = arrivals
    with tempfile.TemporaryDirectory() as folder:
        store = HistoryStore(Path(folder) / "h.sqlite3", 1 << 30)
        store.create(Conversation(id=ID, messages=[ROOT]))
        since, copied = 0, dict[str, StoredMessage]()
        for step in arrived:
            play(store, [step])
            found = store.get(ID, since)
            assert found is not None
            since = found.info.revision
            for stored in found.messages:  # a device that only reads what has changed
                one = msgspec.json.decode(stored.body, type=StoredMessage)
                copied[one.id] = one
        store.close()
    messages, fields = expected(arrived)
    assert copied == messages
    ids = {
        one.id for device in steps for kind, value in device if kind == "append" for one in value
    }
    assert messages.keys() == {"root", *ids}
    info = found.info
    assert info.count == len(messages)
    assert msgspec.json.decode(info.settings) == fields["settings"]
    assert (info.title, info.pinned, info.head) == (
        fields["title"], fields["pinned"], fields["head"],
    )  # fmt: skip


@pytest.mark.parametrize("n", few(1, [8, 60]))
def test_devices_lose_nothing(n: int) -> None:
    examples(n, check_devices, arrivals())


versions = st.builds(
    message,
    st.just("m"),
    st.just("root"),
    st.text("ab", max_size=3),
    st.sampled_from(["running", "running", "done", "failed"]),
)


def check_order(versions: list[StoredMessage], chance: Any) -> None:
    finished = [one for one in versions if one.status != "running"]
    versions = [one for one in versions if one.status == "running"] + finished[:1]
    results = []
    for _ in range(3):
        chance.shuffle(versions)
        result = versions[0]
        for one in [*versions, *versions]:
            result = merged(result, one)
        results.append(result)
    assert results[0] == results[1] == results[2]
    if finished:
        assert results[0] == finished[0]


@pytest.mark.parametrize("n", few(1, [50, 400]))
def test_the_order_of_versions_does_not_matter(n: int) -> None:
    shuffled = st.randoms(use_true_random=False)
    examples(n, check_order, st.lists(versions, min_size=1, max_size=5), shuffled)


def test_two_finished_versions_are_a_conflict() -> None:
    old = message("m", "root", "A")
    assert merged(old, message("m", "root", "A")) is old
    assert merged(old, message("m", "root", "A longer one", "running")) is old
    for other in (message("m", "root", "B"), message("m", "root", "A", "failed")):
        with pytest.raises(Conflict, match="finished"):
            merged(old, other)


def test_the_order_of_keys_is_no_difference() -> None:
    old = StoredMessage(id="m", role="user", data={"a": 1, "b": 2}, created_at=1)
    new = StoredMessage(id="m", role="user", data={"b": 2, "a": 1})
    assert merged(old, new) is old
