"""The grammars of calls, compiled by llguidance: every family in its own form.

What :func:`~offgrid.chat.writing.write_calls` writes must be accepted, and what a random walk
through a grammar writes must be read as valid calls.
"""

from __future__ import annotations

import json
import random
import re
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from work import lines_run

from offgrid.chat.answer_parser import (
    AnswerEvent,
    AnswerForm,
    AnswerParser,
    CallArguments,
    CallStart,
    Content,
    Reasoning,
)
from offgrid.chat.formats import FAMILIES, THINK, CallFormat, Family
from offgrid.chat.grammars import Function, call_grammar
from offgrid.chat.writing import write_calls
from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.matcher import Matcher
from offgrid.errors import InvalidParameter
from offgrid.grammar.checked import CheckedSchema

from .vocabulary import Vocabulary

Json = dict[str, Any]
CLOSED = {"type": "object", "additionalProperties": False}


def function(name: str, parameters: Json | None, *, strict: bool = False) -> Function:
    schema = {**CLOSED, "properties": {}} if parameters is None else parameters
    return Function(
        name, CheckedSchema(schema, name, arguments=True), strict, parameters or {}
    )  # fmt: skip


GET = function(
    "get",
    {
        **CLOSED,
        "properties": {
            "city": {"type": "string"},
            "unit": {"enum": ["c", "f", 'say "<k>"\n', "c</parameter>"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "days"],
    },
    strict=True,
)
GET_TIME = function("get_time", None)
FREE = function("free", {"type": "object"})
DEEP = function(
    "get-all",
    {
        **CLOSED,
        "properties": {
            "when": {"$ref": "#/$defs/when"},
            "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
            "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "count": {"type": ["integer", "null"]},
            "exact": {"type": "boolean"},
            "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]?$"},
            "short": {"type": "string", "minLength": 1, "maxLength": 3},
            "mixed": {
                "anyOf": [{"type": "array", "items": {"type": "integer"}}, {"enum": ["all"]}]
            },
            "tree": {"$ref": "#/$defs/tree"},
            "type": {"const": "x"},
        },
        "required": ["when", "tags", "exact", "code"],
        "$defs": {
            "when": {
                **CLOSED,
                "properties": {"day": {"type": "string"}, "hour": {"type": "number"}},
                "required": ["day"],
            },
            "tree": {
                **CLOSED,
                "properties": {"next": {"$ref": "#/$defs/tree"}, "name": {"enum": ["a", "ab"]}},
            },
        },
    },
)
OPTIONAL = function(
    "optional",
    {
        **CLOSED,
        "properties": {
            "first": {"type": "string"},
            "second": {"type": "integer"},
            "third": {"type": "boolean"},
        },
    },
)
UNION = function(
    "union",
    {
        "type": "object",
        "anyOf": [
            {
                **CLOSED,
                "properties": {"kind": {"const": "a"}, "n": {"type": "integer"}},
                "required": ["kind", "n"],
            },
            {
                **CLOSED,
                "properties": {"kind": {"const": "b"}, "text": {"type": "string"}},
                "required": ["kind", "text"],
            },
        ],
    },
)
FUNCTIONS = (GET, GET_TIME, DEEP, OPTIONAL, UNION)
CALLS: list[tuple[str, Json]] = [
    ("get", {"city": "Oslo", "days": 3}),
    ("get", {"city": "Ås, 'x'\n\"two\"", "unit": "f", "days": 14}),
    ("get_time", {}),
    (
        "get-all",
        {
            "when": {"day": "Monday", "hour": 7.5},
            "tags": ["a", "b c"],
            "either": "maybe",
            "count": None,
            "exact": True,
            "code": "AB1",
            "short": "abc",
            "mixed": [1, 2],
            "tree": {"next": {"next": {}, "name": "ab"}, "name": "a"},
            "type": "x",
        },
    ),
    (
        "get-all",
        {"when": {"day": "x"}, "tags": ["a"], "exact": False, "code": "XY", "mixed": "all"},
    ),
    ("optional", {}),
    ("optional", {"second": 1}),
    ("optional", {"first": "x", "third": True}),
    ("union", {"kind": "a", "n": 1}),
    ("union", {"kind": "b", "text": "x"}),
]
WRONG: list[tuple[str, Json]] = [
    ("get", {"city": "Oslo"}),
    ("get", {"city": "Oslo", "days": 0}),
    ("get", {"city": "Oslo", "unit": "k", "days": 1}),
    ("get", {"city": "Oslo", "days": 1, "more": 1}),
    ("get_time", {"a": 1}),
    ("other", {}),
    ("get-all", {"when": {"hour": 1}, "tags": ["a"], "exact": True, "code": "AB"}),
    ("get-all", {"when": {"day": "x"}, "tags": [], "exact": True, "code": "AB"}),
    ("get-all", {"when": {"day": "x"}, "tags": ["a"], "exact": True, "code": "ab"}),
    (
        "get-all",
        {"when": {"day": "x"}, "tags": ["a"], "exact": True, "code": "AB", "short": "abcd"},
    ),
    ("union", {"kind": "a", "text": "x"}),
]
MARKER = re.compile(
    r"<[|｜][^<>\s]+?[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|\[/?[A-Z_]+\]|｜DSML｜|\]<\]minimax\[>\["
    r"|</?(?:[a-z]+:)?(?:tool_calls?|think|arg_key|arg_value|tool_sep)(?::opensource)?>"
)
"""Texts that may be control tokens of a model."""


def texts_of(family: Family) -> list[str]:
    """All fixed texts of a family's answers."""
    texts = list(family.calls.texts) if family.calls else []
    texts += [*family.wrappers, family.content_begin]
    texts += family.channels.texts if family.channels else ()
    reasoning = family.reasoning[0] if family.reasoning else THINK
    texts += [reasoning.begin, reasoning.end, reasoning.after]
    return [text for text in texts if text]


def vocabulary(family: Family, control: bool) -> Vocabulary:
    """A vocabulary with a family's markers as control tokens or as texts."""
    texts = texts_of(family)
    found = dict.fromkeys(marker for text in texts for marker in MARKER.findall(text))
    more = ["é", "😀", '": ', '", "', "get", "ab", " a", "\n\n"]
    return Vocabulary([*texts, *more], list(found) if control else [])


class Model:
    """One family's answers with one vocabulary."""

    def __init__(self, family: Family, control: bool) -> None:
        reasoning = family.reasoning[0] if family.reasoning else THINK
        channels = family.channels
        self.family = family
        self.vocabulary = vocabulary(family, control)
        calls = family.calls or CallFormat("json")
        self.form = AnswerForm(
            (calls, *family.also),
            None if channels else reasoning,
            family.wrappers,
            frozenset(w for w in family.wrappers if w in self.vocabulary.control),
            channels,
        )
        self._grammars = Grammars(self.vocabulary)

    def matcher(self, functions: tuple[Function, ...] = FUNCTIONS, **options: Any) -> Matcher:
        given = {"required": True, "parallel": True, **options}
        source, schemas = call_grammar(
            self.form, functions, control=self.vocabulary.control,
            content_begin=self.family.content_begin, **given,
        )  # fmt: skip
        return self._grammars.matchers(Grammar("answer", source, "tools", schemas), 1)[0]

    def accepts(
        self, text: str, functions: tuple[Function, ...] = FUNCTIONS, **options: Any
    ) -> bool:
        """Whether an answer follows the grammar and may end there."""
        matcher = self.matcher(functions, **options)
        for token in self.vocabulary.tokens(text):
            if not matcher.mask[token // 32] >> (token % 32) & 1:
                return False
            matcher.advance(token)
            assert matcher.error is None, matcher.error
        return matcher.accepting

    def written(self, *calls: tuple[str, Json]) -> str:
        """Calls as a model of this family writes them."""
        channels = self.family.channels
        if channels is None:
            return write_calls(self.form.calls[0], calls)
        pieces = []
        for name, arguments in calls:
            head = channels.call_begins[-1].replace("{name}", name)
            if channels.call is None:
                body = write_calls(self.form.calls[0], [(name, arguments)])
            else:
                body = json.dumps(arguments, ensure_ascii=False)
            pieces.append(f"{head}{body}")
        return channels.begin.join(pieces)

    def read(
        self, text: str, functions: tuple[Function, ...] = FUNCTIONS, **options: Any
    ) -> list[AnswerEvent]:
        schemas = {function.name: function.schema for function in functions}
        parser = AnswerParser(self.form, schemas, constrained=True, **options)
        half = len(text) // 2
        return [*parser.feed(text[:half]), *parser.feed(text[half:]), *parser.finish()]


def allowed(matcher: Matcher) -> np.ndarray[Any, Any]:
    return np.unpackbits(matcher.mask.view(np.uint8), bitorder="little")


def calls_in(events: list[AnswerEvent]) -> list[tuple[str, Any]]:
    """Names and arguments of the calls in some events."""
    names = [event.name for event in events if isinstance(event, CallStart)]
    texts = [""] * len(names)
    for event in events:
        if isinstance(event, CallArguments):
            texts[event.index] += event.text
    return [(name, json.loads(text)) for name, text in zip(names, texts, strict=True)]


def content_of(events: list[AnswerEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content))


def bare(model: Model, call: tuple[str, Json]) -> str:
    """A call without the marker that may be missing."""
    return model.written(call).removeprefix(model.form.calls[0].begin)


_model = lru_cache(maxsize=None)(Model)
CALLING = [family for family in FAMILIES if family.calls or family.channels]


QUICK = {"hermes", "qwen-xml", "minimax-m3", "deepseek-v3.2", "lfm2", "gemma4", "llama"}
"""One family of each form, whose markers are also tried as text in the default run."""
MODELS = [
    pytest.param(
        (family, control), id=f"{family.name}-{'control' if control else 'text'}",
        marks=[] if control or family.name in QUICK else [pytest.mark.slow],
    )
    for family in CALLING
    for control in (True, False)
]  # fmt: skip


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    """A family's answers, with its markers as control tokens or as text."""
    return _model(*request.param)


def test_a_forced_call_is_what_the_model_writes(model: Model) -> None:
    for call in CALLS:
        text = model.written(call)
        assert model.accepts(text), text
        events = model.read(text)
        assert calls_in(events) == [call]
        assert not content_of(events)
    if model.form.calls and model.form.calls[0].bare:
        assert model.accepts(bare(model, CALLS[0]))


def test_a_forced_call_may_follow_line_ends(model: Model) -> None:
    """GLM writes one after the reasoning that its template has closed."""
    if model.form.channels is not None:
        return
    for lead in ("\n", "\n\n"):
        text = lead + model.written(CALLS[0]).lstrip("\n")
        assert model.accepts(text), text
        events = model.read(text)
        assert calls_in(events) == [CALLS[0]]
        assert not content_of(events)


def test_a_forced_call_may_end_with_line_ends(model: Model) -> None:
    """Models write one after the call, which must not be taken for the beginning of another."""
    if model.form.channels is not None:
        return
    for trail in ("\n", "\n\n", "\n\n\n"):
        text = model.written(CALLS[0]).rstrip("\n") + trail
        assert model.accepts(text), text
        events = model.read(text)
        assert (calls_in(events), content_of(events)) == ([CALLS[0]], "")


def test_no_other_call_is_possible(model: Model) -> None:
    for call in WRONG:
        assert not model.accepts(model.written(call)), call
    good = model.written(CALLS[0])
    for text in ("", "Hello", " ", f"{good}Hello", good[: len(good) // 2]):
        assert not model.accepts(text), text
    single = (GET_TIME,)
    assert model.accepts(model.written(("get_time", {})), single)
    assert not model.accepts(model.written(("get", {"city": "Oslo", "days": 1})), single)


def test_several_calls_only_if_they_are_allowed(model: Model) -> None:
    two = model.written(CALLS[0], CALLS[2])
    channels = model.form.channels
    one_by_one = model.form.calls[0].one_by_one or (channels and channels.reasoning_end)
    assert model.accepts(two) is not bool(one_by_one)
    assert not model.accepts(two, parallel=False)
    assert model.accepts(model.written(CALLS[0]), parallel=False)
    if not one_by_one:
        assert calls_in(model.read(two)) == [CALLS[0], CALLS[2]]


def test_any_arguments_if_the_function_says_nothing(model: Model) -> None:
    for arguments in ({}, {"a": "x"}, {"a": 1, "b": True}):
        text = model.written(("free", arguments))
        assert model.accepts(text, (FREE,)), text
        assert calls_in(model.read(text, (FREE,))) == [("free", arguments)]


def test_a_call_or_an_answer_that_follows_a_schema(model: Model) -> None:
    schema = {**CLOSED, "properties": {"name": {"type": "integer"}}, "required": ["name"]}
    answer = CheckedSchema(schema, "response_format")
    options = {"required": False, "answer": answer}
    begin = model.form.channels.content_begin if model.form.channels else ""
    good, bad = f'{begin}{{"name": 1}}', f'{begin}{{"name": "x"}}'
    assert model.accepts(good, **options)
    assert not model.accepts(bad, **options)
    assert model.accepts(model.written(CALLS[0]), **options)
    assert not model.accepts(model.written(WRONG[0]), **options)
    if model.form.calls[0].bare:
        assert model.accepts(bare(model, CALLS[0]), **options)
    assert model.accepts(good, (), **options)
    assert not model.accepts(bad, (), **options)
    assert content_of(model.read(good)) == '{"name": 1}'


def test_text_in_which_calls_are_strict(model: Model) -> None:
    options = {"required": False}
    begin = model.form.channels.content_begin if model.form.channels else ""
    for text in ("", "Hello <too", '{"answer": 5}', "{", "[1]\n\n", "</p>"):
        assert model.accepts(begin + text, **options), text
    for call in CALLS:
        assert model.accepts(model.written(call), **options), call
    for call in (WRONG[0], WRONG[2], WRONG[4]):
        assert not model.accepts(model.written(call), **options), call
    if model.form.calls[0].bare:
        for text in (bare(model, CALLS[0]), 'Look:\n{"x": 1}\nget({"name": 1})'):
            assert model.accepts(text, **options), text
        for text in (bare(model, WRONG[0]), f"Look:\n{bare(model, CALLS[0])}"):
            assert not model.accepts(text, **options), text
    if begin or model.form.calls[0].bare:
        return
    good = model.written(CALLS[0])
    assert model.accepts(f"I look. {good}", **options)
    assert not model.accepts(f"I look. {model.written(WRONG[0])}", **options)
    events = model.read(f"I look. {good}")
    assert (content_of(events), calls_in(events)) == ("I look.", [CALLS[0]])


def test_reasoning_comes_first(model: Model) -> None:
    thought = 'I could <tool> {"name": '
    channels, reasoning = model.form.channels, model.form.reasoning
    call = model.written(CALLS[0])
    if channels is not None:
        opened = f"{channels.reasoning_begin}{thought}{channels.reasoning_end}"
        if channels.reasoning_begin:
            assert model.accepts(opened + call)
            events = model.read(opened + call)
            assert (events[0], calls_in(events)) == (Reasoning(thought.strip()), [CALLS[0]])
        return
    assert reasoning is not None
    rest = f"{thought}{reasoning.end}{reasoning.after}"
    for required in (True, False):
        options = {"required": required}
        if not required and model.form.calls[0].bare and not model.vocabulary.control:
            continue  # The reasoning is text like any other, which no bare call can follow.
        assert model.accepts(f"{reasoning.begin}{rest}{call}", **options)
        assert model.accepts(f"{rest}\n\n{call}", thinking=True, **options)
        assert model.accepts(call, **options)
        assert model.accepts(f"{reasoning.end}{reasoning.after}\n\n{call}", **options)
        assert not model.accepts(thought, thinking=True, **options)
    events = model.read(f"{rest}{call}", thinking=True)
    assert (events[0], calls_in(events)) == (Reasoning(thought.strip()), [CALLS[0]])
    assert not content_of(events)


ODD = function(
    "odd",
    {
        **CLOSED,
        "properties": {
            "content-type": {"type": "string"},
            "ключ": {"type": "integer"},
            "count": {"type": "integer"},
            "pair": {
                "type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}],
                "minItems": 2, "maxItems": 2,
            },
            "self": {"$ref": "#/properties/count"},
            "day": {"type": "string", "format": "date"},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        },
        "required": ["content-type"],
    },
)  # fmt: skip
MAP = function("map", {"type": "object", "additionalProperties": {"type": "integer"}})


def test_unusual_keys_and_schemas(model: Model) -> None:
    good: Json = {
        "content-type": "x", "ключ": 1, "count": 5, "pair": [1, "a"], "self": 2,
        "day": "2024-02-29", "map": {"a": 1, "b": 2},
    }  # fmt: skip
    inner = model.form.calls[0].parameters if model.form.calls else None
    if inner is not None and inner.nested:
        del good["map"]  # is enforced as JSON: a grammar cannot compare the names of two tags
    text = model.written(("odd", good))
    assert model.accepts(text, (ODD,)), text
    assert calls_in(model.read(text, (ODD,))) == [("odd", good)]
    for wrong in ({"ключ": "a"}, {"self": "x"}, {"day": "2023-02-29"}, {"map": {"a": "x"}}):
        text = model.written(("odd", {"content-type": "x", **wrong}))
        assert not model.accepts(text, (ODD,)), text
    for arguments in ({}, {"a": 1, "b": 2}):
        text = model.written(("map", arguments))
        assert model.accepts(text, (MAP,)), text
        assert calls_in(model.read(text, (MAP,))) == [("map", arguments)]
    assert not model.accepts(model.written(("map", {"a": "x"})), (MAP,))


# --- random answers ------------------------------------------------------------------------------

PLAIN = frozenset(b"abc xyz019.,:-_/{}[]()<>|=\\\"'\n")
CLOSING = frozenset(b"\"}])>'")
STEPS, LIMIT = 40, 400
"""Steps of a free walk, after which it makes for the end; and most steps of both."""


def walk(model: Model, matcher: Matcher, rng: random.Random) -> str | None:
    """A random answer that the grammar allows; None if it does not end soon."""
    vocabulary = model.vocabulary
    written = b""
    for step in range(LIMIT):
        bits = allowed(matcher)
        if matcher.accepting and (step > STEPS or rng.random() < 0.3):
            return written.decode()
        ids = np.flatnonzero(bits).tolist()
        control = [id for id in ids if id in vocabulary.control.values()]
        long = [id for id in ids if id in vocabulary.long]
        bytes_ = [id for id in ids if id in PLAIN] or [id for id in ids if id < 256]
        closing = [id for id in ids if id in CLOSING]
        groups = [control, long, bytes_]
        if step > STEPS:
            groups = [control or closing, closing, long, bytes_]
        groups = [group for group in groups if group]
        if not groups:
            assert matcher.accepting, written
            return written.decode()
        token = rng.choice(rng.choice(groups))
        written += vocabulary.pieces[token]
        matcher.advance(token)
        assert matcher.error is None, (matcher.error, written)
    return None


def test_random_answers_are_valid_calls(model: Model) -> None:
    rng = random.Random(model.family.name)
    schemas = {function.name: function.parameters.schema for function in FUNCTIONS}
    done = 0
    for parallel in (True, False):
        start = model.matcher(parallel=parallel)
        for _ in range(5):
            text = walk(model, start.copy(), rng)
            if text is None:
                continue
            done += 1
            events = model.read(text)
            calls = calls_in(events)
            assert calls, text
            assert parallel or len(calls) == 1
            for name, arguments in calls:
                errors = list(Draft202012Validator(schemas[name]).iter_errors(arguments))
                assert not errors, (text, arguments, errors)
            # A header within the text of reasoning is read as one, unless headers are tokens.
            if model.vocabulary.control or not model.form.channels:
                assert not content_of(events), text
    assert done


def test_random_texts_contain_valid_calls_only(model: Model) -> None:
    rng = random.Random(model.family.name)
    schemas = {function.name: function.parameters.schema for function in FUNCTIONS}
    start = model.matcher(required=False)
    for _ in range(4):
        text = walk(model, start.copy(), rng)
        if text is None:
            continue
        for name, arguments in calls_in(model.read(text)):
            assert Draft202012Validator(schemas[name]).is_valid(arguments), (text, arguments)


@pytest.mark.parametrize("text", [
    "{r}<|channel|>final<|message|>Hi",
    "{r}<|start|>assistant<|channel|>final<|message|>Hi",
    "{r}<|end|>Hi",
    "{c}<|channel|>commentary to=functions.get <|constrain|>json<|message|>{{\"bad\": 1",
    "{c}<|start|>assistant to=functions.get<|channel|>commentary json<|message|>{{\"bad\": 1",
])  # fmt: skip
def test_a_message_ends_in_the_grammar_where_the_parser_ends_it(text: str) -> None:
    """llama.cpp makes most markers of gpt-oss text, so that text could match them."""
    model = Model(next(family for family in FAMILIES if family.name == "harmony"), control=False)
    reasoning = "<|channel|>analysis<|message|>Hm"
    said = text.format(r=reasoning, c="<|channel|>final<|message|>Hi")
    matcher = model.matcher(required="{r}" in text)
    refused = 0
    for token in model.vocabulary.tokens(said):
        if not matcher.mask[token // 32] >> (token % 32) & 1:
            refused = token
            break
        matcher.advance(token)
    assert refused
    assert model.accepts("<|channel|>final<|message|>Hi<|return|>", required=False)


@pytest.mark.parametrize("family", ["lfm2", "qwen-xml", "gemma4", "hermes"])
@pytest.mark.parametrize(("pattern", "good", "bad"), [
    ("^[^x]+$", "ab[", "axb"),
    ("^(?!x)[a-z]+$", "ax", "xa"),
    (r"^[\d\-[]{2}$", "[1", "1a"),
])  # fmt: skip
def test_a_pattern_keeps_its_meaning_inside_a_value(
    family: str, pattern: str, good: str, bad: str
) -> None:
    """A form that has no JSON checks each argument as a schema of its own."""
    model = _model(next(one for one in FAMILIES if one.name == family), True)
    items = {"type": "array", "items": {"type": "string", "pattern": pattern}}
    tool = function("f", {**CLOSED, "properties": {"a": items}, "required": ["a"]})
    assert model.accepts(model.written(("f", {"a": [good]})), (tool,))
    assert not model.accepts(model.written(("f", {"a": [bad]})), (tool,))


TEXTS: list[tuple[Json, tuple[str, ...], tuple[str, ...]]] = [
    # Schema of a string, texts that satisfy it, texts that do not.
    ({"format": "duration"}, ("P3DT4H", "P1W", "PT5M", "P1Y2M3D"), ("3D", "P", "P1D1Y")),
    ({"format": "email"}, ("a.b+c@d-e.org", "a@[10.0.0.1]"), ("a.b", "@c", "a@b_c", "a..b@c")),
    ({"format": "hostname"}, ("a-b.example", "x"), ("-a", "a_b", "a..b", "a" * 64)),
    ({"format": "ipv4"}, ("10.0.255.1", "0.0.0.0"), ("10.0.256.1", "1.2.3", "01.2.3.4")),
    ({"format": "ipv6"}, ("::", "::1", "2001:db8::ff00:42:8329", "1:2:3:4:5:6:7:8", "1:2::"),
     ("1:2", "::g", "1::2::3", "1:2:3:4:5:6:7:8:9")),
    ({"format": "uri"}, ("http://u:p@a.b:1/c?d#e", "urn:isbn:1", "file:///x", "a:", "x://[::1]/"),
     ("a b", "//x", "http://a b", "1:x", "a:%1")),
    ({"format": "uuid"}, ("123e4567-e89b-12d3-a456-426614174000",), ("123", "g" * 36)),
    ({"format": "date"}, ("2024-02-29",), ("2023-02-29",)),
    ({"format": "time"}, ("10:00:00Z",), ("25:00:00Z", "10:00:60Z")),
    ({"format": "date-time"}, ("2024-02-29T10:00:00+01:00",), ("2024-02-29",)),
    ({"format": "hostname", "pattern": "^[a-z]+$", "maxLength": 3}, ("abc",), ("abcd", "a.b")),
    ({"pattern": "^(?!x)[a-z]+$"}, ("ax",), ("xa",)),
    ({"pattern": "^(?=.*[0-9])[a-z0-9]+$", "maxLength": 3}, ("a1b",), ("abc", "a1bc")),
    ({"pattern": "a(?=b$)"}, ("ab",), ("a", "abc")),
    ({"pattern": "^a$|^b$"}, ("a", "b"), ("c", "ab")),
    ({"pattern": "^a|b$"}, ("ax", "xb"), ("xa", "bx")),
    ({"pattern": "(^a|b)c"}, ("ac", "xbc"), ("xac",)),
    ({"pattern": r"\.$"}, ("x.",), ("x", ".x")),
    ({"pattern": r"[$^|]\$"}, ("$$", "x|$"), ("$", "a$")),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}, {"minLength": 3}]}, ("axb", "bba"), ("ab",)),
]  # fmt: skip


@pytest.mark.parametrize("family", ["hermes", "lfm2", "qwen-xml", "gemma4", "minimax-m3"])
@pytest.mark.parametrize(("schema", "good", "bad"), TEXTS, ids=lambda value: str(value)[:60])
def test_strings_follow_their_schema_in_every_form(
    family: str, schema: Json, good: tuple[str, ...], bad: tuple[str, ...]
) -> None:
    """Hermes writes JSON, where llguidance enforces formats and patterns by itself."""
    model = _model(next(one for one in FAMILIES if one.name == family), True)
    text = {"type": "string", **schema}
    tool = function("f", {**CLOSED, "properties": {"a": text}, "required": ["a"]})
    for value in good:
        assert model.accepts(model.written(("f", {"a": value})), (tool,)), value
    for value in bad:
        assert not model.accepts(model.written(("f", {"a": value})), (tool,)), value


@pytest.mark.parametrize("family", ["hermes", "lfm2", "qwen-xml", "gemma4", "minimax-m3"])
def test_a_string_without_any_text_is_never_written(family: str) -> None:
    model = _model(next(one for one in FAMILIES if one.name == family), True)
    empty = {"type": "string", "pattern": "^ab?$", "minLength": 3}
    either = {"anyOf": [empty, {"type": "integer"}]}
    listed = {"type": "array", "items": empty}
    properties = {"a": empty, "b": either, "c": listed}
    tool = function("f", {**CLOSED, "properties": properties, "required": ["b"]})
    assert model.accepts(model.written(("f", {"b": 1})), (tool,))
    assert model.accepts(model.written(("f", {"b": 1, "c": []})), (tool,))
    for wrong in ({"a": "ab", "b": 1}, {"b": "ab"}, {"b": 1, "c": ["ab"]}):
        assert not model.accepts(model.written(("f", wrong)), (tool,)), wrong
    with pytest.raises(InvalidParameter, match="at /properties/a: unsatisfiable"):
        function("f", {**CLOSED, "properties": {"a": empty}, "required": ["a"]})


def test_a_pattern_that_cannot_be_enforced_is_refused_with_its_place() -> None:
    """As in JSON, where llguidance refuses it."""
    words = {
        "hermes": "lookarounds not supported", "lfm2": "lookarounds not supported",
        "qwen-xml": "an anchor in its middle", "gemma4": "an anchor in its middle",
    }  # fmt: skip
    word = {"type": "string", "pattern": r"\bx"}
    items = {"type": "array", "items": {"type": "object", "properties": {"x": word}}}
    for family, message in words.items():
        model = _model(next(one for one in FAMILIES if one.name == family), True)
        tool = function("f", {**CLOSED, "properties": {"a": word}})
        with pytest.raises(InvalidParameter, match=f"at /properties/a: .*{message}"):
            model.matcher((tool,))
        tool = function("f", {**CLOSED, "properties": {"a": items}})
        with pytest.raises(InvalidParameter, match="at /properties/a/items/properties/x: "):
            model.matcher((tool,))
    model = _model(next(one for one in FAMILIES if one.name == "qwen-xml"), True)
    many = {f"p{n}": {"type": "string", "pattern": f"(^a|b){n}"} for n in range(21)}
    with pytest.raises(InvalidParameter, match="is the 21st of the request"):
        model.matcher((function("f", {**CLOSED, "properties": many}),))


def _grammar_of(family: str, parameters: Json) -> str:
    model = _model(next(one for one in FAMILIES if one.name == family), True)
    tool = function("f", parameters)
    return call_grammar(model.form, (tool,), required=True, parallel=True)[0]


@pytest.mark.parametrize("family", ["qwen-xml", "gemma4"])
def test_alternatives_that_multiply_are_not_all_looked_at(family: str) -> None:
    """Each definition has some alternatives, each of which leads to the next definition. The same
    with a last one that no integer can follow, so that none of the alternatives is left."""

    def multiplied(width: int, last: Json, value: Json, size: int = 1) -> Json:
        names = [*(f"d{n}" for n in range(7)), "last"]
        definitions: Json = {
            name: {"anyOf": [{"$ref": f"#/$defs/{after}", "title": str(n)} for n in range(width)]}
            for name, after in pairwise(names)
        }
        either = {"anyOf": [{"$ref": "#/$defs/d0", **value}, {"type": "integer"}]}
        properties = {f"p{n}": {**either, "title": str(n)} for n in range(size)}
        return {**CLOSED, "properties": properties, "$defs": {**definitions, "last": last}}

    text: Json = {"type": "string"}
    impossible: tuple[Json, Json] = ({"enum": ["a"]}, {"type": "integer"})
    for last, value in ((text, {}), impossible):
        schemas = [multiplied(width, last, value) for width in (3, 6)]
        few, many = (lines_run(lambda s=schema: _grammar_of(family, s)) for schema in schemas)
        assert many < 10 * few
    with pytest.raises(InvalidParameter, match="alternatives lead to one another") as refused:
        _grammar_of(family, multiplied(6, *impossible, 60))
    assert refused.value.param == "f"


def test_schemas_that_hold_each_other_are_refused_before_all_are_made() -> None:
    """The schema of a list in JSON holds the definitions, which are as long as all lists."""

    def lists(number: int) -> Json:
        item = {"$ref": "#/$defs/x"}
        properties = {
            f"p{n}": {"type": "array", "items": item, "minItems": n} for n in range(number)
        }
        definitions = {"x": {**CLOSED, "properties": {"a": {"type": "string"}}}}
        return {**CLOSED, "properties": properties, "$defs": definitions, "required": [*properties]}

    assert "schema_39" in _grammar_of("qwen-xml", lists(40))
    works = []
    for number in (100, 300):
        with pytest.raises(InvalidParameter, match="more than 524288 bytes") as refused:
            _grammar_of("qwen-xml", lists(number))
        assert refused.value.param == "f"
        works.append(
            lines_run(lambda n=number: _grammar_of("qwen-xml", lists(n)), InvalidParameter)
        )
    assert works[1] < 3 * works[0]


@pytest.mark.parametrize("control", [True, False])
def test_content_may_come_before_a_guarded_call_in_a_channel_of_its_own(control: bool) -> None:
    model = _model(next(family for family in FAMILIES if family.name == "harmony"), control)
    text = (
        "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant"
        "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant"
        + model.written(CALLS[0])
    )
    assert model.accepts(text, required=False)
    events = model.read(text)
    assert content_of(events) == "Let me look."
    assert calls_in(events) == [CALLS[0]]
    assert not model.accepts(text)


@pytest.mark.parametrize("family", ["hermes", "harmony", "qwen-xml"])
def test_arguments_may_be_compact(family: str) -> None:
    model = _model(next(one for one in FAMILIES if one.name == family), True)
    values = {**CLOSED, "properties": {"b": {"type": "array", "items": {"type": "integer"}}}}
    tool = function("f", {**CLOSED, "properties": {"a": values}, "required": ["a"]})
    text = model.written(("f", {"a": {"b": [1, 2]}}))
    head, arguments = text[: text.rindex('"b"')], text[text.rindex('"b"') :]
    assert model.accepts(text, (tool,))
    assert model.accepts(head + arguments.replace(": ", ":").replace(", ", ","), (tool,))
    indented = arguments.replace(": ", ":\n    ").replace(", ", ",\n\t")
    assert model.accepts(head + indented, (tool,))
    for wrong in (":   ", ":\n\n", ":\u00a0"):
        assert not model.accepts(head + arguments.replace(": ", wrong), (tool,))


@pytest.mark.parametrize(
    "family", [f for f in CALLING if f.calls and f.calls.body in ("object", "keyed")],
    ids=lambda family: family.name,
)  # fmt: skip
@pytest.mark.parametrize("how", ["required", "auto", "schema"])
def test_the_json_around_the_arguments_may_be_spaced_as_models_do(family: Family, how: str) -> None:
    model = _model(family, True)
    schema = CheckedSchema({**CLOSED, "properties": {"a": {"type": "integer"}}}, "response_format")
    options: dict[str, Any] = {"required": how == "required"}
    if how == "schema":
        options["answer"] = schema
    form = family.calls
    assert form is not None
    text = model.written(CALLS[0])
    start, end = text.index("{"), text.rindex("}") + 1
    call = json.loads(text[start:end])
    for spaced in (
        json.dumps(call, separators=(",", ":")),
        json.dumps(call, indent=4),
        json.dumps(call, indent=2).replace("\n", "\n    "),
        json.dumps(call).replace('{"', '{ "').replace("}", " }"),
    ):
        written = text[:start] + spaced + text[end:]
        assert model.accepts(written, **options), written
        assert calls_in(model.read(written)) == [CALLS[0]]
        if form.array:
            indented = written.replace("[{", "[\n  {").replace("}]", "}\n]")
            assert model.accepts(indented, **options), indented
            assert calls_in(model.read(indented)) == [CALLS[0]]


@pytest.mark.parametrize("kind", [{"type": "string"}, {}, {"type": ["string", "array"]}])
def test_a_string_in_quotes_may_contain_the_tag_that_ends_it(kind: Json) -> None:
    model = _model(next(one for one in FAMILIES if one.name == "minicpm5"), True)
    tool = function("f", {**CLOSED, "properties": {"a": kind, "b": kind}, "required": ["a"]})
    call = '<function name="f"><param name="a"><![CDATA[{}</param></function>'
    tag = 'x</param><param name="b">y]]>'
    assert model.accepts(call.replace("{}", tag), (tool,))
    assert calls_in(model.read(call.replace("{}", tag), (tool,))) == [("f", {"a": tag[:-3]})]
    assert not model.accepts(call.replace("{}", "x"), (tool,))
    assert model.accepts(call.replace("<![CDATA[{}", "<![CDATA"), (tool,))
