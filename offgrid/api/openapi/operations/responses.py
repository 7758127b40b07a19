"""OpenAI's responses and conversations."""

from __future__ import annotations

from typing import Any

from offgrid.api.conversations import shapes as conversations
from offgrid.api.fields.sampling import ALIASES
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations.bodies import OF_A_MODEL, SEED, of_chat
from offgrid.api.openapi.operations.operation import Body, Operation
from offgrid.api.responses import request as responses
from offgrid.api.responses import shapes as responses_shapes
from offgrid.api.shapes import InputTokens

_RESPONSES = "/v1/responses"
_CONVERSATIONS = "/v1/conversations"


def _responses_body(**more: Any) -> Body:
    """Return the body of a responses request. Its sampling fields are chat's, checked there."""
    return Body(
        (responses.ResponsesRequest,),
        ignored=responses.IGNORED | responses.ONLY_SHOWN,
        aliases=ALIASES,
        foreign=True,
        replaced={
            **of_chat(responses.SAMPLING),
            "input": by_hand.ITEMS,
            "max_output_tokens": by_hand.limit(1),
            "tools": by_hand.TOOLS,
            "tool_choice": by_hand.TOOL_CHOICE,
        },
        hidden=responses.ResponsesRequest.PARSED,
        **more,
    )


OPERATIONS = (
    Operation(
        "post",
        _RESPONSES,
        "An answer that is stored and can be continued",
        (responses_shapes.ResponseObject,),
        responses_shapes.EVENTS,
        _responses_body(),
        errors=OF_A_MODEL,
        headers=SEED,
        named=True,
    ),
    Operation(
        "post",
        f"{_RESPONSES}/input_tokens",
        "Number of prompt tokens of a Responses request",
        (InputTokens,),
        body=_responses_body(name="ResponseTokensRequest"),
        errors=OF_A_MODEL,
    ),
    Operation(
        "get",
        f"{_RESPONSES}/{{id}}",
        "A stored response",
        (responses_shapes.ResponseObject,),
        responses_shapes.EVENTS,
        query=("include", "include_obfuscation", "starting_after", "stream"),
        errors=(404, 503),
        named=True,
    ),
    Operation(
        "delete",
        f"{_RESPONSES}/{{id}}",
        "Deletes a stored response",
        (responses_shapes.DeletedResponse,),
        errors=(404, 503),
    ),
    Operation(
        "get",
        f"{_RESPONSES}/{{id}}/input_items",
        "The input items of a stored response",
        (responses_shapes.InputItems,),
        query=("after", "include", "limit", "order"),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_RESPONSES}/{{id}}/cancel",
        "Ends a response in the background",
        (responses_shapes.ResponseObject,),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_RESPONSES}/compact",
        "Not supported: every request gets an error",
        (responses_shapes.ResponseObject,),
        errors=(404, 503),
    ),
    Operation(
        "post",
        _CONVERSATIONS,
        "A new conversation",
        (conversations.ConversationObject,),
        body=Body(
            (conversations.ConversationRequest,),
            replaced={"items": by_hand.items(conversations.MAX_ITEMS, least=0)},
            optional=True,
        ),
        errors=(413, 503),
    ),
    Operation(
        "get",
        f"{_CONVERSATIONS}/{{id}}",
        "A conversation",
        (conversations.ConversationObject,),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_CONVERSATIONS}/{{id}}",
        "Replaces the metadata of a conversation",
        (conversations.ConversationObject,),
        body=Body((conversations.ConversationUpdate,)),
        errors=(404, 413, 503),
    ),
    Operation(
        "delete",
        f"{_CONVERSATIONS}/{{id}}",
        "Deletes a conversation",
        (conversations.DeletedConversation,),
        errors=(404, 503),
    ),
    Operation(
        "get",
        f"{_CONVERSATIONS}/{{id}}/items",
        "The items of a conversation",
        (conversations.ConversationItems,),
        query=("after", "include", "limit", "order"),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_CONVERSATIONS}/{{id}}/items",
        "Adds items to a conversation",
        (conversations.ConversationItems,),
        body=Body(
            (conversations.ItemsRequest,),
            replaced={"items": by_hand.items(conversations.MAX_ITEMS)},
        ),
        query=("include",),
        errors=(404, 413, 503),
    ),
    Operation(
        "get",
        f"{_CONVERSATIONS}/{{id}}/items/{{item_id}}",
        "An item of a conversation",
        responses_shapes.INPUT_ITEMS,
        query=("include",),
        errors=(404, 503),
    ),
    Operation(
        "delete",
        f"{_CONVERSATIONS}/{{id}}/items/{{item_id}}",
        "Removes an item from a conversation",
        (conversations.ConversationObject,),
        errors=(404, 503),
    ),
)
