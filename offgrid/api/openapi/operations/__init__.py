"""The tables for the OpenAPI document: request and answers of each method of each path, by API."""

from __future__ import annotations

from offgrid.api.openapi.operations import (
    anthropic,
    helpers,
    history,
    keys,
    lab,
    llama_server,
    models,
    ollama,
    openai,
    peers,
    responses,
    server,
    transfers,
)

OPERATIONS = (
    *server.OPERATIONS,
    *keys.OPERATIONS,
    *peers.OPERATIONS,
    *models.OPERATIONS,
    *transfers.OPERATIONS,
    *openai.OPERATIONS,
    *helpers.OPERATIONS,
    *responses.OPERATIONS,
    *history.OPERATIONS,
    *lab.OPERATIONS,
    *anthropic.OPERATIONS,
    *llama_server.OPERATIONS,
    *ollama.OPERATIONS,
)
