"""``truncation: auto``: omits the oldest turns of a conversation until the rest fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from offgrid.api.chat.prompt import count_tokens
from offgrid.api.chat.request import ChatRequest, Message
from offgrid.engine.client.client import EngineClient
from offgrid.errors import ContextLengthExceeded

ANSWER_SHARE = 8
"""1/8 of the context is kept free for an answer whose length the request does not limit."""


def fitting(
    engine: EngineClient, chat: ChatRequest, alive: Callable[[], bool], param: str = "input"
) -> ChatRequest:
    """Return a request with the longest end of its conversation that leaves room for an answer.

    System messages at the beginning stay. After them, whole turns are omitted, each from one user
    message to the next: a template may require that a user message comes first, and a result needs
    its call. The last turn always stays; if it alone is too long, the generation is refused.

    Raises:
        RequestError: the model does not accept the conversation.
        ClientGone: ``alive`` returned False.
    """
    n_ctx = engine.info.n_ctx
    room = n_ctx - min(chat.token_limit or n_ctx // ANSWER_SHARE, n_ctx // 2)

    def fits(shorter: ChatRequest) -> bool:
        try:
            return count_tokens(engine, shorter, param, alive) <= room
        except ContextLengthExceeded:  # too long even to be counted
            return False

    if fits(chat):
        return chat
    head, turns = _turns(chat.messages)
    # Binary search: fewer turns have fewer tokens.
    most, least = 0, len(turns) - 1
    while most < least:
        middle = (most + least) // 2
        if fits(chat.without(head, turns[middle])):
            least = middle
        else:
            most = middle + 1
    return chat.without(head, turns[least]) if turns else chat


def _turns(messages: Sequence[Message]) -> tuple[int, list[int]]:
    """Return the number of system messages at the beginning, and where the turns begin."""
    head = 0
    while head < len(messages) and messages[head].role in ("system", "developer"):
        head += 1
    return head, [i for i in range(head, len(messages)) if messages[i].role == "user"]
