"""The messages of the history, and the rules for merging two versions of one.

A conversation is a tree: each message names its parent. Messages are only added, and a message that
is finished never changes, so two devices that add to a conversation at the same time lose nothing.
Only a message with the status ``running`` may be replaced, by a longer version or a finished one.
Merging gives the same result in whatever order the versions of a message arrive.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, structs

Json = dict[str, Any]
# In Python, $ also matches before a newline at the end.
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]
Title = Annotated[str, Meta(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Seconds = Annotated[int, Meta(ge=0, le=1 << 40)]
Name = Annotated[str, Meta(max_length=500)]
Part = Annotated[
    Json, Meta(extra_json_schema={"properties": {"type": {"type": "string"}}, "required": ["type"]})
]
"""A part of OpenAI's API. That it has a type is checked elsewhere."""
RUNNING = "running"
MAX_SEARCHED = 200_000
"""Characters of a message that are searched; what follows them is stored, and not found."""
_PREVIEW = 160
"""Characters of a preview."""


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message.

    Attributes:
        id: made by the client, unique in the conversation.
        parent: the message before it, None for a first message.
        role: who speaks.
        content: a text, or the parts of OpenAI's API.
        reasoning: the reasoning of an answer.
        tool_calls: the tool calls of an answer.
        tool_call_id: of the role ``tool``: the call whose result it is.
        status: ``running`` while an answer is generated; ``stopped`` by the user, ``failed`` with
            an error in ``data``.
        model: the model that answered.
        created_at: seconds since 1970; None until the message is stored.
        data: JSON of the client.
    """

    id: Id
    parent: Id | None = None
    role: Literal["user", "assistant", "tool", "system"]
    content: str | list[Part] | None = None
    reasoning: str | None = None
    tool_calls: list[Json] | None = None
    tool_call_id: Name | None = None
    status: Literal["done", "running", "stopped", "failed"] = "done"
    model: Name | None = None
    created_at: Seconds | None = None
    data: Json = {}


class Conversation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation as it is made, exported and imported.

    Attributes:
        id: None for a new one.
        title: one line; may be empty.
        pinned: whether it is listed before others.
        created_at: seconds since 1970; None for now.
        updated_at: when its messages last changed; None for now.
        head: the message that is shown last; None for the last one of ``messages``.
        settings: JSON of the client.
        messages: a parent comes before its children.
    """

    id: Id | None = None
    title: Title = ""
    pinned: bool = False
    created_at: Seconds | None = None
    updated_at: Seconds | None = None
    head: Id | None = None
    settings: Json = {}
    messages: list[StoredMessage] = []


class Conflict(Exception):
    """Two versions of a message contradict each other; ``reason`` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def merged(old: StoredMessage, new: StoredMessage) -> StoredMessage:
    """Return which version of a message is to be stored; ``old`` if the new one adds nothing.

    Raises:
        Conflict: the old one is finished, or has another place in the conversation.
    """
    if new.created_at is None:
        new = structs.replace(new, created_at=old.created_at)
    if (new.parent, new.role) != (old.parent, old.role):
        raise Conflict("and another parent or role")
    if old.status != RUNNING:
        # A running version may arrive late, after the finished one.
        if new.status == RUNNING or _ordered(new) == _ordered(old):
            return old
        raise Conflict("which is finished")
    if new.status == RUNNING and _progress(new) <= _progress(old):
        return old
    return new


def _progress(message: StoredMessage) -> tuple[int, bytes]:
    """Return how far a running message is; of two versions of one length any may win, but always
    the same."""
    parts = msgspec.json.encode((message.content, message.reasoning, message.tool_calls))
    return len(parts), _ordered(message)


def _ordered(message: StoredMessage) -> bytes:
    """Return the JSON of a message, without the order of its keys."""
    return msgspec.json.encode(message, order="deterministic")


def text_of(message: StoredMessage) -> str:
    """Return the text of a message's content, without images and reasoning."""
    if isinstance(message.content, list):
        texts = [part.get("text") for part in message.content]
        return "\n".join(text for text in texts if isinstance(text, str))
    return message.content or ""


def preview_of(text: str) -> str:
    """Return the beginning of a text, in one line."""
    return " ".join(text[: 4 * _PREVIEW].split())[:_PREVIEW]


def folded(text: str) -> str:
    """Return a text as it is searched: without differences of case, and of how Unicode writes a
    character."""
    text = unicodedata.normalize("NFC", text[:MAX_SEARCHED].replace("\0", " "))
    return unicodedata.normalize("NFC", text.casefold())
