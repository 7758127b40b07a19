"""The grammars of tool calls, compiled by llguidance: texts that they allow or refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from offgrid.chat.formats import HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, PHI, THOUGHTS, ToolFormat
from offgrid.chat.grammars import Function, call_grammar
from offgrid.chat.parser import AnswerParser, CallArguments, CallStart, Content, Reasoning
from offgrid.grammar.checked import CheckedSchema
from offgrid.grammar.compilable import compilable


def function(name: str, parameters: dict[str, Any], *, strict: bool = False) -> Function:
    return Function(name, CheckedSchema(parameters, name, arguments=True), strict)


ADD = function(
    "add",
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/b"}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"b": {"enum": ["x", "y/\"'", "// %json {\n} #"]}},
    },
    strict=True,
)
NOW = function("now", {"type": "object", "properties": {}, "additionalProperties": False})
FREE = function("free", {"properties": {"q": {"type": "string"}}, "required": ["q"]})
ANY = Function("free")
MARKERS = (
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|tool_call|>",
    "<|/tool_call|>", "<think>", "</think>",
)  # fmt: skip
FORMATS = [HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, PHI]


class Bytes:
    """A vocabulary of all bytes, with markers as control tokens or without."""

    bos_token_id = None

    def __init__(self, markers: tuple[str, ...]) -> None:
        self.control = {text: 256 + n for n, text in enumerate(markers)}
        self.tokens = [bytes([n]) for n in range(256)] + [m.encode() for m in markers] + [b"<eos>"]
        self.eos_token_id = len(self.tokens) - 1
        self.special_token_ids = [*self.control.values(), self.eos_token_id]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)

    def tokenize(self, text: str) -> list[int]:
        pieces = re.split("(" + "|".join(map(re.escape, self.control or ["\0"])) + ")", text)
        ids: list[int] = []
        for piece in pieces:
            ids += [self.control[piece]] if piece in self.control else piece.encode()
        return ids


VOCABULARIES = {"text": Bytes(()), "control": Bytes(MARKERS)}
TOKENIZERS = {name: LLTokenizer(TokenizerWrapper(v)) for name, v in VOCABULARIES.items()}


@pytest.fixture(params=list(VOCABULARIES))
def vocabulary(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def accepted(
    vocabulary: str, text: str, tools: ToolFormat, required: bool = True, **more: Any
) -> bool:
    """Whether an answer follows the grammar and may end there.

    If calls are not required, a tool that is not strict accepts any arguments.
    """
    functions = (ADD, NOW, FREE if required else ANY)
    given = {"parallel": True, "control": VOCABULARIES[vocabulary].control, **more}
    source, schemas = call_grammar(tools, functions, required=required, **given)
    text_of_all = compilable("answer", source, schemas)
    matcher = LLMatcher(TOKENIZERS[vocabulary], text_of_all, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    for token in VOCABULARIES[vocabulary].tokenize(text):
        if matcher.is_stopped() or not matcher.consume_token(token):
            return False
    return bool(matcher.is_accepting())


def written(tools: ToolFormat, *calls: tuple[str, str]) -> str:
    """Tool calls as a model with this format writes them."""
    if tools.head_end:
        return "".join(f"{tools.begin}{name}{tools.head_end}{args}" for name, args in calls)
    objects = [f'{{"name": "{name}", "{tools.arguments}": {args}}}' for name, args in calls]
    if tools.array:
        return f"{tools.begin}[{', '.join(objects)}]{tools.end}"
    if tools.begin_optional:
        return "".join(objects)
    return "\n".join(f"{tools.begin}\n{text}\n{tools.end}" for text in objects)


GOOD = [("add", '{"a": 5}'), ("add", '{"a": -5, "b": "y/\\"\'"}'), ("now", "{}"),
        ("add", '{"a": 5, "b": "// %json {\\n} #"}'),
        ("free", '{"q": "<x>\\n{}"}')]  # fmt: skip
BAD = [("add", '{"a": "5"}'), ("add", "{}"), ("add", '{"a": 5, "c": 1}'), ("now", '{"a": 1}'),
       ("free", '{"q": 1}'), ("free", "[]"), ("other", "{}"), ("add", '{"a": 5'),
       ("add", '{"a": 5, "b": "z"}')]  # fmt: skip
by_format = pytest.mark.parametrize("tools", FORMATS, ids=lambda tools: tools.name)


@by_format
def test_required_calls_are_valid_calls(vocabulary: str, tools: ToolFormat) -> None:
    for call in GOOD:
        text = written(tools, call)
        assert accepted(vocabulary, text, tools), text
        parser = AnswerParser(tools, [f.name for f in (ADD, NOW, FREE)], constrained=True)
        events = [*parser.feed(text), *parser.finish()]
        assert events == [CallStart(0, call[0]), CallArguments(0, call[1])]
    for call in BAD:
        assert not accepted(vocabulary, written(tools, call), tools), call
    for text in ("", "Hello", " ", written(tools, GOOD[0]) + "Hello"):
        assert not accepted(vocabulary, text, tools), text


@by_format
def test_several_calls_only_if_they_are_allowed(vocabulary: str, tools: ToolFormat) -> None:
    two = written(tools, GOOD[0], GOOD[2])
    assert accepted(vocabulary, two, tools) is not tools.one_by_one
    assert not accepted(vocabulary, two, tools, parallel=False)
    assert accepted(vocabulary, written(tools, GOOD[0]), tools, parallel=False)


@by_format
def test_any_text_with_calls_that_are_strict(vocabulary: str, tools: ToolFormat) -> None:
    def free(text: str, **more: Any) -> bool:
        return accepted(vocabulary, text, tools, required=False, **more)

    for text in ("", "Hello <tool <|", '{"answer": 5}', "{", "[1]\n\n", "</p>"):
        assert free(text), text
    for call in GOOD:
        assert free(written(tools, call)), call
    assert free(written(tools, ("free", '{"x": [1]}')))  # not strict
    assert not free(written(tools, ("free", "[1]")))
    for call in (BAD[0], BAD[1], BAD[2], BAD[6]):
        assert not free(written(tools, call)), call
    if not tools.begin_optional:
        assert free(f"I add. {written(tools, GOOD[0])} Done.")
        assert not free(f"I add. {written(tools, BAD[0])}")
        two = f"{written(tools, GOOD[0])}\nAnd {written(tools, GOOD[2])}"
        assert free(two)


@by_format
def test_reasoning_comes_first(vocabulary: str, tools: ToolFormat) -> None:
    call = written(tools, GOOD[0])
    thought = 'I could <tool> {"name": '
    for required in (True, False):
        more: dict[str, Any] = {"thoughts": THOUGHTS[0], "required": required}
        opened = f"{thought}</think>\n\n{call}"
        assert accepted(vocabulary, opened, tools, thinking=True, **more)
        assert accepted(vocabulary, f"<think>{opened}", tools, **more)
        assert accepted(vocabulary, call, tools, **more)
        assert not accepted(vocabulary, thought, tools, thinking=True, **more)
    names = [function.name for function in (ADD, NOW, FREE)]
    parser = AnswerParser(tools, names, THOUGHTS[0], thinking=True, constrained=True)
    events = parser.feed(opened)
    assert events[0] == Reasoning(thought.rstrip())
    assert not any(isinstance(event, Content) for event in events)
    assert parser.calls == 1
