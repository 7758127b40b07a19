"""How long a prompt may be before anything is made of it: one rule for server and worker."""

from __future__ import annotations

from offgrid.errors import ContextLengthExceeded

PROMPT_BYTES_PER_TOKEN = 16
"""A prompt with more bytes than this for every token of the context is refused unread: some
tokenizers take time that grows with the square of the text."""


def prompt_limit(n_ctx: int) -> int:
    """Return how many bytes of UTF-8 a prompt may have for a context of ``n_ctx`` tokens."""
    return PROMPT_BYTES_PER_TOKEN * n_ctx


def utf8_size(text: str) -> int:
    """Return how many bytes a text has as UTF-8; half a surrogate pair counts three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def check_prompt_size(size: int, n_ctx: int, param: str, most: int | None = None) -> None:
    """Refuse a prompt of more bytes than a model's context can take.

    Args:
        size: bytes of the prompt as UTF-8.
        n_ctx: tokens of the context of one sequence.
        param: the request field that the error names.
        most: what is taken at most, whatever the context is.

    Raises:
        ContextLengthExceeded: it is longer.
    """
    limit = prompt_limit(n_ctx) if most is None else min(prompt_limit(n_ctx), most)
    if size > limit:
        raise ContextLengthExceeded(
            f"The prompt has {size} bytes; this model's context of {n_ctx} tokens takes at most "
            f"{limit}.",
            param,
        )


def check_message_count(count: int, n_ctx: int, param: str) -> None:
    """Refuse a conversation of more messages than the context has tokens; each takes one or more.

    Raises:
        ContextLengthExceeded: so it is.
    """
    if count > n_ctx:
        raise ContextLengthExceeded(
            f"The conversation has {count} messages; this model's context is {n_ctx} tokens.", param
        )


def check_prompt_tokens(count: int, n_ctx: int, param: str) -> None:
    """Refuse a prompt of more token ids than the context has tokens, before they are looked at.

    Raises:
        ContextLengthExceeded: so it is.
    """
    if count > n_ctx:
        raise ContextLengthExceeded(
            f"This model's context is {n_ctx} tokens and the prompt has {count}.", param
        )
