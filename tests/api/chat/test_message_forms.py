"""The forms of messages that clients send, and what the template receives."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from support import STARTER, Json
from tiny_vision import pixels, png

from offgrid.api.chat import request as chat_request
from offgrid.api.chat.request import parse_chat
from offgrid.errors import InvalidParameter

URL = f"data:image/png;base64,{base64.b64encode(png(pixels(1))).decode()}"
IMAGE = {"type": "image_url", "image_url": {"url": URL}}
USER = {"role": "user", "content": "Hi"}


def text(content: str) -> Json:
    return {"type": "text", "text": content}


def thinking(content: Any, **fields: Any) -> Json:
    return {"type": "thinking", "thinking": content, **fields}


def received(*messages: Json) -> list[Json]:
    """The messages as the template receives them."""
    numbers = itertools.count()
    request = parse_chat({"model": STARTER, "messages": list(messages)})
    return [message.for_template(numbers) for message in request.messages]


def refused(*messages: Json, **fields: Any) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as caught:
        parse_chat({"model": STARTER, "messages": list(messages), **fields})
    return caught.value


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([text("part one"), text("part two")], "part one\npart two"),
        ([text(""), text("a"), text(""), text("b\n"), text("c")], "a\nb\n\nc"),
        ([text("a")], "a"),
        ([text("")], ""),
        ([text("Is "), IMAGE, text(" like "), IMAGE, IMAGE], ["Is ", 0, " like ", 1, 2]),
        ([text("a"), text("b"), IMAGE, text(""), text("c")], ["a\nb", 0, "c"]),
    ],
)
def test_text_parts_begin_new_lines_except_beside_images(content: Any, expected: Any) -> None:
    (message,) = received({"role": "user", "content": content})
    assert message["content"] == expected


def test_many_parts_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that grows with each part would be copied each time."""
    copied = 0
    join = chat_request._lines

    def counted(texts: Iterable[str]) -> str:
        nonlocal copied
        given = [*texts]
        copied += sum(map(len, given))
        return join(given)

    monkeypatch.setattr(chat_request, "_lines", counted)
    content = [*[text("ab")] * 300, IMAGE, *[text("cd")] * 300]
    (message,) = received({"role": "user", "content": content})
    assert message["content"] == ["\n".join(["ab"] * 300), 0, "\n".join(["cd"] * 300)]
    assert copied == 1200


@pytest.mark.parametrize("role", ["assistant", "tool"])
@pytest.mark.parametrize("fields", [{}, {"content": None}, {"content": []}, {"content": ""}])
def test_an_answer_or_a_result_may_be_empty(role: str, fields: Json) -> None:
    _, message = received(USER, {"role": role, **fields})
    assert message == {"role": role, "content": ""}


def test_an_answer_of_reasoning_alone() -> None:
    for name in ("reasoning_content", "reasoning"):
        _, message = received(USER, {"role": "assistant", "content": None, name: "Hm."})
        assert message == {"role": "assistant", "content": "", "reasoning_content": "Hm."}


@pytest.mark.parametrize("role", ["user", "system", "developer"])
@pytest.mark.parametrize("fields", [{}, {"content": None}, {"content": []}])
def test_other_messages_need_content(role: str, fields: Json) -> None:
    assert refused(USER, {"role": role, **fields}).param == "messages[1].content"


@pytest.mark.parametrize(
    ("message", "content", "reasoning"),
    [
        ({"content": [thinking("Hm."), text("So.")]}, "So.", "Hm."),
        ({"content": [thinking([text("A"), text("B")], closed=True)]}, "", "A\nB"),
        ({"content": [text("1"), thinking("A", signature="x"), text("2"), thinking("B")]},
         "1\n2", "A\nB"),
        # A client may send the same reasoning twice.
        ({"content": [thinking("A"), text("1")], "reasoning_content": "A"}, "1", "A"),
        ({"content": [thinking("A"), text("1")], "reasoning": "A"}, "1", "A"),
    ],
)  # fmt: skip
def test_thinking_parts_are_reasoning(message: Json, content: str, reasoning: str) -> None:
    _, message = received(USER, {"role": "assistant", **message})
    assert (message["content"], message["reasoning_content"]) == (content, reasoning)


def test_where_thinking_and_images_may_be() -> None:
    for role in ("user", "system", "tool"):
        error = refused(USER, {"role": role, "content": [text("a"), thinking("b")]})
        assert (error.param, "assistant messages" in error.message) == (
            "messages[1].content[1]", True,
        )  # fmt: skip
    for role in ("assistant", "system"):
        error = refused(USER, {"role": role, "content": [text("a"), IMAGE]})
        assert (error.param, "user and tool messages" in error.message) == (
            "messages[1].content[1]", True,
        )  # fmt: skip


def test_an_image_in_a_result() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": None}}
    messages = received(
        {"role": "user", "content": [text("What is "), IMAGE]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [text("A screenshot:"), IMAGE], "tool_call_id": "a"},
    )
    assert messages[2]["content"] == ["A screenshot:", 1]


def test_variables_and_documents_reach_the_template() -> None:
    variables = {"controls": {"length": "short"}, "tools_in": ["a", ["b", None]], "n": 1.5}
    documents = [{"title": "A", "text": "B", "tags": ["x"]}]
    fields = {"chat_template_kwargs": variables, "documents": documents}
    request = parse_chat({"model": STARTER, "messages": [USER], **fields})
    assert request.template_variables == {**variables, "documents": documents}
    assert parse_chat({"model": STARTER, "messages": [USER], "documents": []}).documents == []
