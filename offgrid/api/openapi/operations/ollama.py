"""Ollama's API."""

from __future__ import annotations

from typing import Any

from offgrid.api.ollama import embed as ollama_embed
from offgrid.api.ollama import models as ollama_models
from offgrid.api.ollama import request as ollama
from offgrid.api.ollama import shapes as ollama_shapes
from offgrid.api.ollama import unsupported as ollama_unsupported
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations.bodies import OF_A_MODEL
from offgrid.api.openapi.operations.operation import Body, Operation, Struct


def _ollama(method: str, name: str, summary: str, *answers: Struct, **more: Any) -> Operation:
    """Return an operation of Ollama's API."""
    return Operation(
        method,
        f"/api/{name}",
        summary,
        answers,
        error=ollama_shapes.OllamaError,
        lines=True,
        **more,
    )


def _ollama_body(struct: Struct, **more: Any) -> Body:
    return Body((struct,), foreign=True, **more)


def _not_offered(method: str, name: str) -> Operation:
    return _ollama(method, name, "Not offered: every request gets an error", errors=(501,))


OPERATIONS = (
    _ollama("get", "version", "Version of the server", ollama_shapes.OllamaVersion),
    _ollama("get", "tags", "All models", ollama_shapes.OllamaModels),
    _ollama("get", "ps", "The models that are loaded", ollama_shapes.OllamaLoadedModels),
    _ollama(
        "post",
        "show",
        "One model",
        ollama_shapes.OllamaModelDescription,
        body=_ollama_body(ollama_models.OllamaShowRequest),
        errors=(404, 413),
    ),
    _ollama(
        "post",
        "chat",
        "The next message of a conversation",
        ollama_shapes.OllamaChatAnswer,
        ollama_shapes.OllamaChatLoaded,
        events=(ollama_shapes.OllamaChatLine, ollama_shapes.OllamaChatAnswer),
        body=_ollama_body(ollama.OllamaChatRequest, replaced=by_hand.OLLAMA),
        errors=OF_A_MODEL,
    ),
    _ollama(
        "post",
        "generate",
        "The answer to a prompt, or the continuation of a text",
        ollama_shapes.OllamaGenerateAnswer,
        ollama_shapes.OllamaGenerateLoaded,
        events=(ollama_shapes.OllamaGenerateLine, ollama_shapes.OllamaGenerateAnswer),
        body=_ollama_body(ollama.OllamaGenerateRequest, replaced=by_hand.OLLAMA),
        errors=OF_A_MODEL,
    ),
    _ollama(
        "post",
        "embed",
        "Embeddings of texts",
        ollama_shapes.OllamaEmbeddings,
        body=_ollama_body(ollama_embed.OllamaEmbedRequest, replaced=by_hand.OLLAMA_EMBED),
        errors=OF_A_MODEL,
    ),
    _ollama(
        "post",
        "embeddings",
        "The embedding of a text",
        ollama_shapes.OllamaEmbedding,
        body=_ollama_body(ollama_embed.OllamaEmbeddingsRequest, replaced=by_hand.OLLAMA_OPTIONS),
        errors=OF_A_MODEL,
    ),
    _ollama(
        "post",
        "pull",
        "Whether a model is there; nothing is fetched",
        ollama_shapes.OllamaPulled,
        body=_ollama_body(ollama_unsupported.OllamaPullRequest),
        errors=(413, 501),
    ),
    _not_offered("post", "create"),
    _not_offered("post", "copy"),
    _not_offered("post", "push"),
    _not_offered("post", "delete"),
    _not_offered("delete", "delete"),
    _not_offered("get", "blobs/{digest}"),
    _not_offered("post", "blobs/{digest}"),
)
