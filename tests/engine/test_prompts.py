"""Prompts, biases and questions to the tokenizer, against the starter's vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from offgrid.engine import prompts
from offgrid.engine.llama.model import Model
from offgrid.engine.prompts import answer, prompt_text, read_bias, read_prompt
from offgrid.engine.protocol import GenerationRequest, Load, Part, TokenQuery
from offgrid.errors import ContextLengthExceeded, InvalidParameter


@pytest.fixture(scope="module")
def model(starter_path: Path) -> Iterator[Model]:
    model = Model(Load(str(starter_path), ctx_size=256, parallel=1, threads=1))
    yield model
    model.close()


def ids(model: Model, text: str) -> list[int]:
    return model.tokenize_bare((Part(text, True),)).tolist()


def test_biases_of_texts(model: Model) -> None:
    once, upon = ids(model, "Once upon")
    (end,) = ids(model, "<|im_end|>")
    texts = {"Once upon": 3.0, "Once": 2.0, "<|im_end|>": -math.inf, "Once upon upon": -1.5}
    assert read_bias(model, {}, texts) == {once: 3.5, upon: 1.5, end: -math.inf}
    assert read_bias(model, {once: -7.0}, {"Once": 2.0}) == {once: -7.0}
    # A ban stays one whatever is added, and sums stay in range.
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
    assert answer(model, 7, TokenQuery((Part("Once upon", True),))).tokens
    for query in (TokenQuery((Part("Once upon ", True),)), TokenQuery(tokens=(5,) * 10)):
        with pytest.raises(ContextLengthExceeded):
            answer(model, 7, query)


def test_text_of_tokens(model: Model) -> None:
    text = "naïve \U0001f600<|im_end|>"
    assert prompt_text(model, ids(model, text)) == text
    smile = ids(model, "\U0001f600")
    assert prompt_text(model, smile[:1]) == "\ufffd"


def test_what_the_starter_cannot(model: Model) -> None:
    with pytest.raises(InvalidParameter) as error:
        read_prompt(model, GenerationRequest(parts=(Part("a", True),), suffix="b"))
    assert error.value.param == "suffix"
    for query in (TokenQuery(tokens=(-1,)), TokenQuery(tokens=(model.n_vocab,))):
        with pytest.raises(InvalidParameter):
            answer(model, 1, query)
    for token in (-1, model.n_vocab):
        with pytest.raises(ValueError, match="outside"):
            model.name(token)
        with pytest.raises(ValueError, match="outside"):
            model.shown(token)
