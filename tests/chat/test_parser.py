"""Text to content, reasoning and calls: independent of its pieces, and equal to a naive reader."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from answer_events import Message, combined, form_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from variants import few

from offgrid.chat.answer_parser import (
    AnswerForm,
    AnswerParser,
    CallArguments,
    CallStart,
    Content,
)
from offgrid.chat.call_bodies import Body
from offgrid.chat.call_parser import CallParser
from offgrid.chat.formats import (
    FAMILIES,
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_NAMED,
    PHI,
    PYTHON_LIST,
    THINK,
    ReasoningFormat,
)
from offgrid.chat.jsonscan import MAX_DEPTH, ObjectScanner

NAMES = ("add", "get_time")
BY_NAME = {family.name: family for family in FAMILIES}


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
        name: form_of(BY_NAME[name])
        for name in ("qwen-xml", "minimax-m3", "glm", "deepseek-v3.2", "kimi-k2", "kimi-k3",
                     "lfm2", "gemma4", "solar", "functionary-3.2", "harmony", "muse")
    },
}  # fmt: skip
by_form = pytest.mark.parametrize("name", list(FORMS))


def parse(pieces: Iterable[str], form: AnswerForm, **more: Any) -> Message:
    parser = AnswerParser(form, NAMES, **more)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return combined([*events, *parser.finish()])


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
                      "</｜DSML｜invoke>", "</｜DSML｜function_calls>",
                      '<｜DSML｜parameter name="b'],
    "kimi-k2": ["<|tool_calls_section_begin|>", "<|tool_call_begin|>", "functions.add:0",
                "<|tool_call_argument_begin|>", '{"a": "@"}', "<|tool_call_end|>",
                "<|tool_calls_section_end|>", "<|tool_call_begin|>functions.add:1"
                '<|tool_call_argument_begin|>{"a": "@"}<|tool_call_end|>'],
    "kimi-k3": ["<|open|>tools<|sep|>", '<|open|>call tool="add" index="1"<|sep|>',
                '<|open|>argument key="a" type="string"<|sep|>@<|close|>argument<|sep|>',
                "<|close|>call<|sep|>", "<|close|>tools<|sep|>", "<|open|>response<|sep|>"],
    "lfm2": ["<|tool_call_start|>[add(a='@'), get_time()]<|tool_call_end|>", "<|tool_call_start|>",
             "<|tool_call_end|>", "<|tool_call_start|>[add(", "a='@', ",
             "<|tool_call_start|>add(b="],
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
    markers = () if form.reasoning is None else (form.reasoning.begin, form.reasoning.end)
    marked = thinking or any(marker.strip() in text for marker in markers)
    if not (calls or marked or form.wrappers or form.channels):
        assert content == text


@given(cut(st.text(alphabet="<think>/ \n{}ab", max_size=40)))
def test_no_text_is_lost_without_functions(pieces: list[str]) -> None:
    text = "".join(pieces)
    parser = AnswerParser(FORMS["hermes"])
    events = [event for piece in pieces for event in parser.feed(piece)]
    content, reasoning, calls = combined([*events, *parser.finish()])
    assert not calls
    if not re.match(r"\s*</?think>", text):
        assert (content, reasoning) == (text, "")


# --- the naive reader of whole texts: Hermes' calls, one by one -----------------------------------

KEYS = {"name", "function", "tool_name", "arguments", "parameters", "id", "type", "tool_call_id",
        "call_id", "index"}  # fmt: skip


def naive(text: str, thinking: bool) -> Message:
    """Split a whole answer into content, reasoning and calls, using indices."""
    reasoning = ""
    begun = re.match(r"\s*<think>", text)
    if begun or thinking:
        thought, end, rest = text[begun.end() if begun else 0 :].partition("</think>")
        if not end:
            return "", thought.lstrip(), []
        reasoning, text = thought.strip(), rest.lstrip()
    elif text.lstrip().startswith("</think>"):
        text = text.lstrip().removeprefix("</think>").lstrip()
    content, at = "", 0
    before = ""  # white space before the last calls
    gap: str | None = None  # white space between the content so far and more of it
    calls: list[list[str]] = []
    while at < len(text):
        if not text.startswith("<tool_call>", at):
            if gap is not None and text[at].isspace():
                gap += text[at]
            else:
                content += between(content, gap) + text[at]
                gap = None
            at += 1
            continue
        start = skip(text, at + len("<tool_call>"))
        scanner = ObjectScanner(KEYS, lenient=True)
        end = scanner.scan(text, start) if text[start : start + 1] == "{" else start
        call = naive_call(text[start:end]) if scanner.done else None
        if call is None:
            content += between(content, gap) + text[at:end]
            gap = None
            at = end
            continue
        calls.append(call)
        if gap is None:
            before = content[len(content.rstrip()) :].removesuffix("\n")
            content = content.rstrip()
        at = skip(text, end)
        if "</tool_call>".startswith(text[at : at + len("</tool_call>")]):
            end = at = min(at + len("</tool_call>"), len(text))
        at = skip(text, end)
        gap = before + text[end:at]
    return content, reasoning, calls


def between(content: str, gap: str | None) -> str:
    """What stands between content and more of it after calls."""
    return "" if gap is None or not content else gap or "\n"


def skip(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def naive_call(text: str) -> list[str] | None:
    call = json.loads(text, strict=False)
    if ("arguments" in call and "parameters" in call) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    arguments = {} if arguments is None else arguments
    fits = call["name"] in NAMES and isinstance(arguments, dict)
    return [call["name"], json.dumps(arguments)] if fits else None


@given(data=st.data(), thinking=st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_parser_equals_the_naive_reader(data: st.DataObject, thinking: bool) -> None:
    beside_the_naive_reader(data, thinking)


@pytest.mark.slow
@given(data=st.data(), thinking=st.booleans())
@settings(max_examples=5000, deadline=None)
def test_the_parser_equals_the_naive_reader_at_length(data: st.DataObject, thinking: bool) -> None:
    """The default run covers 100 answers."""
    beside_the_naive_reader(data, thinking)


def beside_the_naive_reader(data: st.DataObject, thinking: bool) -> None:
    pieces = data.draw(cut(answers("hermes").map(lambda text: text.replace("[", "("))))
    content, reasoning, calls = parse(pieces, FORMS["hermes"], thinking=thinking)
    calls = [[name, json.dumps(json.loads(arguments))] for name, arguments in calls]
    assert (content, reasoning, calls) == naive("".join(pieces), thinking)


# --- examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>\n'),
        ("llama", '{"name": "add", "parameters": {"a": 1}}'),
        ("llama", '<|python_tag|>{"type": "function", "name": "add", "parameters": {"a": 1}}'),
        ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "abcdefghi"}]'),
        ("mistral-named", '[TOOL_CALLS]add[ARGS]{"a": 1}'),
        ("phi", '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]<|/tool_call|>'),
        ("harmony", '<|channel|>commentary to=functions.add json<|message|>{"a": 1}<|call|>'),
        ("kimi-k2", '<|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{"a": 1}'),
        ("gemma4", "<|tool_call>call:add{a:1}<tool_call|>"),
    ],
)
@pytest.mark.parametrize("constrained", [False, True])
def test_one_call_in_several_forms(form: str, text: str, constrained: bool) -> None:
    for pieces in ([text], list(text)):
        assert parse(pieces, FORMS[form], constrained=constrained) == (
            "", "", [["add", '{"a": 1}']]
        )  # fmt: skip


def test_text_reasoning_and_calls_together() -> None:
    text = (
        "\n<think>\nThe user wants two.\n</think>\n\nI look.\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": "</tool_call>"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_time"}\n</tool_call>\n Done. \n'
    )
    calls = [["add", '{"a": "</tool_call>"}'], ["get_time", "{}"]]
    assert parse(text, FORMS["hermes"]) == ("I look.\n Done. \n", "The user wants two.", calls)


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "add", "arguments": {"a": 1}', "<tool_call>", "a <tool_call> b",
        '<tool_call>{"name": "add", "arguments": {"a": 01}}</tool_call>',
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "add", "arguments": "[1]"}</tool_call>',
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": NaN}"}</tool_call>',
        '<tool_call>{"name": "add", "arguments": 0}</tool_call>',
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>', "<tool_call>[]</tool_call>",
        '<tool_call>{"name": "add", "arguments": {"a": "\x00"}}</tool_call>', "<tool_", " \n",
        "<tool_call>" * 50, '{"name": "add", "arguments": {}}',
    ],
)  # fmt: skip
def test_text_that_is_not_a_call_stays_content_unchanged(text: str) -> None:
    assert parse([text], FORMS["hermes"]) == parse(text, FORMS["hermes"]) == (text, "", [])


def test_a_failed_call_after_a_complete_one_is_content_with_its_separator() -> None:
    call = '{"name": "add", "parameters": {}}'
    for rest in ("; and so on", "; ", '; {"name": "add", ', ';{"name": "other"}'):
        whole = parse([call + rest], FORMS["llama"])
        assert whole == parse(call + rest, FORMS["llama"]) == (rest, "", [["add", "{}"]])
    for rest in ("<tool_ca", "<tool_call>", '<tool_call>{"name'):
        text = f"<tool_call>{call}</tool_call>\n{rest}"
        assert parse([text], FORMS["hermes"]) == (rest, "", [["add", "{}"]])
        text = f"Hi\n\n<tool_call>{call}</tool_call>\n{rest}"
        for pieces in ([text], text):
            assert parse(pieces, FORMS["hermes"]) == (f"Hi\n\n{rest}", "", [["add", "{}"]])
    text = f"<tool_call>{call}</tool_"
    assert parse([text], FORMS["hermes"]) == ("", "", [["add", "{}"]])


def test_only_a_possible_marker_is_held_back() -> None:
    parser = AnswerParser(FORMS["hermes"], NAMES)
    assert parser.feed("<thin") == []
    assert parser.feed("g> a <tool") == [Content("<thing> a")]
    assert parser.feed("box> b") == [Content(" <toolbox> b")]
    assert parser.feed("<tool_call> {") == []
    assert parser.feed('"na') == []
    assert parser.feed('me"') == []
    assert parser.feed("5 ") == [Content('<tool_call> {"name"5')]
    assert parser.finish() == [Content(" ")]


def test_with_a_grammar_arguments_come_as_they_are_written() -> None:
    parser = AnswerParser(FORMS["hermes"], NAMES, constrained=True)
    assert parser.feed('<tool_call>{"name": "add", "arguments": ') == []
    assert parser.feed("{") == [CallStart(0, "add"), CallArguments(0, "{")]
    assert parser.feed('"a": "x') == [CallArguments(0, '"a": "x')]
    assert parser.feed('"}}</tool_') == [CallArguments(0, '"}')]
    assert parser.finish() == []
    cut_short = AnswerParser(FORMS["hermes"], NAMES, constrained=True)
    cut_short.feed('<tool_call>{"name": "add", "arguments": {"a": ')
    assert (cut_short.finish(), cut_short.calls) == ([], 1)


@pytest.mark.parametrize(
    ("form", "before"),
    [
        (AnswerForm((MISTRAL_NAMED,)), "[TOOL_CALLS]add[ARGS]"),
        (form_of(BY_NAME["apertus"]), '<|tools_prefix|>[{"add": '),
        (form_of(BY_NAME["harmony"]), "<|channel|>commentary to=add<|message|>"),
        (form_of(BY_NAME["command"]), '<|START_ACTION|>[{"tool_name": "add", "parameters": '),
    ],
    ids=["named", "keyed", "channel", "command"],
)
def test_with_a_grammar_json_arguments_of_every_form_come_as_they_are_written(
    form: AnswerForm, before: str
) -> None:
    parser = AnswerParser(form, NAMES, constrained=True)
    assert combined(parser.feed(before + '{"a'))[2] == [["add", '{"a']]
    assert parser.feed('": 1}') == [CallArguments(0, '": 1}')]


@pytest.mark.parametrize("constrained", [False, True])
def test_text_after_the_last_permitted_call_is_ignored(constrained: bool) -> None:
    call = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    for pieces in (f"Hi {call} and {call}", [f"Hi {call}{call}"], [f"Hi {call}", call]):
        parser = AnswerParser(FORMS["hermes"], NAMES, max_calls=1, constrained=constrained)
        events = [event for piece in pieces for event in parser.feed(piece)]
        assert combined([*events, *parser.finish()]) == ("Hi", "", [["get_time", "{}"]])
        assert parser.done


def test_reasoning_that_the_prompt_opened() -> None:
    form = FORMS["hermes"]
    assert parse("\nHm. <tool_call>", form, thinking=True) == ("", "Hm. <tool_call>", [])
    assert parse("Hm.\n</think>\n\nYes.", form, thinking=True) == ("Yes.", "Hm.", [])
    # A model may repeat the marker of the prompt.
    assert parse("<think>\nHm.</think>Yes.", form, thinking=True) == ("Yes.", "Hm.", [])


def test_an_answer_without_reasoning_may_begin_with_its_end() -> None:
    """MiniMax M3 and DeepSeek V3.2 write that into the history."""
    call = '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    form = FORMS["hermes"]
    assert parse("</think>\n\nYes.", form) == ("Yes.", "", [])
    assert parse(f"\n</think>{call}", form) == ("", "", [["add", "{}"]])
    assert parse("</thin>", form) == ("</thin>", "", [])
    assert parse("Yes.</think>", form) == ("Yes.</think>", "", [])


def test_whether_the_next_text_is_reasoning_is_known() -> None:
    parser = AnswerParser(FORMS["hermes"], NAMES)
    known = []
    for piece in ("<think", ">", "Hm.", "</think", ">", "Yes."):
        parser.feed(piece)
        known.append(parser.thinking)
    assert known == [False, True, True, True, False, False]


def test_reasoning_later_only_where_the_format_has_it() -> None:
    text = "a<think>b</think>c"
    assert parse(text, FORMS["hermes"]) == (text, "", [])
    assert parse(text, FORMS["hermes, reasoning repeated"]) == ("a\nc", "b", [])
    twice = "a \n<think>b</think> <think>c</think>d"
    assert parse(twice, FORMS["hermes, reasoning repeated"]) == ("a \n d", "b\n\nc", [])


def test_wrappers_around_content_are_dropped_and_those_in_its_middle_stay() -> None:
    form = AnswerForm((HERMES,), THINK, ("<response>", "</response>"))
    assert parse("<think>x</think><response>\na\n</response>\n", form) == ("a", "x", [])
    assert parse("Write <response> here", form) == ("Write <response> here", "", [])
    control = AnswerForm((HERMES,), THINK, ("<|end|>",), frozenset(("<|end|>",)))
    assert parse("a <|end|> b<|end|>", control) == ("a  b", "", [])
    assert parse("a<|end|><|end|>b", control) == ("a\nb", "", [])


@pytest.mark.parametrize("size", [200, 5000])
@pytest.mark.parametrize("name", ["harmony", "functionary-3.2", "muse"])
def test_a_header_without_its_end_is_content(name: str, size: int) -> None:
    form = FORMS[name]
    assert form.channels is not None
    text = f"all {form.channels.begin}{'x' * size}"
    for pieces in ([text], list(text)):
        content, _, calls = parse(pieces, form)
        assert not calls
        assert "x" * size in content or size < 256


# --- time in proportion to the text ---------------------------------------------------------------

HOSTILE = [
    ("hermes", "", unit)
    for unit in ("<tool_call>", '<tool_call>{"name": "', "<tool_call>{", " ", '{"a":', "<", "\\",
                 "<tool_call>[", '<tool_call>{"name": "add", "arguments": {"a": "', "x <tool_call")
] + [
    ("hermes", "<tool_call>", " "), ("hermes", "<tool_call>[", " "), ("hermes", "<think>", "</"),
    ("hermes", '<tool_call>{"name": "add"}', " "), ("hermes", "<think>", "x "),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": "', "x"),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": [', "1,"),
    ("llama", "", "\n{"), ("llama", "", "\n"), ("llama", "", "["), ("llama", "", "[add("),
    ("llama", "[add(a='", "x"), ("llama", "[add(a=", "["), ("llama", "[", " "),
    ("llama", '{"name": "add"}', ";"), ("llama", '{"name": "add"}', "; "),
    ("mistral", "", "[TOOL_CALLS]"), ("mistral-named", "[TOOL_CALLS]", "a"),
    ("mistral-named", "", "[TOOL_CALLS]add[ARGS]"), ("mistral-named", "[TOOL_CALLS]add", " "),
    ("qwen-xml", "<tool_call><function=add><parameter=a>", "x"),
    ("qwen-xml", "<tool_call><function=add><parameter=a>", "</parameter>"),
    ("qwen-xml", "<tool_call><function=add><parameter=a>", "</parameter> "),
    ("qwen-xml", "<tool_call><function=add><parameter=a></parameter>", " "),
    ("qwen-xml", "<tool_call><function=add><parameter=", "a"),
    ("qwen-xml", "<tool_call><function=add>", " "), ("qwen-xml", "", "<tool_call><function=add>"),
    ("qwen-xml", "", "<tool_call><function=add><parameter=a>"),
    ("minimax-m3", ']<]minimax[>[<invoke name="add">]<]minimax[>[<a>', "]<]minimax[>[<"),
    ("glm", "<tool_call>add<arg_key>a</arg_key>", " "),
    ("lfm2", "", "<|tool_call_start|>[add("), ("gemma4", "<|tool_call>call:add{a:", "<|"),
    ("gemma4", '<|tool_call>call:add{a:<|"|>', "x"), ("gemma4", "<|tool_call>call:add{a:", "["),
    ("harmony", "", "<|start|>assistant"), ("harmony", "", "<|channel|>"),
    ("harmony", "<|channel|>", "x"), ("functionary-3.2", "", ">"), ("functionary-3.2", "", "x"),
    ("functionary-3.2", "", ">>>x\n"), ("solar", "", "<|think|>"),
]  # fmt: skip


class Work:
    """Counts calls, characters of strings that are arguments, results or searched, and pieces
    that are joined."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            self.count += 1
            for value in frame.f_locals.values():
                if isinstance(value, str):
                    self.count += len(value)
        elif event == "c_call":
            owner = getattr(argument, "__self__", None)
            self.count += 1 + (len(owner) if isinstance(owner, str) else 0)
            joining = frame.f_locals.get("self")
            if argument.__name__ == "join" and isinstance(joining, (Body, CallParser)):
                self.count += sum(
                    len(value) for value in vars(joining).values() if isinstance(value, list)
                )
        elif event == "return":
            self.count += len(argument) if isinstance(argument, str) else 0


def work_of(form: AnswerForm, pieces: Iterable[str], constrained: bool) -> int:
    parser = AnswerParser(form, NAMES, constrained=constrained)
    work, known = Work(), sys.getprofile()
    sys.setprofile(work)
    try:
        for piece in pieces:
            parser.feed(piece)
        parser.finish()
    finally:
        sys.setprofile(known)
    return work.count


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize(("name", "before", "unit"), few(12, HOSTILE))
def test_work_is_in_proportion_to_the_text(
    name: str, before: str, unit: str, constrained: bool
) -> None:
    """Twice the text costs at most a little more than twice the work.

    Nothing is measured by a clock: calls are counted, and the characters of the texts that are
    passed to them.
    """
    size = 600 if FORMS[name].channels is None else 1500  # headers are read up to 256 characters
    for pieces in (list, lambda text: [text]):
        cut_up: Callable[[str], list[str]] = pieces
        once, twice = (
            work_of(FORMS[name], cut_up(before + unit * (n // len(unit))), constrained)
            for n in (size, 2 * size)
        )
        assert twice < 2.3 * once + 5_000, (once, twice)


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
