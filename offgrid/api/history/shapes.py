"""Bodies and answers of ``/v1/history``; see :mod:`offgrid.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from offgrid.api.shapes import Answer, Count, Json
from offgrid.store.history.message import Conversation, Id, Seconds, StoredMessage, Title

MAX_PAGE = 100
"""Most conversations of one page of the list."""
MAX_SETTINGS = 64 << 10
"""Most bytes of a conversation's settings."""
FORMAT = "history.export"


class NewConversation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new conversation, with or without messages."""

    id: Id | None = None
    title: Title = ""
    pinned: bool = False
    head: Id | None = None
    settings: Json = {}
    messages: list[StoredMessage] = []


class ConversationChanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New values of fields; those that are absent stay as they are."""

    title: Title | None = None
    pinned: bool | None = None
    head: Id | None = None
    settings: Json | None = None


class NewMessages(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Messages to add, or newer versions of running ones; parents before their children."""

    messages: list[StoredMessage]
    head: Id | None = None


class ExportedConversation(Conversation, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation of an export, with all branches."""

    id: Id
    object: Literal["history.conversation"] = "history.conversation"


class HistoryExport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An export, as it is imported again."""

    object: Literal["history.export"]
    version: Annotated[int, Meta(ge=1)]
    exported_at: Seconds | None = None
    conversations: list[ExportedConversation]


class HistoryMessage(Answer):
    """A message, and the revision of the conversation at which it was last changed."""

    id: str
    parent: str | None
    role: Literal["user", "assistant", "tool", "system"]
    content: str | list[Json] | None
    reasoning: str | None
    tool_calls: list[Json] | None
    tool_call_id: str | None
    status: Literal["done", "running", "stopped", "failed"]
    model: str | None
    created_at: Count
    data: Json
    revision: Count


class HistoryConversation(Answer):
    """A conversation without its messages."""

    id: str
    object: Literal["history.conversation"]
    title: str
    pinned: bool
    created_at: Count
    updated_at: Annotated[int, Meta(ge=0, description="When its messages last changed.")]
    revision: Annotated[int, Meta(ge=0, description="Grows with every change.")]
    head: Annotated[str | None, Meta(description="The message that is shown last.")]
    settings: Json
    messages_count: Count
    preview: Annotated[str, Meta(description="The beginning of the latest text.")]


class OpenedConversation(HistoryConversation):
    """A conversation with its messages, or a part of them. With ``has_more``, the next part begins
    after the greatest ``revision`` of these."""

    messages: list[HistoryMessage]
    has_more: bool


class HistoryList(Answer):
    """A page of the list of conversations."""

    object: Literal["list"]
    data: list[HistoryConversation]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedHistory(Answer):
    id: str
    object: Literal["history.conversation.deleted"]
    deleted: Literal[True]


class HistoryImport(Answer):
    """What an import did."""

    object: Literal["history.import"]
    ids: list[str]
    created: Annotated[int, Meta(ge=0, description="Conversations that are new.")]
    changed: Annotated[int, Meta(ge=0, description="Conversations that got messages.")]
    unchanged: Count
    messages: Annotated[int, Meta(ge=0, description="Messages that are new or changed.")]
