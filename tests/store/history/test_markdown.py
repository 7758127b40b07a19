"""Markdown of a conversation is read as it was written, and errors name the line."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from variants import examples, few

from offgrid.store.history.markdown import (
    InvalidMarkdown,
    parse_markdown,
    written_message,
    written_title,
)
from offgrid.store.history.message import Conversation, StoredMessage

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PIECES = st.sampled_from(
    ["\n", "\n\n", "## User", "## Tool ", "### Answer", "### Reasoning", "\\## User", "\\\\",
     "<!-- part {", "} -->", '<!-- {"id":"x"} -->', '<!-- offgrid {"id":"x"} -->', "# t", "a", " ",
     "\r", "-->", "--", "![image](a)", "\u2028", "```"]
)  # fmt: skip
TEXT = st.lists(PIECES, max_size=8).map("".join) | ANY
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=2)
PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT),
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url, "detail": "low"}}, TEXT),
    st.builds(lambda more: {**more, "type": "audio"}, OBJECT),
    st.builds(lambda more: {**more, "type": "text"}, OBJECT),
)
FIELDS = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "tool", "system"]),
        "content": st.none() | TEXT | st.lists(PARTS, max_size=3),
        "reasoning": st.none() | TEXT,
        "tool_calls": st.none() | st.lists(OBJECT, max_size=2),
        "tool_call_id": st.none() | st.just("c--1"),
        "status": st.sampled_from(["done", "running", "stopped", "failed"]),
        "model": st.none() | ANY,
        "created_at": st.none() | st.integers(0, 1 << 40),
        "data": OBJECT,
    }
)
TITLE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10)


def chain(all_fields: list[dict[str, Any]]) -> list[StoredMessage]:
    parents = [None, *(f"m{number}" for number in range(len(all_fields)))]
    return [
        StoredMessage(id=f"m{number}", parent=parents[number], **fields)
        for number, fields in enumerate(all_fields)
    ]


def written(title: str, messages: list[StoredMessage], **fields: Any) -> str:
    return written_title(title, fields) + "".join(map(written_message, messages))


def check_branch(title: str, fields: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    messages = chain(fields)
    raw = msgspec.Raw(msgspec.json.encode(settings))
    text = written(title, messages, id="x", pinned=True, created_at=5, settings=raw)
    found = parse_markdown(text)
    assert found == Conversation(
        id="x", title=title, pinned=True, created_at=5, settings=settings, messages=messages
    )
    if "\r" not in text:  # an editor of Windows
        assert parse_markdown("\ufeff" + text.replace("\n", "\r\n")) == found


@pytest.mark.parametrize("n", few(1, [30, 300]))
def test_a_branch_is_read_as_it_was_written(n: int) -> None:
    examples(n, check_branch, TITLE, st.lists(FIELDS, min_size=1, max_size=4), OBJECT)


def test_it_is_readable() -> None:
    answer = [
        {"type": "text", "text": "See:"},
        {"type": "image_url", "image_url": {"url": "data:,x"}},
    ]
    fields: list[dict[str, Any]] = [
        {"role": "user", "content": "Do otters swim?\n\n## User"},
        {"role": "assistant", "content": answer, "reasoning": "Hm."},
    ]
    assert written("Otters", chain(fields), id="x") == (
        '# Otters\n\n<!-- offgrid {"version":1,"id":"x"} -->\n\n'
        '## User\n\n<!-- {"id":"m0"} -->\n\nDo otters swim?\n\n\\## User\n\n'
        '## Assistant\n\n<!-- {"id":"m1"} -->\n\n### Reasoning\n\nHm.\n\n### Answer\n\n'
        "<!-- part {} -->\n\nSee:\n\n"
        '<!-- part {"type":"image_url","image_url":{"url":null}} -->\n\n![image](data:,x)\n\n'
    )


def test_a_file_written_by_hand() -> None:
    found = parse_markdown("# A talk\n## User\nHello!\n\n## Assistant\n\n  Hi.\n\nWell?\n\n\n")
    assert found.title == "A talk"
    assert [(one.role, one.content, one.parent) for one in found.messages] == [
        ("user", "Hello!", None), ("assistant", "Hi.\n\nWell?", "msg_1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "line 1: the text has no heading"),
        ("# T\n\nBefore.\n\n## User\n", "line 3: text before the first heading"),
        ("# T\n<!-- offgrid {x} -->\n## User\n", "line 2: the comment is not JSON"),
        ('<!-- offgrid {"version":2} -->\n## User\n', "line 1: a later version"),
        ('<!-- offgrid {"version":"x"} -->\n## User\n', "line 1: a later version"),
        ('<!-- offgrid {"pinned":1} -->\n## User\n', "line 1: Expected `bool`"),
        ('## User\n\n<!-- {"id":7} -->\n\nx\n', "line 1: Expected `str`"),
        ('# T\n\n## User\n\n<!-- {"wrong":7} -->\n\nx\n', "line 3: Object contains unknown field"),
        ("## User\nx\n### Answer\n", "line 3: text stands before '### Answer'"),
        ("## User\n<!-- part {\n", "line 2: the comment of a part does not end"),
        ('## User\n<!-- part {"type":"audio"} -->\nx\n', "line 2: text stands below a part"),
    ],
)
def test_errors_name_the_line(text: str, error: str) -> None:
    with pytest.raises(InvalidMarkdown) as caught:
        parse_markdown(text)
    assert str(caught.value).startswith(error)
