"""Prompts, biases and tokeniser lookups with the starter's vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offgrid.engine.protocol.requests import GenerationRequest, PromptPart, TokenQuery
from offgrid.engine.worker import prompts
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.prompts import answer, prompt_text, read_bias, read_prompt
from offgrid.errors import ContextLengthExceeded, InvalidParameter

LOAD = {"ctx_size": 256, "parallel": 1}


def ids(model: Model, text: str) -> list[int]:
    return model.tokenize_bare((PromptPart(text, True),)).tolist()


def test_biases_of_texts(model: Model) -> None:
    once, upon = ids(model, "Once upon")
    (end,) = ids(model, "<|im_end|>")
    texts = {"Once upon": 3.0, "Once": 2.0, "<|im_end|>": -math.inf, "Once upon upon": -1.5}
    assert read_bias(model, {}, texts) == {once: 3.5, upon: 1.5, end: -math.inf}
    assert read_bias(model, {once: -7.0}, {"Once": 2.0}) == {once: -7.0}
    # A ban stays a ban whatever is added, and sums stay in range.
    banned = {"Once upon": -math.inf, "Once": 100.0, " upon": 5.0}
    assert read_bias(model, {}, banned) == {once: -math.inf, upon: -math.inf}
    assert read_bias(model, {}, {"Once": 80.0, "Once upon": 80.0}) == {once: 100.0, upon: 80.0}
    with pytest.raises(InvalidParameter, match="outside"):
        read_bias(model, {model.n_vocab: 1.0}, {})


def test_texts_of_too_many_tokens(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "MAX_BIASED", 2)
    assert len(read_bias(model, {}, {"Once upon": 1.0})) == 2
    with pytest.raises(InvalidParameter) as error:
        read_bias(model, {5: 1.0}, {"Once upon": 1.0})
    assert error.value.param == "logit_bias"


def test_answers_that_are_too_long(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "_MAX_ANSWER", 9)
    query = TokenQuery(tokens=tuple(ids(model, "Once upon")), pieces=True)
    assert b"".join(answer(model, 7, query).pieces) == b"Once upon"
    assert answer(model, 7, query).id == 7
    longer = TokenQuery(tokens=tuple(ids(model, "Once upon a")), pieces=True, param="tokens")
    with pytest.raises(InvalidParameter) as error:
        answer(model, 7, longer)
    assert error.value.param == "tokens"
    monkeypatch.setattr(prompts, "MAX_QUERY", 9)
    assert answer(model, 7, TokenQuery((PromptPart("Once upon", True),))).tokens
    for query in (TokenQuery((PromptPart("Once upon ", True),)), TokenQuery(tokens=(5,) * 10)):
        with pytest.raises(ContextLengthExceeded):
            answer(model, 7, query)


def test_each_token_of_an_answer_is_looked_up_once(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[int] = []
    name = model.name
    monkeypatch.setattr(model, "name", lambda token: looked_up.append(token) or name(token))
    once, upon = ids(model, "Once upon")
    found = answer(model, 1, TokenQuery(tokens=(once, upon, once) * 100, names=True))
    assert found.names == (name(once), name(upon), name(once)) * 100
    assert sorted(looked_up) == sorted([once, upon])


class Unread(tuple[int, ...]):
    """Token ids that fail the test when they are read."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("they are read before they are counted")


def test_ids_are_counted_before_they_are_read(model: Model) -> None:
    """A body can contain millions of ids."""
    tokens = Unread((-1,) * (model.n_ctx + 1))
    with pytest.raises(ContextLengthExceeded, match=f"has {model.n_ctx + 1}") as error:
        read_prompt(model, GenerationRequest(tokens=tokens, prompt_param="prompt"))
    assert error.value.param == "prompt"


@given(
    tokens=st.lists(
        st.integers(0, 600) | st.integers() | st.sampled_from([-1, 1 << 31, 1 << 63, -1 << 64]),
        min_size=1, max_size=9,
    )
)  # fmt: skip
def test_the_first_id_outside_the_vocabulary_is_named(loaded: Model, tokens: list[int]) -> None:
    wrong = [token for token in tokens if not 0 <= token < loaded.n_vocab]
    request = GenerationRequest(tokens=tuple(tokens), prompt_param="prompt")
    if wrong:
        with pytest.raises(InvalidParameter, match=rf"Token id {wrong[0]} is outside") as error:
            read_prompt(loaded, request)
        assert error.value.param == "prompt"
    else:
        assert read_prompt(loaded, request).tolist() == tokens


def test_text_of_tokens(model: Model) -> None:
    text = "naïve \U0001f600<|im_end|>"
    assert prompt_text(model, ids(model, text)) == text
    smile = ids(model, "\U0001f600")
    assert prompt_text(model, smile[:1]) == "\ufffd"


def test_requests_that_the_starter_does_not_support(model: Model) -> None:
    with pytest.raises(InvalidParameter) as error:
        read_prompt(model, GenerationRequest(parts=(PromptPart("a", True),), suffix="b"))
    assert error.value.param == "suffix"
    for query in (TokenQuery(tokens=(-1,)), TokenQuery(tokens=(model.n_vocab,))):
        with pytest.raises(InvalidParameter):
            answer(model, 1, query)
    for token in (-1, model.n_vocab):
        with pytest.raises(ValueError, match="outside"):
            model.name(token)
        with pytest.raises(ValueError, match="outside"):
            model.piece_with_special(token)
