"""Every family's calls and reasoning are read: whole, in pieces, cut short, and beside text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from answer_events import combined, form_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from offgrid.chat.answer_parser import (
    AnswerForm,
    AnswerParser,
)
from offgrid.chat.arguments import json_type
from offgrid.chat.formats import FAMILIES, GEMMA_QUOTE, CallFormat
from offgrid.chat.writing import write_calls

from .samples import FUNCTIONS, NOW, OSLO, SAMPLES, TIME, Sample

BY_NAME = {family.name: family for family in FAMILIES}
Result = tuple[str, str, list[tuple[str, Any]]]
"""Content, reasoning, and name and arguments of each call."""

by_family = pytest.mark.parametrize("name", list(BY_NAME))
by_sample = pytest.mark.parametrize(
    ("name", "sample"),
    [
        pytest.param(name, sample, id=f"{name}-{n}")
        for name, samples in SAMPLES.items()
        for n, sample in enumerate(samples)
    ],
)


FORMS = {name: form_of(family) for name, family in BY_NAME.items()}


def parse(
    form: AnswerForm, pieces: Iterable[str], functions: Any = FUNCTIONS, **more: Any
) -> Result:
    parser = AnswerParser(form, functions, **more)
    events = [event for piece in pieces for event in parser.feed(piece)]
    content, reasoning, calls = combined([*events, *parser.finish()])
    return content, reasoning, [(name, json.loads(text)) for name, text in calls]


def expected(sample: Sample) -> Result:
    return sample.content, sample.reasoning, list(sample.calls)


@by_family
def test_every_family_has_samples_of_each_kind(name: str) -> None:
    samples = SAMPLES[name]
    assert list(samples[0].calls) == [OSLO]
    assert any(list(sample.calls) == [OSLO, TIME] for sample in samples)
    assert any(list(sample.calls) == [NOW] for sample in samples)
    assert any("Blåbær" in str(sample.calls) for sample in samples)
    assert any(sample.content for sample in samples)
    family = BY_NAME[name]
    assert not family.reasoning or any(sample.reasoning for sample in samples)


def test_no_sample_is_without_its_family() -> None:
    assert SAMPLES.keys() == BY_NAME.keys()


@by_sample
def test_a_sample_says_the_same_however_it_is_split(name: str, sample: Sample) -> None:
    in_two_parts(name, sample, stride(name, sample))


@by_sample
def test_a_truncated_answer_has_whole_calls_and_nothing_twice(name: str, sample: Sample) -> None:
    truncated(name, sample, stride(name, sample))


@pytest.mark.slow
@by_sample
def test_a_sample_is_split_and_truncated_at_every_place(name: str, sample: Sample) -> None:
    """The default run takes every place in one sample of a family, every seventh in others."""
    in_two_parts(name, sample, 1)
    truncated(name, sample, 1)


def stride(name: str, sample: Sample) -> int:
    return 1 if sample is SAMPLES[name][1] else 7


def in_two_parts(name: str, sample: Sample, step: int) -> None:
    form, text = FORMS[name], sample.text
    assert parse(form, [text], thinking=sample.thinking) == expected(sample)
    assert parse(form, text, thinking=sample.thinking) == expected(sample)
    for place in range(1, len(text), step):
        pieces = [text[:place], text[place:]]
        assert parse(form, pieces, thinking=sample.thinking) == expected(sample), pieces


def truncated(name: str, sample: Sample, step: int) -> None:
    text, ends = sample.text, [0]
    for end in range(0, len(text), step):
        content, reasoning, calls = parse(FORMS[name], [text[:end]], thinking=sample.thinking)
        assert calls == list(sample.calls)[: len(calls)]
        assert len(calls) >= len(ends) - 1
        while len(ends) <= len(calls):
            ends.append(call_end(name, sample, len(ends)))
        # After the content so far there may be a call that is incomplete, but no complete one.
        assert begun(content, sample.content, text[ends[-1] : end]), (content, text[:end])
        assert begun(reasoning, sample.reasoning, text[:end]), (reasoning, text[:end])


def call_end(name: str, sample: Sample, number: int) -> int:
    """The number of characters after which a call is complete."""
    parser = AnswerParser(FORMS[name], FUNCTIONS, thinking=sample.thinking)
    for end, char in enumerate(sample.text, 1):
        parser.feed(char)
        if parser.calls == number:
            return end
    raise AssertionError(f"fewer calls than {number}")


def begun(found: str, whole: str, raw: str) -> bool:
    """Whether a text is the beginning of ``whole``, and after that the end of ``raw``."""
    return any(
        whole.startswith(found[:place].rstrip()) and raw.endswith(found[place:])
        for place in range(len(found) + 1)
    )


@by_sample
def test_text_before_and_after_calls_is_content(name: str, sample: Sample) -> None:
    family = BY_NAME[name]
    begins = not sample.reasoning and not sample.thinking and family.channels is None
    before = "Before.\n" if begins else ""
    after = " After." if sample.calls else ""
    found = parse(FORMS[name], [before + sample.text + after], thinking=sample.thinking)
    content = before + sample.content + after
    assert "".join(found[0].split()) == "".join(content.split())
    assert found[1:] == expected(sample)[1:]


@pytest.mark.parametrize("calls", [[OSLO], [OSLO, TIME]], ids=["call", "calls"])
@pytest.mark.parametrize(
    ("before", "after"), [("", ""), (" ", ""), ("", " "), ("\n\n", "\n"), ("", "\n\n"), ("\t", " ")]
)
@pytest.mark.parametrize("name", [f.name for f in FAMILIES if f.calls and not f.channels])
def test_white_space_around_calls(name: str, before: str, after: str, calls: list[Any]) -> None:
    """What the model wrote stays between two texts, without what the format has before a call."""
    form = BY_NAME[name].calls
    assert form is not None
    before += "\n" * form.bare  # Such a call begins a line.
    written = write_calls(form, calls).strip()
    answer, text = AnswerForm((form,)), f"Sure{before}{form.space_before}{written}{after}Done"
    expected = f"Sure{before + after or chr(10)}Done"
    for pieces in ([text], text, [text[:9], text[9:]]):
        assert parse(answer, pieces) == (expected, "", calls), text
    assert parse(answer, [f"Sure{before}{written}{after}"]) == ("Sure", "", calls)
    assert parse(answer, [f"{written}{after}Done"]) == ("Done", "", calls)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("functionary-3.2", 'all\nSure>>>get_weather\n{"city": "Oslo"}>>>all\nDone'),
        ("harmony", "<|channel|>commentary<|message|>Sure<|end|><|start|>assistant<|channel|>"
                    'commentary to=functions.get_weather json<|message|>{"city": "Oslo"}<|call|>'
                    "<|start|>assistant<|channel|>final<|message|>Done<|return|>"),
        ("muse", "<|message|>Sure<|eom|><|start|>assistant to=get_weather<|message|>"
                 '<atem:invoke name="get_weather"><atem:parameter name="city">Oslo'
                 "</atem:parameter></atem:invoke><|eom|><|start|>assistant<|message|>Done<|eot|>"),
    ],
)  # fmt: skip
def test_an_empty_line_separates_messages_in_channels(name: str, text: str) -> None:
    for pieces in ([text], text):
        assert parse(FORMS[name], pieces) == ("Sure\n\nDone", "", [OSLO])


@by_sample
def test_a_function_that_is_not_offered_stays_content(name: str, sample: Sample) -> None:
    family = BY_NAME[name]
    content, _, calls = parse(
        FORMS[name], [sample.text], {"unknown": None}, thinking=sample.thinking
    )
    assert calls == []
    if not (sample.reasoning or sample.thinking or family.wrappers or family.channels):
        assert content == sample.text or sample.text.startswith("<|channel>")
    for called, arguments in sample.calls:
        assert called in content
        for value in arguments.values():
            assert not isinstance(value, str) or value.isalpha() <= (value in content)


@by_family
def test_without_functions_calls_are_content(name: str) -> None:
    for sample in SAMPLES[name]:
        assert parse(FORMS[name], [sample.text], {}, thinking=sample.thinking)[2] == []


# --- what the table writes is read ----------------------------------------------------------------

KEYS = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12) | st.text("<>/{}[]\"'\\|:,= \n\r\té", max_size=8)
    | st.sampled_from(["", "7", "true", "null", "{}", "</", "<|", "]<]", "```", "</tool_call>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
CALLS = st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=3)


def schema_of(value: Any) -> dict[str, Any]:
    """The schema with exactly the types of a value; a list's items have one type."""
    schema: dict[str, Any] = {"type": json_type(value)}
    if isinstance(value, dict):
        schema["properties"] = {key: schema_of(item) for key, item in value.items()}
    if isinstance(value, list) and value:
        schema["items"] = schema_of(value[0])
    return schema


def texts_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in texts_in(item)]


def ambiguous(form: CallFormat, arguments: dict[str, Any]) -> bool:
    """Whether the format itself cannot express some arguments.

    The values of ``parameters`` have no escapes: a text may hold the marker after a value only if
    neither an argument nor the end of the call seems to follow; this excludes the marker. Gemma's
    quotes have none either. Members in tags have neither, an empty tag within a list or an object
    is no list, a tag named ``item`` belongs to a list, and the items of a list have one type.
    """
    texts = [text for value in arguments.values() for text in texts_in(value)]
    if form.body == "gemma":
        return any(GEMMA_QUOTE in text + "|>" for text in texts)
    inner = form.parameters
    if inner is None:
        return False
    if inner.nested:
        return any(inner.nested in text for text in texts) or any(map(untagged, arguments.values()))
    written = [
        value if isinstance(value, str) else json.dumps(value) for value in arguments.values()
    ]
    return any(inner.after.strip() in text for text in written)


def untagged(value: Any) -> bool:
    if isinstance(value, list):
        kinds = {json_type(item) for item in value}
        mixed = len(kinds) > 1 or any(isinstance(item, (list, dict)) for item in value)
        return mixed or any(map(untagged, value))
    return isinstance(value, dict) and any(
        key == "item" or item in ("", [], {}) or untagged(item) for key, item in value.items()
    )


by_format = pytest.mark.parametrize("name", [item.name for item in FAMILIES if item.calls])


@by_format
@given(many=CALLS, place=st.integers(0, 400))
@settings(max_examples=10, deadline=None)
def test_what_a_format_writes_is_read(name: str, many: list[dict[str, Any]], place: int) -> None:
    written_and_read(name, many, place)


@pytest.mark.slow
@by_format
@given(many=CALLS, place=st.integers(0, 400))
@settings(max_examples=500, deadline=None)
def test_what_a_format_writes_is_read_at_length(
    name: str, many: list[dict[str, Any]], place: int
) -> None:
    """The default run covers 10 answers of each format."""
    written_and_read(name, many, place)


def written_and_read(name: str, many: list[dict[str, Any]], place: int) -> None:
    form = BY_NAME[name].calls
    assert form is not None
    assume(not any(ambiguous(form, arguments) for arguments in many))
    calls = [(f"call_{n}", arguments) for n, arguments in enumerate(many)]
    text = write_calls(form, calls)
    functions = {called: schema_of(arguments) for called, arguments in calls}
    answer = AnswerForm((form,))
    assert parse(answer, [text[:place], text[place:]], functions) == ("", "", calls)
    assert parse(answer, text, functions) == ("", "", calls)
