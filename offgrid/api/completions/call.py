"""A completion request that its model has accepted, and its answer: whole, or in chunks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

from offgrid.api.completions.answer import (
    Choices,
    PromptScores,
    generation_requests,
    stream_answer,
    whole_answer,
)
from offgrid.api.completions.request import CompletionRequest
from offgrid.api.generation import GenerationGroup
from offgrid.api.http.sse import Chunk
from offgrid.api.screening import check_prompt
from offgrid.api.shapes import Json
from offgrid.engine.client.client import EngineClient
from offgrid.errors import InvalidParameter


class CompletionCall:
    """A completion request that is being answered. :meth:`whole` or :meth:`chunks` is called, once.

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
        self, engine: EngineClient, request: CompletionRequest, alive: Callable[[], bool]
    ) -> None:
        if request.candidates > max(request.n, engine.capacity):
            raise InvalidParameter(
                f"best_of must be at most {engine.capacity} on this server (slots plus queue).",
                "best_of",
            )
        texts = [(p.content, p.param) for p in request.prompts if isinstance(p.content, str)]
        check_prompt([*texts, (request.suffix, "suffix")])
        self._request = request
        self.group = GenerationGroup(engine, generation_requests(request, engine.defaults), alive)
        self._choices = Choices(request, self.group)
        self._scores = PromptScores(request)
        self._head: Json = {
            "id": f"cmpl-{secrets.token_hex(14)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": engine.name,
            "system_fingerprint": engine.info.fingerprint,
        }

    def whole(self) -> Json:
        """Return the answer when it is complete."""
        return whole_answer(self._head, self._request, self.group, self._choices, self._scores)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks of a streamed answer."""
        return stream_answer(self._head, self._request, self.group, self._choices, self._scores)
