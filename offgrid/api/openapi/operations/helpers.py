"""Tokens, scores and ranks of texts."""

from __future__ import annotations

from offgrid.api import tokens
from offgrid.api.fields.inert import IGNORED
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations.bodies import OF_A_MODEL
from offgrid.api.openapi.operations.operation import Body, Operation
from offgrid.api.rerank import Reranking, RerankRequest
from offgrid.api.score import ScoreRequest, Scores


def _score(path: str) -> Operation:
    return Operation(
        "post",
        path,
        "How well pairs of texts fit",
        (Scores,),
        body=Body((ScoreRequest,), ignored=IGNORED, foreign=True, replaced=by_hand.SIDES),
        errors=OF_A_MODEL,
    )


OPERATIONS = (
    Operation(
        "post",
        "/v1/rerank",
        "Documents sorted by relevance to a query",
        (Reranking,),
        body=Body((RerankRequest,), ignored=IGNORED, foreign=True),
        errors=OF_A_MODEL,
    ),
    Operation(
        "post",
        "/tokenize",
        "Token ids of a text or a conversation",
        (tokens.ContentTokens, tokens.PromptTokens),
        body=Body(
            (tokens.ContentRequest, tokens.PromptRequest, tokens.MessagesRequest), foreign=True
        ),
        errors=OF_A_MODEL,
    ),
    Operation(
        "post",
        "/detokenize",
        "The text of token ids",
        (tokens.Detokenized,),
        body=Body((tokens.TokensRequest,), foreign=True),
        errors=OF_A_MODEL,
    ),
    Operation(
        "get",
        "/tokenizer_info",
        "Special tokens, context length and chat template of a model",
        (tokens.TokenizerInfo,),
        query=("model",),
        errors=(404, 409, 503),
    ),
    _score("/v1/score"),
    _score("/score"),
)
