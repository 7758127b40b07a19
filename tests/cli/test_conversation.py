"""The conversation of the terminal chat: options, images, and its file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from tiny_vision import pixels, png

from offgrid.cli.talk.conversation import Conversation
from offgrid.cli.talk.keyboard import is_open, unquoted
from offgrid.errors import InvalidParameter, OffgridError


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(pixels(1)))
    talk = Conversation("Be brief.", {"temperature": 0.5})
    talk.add_image(str(tmp_path / "a.png"))
    talk.ask("What is this?")
    talk.messages.append({"role": "assistant", "content": "An otter."})
    file = tmp_path / "talk.json"
    talk.save(file, "seeing")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other = Conversation()
    assert other.load(file) == "seeing"
    assert other.body("seeing") == talk.body("seeing")
    # A conversation may be saved again, and nothing else is overwritten.
    other.save(file, "seeing")
    for content in ("a diary", "{}", '{"kind": "something"}'):
        (tmp_path / "diary.txt").write_text(content, encoding="utf-8")
        with pytest.raises(OffgridError, match="holds something else"):
            talk.save(tmp_path / "diary.txt", "seeing")
        assert (tmp_path / "diary.txt").read_text(encoding="utf-8") == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "diary.txt", "talk.json"]


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[1]",
        '{"kind": "offgrid conversation"}',
        '{"kind": "offgrid conversation", "model": "", "system": "", "options": {}, "messages": 1}',
        '{"kind": "offgrid conversation", "model": "", "system": "", "options": {"a": 1},'
        ' "messages": []}',
        '{"kind": "offgrid conversation", "model": "", "system": "", "options": {},'
        ' "messages": [{"role": "nobody"}]}',
    ],
)
def test_a_file_that_holds_no_conversation_changes_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "talk.json").write_text(content, encoding="utf-8")
    talk = Conversation("Be brief.")
    talk.ask("Hello!")
    before = json.dumps(talk.body(""))
    with pytest.raises(OffgridError, match=r"talk\.json"):
        talk.load(tmp_path / "talk.json")
    assert json.dumps(talk.body("")) == before
    with pytest.raises(OffgridError, match=r"none\.json cannot be read"):
        talk.load(tmp_path / "none.json")
    with pytest.raises(OffgridError, match="cannot be written"):
        talk.save(tmp_path / "none" / "talk.json", "")


def test_options_are_checked_when_they_are_set() -> None:
    talk = Conversation()
    for name, value, message in (
        ("temprature", 1, "Did you mean temperature"),
        ("temperature", "hot", "temperature"),
        ("stream", True, "set by the chat itself"),
        ("top_logprobs", 2, "needs logprobs"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            talk.set(name, value)
    assert talk.options == {}


def test_a_question_is_taken_back_with_its_answer() -> None:
    talk = Conversation()
    assert talk.take_back() is None
    talk.ask("Hello!")
    talk.messages.append({"role": "assistant", "content": "Hi!"})
    assert talk.take_back() == {"role": "user", "content": "Hello!"}
    assert talk.messages == []


def test_images_are_checked_when_they_are_added(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image", encoding="utf-8")
    with pytest.raises(InvalidParameter):
        Conversation().add_image(str(tmp_path / "a.png"))


def test_quotes() -> None:
    assert [is_open(text) for text in ('"""', '"""a', ' """a"""', "a", '"""""')] == [
        True, True, False, False, True,
    ]  # fmt: skip
    assert unquoted(' """\na\nb\n""" ') == "a\nb"
    assert unquoted("a b ") == "a b "
