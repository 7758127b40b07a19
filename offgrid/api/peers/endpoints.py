"""The endpoints whose requests are forwarded, and what is special about each API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from offgrid.api.anthropic.framing import MessageEvents
from offgrid.api.http.framing import UNNAMED, Framing
from offgrid.api.llama_server.framing import EVENTS
from offgrid.api.ollama.framing import LINES
from offgrid.api.peers.relayed import ResponseEvents
from offgrid.errors import NotForwarded

PEER, PEER_REQUEST = "x-offgrid-peer", "x-offgrid-peer-request-id"
"""Headers of a response: the peer that has answered, and its id of the request."""


class Fields(msgspec.Struct):
    """The fields of a body that matter here; all others go to the peer unread."""

    model: Any = None
    name: Any = None
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None
    store: Any = None


def _no_check(fields: Fields, peer: str) -> None:
    """Allow everything."""


@dataclass(frozen=True)
class Endpoint:
    """What is special about an endpoint.

    Attributes:
        framing: makes what writes errors into its streams, from the id of the request.
        ends: what follows each frame of a stream.
        tagged: whether names of models may have a tag, and the field may be called ``name``.
        check: refuses what cannot be forwarded.
    """

    framing: Callable[[str], Framing] = lambda id: UNNAMED
    ends: bytes = b"\n\n"
    tagged: bool = False
    check: Callable[[Fields, str], None] = _no_check

    def names(self, fields: Fields) -> list[str]:
        """Return the names of the model that a body may mean, the first one first."""
        given = fields.model or (fields.name if self.tagged else None)
        if not isinstance(given, str):
            return []
        short = given.removesuffix(":latest") if self.tagged else given
        return list(dict.fromkeys((given, short)))


def _check_state(fields: Fields, peer: str) -> None:
    """Refuse what needs stored responses: they belong to the machine that stores them.

    Raises:
        NotForwarded: the request continues a stored conversation, or would be stored.
    """
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(fields, name):
            raise NotForwarded(
                f"{name} needs stored responses, and this model is on the peer {peer}, which "
                "stores none for other machines. Send the whole conversation in input, or copy the "
                "model to this machine: offgrid import --from PEER MODEL.",
                name,
            )


_OPENAI = Endpoint()
_ANTHROPIC = Endpoint(MessageEvents)
_LLAMA_SERVER = Endpoint(lambda id: EVENTS)
_OLLAMA = Endpoint(lambda id: LINES, ends=b"\n", tagged=True)
_RESPONSES = Endpoint(ResponseEvents, check=_check_state)

ENDPOINTS: dict[str, Endpoint] = {
    "/v1/responses": _RESPONSES,
    "/v1/responses/input_tokens": _RESPONSES,
    **dict.fromkeys(("/v1/messages", "/v1/messages/count_tokens"), _ANTHROPIC),
    **dict.fromkeys(("/completion", "/completions", "/infill", "/apply-template"), _LLAMA_SERVER),
    **dict.fromkeys(("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"), _OLLAMA),
    **dict.fromkeys(
        (
            "/detokenize", "/score", "/tokenize", "/v1/chat/completions",
            "/v1/chat/completions/input_tokens", "/v1/completions", "/v1/decisions",
            "/v1/embeddings", "/v1/lab/distribution", "/v1/moderations", "/v1/rerank", "/v1/score",
        ),
        _OPENAI,
    ),
}  # fmt: skip
"""Path -> what is special about its POST requests."""
QUERIES = {"/tokenizer_info": _OPENAI}
"""The same for GET requests that name the model in the query."""
