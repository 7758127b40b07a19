"""Bodies and answers of ``/v1/conversations``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from offgrid.api.fields.inert import Metadata
from offgrid.api.responses.shapes import InputItem
from offgrid.api.shapes import Answer, Count

MAX_ITEMS = 20
"""Maximum number of items in one request, as in OpenAI's API."""
ConversationId = Annotated[str, Meta(pattern="^conv_[0-9a-f]{48}$")]


class ConversationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new conversation."""

    items: list[Any] = []
    metadata: Metadata = {}


class ConversationUpdate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """New metadata of a conversation, which replace the old ones."""

    metadata: Metadata = {}


class ItemsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Items to add to a conversation."""

    items: list[Any]


class ConversationObject(Answer):
    """A conversation. Its items are listed by another endpoint."""

    id: ConversationId
    object: Literal["conversation"]
    created_at: Count
    metadata: dict[str, str]


class DeletedConversation(Answer):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


class ConversationItems(Answer):
    """A page of a conversation's items. The ids of an empty page are empty texts."""

    object: Literal["list"]
    data: list[InputItem]
    first_id: str
    last_id: str
    has_more: bool
