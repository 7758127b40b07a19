"""Text to content, reasoning and calls: independent of its pieces, and equal to a naive reader."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from offgrid.chat import bodies
from offgrid.chat.formats import (
    FAMILIES,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_NAMED,
    PHI,
    PYTHON_LIST,
    THINK,
    CallFormat,
    ReasoningFormat,
)
from offgrid.chat.jsonscan import MAX_DEPTH, ObjectScanner
from offgrid.chat.parser import (
    AnswerEvent,
    AnswerForm,
    AnswerParser,
    CallArguments,
    CallStart,
    Content,
    Reasoning,
)

NAMES = ("add", "get_time")
BY_NAME = {family.name: family for family in FAMILIES}

Message = tuple[str, str, list[list[str]]]
"""Content, reasoning, and name and arguments of each call."""


def family_form(name: str) -> AnswerForm:
    family = BY_NAME[name]
    calls = () if family.calls is None else (family.calls,)
    return AnswerForm(
        calls + family.also, (*family.reasoning, THINK)[0], family.wrappers,
        frozenset(family.wrappers), family.channels,
    )  # fmt: skip


FORMS = {
    "hermes": AnswerForm((HERMES,), THINK),
    "hermes, reasoning repeated": AnswerForm(
        (HERMES,), ReasoningFormat("<think>", "</think>", repeated=True)
    ),
    "llama": AnswerForm((LLAMA, PYTHON_LIST), THINK),
    "mistral": AnswerForm((MISTRAL,), THINK),
    "mistral-named": AnswerForm((MISTRAL_NAMED,), THINK),
    "phi": AnswerForm((PHI,), THINK, ("<response>", "</response>")),
    **{
        name: family_form(name)
        for name in ("qwen-xml", "minimax-m3", "glm", "deepseek-v3.2", "kimi-k2", "kimi-k3",
                     "lfm2", "gemma4", "solar", "functionary-3.2", "harmony", "muse")
    },
}  # fmt: skip
by_form = pytest.mark.parametrize("name", list(FORMS))


def message(events: Iterable[AnswerEvent]) -> Message:
    """Combine events into a message; their order must be valid in a stream."""
    content = reasoning = ""
    calls: list[list[str]] = []
    for event in events:
        if isinstance(event, Content):
            content += event.text
        elif isinstance(event, Reasoning):
            reasoning += event.text
        elif isinstance(event, CallStart):
            assert event.index == len(calls)
            calls.append([event.name, ""])
        else:
            assert event.index == len(calls) - 1
            calls[-1][1] += event.text
        assert isinstance(event, CallStart) or event.text
    return content, reasoning, calls


def parse(pieces: Iterable[str], form: AnswerForm, **more: Any) -> Message:
    parser = AnswerParser(form, NAMES, **more)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return message([*events, *parser.finish()])


# --- any text: how it is split, and that nothing is lost or doubled -------------------------------

OBJECT = '{"name": "add", "arguments": {"a": [1, "@ }"], "b": "<tool_call>@"}}'
PIECES: dict[str, list[str]] = {
    "": ["@", "@", " @ ", "\n", " ", "é@", "<", "@{", "}", "[", "]", ",", ";", "add", "(", ")",
         "<think>", "</think>", "{@", '"', "\\"],
    "hermes": [f"<tool_call>\n{OBJECT}\n</tool_call>", "<tool_call>", "</tool_call>", "<tool_",
               f"<tool_call>{OBJECT}", f"<tool_call>[{OBJECT}, {OBJECT}]</tool_call>",
               '<tool_call>{"name": "add", "arguments": {"a": "@', OBJECT,
               '<tool_call>{"name": "add", "arguments": "{\\"x\\": \\"@\\"}"}',
               '<tool_call>{"name": "other", "arguments": {"a": "@"}}</tool_call>',
               '<tool_call>{"name": "add", "name": "@', '<tool_call>{"arguments": {"a": "@"}, '],
    "llama": [OBJECT, f"\n{OBJECT}", f"{OBJECT}; {OBJECT}", "<|python_tag|>", "; ",
              f"<|python_tag|>{OBJECT}", '{"name": "add", "parameters": {"a": "@"', "\n[",
              "[add(a='@')]", "\n[add(a='@'), get_time()]", "[add(a='@", "[other(a='@')]"],
    "mistral": ["[TOOL_CALLS]", f"[TOOL_CALLS][{OBJECT}, {OBJECT}]", f"[TOOL_CALLS][{OBJECT},",
                f"[TOOL_CALLS]{OBJECT}\n", "[TOOL", f"[TOOL_CALLS] [{OBJECT}"],
    "mistral-named": ["[TOOL_CALLS]", '[TOOL_CALLS]add[ARGS]{"x": "@"}', "[TOOL_CALLS]other[ARGS]",
                      '[TOOL_CALLS]add[CALL_ID]q9[ARGS]{"x": "@', "[ARGS]", "[CALL_ID]"],
    "phi": ["<|tool_call|>", f"<|tool_call|>[{OBJECT}]<|/tool_call|>", "<|/tool_call|>",
            f"<|tool_call|>{OBJECT}<|/tool_call|>"],
    "qwen-xml": ["<tool_call>\n<function=add>\n<parameter=a>\n@ @\n</parameter>\n</function>\n"
                 "</tool_call>", "<function=add>", "</function>", "<parameter=b>@", "</parameter>",
                 "<parameter=a>\n", "</tool_call>", "<tool_call>", "<function=other>@",
                 "<function=add>\n<parameter=a>1</parameter><parameter=a>@</parameter>"],
    "minimax-m3": ['<invoke name="add">', "]<]minimax[>[", "</invoke>", "<a>@", "</a>",
                   "<tool_call>", "</tool_call>", "</tool_call", ']<]minimax[>[<invoke name="add">'
                   "]<]minimax[>[<a>@]<]minimax[>[</a>]<]minimax[>[</invoke>"],
    "glm": ["<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>@</arg_value>\n</tool_call>",
            "<tool_call>add", "<arg_key>b</arg_key>", "<arg_value>@", "</arg_value>",
            "</tool_call>", f"<tool_call>{OBJECT}</tool_call>", "<arg_key>@"],
    "deepseek-v3.2": ["<｜DSML｜function_calls>", '<｜DSML｜invoke name="add">',
                      '<｜DSML｜parameter name="a" string="true">@', "</｜DSML｜parameter>",
                      "</｜DSML｜invoke>", "</｜DSML｜function_calls>", '<｜DSML｜parameter name="b'],
    "kimi-k2": ["<|tool_calls_section_begin|>", "<|tool_call_begin|>", "functions.add:0",
                "<|tool_call_argument_begin|>", '{"a": "@"}', "<|tool_call_end|>",
                "<|tool_calls_section_end|>", "<|tool_call_begin|>functions.add:1"
                '<|tool_call_argument_begin|>{"a": "@"}<|tool_call_end|>'],
    "kimi-k3": ["<|open|>tools<|sep|>", '<|open|>call tool="add" index="1"<|sep|>',
                '<|open|>argument key="a" type="string"<|sep|>@<|close|>argument<|sep|>',
                "<|close|>call<|sep|>", "<|close|>tools<|sep|>", "<|open|>response<|sep|>"],
    "lfm2": ["<|tool_call_start|>[add(a='@'), get_time()]<|tool_call_end|>", "<|tool_call_start|>",
             "<|tool_call_end|>", "<|tool_call_start|>[add(", "a='@', ", "<|tool_call_start|>add(b="],
    "gemma4": ['<|tool_call>call:add{a:<|"|>@<|"|>}<tool_call|>', "<|tool_call>call:add{", "a:@,",
               '<|"|>', "<tool_call|>", "<|channel>thought\n@<channel|>", "<channel|>"],
    "solar": ["<|tool_calls|>", "<|tool_call:begin|>x<|tool_call:name|>add<|tool_call:args|>",
              '{"a": "@"}', "<|tool_call:end|>", "<|calls|>", "<|think|>@<|end|>", "<|content|>"],
    "functionary-3.2": [">>>", "all\n@", 'add\n{"a": "@"}', "get_time\n{", ">>>all\n"],
    "harmony": ["<|start|>assistant", "<|channel|>analysis<|message|>@<|end|>", "<|call|>",
                '<|channel|>commentary to=functions.add <|constrain|>json<|message|>{"a": "@"}',
                "<|channel|>final<|message|>@", "<|return|>", "<|channel|>", " to=", "<|message|>"],
    "muse": [" to=self<|message|>@<|eom|>", "<|start|>assistant", "<|message|>", "<|eot|>",
             '<atem:function_calls>\n<atem:invoke name="add">', '<atem:parameter name="a">@'
             "</atem:parameter>", "</atem:invoke>", "</atem:function_calls>"],
}  # fmt: skip
"""Parts of answers in each form, whole and broken; each ``@`` becomes a word of its own."""
PIECES["hermes, reasoning repeated"] = PIECES["hermes"]


@st.composite
def answers(draw: st.DrawFn, name: str) -> str:
    parts = st.sampled_from(PIECES[name] * 2 + PIECES[""])
    text = "".join(draw(st.lists(parts, max_size=10)))
    words = iter(range(10**6))
    return re.sub("@", lambda match: f"w{next(words)}w", text)


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    """A text in pieces, sometimes of one character each."""
    text = draw(texts)
    if draw(st.booleans()):
        return list(text)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@by_form
@given(data=st.data(), thinking=st.booleans(), constrained=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_split_makes_no_difference_and_nothing_is_lost(
    name: str, data: st.DataObject, thinking: bool, constrained: bool
) -> None:
    split_and_whole(name, data, thinking, constrained)


@pytest.mark.slow
@by_form
@given(data=st.data(), thinking=st.booleans(), constrained=st.booleans())
@settings(max_examples=1500, deadline=None)
def test_the_split_makes_no_difference_and_nothing_is_lost_at_length(
    name: str, data: st.DataObject, thinking: bool, constrained: bool
) -> None:
    """The default run covers 25 answers of each form."""
    split_and_whole(name, data, thinking, constrained)


def split_and_whole(name: str, data: st.DataObject, thinking: bool, constrained: bool) -> None:
    pieces, form = data.draw(cut(answers(name))), FORMS[name]
    text = "".join(pieces)
    whole = parse([text], form, thinking=thinking, constrained=constrained)
    assert parse(pieces, form, thinking=thinking, constrained=constrained) == whole
    content, reasoning, calls = whole
    if constrained:
        return
    for _, arguments in calls:
        assert isinstance(json.loads(arguments), dict)
    found = sorted(re.findall(r"w\d+w", f"{content} {reasoning} {calls}"))
    if form.channels is None or not form.channels.header:
        assert found == sorted(re.findall(r"w\d+w", text))
    else:  # what stands in a header is dropped
        assert len(found) == len(set(found))
    if not (calls or reasoning or form.wrappers or form.channels or "think" in text):
        assert content == text


@given(cut(st.text(alphabet="<think>/ \n{}ab", max_size=40)))
def test_no_text_is_lost_without_functions(pieces: list[str]) -> None:
    text = "".join(pieces)
    parser = AnswerParser(FORMS["hermes"])
    events = [event for piece in pieces for event in parser.feed(piece)]
    content, reasoning, calls = message([*events, *parser.finish()])
    assert not calls
    if not re.match(r"\s*<think>", text):
        assert (content, reasoning) == (text, "")


# --- the naive reader of whole texts --------------------------------------------------------------

TAGGED = [HERMES, MISTRAL, PHI]


def naive(text: str, form: CallFormat) -> Message:
    """Split a whole answer of JSON calls after a marker, by looking at one place after another."""
    marker = (form.begin + form.call_begin).strip()
    content, at = "", 0
    calls: list[list[str]] = []
    while at < len(text):
        if text.startswith(marker, at):
            found, at, failed = naive_calls(text, at, at + len(marker), form)
            if found:
                content = content.rstrip()
            calls += found
            content += failed
        else:
            content += text[at]
            at += 1
        if calls and content == "".join(content.split()) == "":
            content = ""
    return content, "", calls


def skip(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def naive_calls(
    text: str, begin: int, at: int, form: CallFormat
) -> tuple[list[list[str]], int, str]:
    """The calls after a marker, where to go on, and the text of a call that failed."""
    calls: list[list[str]] = []
    after = skip(text, at)
    in_list = text[after : after + 1] == "["
    if text[after : after + 1] not in ("[", "{"):
        return [], at, text[begin:at]
    if in_list:
        if text[skip(text, after + 1) :][:1] != "{":
            return [], at, text[begin:at]
        at = after + 1
    while True:
        at = skip(text, at)
        if in_list and calls and text[at : at + 1] == "]":
            in_list, at = False, at + 1
            break
        scanner = ObjectScanner({"name", "function", "tool_name", "arguments", "parameters", "id",
                                 "type", "tool_call_id", "call_id", "index"}, lenient=True)
        at = scanner.scan(text, at)
        call = naive_call(text[at - scanner.position : at]) if scanner.done else None
        if call is None:
            return calls, at, text[begin:at]
        calls.append(call)
        after = skip(text, at)
        closers = [form.call_end.strip()] + ["" if in_list else form.end.strip()]
        if in_list and text[after : after + 1] == ",":
            begin, at = after, after + 1
        elif in_list and text[after : after + 1] == "]":
            in_list, at = False, after + 1
            break
        else:
            break
    return calls, naive_end(text, at, closers), ""


def naive_call(text: str) -> list[str] | None:
    call = json.loads(text, strict=False)
    given = [call[key] for key in ("arguments", "parameters") if key in call]
    name = next((call[key] for key in ("name", "function") if isinstance(call.get(key), str)), "")
    if len(given) > 1 or name not in NAMES:
        return None
    arguments = given[0] if given else {}
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    return [name, json.dumps(arguments or {})] if isinstance(arguments or {}, dict) else None


def naive_end(text: str, at: int, closers: list[str]) -> int:
    for closer in closers:
        after = skip(text, at)
        if closer and text.startswith(closer, after):
            at = after + len(closer)
        elif closer and closer.startswith(text[after:]):
            at = len(text)
    return skip(text, at)
