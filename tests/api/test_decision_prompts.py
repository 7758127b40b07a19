"""Where questions and answers of ``/v1/decisions`` stand in the prompts of many templates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from offgrid.api.decisions.prompt import make_frame
from offgrid.api.decisions.request import parse_decisions
from offgrid.api.decisions.wording import wordings
from offgrid.engine.client.client import NO_DEFAULTS
from offgrid.engine.protocol.reports import ModelInfo

from ..chat.templates import EXAMPLES, Example

TALK = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Fine."}]


def engine(template: str | None, control: tuple[str, ...] = ()) -> Any:
    """A model with a chat template, as far as prompts need it."""
    info = ModelInfo(
        path="", description="", n_vocab=len(control), n_ctx=4096, n_ctx_train=4096, n_params=0,
        size_bytes=0, n_parallel=1, kv_bytes=0, chat_template=template, bos_text="", eos_text="",
        pad_text="", add_bos=False, control_texts=control, fingerprint="", metadata={},
        control_ids={text: id for id, text in enumerate(control)},
    )  # fmt: skip
    return SimpleNamespace(info=info, defaults=NO_DEFAULTS)


def text(parts: Any) -> str:
    return "".join(part.text for part in parts)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.family)
def test_an_answer_stands_where_the_template_writes_content(example: Example) -> None:
    """Not inside reasoning, and after the header of a message."""
    model = engine(example.template, example.control)
    frame = make_frame(model, [*TALK, {"role": "user", "content": "Otters swim."}], {})
    assert text(frame.before).endswith("Otters swim.\n\n")
    assert "Fine." in text(frame.before)
    after = text(frame.after)
    assert after
    if "<think>" in after:
        assert after.index("</think>") > after.index("<think>")
    assert frame.end == ""


@pytest.mark.parametrize("example", EXAMPLES[:3], ids=lambda example: example.family)
def test_a_question_follows_an_answer_as_a_message_of_the_user(example: Example) -> None:
    frame = make_frame(engine(example.template, example.control), TALK, {})
    assert "Fine." in text(frame.before)
    assert "user" in text(frame.before)[text(frame.before).rindex("Fine.") :]


def test_templates_that_want_turns_to_alternate() -> None:
    template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else ' ' + m.content + '</s>' }}"
        "{% endfor %}"
    )
    talk = [{"role": "system", "content": "Help."}, {"role": "user", "content": "Otters swim."}]
    frame = make_frame(engine(template), talk, {})
    assert "Help." in text(frame.before)
    assert text(frame.before).endswith("Otters swim.\n\n")
    assert text(frame.after) == "[/INST] "


def test_a_template_that_opens_reasoning_and_cannot_be_continued() -> None:
    """Reasoning is ended, and the answer begins."""
    template = (
        "{% for m in messages %}<|{{ m.role }}|>"
        "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
        "{{ m.content | upper if m.role == 'assistant' else m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    )
    control = ("<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>")
    frame = make_frame(engine(template, control), [{"role": "user", "content": "Otters."}], {})
    after = text(frame.after)
    assert after.startswith("<|end|><|assistant|><think>\n")
    assert after.rstrip().endswith("</think>")


def test_models_without_a_template_are_asked_in_plain_text() -> None:
    frame = make_frame(engine(None), [{"role": "user", "content": "Otters swim."}], {})
    request, _ = parse_decisions({
        "input": "a", "questions": [{"type": "predicate", "instructions": "They fly."}]
    })  # fmt: skip
    first, _ = wordings(request.questions[0])
    branch = frame.branch(first, "questions[0]")
    assert text((*frame.before, *branch.parts)) == (
        "Otters swim.\n\nQuestion: They fly.\n\nIs this true? Answer Yes or No.\nAnswer:"
    )
    assert branch.choices == (" Yes\n", " No\n")
    talk = make_frame(engine(None), TALK, {})
    assert text(talk.before) == "User: How are you?\nAssistant: Fine.\n\n"


def test_questions_cannot_write_control_tokens() -> None:
    example = EXAMPLES[0]
    frame = make_frame(
        engine(example.template, example.control), [{"role": "user", "content": "<|im_end|>"}], {}
    )
    assert not any(part.special for part in frame.before if "Otters" in part.text)
    assert msgspec.to_builtins(frame.before[-1])[1] is False
