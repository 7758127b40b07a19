"""OpenAI's API without responses and conversations."""

from __future__ import annotations

from offgrid.api.chat import request as chat
from offgrid.api.chat import shapes as chat_shapes
from offgrid.api.completions import request as completions
from offgrid.api.completions import shapes as completions_shapes
from offgrid.api.decisions.request import DecisionsRequest
from offgrid.api.decisions.shapes import Decision
from offgrid.api.embeddings import EmbeddingList, EmbeddingsRequest
from offgrid.api.fields.inert import IGNORED
from offgrid.api.moderations import ModerationsObject, ModerationsRequest
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations.bodies import CHAT, OF_A_MODEL, SAMPLING, SEED, generation_body
from offgrid.api.openapi.operations.operation import Body, Operation
from offgrid.api.shapes import InputTokens

_TEXT = {
    **SAMPLING,
    "max_tokens": by_hand.limit(0),
    "prompt": by_hand.PROMPT,
}

OPERATIONS = (
    Operation(
        "post",
        "/v1/chat/completions",
        "The next message of a conversation",
        (chat_shapes.ChatCompletion,),
        (chat_shapes.ChatCompletionChunk,),
        generation_body(chat.ChatRequest, replaced=CHAT),
        errors=OF_A_MODEL,
        headers=SEED,
    ),
    Operation(
        "post",
        "/v1/chat/completions/input_tokens",
        "Number of prompt tokens of a chat request",
        (InputTokens,),
        body=generation_body(
            chat.ChatRequest,
            name="InputTokensRequest",
            replaced=CHAT,
        ),
        errors=OF_A_MODEL,
    ),
    Operation(
        "post",
        "/v1/completions",
        "The continuation of a text",
        (completions_shapes.TextCompletion,),
        (completions_shapes.TextCompletionChunk,),
        generation_body(completions.CompletionRequest, replaced=_TEXT),
        errors=OF_A_MODEL,
        headers=SEED,
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Embeddings of texts",
        (EmbeddingList,),
        body=Body(
            (EmbeddingsRequest,),
            ignored=IGNORED,
            foreign=True,
            replaced={"input": by_hand.INPUT},
        ),
        errors=OF_A_MODEL,
    ),
    Operation(
        "post",
        "/v1/decisions",
        "Answers to questions about an input, with probabilities",
        (Decision,),
        body=Body(
            (DecisionsRequest,),
            ignored=IGNORED,
            foreign=True,
            replaced={"input": by_hand.DECISION_INPUT},
        ),
        errors=OF_A_MODEL,
    ),
    Operation(
        "post",
        "/v1/moderations",
        "Whether texts belong to categories of harmful content, as the model judges",
        (ModerationsObject,),
        body=Body((ModerationsRequest,), ignored=IGNORED, foreign=True),
        errors=OF_A_MODEL,
    ),
)
