"""The history of chats."""

from __future__ import annotations

from support import Json

from full_requests.full import Full
from full_requests.shared.messages import CALL, IMAGE_URL

HISTORY = "/v1/history"
HISTORY_ID = "full"
"""A conversation that the history must have."""
SAID: list[Json] = [
    {"id": "u1", "parent": None, "role": "user", "created_at": 1790000000, "content": [
        {"type": "text", "text": "Look!"}, {"type": "image_url", "image_url": {"url": IMAGE_URL}}]},
    {"id": "a1", "parent": "u1", "role": "assistant", "content": "It is 7.", "reasoning": "Hm.",
     "tool_calls": [CALL], "status": "stopped", "model": "m", "data": {"usage": {"a": 1}}},
    {"id": "t1", "parent": "a1", "role": "tool", "tool_call_id": "c1", "content": "7"},
]  # fmt: skip
_CONVERSATION: Json = {
    "title": "Numbers", "pinned": True, "settings": {"temperature": 0.5}, "messages": SAID,
    "head": "a1",
}  # fmt: skip
_EXPORTED: Json = {
    "id": "exported", "object": "history.conversation", "created_at": 1790000000,
    "updated_at": 1790000001, **_CONVERSATION,
}  # fmt: skip


def history_requests() -> list[Full]:
    """The endpoints that keep, change and import conversations."""
    of_conversation = {"id": HISTORY_ID}
    return [
        Full(HISTORY, {}, {"id": HISTORY_ID, **_CONVERSATION}),
        Full(
            f"{HISTORY}/{{id}}",
            {},
            {name: value for name, value in _CONVERSATION.items() if name != "messages"},
            values=of_conversation,
        ),
        Full(
            f"{HISTORY}/{{id}}/messages",
            {"messages": SAID},
            {"head": "a1"},
            values=of_conversation,
        ),
        Full(
            f"{HISTORY}/import",
            {"object": "history.export", "version": 1, "conversations": [_EXPORTED]},
            {"exported_at": 1790000000},
        ),
    ]
