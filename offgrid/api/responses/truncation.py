"""``truncation: auto``: the oldest turns of a conversation are left out until the rest fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from offgrid.api.chat.prompt import count_tokens
from offgrid.api.chat.request import ChatRequest
from offgrid.api.responses.request import ResponsesRequest, to_chat
from offgrid.engine.client.client import EngineClient
from offgrid.errors import ContextLengthExceeded

Json = dict[str, Any]

ANSWER_SHARE = 8
"""What is kept free for an answer whose length is not limited: this part (1/8) of the context."""


def fitting(
    engine: EngineClient,
    request: ResponsesRequest,
    items: list[Json],
    alive: Callable[[], bool],
) -> ChatRequest:
    """Return the chat request of the longest end of a conversation that leaves room for an answer.

    System messages in front of everything stay. What follows is left out in whole turns, from one
    message of the user to the next: a template may want a user to begin, and a result needs its
    call. The last turn always stays; if even that is too long, the model says so.

    Raises:
        RequestError: the model does not take the conversation.
        ClientGone: ``alive`` said no.
    """
    n_ctx = engine.info.n_ctx
    room = n_ctx - min(request.max_output_tokens or n_ctx // ANSWER_SHARE, n_ctx // 2)

    def fits(chat: ChatRequest) -> bool:
        try:
            return count_tokens(engine, chat, "input", alive) <= room
        except ContextLengthExceeded:  # not even counted
            return False

    whole = to_chat(request, items)
    if fits(whole):
        return whole
    head, turns = _turns(items)
    # Fewer turns are fewer tokens: halve what is in doubt.
    most, least = 0, len(turns) - 1
    while most < least:
        middle = (most + least) // 2
        if fits(to_chat(request, head + items[turns[middle] :])):
            least = middle
        else:
            most = middle + 1
    return to_chat(request, head + items[turns[least] :]) if turns else whole


def _turns(items: list[Json]) -> tuple[list[Json], list[int]]:
    """Return the system messages in front, and where in ``items`` turns after them begin."""
    start = 0
    while start < len(items) and items[start].get("role") in ("system", "developer"):
        start += 1
    return items[:start], [i for i in range(start, len(items)) if items[i].get("role") == "user"]
