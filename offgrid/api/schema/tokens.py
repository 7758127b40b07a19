"""``/tokenize`` and ``/detokenize``: llama-server's bodies and vLLM's, known by their fields."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from offgrid.api.schema.fields import invalid
from offgrid.errors import InvalidParameter

T = TypeVar("T")

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]


class ContentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/tokenize`` as llama-server has it."""

    content: str
    model: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class PromptRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/tokenize`` as vLLM has it, of a text."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class MessagesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/tokenize`` as vLLM has it, of a conversation.

    ``messages`` are those of a chat request, and checked as such by whoever renders them.
    """

    messages: list[Any]
    model: str | None = None
    # vLLM's default is false: templates of its models write what begins a sequence. Here such a
    # token is never put in front twice, so true gives what the chat endpoint computes.
    add_special_tokens: bool = True
    return_token_strs: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: list[Any] | None = None


class TokensRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/detokenize``, which is the same for both."""

    tokens: list[TokenId]
    model: str | None = None


Tokenize = ContentRequest | PromptRequest | MessagesRequest
_KINDS: dict[str, type[Tokenize]] = {
    "content": ContentRequest, "prompt": PromptRequest, "messages": MessagesRequest,
}  # fmt: skip


def parse_tokenize(body: dict[str, Any]) -> Tokenize:
    """Check the body of ``/tokenize``; which of the three fields it has says whose it is.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    given = [name for name in _KINDS if body.get(name) is not None]
    if not given:
        raise InvalidParameter(
            "One of content, prompt and messages is required.",
            "prompt",
            code="missing_required_parameter",
        )
    if len(given) > 1:
        raise InvalidParameter(f"{given[0]} and {given[1]} are mutually exclusive.", given[1])
    return _convert(body, _KINDS[given[0]])


def parse_detokenize(body: dict[str, Any]) -> TokensRequest:
    """Check the body of ``/detokenize``.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    return _convert(body, TokensRequest)


def _convert(body: dict[str, Any], cls: type[T]) -> T:
    try:
        return msgspec.convert({k: v for k, v in body.items() if v is not None}, cls)
    except msgspec.ValidationError as ex:
        raise invalid(str(ex)) from None
