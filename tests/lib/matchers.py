"""Matchers of a model, and which texts they accept."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from offgrid.engine.protocol.requests import Grammar
from offgrid.engine.worker.grammars import Grammars
from offgrid.engine.worker.llama.model import Model
from offgrid.engine.worker.matcher import Matcher
from offgrid.grammar.checked import CheckedSchema


def make(grammars: Grammars, kind: str, source: Any) -> Matcher:
    text = source if isinstance(source, str) else json.dumps(source)
    if kind == "json_schema":
        grammar = Grammar.of_schema(CheckedSchema(text, "field"))
    else:
        grammar = Grammar(kind, text, "field")
    return grammars.matchers(grammar, 1)[0]


def allowed(matcher: Matcher, n_vocab: int) -> set[int]:
    bits = np.unpackbits(matcher.mask.view(np.uint8), bitorder="little")
    assert not bits[n_vocab:].any()
    return set(np.flatnonzero(bits).tolist())


def accepts(matcher: Matcher, model: Model, text: str) -> bool:
    """Whether a matcher accepts a text in single-byte tokens and may end after it."""
    matcher = matcher.copy()
    byte = {
        model.piece(token): token for token in range(model.n_vocab) if len(model.piece(token)) == 1
    }
    for value in text.encode():
        token = byte[bytes([value])]
        if token not in allowed(matcher, model.n_vocab):
            return False
        matcher.advance(token)
        assert matcher.error is None
    return matcher.accepting
