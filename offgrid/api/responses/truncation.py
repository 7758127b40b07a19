"""``truncation: auto``: the oldest turns of a conversation are left out until the rest fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from offgrid.api.chat.prompt import count_tokens
from offgrid.api.chat.request import ChatRequest, Message
from offgrid.engine.client.client import EngineClient
from offgrid.errors import ContextLengthExceeded

ANSWER_SHARE = 8
"""What is kept free for an answer whose length is not limited: this part (1/8) of the context."""


def fitting(engine: EngineClient, chat: ChatRequest, alive: Callable[[], bool]) -> ChatRequest:
    """Return a request with the longest end of its conversation that leaves room for an answer.

    System messages in front of everything stay. What follows is left out in whole turns, from one
    message of the user to the next: a template may want a user to begin, and a result needs its
    call. The last turn always stays; if even that is too long, the model says so.

    Raises:
        RequestError: the model does not take the conversation.
        ClientGone: ``alive`` said no.
    """
    n_ctx = engine.info.n_ctx
    room = n_ctx - min(chat.token_limit or n_ctx // ANSWER_SHARE, n_ctx // 2)

    def fits(shorter: ChatRequest) -> bool:
        try:
            return count_tokens(engine, shorter, "input", alive) <= room
        except ContextLengthExceeded:  # not even counted
            return False

    if fits(chat):
        return chat
    head, turns = _turns(chat.messages)
    # Fewer turns are fewer tokens: halve what is in doubt.
    most, least = 0, len(turns) - 1
    while most < least:
        middle = (most + least) // 2
        if fits(chat.without(head, turns[middle])):
            least = middle
        else:
            most = middle + 1
    return chat.without(head, turns[least]) if turns else chat


def _turns(messages: Sequence[Message]) -> tuple[int, list[int]]:
    """Return how many system messages are in front, and where turns after them begin."""
    head = 0
    while head < len(messages) and messages[head].role in ("system", "developer"):
        head += 1
    return head, [i for i in range(head, len(messages)) if messages[i].role == "user"]
