"""Compares the vocabularies of two models: a draft's token ids must mean the same to both."""

from __future__ import annotations

from typing import NamedTuple

import llama_cpp.llama_cpp as lc

_KINDS = {
    lc.LLAMA_TOKEN_ATTR_UNKNOWN: "unknown",
    lc.LLAMA_TOKEN_ATTR_UNUSED: "unused",
    lc.LLAMA_TOKEN_ATTR_NORMAL: "normal",
    lc.LLAMA_TOKEN_ATTR_CONTROL: "control",
    lc.LLAMA_TOKEN_ATTR_USER_DEFINED: "user-defined",
    lc.LLAMA_TOKEN_ATTR_BYTE: "byte",
}
_TYPES = {
    lc.LLAMA_VOCAB_TYPE_NONE: "none",
    lc.LLAMA_VOCAB_TYPE_SPM: "SentencePiece",
    lc.LLAMA_VOCAB_TYPE_BPE: "byte-level BPE",
    lc.LLAMA_VOCAB_TYPE_WPM: "WordPiece",
    lc.LLAMA_VOCAB_TYPE_UGM: "unigram",
    lc.LLAMA_VOCAB_TYPE_RWKV: "RWKV",
}
_SHOWN = 40
"""Most characters of a token's text that a message repeats."""


class Named(NamedTuple):
    """A loaded model, and the name of its file."""

    name: str
    model: lc.llama_model_p


def first_difference(main: Named, draft: Named) -> str | None:
    """Return the first difference of two vocabularies as a sentence; None if there is none.

    The texts and kinds of all tokens are compared, in the order of their ids. The larger vocabulary
    may have unused tokens at its end: some models are padded to a round number.
    """
    a, b = (lc.llama_model_get_vocab(named.model) for named in (main, draft))
    types = [_TYPES.get(lc.llama_vocab_type(vocab), "another kind") for vocab in (a, b)]
    if types[0] != types[1]:
        return f"{main.name} has a vocabulary of the type {types[0]}, {draft.name} of {types[1]}"
    sizes = [int(lc.llama_vocab_n_tokens(vocab)) for vocab in (a, b)]
    for token in range(min(sizes)):
        texts = lc.llama_vocab_get_text(a, token), lc.llama_vocab_get_text(b, token)
        if texts[0] != texts[1]:
            return (
                f"token {token} is {_shown(texts[0])} in {main.name} and {_shown(texts[1])} in "
                + draft.name
            )
        kinds = _kind(a, token), _kind(b, token)
        if kinds[0] != kinds[1]:
            return (
                f"token {token}, {_shown(texts[0])}, is {kinds[0]} in {main.name} and {kinds[1]} "
                f"in {draft.name}"
            )
    longer, vocab = (main, a) if sizes[0] > sizes[1] else (draft, b)
    for token in range(min(sizes), max(sizes)):
        if _kind(vocab, token) != "unused":
            text = _shown(lc.llama_vocab_get_text(vocab, token))
            return (
                f"{main.name} has {sizes[0]} tokens and {draft.name} {sizes[1]}; only "
                f"{longer.name} has token {token}, {text}"
            )
    return None


def _kind(vocab: lc.llama_vocab_p, token: int) -> str:
    attributes = int(lc.llama_vocab_get_attr(vocab, token))
    return next((name for bit, name in _KINDS.items() if attributes & bit), "normal")


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace")[:_SHOWN])
