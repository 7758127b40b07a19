"""The sources of drafts: what they propose, compared with naive searches."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.drafts.forced import Forced
from offgrid.engine.worker.drafts.lookup import LONGEST, NGRAM, Lookup
from offgrid.engine.worker.drafts.tokens import continuing, remembering
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Matcher
from offgrid.grammar.checked import CheckedSchema

LOAD = {"ctx_size": 64, "parallel": 1}


@dataclass
class Text:
    """A sequence as sources see it."""

    tokens: NDArray[np.int32]
    length: int
    n_prompt: int = 0
    matcher: Matcher | None = None

    def __len__(self) -> int:
        return self.length


def naive_lookup(tokens: list[int], most: int) -> list[int] | None:
    """Return what followed the longest earlier occurrence of the end; None if none is long enough.

    The latest occurrence wins among equals.
    """
    end, best, found = len(tokens), NGRAM - 1, None
    for place in range(end - 1, 0, -1):
        length = 0
        while (
            length < min(place, LONGEST)
            and tokens[place - 1 - length] == tokens[end - 1 - length]
            and tokens[place - 1 - length] >= 0
        ):
            length += 1
        if length > best:
            best, found = length, tokens[place : place + most]
    return found


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.integers(-1, 3), min_size=1, max_size=60),
    first=st.integers(1, 60),
    most=st.integers(1, 10),
)
def test_the_lookup_finds_what_a_naive_search_finds(
    tokens: list[int], first: int, most: int
) -> None:
    """Token by token, after a prompt that is read at once."""
    text = Text(np.array([*tokens, *[0] * 40], dtype=np.int32), min(first, len(tokens)))
    lookup = Lookup()
    while text.length <= len(tokens):
        read = tokens[: text.length]
        proposed, kind = lookup.propose(text, most)
        proposed = [] if kind == "lookup resumed" else proposed
        expected = naive_lookup(read, most)
        if expected is None or len(set(read)) > 2:
            # Of many occurrences of a common n-gram, only the latest are compared.
            assert proposed == [] or follows_the_end(read, proposed)
        if expected is None:
            assert proposed == []
        text.length += 1


def follows_the_end(tokens: list[int], proposed: list[int]) -> bool:
    """Whether the last tokens occurred before, followed by the proposed ones."""
    wanted = [*tokens[-NGRAM:], *proposed]
    return any(tokens[i : i + len(wanted)] == wanted for i in range(len(tokens)))


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 40), min_size=4, max_size=300),
    first=st.integers(1, 300),
)
def test_the_longest_match_is_preferred(tokens: list[int], first: int) -> None:
    """Few occurrences of each n-gram, so that all are compared; long prompts take another path."""
    text = Text(np.array(tokens, dtype=np.int32), min(first, len(tokens)))
    lookup = Lookup()
    while text.length <= len(tokens):
        expected = naive_lookup(tokens[: text.length], 5) or []
        proposed, kind = lookup.propose(text, 5)
        assert ([] if kind == "lookup resumed" else proposed) == expected
        text.length += 1


def test_a_long_prompt_and_its_copy() -> None:
    prompt = np.random.default_rng(1).integers(0, 1000, 2000).astype(np.int32)
    text = Text(np.concatenate((prompt, prompt)), 2000 + NGRAM)
    draft = Lookup().propose(text, 20)
    assert draft.tokens == prompt[NGRAM : NGRAM + 20].tolist()


def test_a_replaced_token_does_not_end_a_long_match() -> None:
    """The answer repeats the prompt, and has 999 in place of one token and of two others."""
    prompt = [*range(100, 140)]
    answer = [*prompt]
    answer[12] = answer[25] = answer[26] = 999
    tokens = np.array([*prompt, *answer], dtype=np.int32)
    lookup = Lookup()
    proposed = {
        length: lookup.propose(Text(tokens, 40 + length), 3) for length in range(3, len(answer))
    }
    assert proposed[12].tokens == prompt[12:15]
    assert proposed[13] == (prompt[13:16], "lookup resumed")
    assert proposed[14] == (prompt[14:17], "lookup resumed")
    assert proposed[16] == (prompt[16:19], "lookup 3")
    assert proposed[26].kind == "lookup resumed"
    assert proposed[27].tokens == []
    assert proposed[30].tokens == prompt[30:33]


def test_no_position_of_an_image_is_proposed() -> None:
    text = Text(np.array([1, 2, 3, 4, -9, -9, 1, 2, 3, 0], dtype=np.int32), 9)
    assert Lookup().propose(text, 5).tokens == [4]


# --- forced by a grammar --------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "years": {"type": "integer"},
        "city": {"enum": ["Rome"]},
    },
    "required": ["name", "years", "city"],
    "additionalProperties": False,
}  # fmt: skip


def after(model: Model, written: str, **grammar: Any) -> list[int]:
    """Return what is proposed after the beginning of an answer."""
    given = grammar or {"kind": "json_schema", "source": "", "param": "x"}
    schemas = () if grammar else (CheckedSchema(json.dumps(SCHEMA), "x"),)
    (matcher,) = Grammars(model).matchers(Grammar(schemas=schemas, **given), 1)
    tokens = continuing(model, written)
    for token in tokens:
        matcher.advance(token)
    assert matcher.error is None
    text = Text(np.array([*tokens, *[0] * 40], dtype=np.int32), len(tokens), 0, matcher)
    return Forced(remembering(model), model.piece).propose(text, 40).tokens


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ('{"', 'name": "'),
        ('{"na', 'me": "'),
        ('{"name": "Otto', ""),
        ('{"name": "Otto"', ', "years":'),
        ('{"name":"Otto"', ',"years":'),
        ('{"name": "Otto",', ' "years":'),
        ('{"name":', ' "'),
        ("{", '"name": "'),
        ('{"name": "Otto",\n "years": 5', ',\n "city": "Rome"'),
        ('{"name": "Otto", "years": 5, "city": "Rome"', ""),
    ],
)
def test_keys_of_a_schema_are_proposed_as_the_answer_writes_them(
    loaded: Model, written: str, expected: str
) -> None:
    proposed = b"".join(map(loaded.piece, after(loaded, written)))
    assert proposed.decode().startswith(expected) if expected else not proposed


def test_a_choice_is_proposed_once_it_is_clear(loaded: Model) -> None:
    source = json.dumps(["the first of two", "the second of two"])
    fields = {"kind": "choice", "source": source, "param": "x"}
    assert b"".join(map(loaded.piece, after(loaded, "the ", **fields))) == b""
    assert b"".join(map(loaded.piece, after(loaded, "the s", **fields))) == b"econd of two"


def test_the_matcher_itself_does_not_move(loaded: Model) -> None:
    (matcher,) = Grammars(loaded).matchers(
        Grammar("json_schema", "", "x", (CheckedSchema(json.dumps(SCHEMA), "x"),)), 1
    )
    tokens = continuing(loaded, '{"')
    for token in tokens:
        matcher.advance(token)
    before = matcher.mask.copy()
    text = Text(np.array([*tokens, *[0] * 40], dtype=np.int32), len(tokens), 0, matcher)
    assert Forced(remembering(loaded), loaded.piece).propose(text, 8).tokens
    assert (matcher.mask == before).all()
    for token in continuing(loaded, 'name": "x", "years"'):
        matcher.advance(token)
    assert matcher.error is None


def test_of_a_long_forced_text_only_the_beginning_is_read(loaded: Model) -> None:
    """Tokenising all of it would take long, and some tokenisers recurse for each letter."""
    source = json.dumps(["ab" * 5000, "c"])
    (matcher,) = Grammars(loaded).matchers(Grammar("choice", source, "x"), 1)
    (token,) = continuing(loaded, "a")
    matcher.advance(token)
    text = Text(np.array([token, *[0] * 40], dtype=np.int32), 1, 0, matcher)
    read: list[bytes] = []

    def tokenize(text: bytes) -> tuple[int, ...]:
        read.append(text)
        return tuple(continuing(loaded, text.decode()))

    proposed = Forced(tokenize, loaded.piece).propose(text, 10).tokens
    assert b"".join(map(loaded.piece, proposed)).startswith(b"bab")
    assert max(map(len, read)) <= 100


class Blank:
    """A tokeniser of single characters that puts a blank before each text."""

    def tokenize_plain(self, text: str) -> NDArray[np.int32]:
        return np.array([*map(ord, f" {text}")], dtype=np.int32)

    def piece(self, token: int) -> bytes:
        return chr(token).encode()


def test_tokens_that_continue_a_text_have_no_blank_before_them() -> None:
    assert continuing(Blank(), "name") == [*map(ord, "name")]
