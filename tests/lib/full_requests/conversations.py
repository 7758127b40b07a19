"""The Conversations API."""

from __future__ import annotations

from full_requests.full import Full
from full_requests.responses import ITEMS

CONVERSATIONS = "/v1/conversations"


def conversation_requests(conversation_id: str) -> list[Full]:
    """The endpoints that create and change a conversation, and that add to it."""
    of_conversation = {"id": conversation_id}
    return [
        Full(CONVERSATIONS, {}, {"items": ITEMS, "metadata": {"trip": "1"}}),
        Full(f"{CONVERSATIONS}/{{id}}", {}, {"metadata": {"trip": "2"}}, values=of_conversation),
        Full(f"{CONVERSATIONS}/{{id}}/items", {"items": ITEMS}, values=of_conversation),
    ]
