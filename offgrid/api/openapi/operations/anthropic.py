"""Anthropic's Messages API."""

from __future__ import annotations

from typing import Any

from offgrid.api.anthropic import request as messages
from offgrid.api.anthropic import shapes as messages_shapes
from offgrid.api.fields.sampling import ALIASES
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations.bodies import OF_A_MODEL, SEED, of_chat
from offgrid.api.openapi.operations.operation import Body, Operation

_MESSAGES = "/v1/messages"


def _messages_body(struct: type[messages.MessagesFields], **replaced: Any) -> Body:
    return Body(
        (struct,),
        ignored=messages.IGNORED | messages.INERT,
        aliases=ALIASES,
        foreign=True,
        replaced={
            **of_chat(messages.EXTENSIONS),
            "stop": by_hand.STOP,
            "stop_sequences": by_hand.STOPS,
            **replaced,
        },
        hidden=struct.PARSED,
    )


OPERATIONS = (
    Operation(
        "post",
        _MESSAGES,
        "The next message of a conversation, in Anthropic's API",
        (messages_shapes.MessageObject,),
        messages_shapes.EVENTS,
        _messages_body(messages.MessageRequest),
        errors=OF_A_MODEL,
        headers=("request-id", *SEED),
        named=True,
        error=messages_shapes.MessageError,
    ),
    Operation(
        "post",
        f"{_MESSAGES}/count_tokens",
        "Number of prompt tokens of a request in Anthropic's API",
        (messages_shapes.MessageTokens,),
        body=_messages_body(messages.CountTokensRequest, max_tokens=by_hand.limit(0)),
        errors=OF_A_MODEL,
        headers=("request-id",),
        error=messages_shapes.MessageError,
    ),
)
