"""Text to content, reasoning and calls: independent of its pieces, and equal to a naive reader."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offgrid.chat.formats import HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, PHI, THOUGHTS, ToolFormat
from offgrid.chat.jsonscan import MAX_DEPTH, ObjectScanner
from offgrid.chat.parser import (
    AnswerEvent,
    AnswerParser,
    CallArguments,
    CallStart,
    Content,
    Reasoning,
)

NAMES = ("add", "get_time")
THINK = THOUGHTS[0]
FORMATS = [HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, PHI]
by_format = pytest.mark.parametrize("tools", FORMATS, ids=lambda tools: tools.name)

Message = tuple[str, str, list[list[str]]]
"""Content, reasoning, and name and arguments of each call."""


def message(events: Iterable[AnswerEvent]) -> Message:
    """Combine events into a message; their order must be valid in a stream."""
    content = reasoning = ""
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, Content):
            content += event.text
        elif isinstance(event, Reasoning):
            assert not content
            assert not calls
            reasoning += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            calls.append([event.name, ""])
        else:
            assert event.index == len(calls) - 1
            calls[-1][1] += event.text
        assert isinstance(event, CallStart) or event.text
    return content, reasoning, calls


def parse(pieces: Iterable[str], tools: ToolFormat | None, **more: Any) -> Message:
    parser = AnswerParser(tools, NAMES, THINK, **more)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return message([*events, *parser.finish()])


# --- the naive reader of whole texts --------------------------------------------------------------


def naive(text: str, tools: ToolFormat, thinking: bool) -> Message:
    """Split a whole answer into content, reasoning and calls, using indices."""
    reasoning = ""
    begun = re.match(r"\s*<think>", text)
    if thinking or begun:
        start = 0 if thinking or begun is None else begun.end()
        thought, end, rest = text[start:].partition(THINK.end)
        if not end:
            return "", thought.lstrip(), []
        reasoning, text = thought.strip(), rest.lstrip()
    content = ""
    calls: list[list[str]] = []
    at, fresh = 0, True  # fresh: only white space since the beginning or a call
    while at < len(text):
        bare = tools.begin_optional and fresh and text[at] == "{"
        if bare or text.startswith(tools.begin, at):
            found, end, go_on = read_calls(text, at, bare, tools)
            if found:
                content = content.rstrip()
            calls += found
            content += text[end:go_on]
            fresh = end == go_on
            at = go_on
        else:
            content += text[at]
            fresh = fresh and text[at].isspace()
            at += 1
    return content, reasoning, calls


def skip(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def read_calls(
    text: str, begin: int, bare: bool, tools: ToolFormat
) -> tuple[list[list[str]], int, int]:
    """The calls at a marker, their end, and where to continue; content is between the two."""
    at = begin if bare else begin + len(tools.begin)
    if tools.array:
        at = skip(text, at)
        if text[at : at + 1] != "[":
            return [], begin, at
        at += 1
    calls: list[list[str]] = []
    while True:
        call, at = read_named(text, at, tools) if tools.head_end else read_call(text, at)
        if call is None:
            return calls, begin, at
        calls.append(call)
        begin = skip(text, at)
        if not tools.array or text[begin : begin + 1] != ",":
            break
        at = begin + 1
    for closer in ("]" if tools.array else "", tools.end, tools.separator):
        at = skip(text, at)
        if closer and text.startswith(closer, at):
            at += len(closer)
        elif closer and closer.startswith(text[at:]):  # the answer was truncated
            at = len(text)
    at = skip(text, at)
    return calls, at, at


def read_call(text: str, at: int) -> tuple[list[str] | None, int]:
    at = skip(text, at)
    scanner = ObjectScanner({"name", "arguments", "parameters", "id", "type"})
    end = scanner.scan(text, at)
    if not scanner.done:
        return None, end
    call = json.loads(text[at:end])
    values = {key: text[at + a : at + b] for key, (a, b) in scanner.members.items()}
    arguments = values.get("arguments", values.get("parameters", "{}"))
    both = "arguments" in call and "parameters" in call
    ok = call.get("name") in NAMES if isinstance(call.get("name"), str) else False
    return ([call["name"], arguments] if ok and not both and arguments[0] == "{" else None), end


def read_named(text: str, at: int, tools: ToolFormat) -> tuple[list[str] | None, int]:
    head = re.compile(r"[\w\-\[\]]{0,160}", re.ASCII).match(text, at)
    assert head is not None
    end = text.find(tools.head_end, at, head.end())
    if end < 0:
        return None, head.end()
    name = text[at:end].split("[CALL_ID]")[0]
    at = end + len(tools.head_end)
    whole = re.fullmatch(
        r"[\w-]{1,64}(\[CALL_ID\][\w-]{1,64})?", text[head.start() : end], re.ASCII
    )
    if name not in NAMES or whole is None:
        return None, at
    scanner = ObjectScanner()
    end = scanner.scan(text, at)
    return ([name, text[at:end]] if scanner.done else None), end


def fragments(tools: ToolFormat) -> st.SearchStrategy[str]:
    """Answers composed of whole and broken elements of the format."""
    call = '{"name": "add", "parameters": {"a": [1, "}"], "b": "<tool_call>"}}'
    call = call.replace("parameters", tools.arguments)
    pieces = [
        tools.begin, tools.end, tools.head_end, tools.separator, "[", "]", ",", " ", "\n", "{",
        "}", "[CALL_ID]x1", "add", "get_time", "add[ARGS]{}", "add[CALL_ID]q9[ARGS]{\"a\": 2}",
        f"{tools.begin}add[ARGS]{{}}", f"{tools.begin}add[CALL_ID]q9[ARGS]{{",
        f"{tools.begin}add[[", f"</think>\n{call}",
        "Hi", "é", "<", "[TOOL", "<think>", "</think>", "<th", call, f"{tools.begin}{call}",
        f"{tools.begin}\n{call}\n{tools.end}", f"{tools.begin}[{call}, {call}]{tools.end}",
        f"{tools.begin}[{call}", '{"name": "get_time"}', '{"name": "nothing", "arguments": {}}',
        '{"arguments": {}, "name": "add"}', '{"name": "add", "arguments": {}, "parameters": {}}',
        '{"name": "add", "name": "add"}', '{"name": "add", "arguments": "x"}', '{"name": 5}',
        '{"name": "add", "arguments": {"a": 0', '{"name": ', '"arguments": ', '"add"', '{"x": 1}',
    ]  # fmt: skip
    return st.lists(st.sampled_from(pieces), max_size=10).map("".join)


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    """A text in pieces, sometimes of one character each."""
    text = draw(texts)
    if draw(st.booleans()):
        return list(text)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@by_format
@given(data=st.data(), thinking=st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_parser_equals_the_naive_reader(
    tools: ToolFormat, data: st.DataObject, thinking: bool
) -> None:
    beside_the_naive_reader(tools, data, thinking)


@pytest.mark.slow
@by_format
@given(data=st.data(), thinking=st.booleans())
@settings(max_examples=1500, deadline=None)
def test_the_parser_equals_the_naive_reader_at_length(
    tools: ToolFormat, data: st.DataObject, thinking: bool
) -> None:
    """The default run covers 80 answers of each format."""
    beside_the_naive_reader(tools, data, thinking)


def beside_the_naive_reader(tools: ToolFormat, data: st.DataObject, thinking: bool) -> None:
    pieces = data.draw(cut(fragments(tools)))
    assert parse(pieces, tools, thinking=thinking) == naive("".join(pieces), tools, thinking)


@by_format
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_with_a_grammar_it_is_the_same_however_it_is_cut(
    tools: ToolFormat, data: st.DataObject
) -> None:
    cut_with_a_grammar(tools, data)


@pytest.mark.slow
@by_format
@given(data=st.data())
@settings(max_examples=1000, deadline=None)
def test_with_a_grammar_it_is_the_same_however_it_is_cut_at_length(
    tools: ToolFormat, data: st.DataObject
) -> None:
    """The default run covers 50 answers of each format."""
    cut_with_a_grammar(tools, data)


def cut_with_a_grammar(tools: ToolFormat, data: st.DataObject) -> None:
    pieces = data.draw(cut(fragments(tools)))
    text = "".join(pieces)
    cut_up = parse(pieces, tools, constrained=True)
    assert cut_up == parse([text], tools, constrained=True)
    content, reasoning, calls = parse([text], tools)
    if len(calls) == len(cut_up[2]):  # no call was incomplete, so the grammar made no difference
        assert cut_up[1:] == (reasoning, calls)
        assert len(cut_up[0]) <= len(content)


@given(cut(st.text(alphabet="<think>/ \n{}ab", max_size=40)))
def test_no_text_is_lost_without_tools(pieces: list[str]) -> None:
    text = "".join(pieces)
    content, reasoning, calls = parse(pieces, None)
    assert not calls
    if not re.match(r"\s*<think>", text):
        assert (content, reasoning) == (text, "")


# --- examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        (HERMES, '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'),
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>\n'),
        (LLAMA, '{"name": "add", "parameters": {"a": 1}}'),
        (LLAMA, '<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": 1}}'),
        (MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]'),
        (MISTRAL_NAMED, '[TOOL_CALLS]add[ARGS]{"a": 1}'),
        (MISTRAL_NAMED, '[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{"a": 1}'),
        (PHI, '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]<|/tool_call|>'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("constrained", [False, True])
def test_one_call_in_each_format(tools: ToolFormat, text: str, constrained: bool) -> None:
    for pieces in ([text], list(text)):
        assert parse(pieces, tools, constrained=constrained) == ("", "", [["add", '{"a": 1}']])


def test_text_reasoning_and_calls_together() -> None:
    text = (
        "\n<think>\nThe user wants two.\n</think>\n\nI look.\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": "</tool_call>"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_time"}\n</tool_call>\n Done. \n'
    )
    calls = [["add", '{"a": "</tool_call>"}'], ["get_time", "{}"]]
    assert parse(text, HERMES) == ("I look.Done. \n", "The user wants two.", calls)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "add", "arguments": {"a": 1}', "<tool_call>", "a <tool_call> b",
        '<tool_call>{"name": "add", "arguments": {"a": 01}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": {"a": "\n"}}</tool_call>', "<tool_", " \n",
        "<tool_call>" * 50, '{"name": "add", "arguments": {}}',
    ],
)  # fmt: skip
def test_text_that_is_not_a_call_stays_content_unchanged(text: str) -> None:
    assert parse([text], HERMES) == parse(text, HERMES) == (text, "", [])


def test_only_a_possible_marker_is_held_back() -> None:
    parser = AnswerParser(HERMES, NAMES, THINK)
    assert parser.feed("<thin") == []
    assert parser.feed("g> a <tool") == [Content("<thing> a")]
    assert parser.feed("box> b") == [Content(" <toolbox> b")]
    assert parser.feed("<tool_call> {") == []
    assert parser.feed('"na') == []
    assert parser.feed('me"') == []
    assert parser.feed("5 ") == [Content('<tool_call> {"name"5')]
    assert parser.finish() == [Content(" ")]


def test_with_a_grammar_arguments_come_as_they_are_written() -> None:
    parser = AnswerParser(HERMES, NAMES, constrained=True)
    assert parser.feed('<tool_call>{"name": "add", "arguments": ') == []
    assert parser.feed("{") == [CallStart(0, "add"), CallArguments(0, "{")]
    assert parser.feed('"a": "x') == [CallArguments(0, '"a": "x')]
    assert parser.feed('"}}</tool_') == [CallArguments(0, '"}')]
    assert parser.finish() == []
    cut_short = AnswerParser(HERMES, NAMES, constrained=True)
    cut_short.feed('<tool_call>{"name": "add", "arguments": {"a": ')
    assert (cut_short.finish(), cut_short.calls) == ([], 1)


def test_text_after_the_last_permitted_call_is_ignored() -> None:
    call = '<tool_call>{"name": "get_time"}</tool_call>'
    parser = AnswerParser(HERMES, NAMES, max_calls=1)
    events = [event for char in f"Hi {call} and {call}" for event in parser.feed(char)]
    assert message([*events, *parser.finish()]) == ("Hi", "", [["get_time", "{}"]])
    assert parser.done


def test_reasoning_that_the_prompt_opened() -> None:
    assert parse("\nHm. <tool_call>", HERMES, thinking=True) == ("", "Hm. <tool_call>", [])
    assert parse("Hm.\n</think>\n\nYes.", None, thinking=True) == ("Yes.", "Hm.", [])


@pytest.mark.parametrize(
    "unit",
    ["<tool_call>", '<tool_call>{"name": "', "<tool_call>{", " ", '{"a":', "<tool_call>[", "\\",
     '<tool_call>{"name": "add", "arguments": {"a": "', "x <tool_call"],
)  # fmt: skip
def test_no_character_is_read_again_and_again(unit: str) -> None:
    parser = AnswerParser(HERMES, NAMES, THINK)
    for _ in range(500):
        parser.feed(unit)
        # The only text that the next call examines again:
        assert len(parser._held) < len(HERMES.begin)
    parser.finish()


# --- the scanner ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.booleans(), st.integers(0, 3))
def test_every_json_object_is_followed_to_its_end(
    value: dict[str, Any], ascii: bool, indent: int
) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent or None)
    scanner = ObjectScanner()
    for offset, char in enumerate(text):
        assert not scanner.done
        assert scanner.scan(char) == 1
        assert scanner.position == offset + 1
    assert scanner.done
    members = {key: json.loads(text[a:b]) for key, (a, b) in scanner.members.items()}
    assert members == json.loads(text)
    assert ObjectScanner().scan(text + "}tail") == len(text)


@given(
    st.dictionaries(st.text(max_size=4), JSON, min_size=1, max_size=3).map(json.dumps),
    st.integers(0, 200),
    st.sampled_from(list('{}[]",:\\0-1.eEtfn u\n\x00é')),
)
@example('{"a": 1}', 6, "0")
@example('{"a": [1]}', 9, ",")
def test_the_scanner_is_done_when_a_json_parser_accepts(text: str, place: int, char: str) -> None:
    place = place % (len(text) + 1)
    damaged = text[:place] + char + text[place:]
    scanner = ObjectScanner()
    whole = scanner.scan(damaged) == len(damaged)
    try:
        json.loads(damaged)
        valid = damaged.startswith("{")
    except ValueError:
        valid = False
    assert valid == (scanner.done and not damaged[scanner.position :].strip() and
                     (whole or not damaged[scanner.position :].strip(" \t\r\n")))  # fmt: skip
    if scanner.failed:  # it must not have failed at an earlier character
        before = ObjectScanner()
        before.scan(damaged[: scanner.position])
        assert not before.failed


def test_depth_is_bounded() -> None:
    scanner = ObjectScanner()
    assert scanner.scan('{"a":' * 1000) == 5 * MAX_DEPTH
    assert scanner.failed
