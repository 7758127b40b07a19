"""Limits that follow from a model's context and vocabulary, shared by server and worker.

Clients recognise a conversation that is too long by OpenAI's words "This model's maximum context
length is", not by the error's code, and shorten it.
"""

from __future__ import annotations

from offgrid.errors import ContextLengthExceeded, InvalidParameter

BYTES_PER_TOKEN = 16
"""A text with more bytes than this per token of the context is refused before it is tokenised,
because some tokenisers take time that grows with the square of the length."""


def text_limit(n_ctx: int) -> int:
    """Return how many bytes of UTF-8 a text may have for a context of ``n_ctx`` tokens."""
    return BYTES_PER_TOKEN * n_ctx


def utf8_size(text: str) -> int:
    """Return how many bytes a text has as UTF-8; an unpaired surrogate counts as three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def check_text_size(
    size: int, n_ctx: int, param: str, most: int | None = None, *, what: str = "The prompt"
) -> None:
    """Refuse a text of more bytes than :func:`text_limit` allows.

    Args:
        size: bytes of the text as UTF-8.
        n_ctx: tokens of the context of one sequence.
        param: the request field that the error names.
        most: an upper limit in bytes that applies whatever the context is.
        what: the name of the text, at the beginning of the error's sentence.

    Raises:
        ContextLengthExceeded: it is longer.
    """
    limit = text_limit(n_ctx) if most is None else min(text_limit(n_ctx), most)
    if size > limit:
        raise ContextLengthExceeded(
            f"{what} has {size} bytes and may have at most {limit}. This model's maximum context "
            f"length is {n_ctx} tokens.",
            param,
        )


def check_message_count(count: int, n_ctx: int, param: str) -> None:
    """Refuse a conversation of more messages than the context has tokens: each needs at least one.

    Raises:
        ContextLengthExceeded: it has more messages.
    """
    if count > n_ctx:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {n_ctx} tokens and the conversation has "
            f"{count} messages.",
            param,
        )


def check_prompt_tokens(count: int, n_ctx: int, param: str, *, answered: bool = False) -> None:
    """Refuse a prompt of more tokens than the context has.

    Args:
        count: tokens of the prompt.
        n_ctx: tokens of the context of one sequence.
        param: the request field that the error names.
        answered: whether there must be room for one token of the answer too.

    Raises:
        ContextLengthExceeded: it is longer.
    """
    if count + answered > n_ctx:
        left = "; at least one token must be left for the answer." if answered else "."
        raise ContextLengthExceeded(
            f"This model's maximum context length is {n_ctx} tokens and the prompt has "
            f"{count}{left}",
            param,
        )


def check_input_tokens(count: int, n_ctx: int, param: str, *, paired: bool = False) -> None:
    """Refuse an input of more tokens than the context has. With ``paired``, the input is a document
    together with the query for which it is ranked.

    Raises:
        ContextLengthExceeded: it is longer.
    """
    if count > n_ctx:
        raise ContextLengthExceeded(
            f"This model's maximum context length is {n_ctx} tokens and {param} has {count}"
            f"{' together with the query' if paired else ''}.",
            param,
        )


def outside_vocabulary(token: int, n_vocab: int, param: str, advice: str = "") -> InvalidParameter:
    """Return the error about a token id that a model does not have.

    Args:
        token: the id.
        n_vocab: number of tokens of the vocabulary.
        param: the request field that the error names.
        advice: a sentence that tells the client what to do.
    """
    message = f"Token id {token} is outside the model's vocabulary (0 to {n_vocab - 1})."
    return InvalidParameter(f"{message} {advice}".rstrip(), param)
