"""What the real templates write for answers is accepted by the grammars, and read back.

llama.cpp's templates are downloaded once, so these tests are part of the default run only after
that; before, they belong to the tests of real weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import real_templates
from real_answers import NAMES, SCHEMA, TOOLS, USER, Said, markers_of, message_of, said

from offgrid.chat.dialect import Dialect
from offgrid.chat.grammars import Function
from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.grammars import Grammars
from offgrid.grammar.checked import CheckedSchema

from ..chat.vocabulary import Vocabulary

pytestmark = [] if real_templates.cached() else pytest.mark.models

KINDS: dict[str, dict[str, Any]] = {
    "call": {"calls": 1},
    "calls": {"calls": 2},
    "reasoning": {"calls": 1, "thought": True},
    "content": {"calls": 1, "content": True},
    "reasoning and calls": {"calls": 2, "thought": True},
    "reasoning and content": {"calls": 1, "thought": True, "content": True},
}
CHECKED = CheckedSchema(SCHEMA, "tools", arguments=True)
FUNCTIONS = [Function(name, CHECKED, True, SCHEMA) for name in NAMES]
OMITTED = {
    "HuggingFaceTB-SmolLM3-3B", "LFM2-8B-A1B", "LFM2.5-Instruct", "google-gemma-2-2b-it",
    "ibm-granite-granite-3.3-2B-Instruct", "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}  # fmt: skip
"""Templates that write no calls."""
ELSEWHERE = {"openai-gpt-oss-120b", "NVIDIA-Nemotron-Nano-v2"}
"""Templates that write the content beside calls as reasoning, or in a turn of its own."""
NO_END = "deepseek-ai-DeepSeek-R1-Distill-Llama-8B"
"""Its template omits the end of the section after a single call. In text with strict calls it must
be written."""


@dataclass
class Writer:
    """One template with the tokens of a model that says what it writes."""

    dialect: Dialect
    vocabulary: Vocabulary
    grammars: Grammars
    answers: dict[str, Said]
    thinking: bool

    def accepts(self, answer: Said, functions: list[Function], required: bool) -> bool:
        source, schemas = self.dialect.grammar(
            functions, required=required, parallel=len(answer.calls) > 1, thinking=self.thinking
        )
        grammar = Grammar("answer", source, "tools", schemas)
        (matcher,) = self.grammars.matchers(grammar, 1)
        for token in self.vocabulary.tokens(answer.text):
            if not matcher.mask[token // 32] >> (token % 32) & 1:
                return False
            matcher.advance(token)
        return matcher.accepting

    def reads(self, answer: Said, constrained: bool) -> bool:
        for pieces in ([answer.text], answer.text):
            parser = self.dialect.parser(
                {name: SCHEMA for name in NAMES}, thinking=self.thinking, constrained=constrained
            )
            events = [event for piece in pieces for event in parser.feed(piece)]
            content, thought, calls = message_of([*events, *parser.finish()])
            if (content.lstrip(), thought, calls) != (
                answer.content, answer.thought, list(answer.calls),
            ):  # fmt: skip
                return False
        return True


def writer(template: str) -> Writer:
    vocabulary = Vocabulary([], markers_of(template))
    dialect = Dialect(template, "<BOS>", "<EOS>", vocabulary.control)
    answers = {kind: said(dialect, **options) for kind, options in KINDS.items()}
    written = {kind: answer for kind, answer in answers.items() if answer is not None}
    thinking = dialect.prompt([USER], TOOLS).thinking
    return Writer(dialect, vocabulary, Grammars(vocabulary), written, thinking)


@pytest.fixture(scope="module")
def writers(templates: dict[str, str]) -> dict[str, Writer]:
    return {name: writer(template) for name, template in templates.items()}


def test_the_templates_that_write_calls(writers: dict[str, Writer]) -> None:
    assert {name for name, one in writers.items() if not one.answers} == OMITTED
    assert all("call" in one.answers for one in writers.values() if one.answers)
    counts = {kind: sum(kind in one.answers for one in writers.values()) for kind in KINDS}
    assert list(counts.values()) == [63, 57, 26, 48, 25, 20], counts


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_read_back(writers: dict[str, Writer], kind: str) -> None:
    unread = {
        name
        for name, one in writers.items()
        if kind in one.answers and not one.reads(one.answers[kind], constrained=False)
    }
    assert unread <= (ELSEWHERE if "content" in kind else set()), unread


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *((kind, "auto") for kind in KINDS),
        *((kind, "required") for kind in KINDS if "content" not in kind),
        *((kind, "named") for kind in ("call", "reasoning")),
    ],
)
def test_grammars_accept_answers(writers: dict[str, Writer], kind: str, how: str) -> None:
    """With strict functions, or forced; the calls are read as they arrive."""
    options = KINDS[kind]
    functions = FUNCTIONS[:1] if how == "named" else FUNCTIONS
    refused = set()
    for name, one in writers.items():
        answer = one.answers.get(kind)
        if answer is None or (answer.content and name in ELSEWHERE):
            continue
        accepted = one.accepts(answer, functions, how != "auto")
        if not (accepted and one.reads(answer, constrained=True)):
            refused.add(name)
    assert refused <= ({NO_END} if how == "auto" and options["calls"] == 1 else set()), refused
