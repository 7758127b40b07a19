"""Requests in which every optional field is set, and the table of their values.

Mutually exclusive fields are in separate requests. Each module has the requests of one API and is
named as this API's module of :mod:`offgrid.api`; ``shared`` has what several of them use.
Parameters without a description are those of :func:`full_requests`.
"""

from __future__ import annotations

from full_requests.anthropic import anthropic_requests
from full_requests.chat import CHAT, chat_requests
from full_requests.completions import COMPLETIONS, completion_requests
from full_requests.conversations import CONVERSATIONS, conversation_requests
from full_requests.decisions import decision_requests, image_decision_requests
from full_requests.embeddings import embedding_requests
from full_requests.full import Full
from full_requests.history import HISTORY, HISTORY_ID, SAID, history_requests
from full_requests.keys import key_requests
from full_requests.lab import lab_requests
from full_requests.llama_server import llama_server_requests
from full_requests.models import model_requests
from full_requests.moderations import moderation_requests
from full_requests.ollama import ollama_requests
from full_requests.peers import peer_requests
from full_requests.rerank import rerank_requests
from full_requests.responses import RESPONSES, response_requests
from full_requests.score import score_requests
from full_requests.shared.foreign import FOREIGN, NOTHING
from full_requests.tokens import token_requests
from full_requests.transfers import copy_requests, transfer_requests

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "CONVERSATIONS",
    "FOREIGN",
    "HISTORY",
    "HISTORY_ID",
    "NOTHING",
    "RESPONSES",
    "SAID",
    "Full",
    "copy_requests",
    "full_requests",
    "key_requests",
    "peer_requests",
]


def full_requests(
    starter: str,
    seeing: str,
    ranking: str,
    previous: str,
    conversation_id: str,
    stick: str,
    spare: str,
) -> list[Full]:
    """All endpoints that accept a body.

    Args:
        starter: id of a model that supports chat and fill-in-the-middle.
        seeing: id of a vision model.
        ranking: id of a model that ranks.
        previous: id of a stored response.
        conversation_id: id of a conversation.
        stick: a folder below an import root.
        spare: id of a model that may be removed.
    """
    return [
        *chat_requests(starter, seeing),
        *completion_requests(starter),
        *anthropic_requests(starter, seeing),
        *response_requests(starter, previous, conversation_id),
        *conversation_requests(conversation_id),
        *history_requests(),
        *embedding_requests(starter),
        *rerank_requests(ranking),
        *llama_server_requests(starter, seeing),
        *score_requests(ranking),
        *decision_requests(starter),
        *lab_requests(starter, seeing),
        *image_decision_requests(seeing),
        *moderation_requests(starter, seeing),
        *token_requests(starter),
        *model_requests(starter, spare),
        *transfer_requests(starter, stick),
        *ollama_requests(starter, seeing),
    ]
