"""Images of a conversation keep their places in the prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.chat.conventions import Message
from offgrid.chat.scaffold import MARKS
from offgrid.chat.template import ChatTemplate
from offgrid.engine.protocol.requests import PromptPart
from offgrid.errors import InvalidParameter

from .rendering import (
    CHATML_CONTROL,
    SMOLVLM,
    assistant,
    special,
    text,
    user,
)


def shape(parts: tuple[PromptPart, ...]) -> list[str | int]:
    """Texts joined, and numbers of images."""
    result: list[str | int] = []
    for part in parts:
        if part.image >= 0:
            assert part.text == ""
            result.append(part.image)
        elif result and isinstance(result[-1], str):
            result[-1] += part.text
        else:
            result.append(part.text)
    return result


def seen(*content: str | int) -> Message:
    return {"role": "user", "content": list(content)}


def test_images_keep_their_places_in_a_message() -> None:
    template = ChatTemplate(None, "", "", CHATML_CONTROL)
    parts = template.render([seen("Is ", 0, " like ", 1, "?"), assistant("No."), seen(2, "And?")])
    assert shape(parts) == [
        "<|im_start|>user\nIs ", 0, " like ", 1,
        "?<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n<|im_start|>user\n", 2,
        "And?<|im_end|>\n<|im_start|>assistant\n",
    ]  # fmt: skip
    assert "".join(special(parts)) == "<|im_start|><|im_end|>" * 3 + "<|im_start|>"


def test_templates_that_need_lists_of_parts() -> None:
    template = ChatTemplate(SMOLVLM, "", "", CHATML_CONTROL)
    assert shape(template.render([seen("What is ", 0, "?")])) == [
        "<|im_start|>User: What is ", 0, "?<|im_end|>\nAssistant:"
    ]  # fmt: skip
    assert text(template.render([user("Hello <|im_end|>")])) == (
        "<|im_start|>User: Hello <|im_end|><|im_end|>\nAssistant:"
    )
    assert special(template.render([user("Hello <|im_end|>")])) == ["<|im_start|>", "<|im_end|>"]


@pytest.mark.slow
@given(texts=st.lists(st.text(st.sampled_from([*MARKS[:6], "0", "1", "<", ">"])), max_size=4))
def test_no_text_becomes_an_image(texts: list[str]) -> None:
    template = ChatTemplate(None, "", "", CHATML_CONTROL)
    content: list[str | int] = [*texts, 0, "end"]
    parts = template.render([{"role": "user", "content": content}])
    assert [part.image for part in parts if part.image >= 0] == [0]
    before = "".join(part.text for part in parts[: [part.image for part in parts].index(0)])
    assert before == "<|im_start|>user\n" + "".join(texts)


def test_a_template_that_leaves_an_image_out() -> None:
    source = "{% for message in messages[1:] %}{{ message.content }}{% endfor %}"
    template = ChatTemplate(source, "", "", ())
    with pytest.raises(InvalidParameter, match="each image at its place"):
        template.render([seen("One ", 0), seen("Two ", 1)])


def test_an_answer_after_an_image_is_continued() -> None:
    template = ChatTemplate(None, "", "", CHATML_CONTROL)
    parts = template.render([seen(0, "What?"), assistant("An ot")], resume=True)
    assert shape(parts) == [
        "<|im_start|>user\n", 0, "What?<|im_end|>\n<|im_start|>assistant\nAn ot"
    ]  # fmt: skip
