"""A chat request that its model has accepted, and its answer: whole, or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

from offgrid.api.chat.answer import stream_answer, whole_answer
from offgrid.api.chat.prompt import start_chat
from offgrid.api.chat.request import ChatRequest
from offgrid.api.shapes import Json
from offgrid.engine.client.client import EngineClient


class ChatCall:
    """A chat request that is being answered. :meth:`whole` or :meth:`chunks` is called, once.

    Args:
        engine: the model.
        request: a checked request.
        alive: whether the client still waits for the answer.

    Attributes:
        group: the generations; the caller that gives up the answer cancels them.

    Raises:
        RequestError: the model does not accept the request; nothing is left running.
    """

    def __init__(
        self, engine: EngineClient, request: ChatRequest, alive: Callable[[], bool]
    ) -> None:
        self._prompt, self.group = start_chat(engine, request, alive)
        self._head: Json = {
            "id": f"chatcmpl-{secrets.token_hex(14)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": engine.name,
            "service_tier": request.tier,
            "system_fingerprint": engine.info.fingerprint,
        }

    def whole(self) -> Json:
        """Return the answer when it is complete."""
        return whole_answer(self._head, self._prompt, self.group)

    def chunks(self) -> Iterator[Json | None]:
        """Yield the chunks of a streamed answer; None if no delta came for a moment."""
        head = {**self._head, "object": "chat.completion.chunk"}
        return stream_answer(head, self._prompt, self.group)
