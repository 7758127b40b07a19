"""Request and answers of each method of each path: the table for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from offgrid.api import health, models, tokens
from offgrid.api.chat import request as chat
from offgrid.api.chat import shapes as chat_shapes
from offgrid.api.completions import request as completions
from offgrid.api.completions import shapes as completions_shapes
from offgrid.api.conversations import shapes as conversations
from offgrid.api.embeddings import EmbeddingList, EmbeddingsRequest
from offgrid.api.fields.common import GenerationFields
from offgrid.api.fields.inert import IGNORED
from offgrid.api.fields.sampling import ALIASES, SamplingFields
from offgrid.api.imports import shapes as imports
from offgrid.api.loaded import LoadedList
from offgrid.api.openapi import by_hand
from offgrid.api.rerank import Reranking, RerankRequest
from offgrid.api.responses import request as responses
from offgrid.api.responses import shapes as responses_shapes
from offgrid.api.shapes import Answer, InputTokens


class OpenApi(Answer):
    """This document."""

    openapi: Literal["3.1.1"]
    info: dict[str, str]
    paths: dict[str, dict[str, Any]]
    components: dict[str, dict[str, Any]]


Struct = type[msgspec.Struct]


@dataclass(frozen=True)
class Body:
    """The JSON object that a request carries.

    Attributes:
        types: the struct that checks the body; several if the body's fields decide which.
        name: its name in the document, if not the struct's name.
        ignored: fields that have no effect.
        aliases: other names of fields.
        foreign: whether foreign fields are translated.
        replaced: schemas of fields whose types allow more than the checks.
        hidden: attributes of the struct that are not fields of the body.
        optional: whether the request may have no body.
        more: structs that check the fields from which hidden attributes are made.
    """

    types: tuple[Struct, ...]
    name: str | None = None
    ignored: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    foreign: bool = False
    replaced: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    optional: bool = False
    more: tuple[Struct, ...] = ()


@dataclass(frozen=True)
class Operation:
    """Request and answers of one method of one path.

    Attributes:
        method: in lower case; an entry for GET includes HEAD.
        path: as in the document, with ``{name}`` for a parameter.
        summary: a description in a few words.
        answers: types of a whole answer; several if the request decides which.
        events: types of the events of a stream, if the answer may be one.
        named: whether the events have names, without ``[DONE]`` after the last one.
        body: the body of the request.
        query: names of query parameters; all are optional strings.
        errors: error statuses besides those that any request may get.
        headers: more headers of the answer.
        later: whether the answer has status 202 if the request does not wait.
    """

    method: str
    path: str
    summary: str
    answers: tuple[Struct, ...]
    events: tuple[Struct, ...] = ()
    body: Body | None = None
    query: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()
    named: bool = False
    later: bool = False

    @property
    def names_a_model(self) -> bool:
        """Whether its body names the model, for which the request may wait."""
        kinds = () if self.body is None else self.body.types
        return any("model" in kind.__struct_fields__ for kind in kinds)


# The model may not exist or may not be loaded in time; the body may be too large.
_OF_A_MODEL = (404, 413, 503)
_SEED = ("x-offgrid-seed",)
_SAMPLING = {
    "seed": by_hand.SEED,
    "logit_bias": by_hand.LOGIT_BIAS,
    "dry_sequence_breakers": by_hand.BREAKERS,
    "stop": by_hand.STOP,
    **by_hand.STRUCTURED,
}
_CHAT = {
    **_SAMPLING,
    "max_tokens": by_hand.limit(1),
    "max_completion_tokens": by_hand.limit(1),
}
_TEXT = {
    **_SAMPLING,
    "max_tokens": by_hand.limit(0),
    "prompt": by_hand.PROMPT,
}


def _generation_body(struct: type[GenerationFields], **more: Any) -> Body:
    return Body(
        (struct,),
        ignored=IGNORED,
        aliases=ALIASES,
        foreign=True,
        hidden=struct.PARSED,
        more=(SamplingFields,),
        **more,
    )


def _default(schema: dict[str, Any]) -> dict[str, Any]:
    return {"default": schema["default"]} if "default" in schema else {}


def _responses_body(**more: Any) -> Body:
    """Return the body of a responses request. Its sampling fields are chat's, checked there."""
    _, schemas = msgspec.json.schema_components([chat.ChatRequest, SamplingFields])
    typed = {**schemas["ChatRequest"]["properties"], **schemas["SamplingFields"]["properties"]}
    sampling = {
        name: {**(_CHAT.get(name) or typed[name]), **_default(typed.get(name, {}))}
        for name in responses.SAMPLING - ALIASES.keys()
    }
    return Body(
        (responses.ResponsesRequest,),
        ignored=responses.IGNORED | responses.ONLY_SHOWN,
        aliases=ALIASES,
        foreign=True,
        replaced={
            **sampling,
            "input": by_hand.ITEMS,
            "max_output_tokens": by_hand.limit(1),
            "tools": by_hand.TOOLS,
            "tool_choice": by_hand.TOOL_CHOICE,
        },
        hidden=responses.ResponsesRequest.PARSED,
        **more,
    )


_RESPONSES = "/v1/responses"
_CONVERSATIONS = "/v1/conversations"
_IMPORT = "/v1/import"

OPERATIONS = (
    Operation("get", "/", "Name and version of the server", (health.Root,)),
    Operation("get", "/health", "Health of the server", (health.Health,)),
    Operation("get", "/openapi.json", "This document", (OpenApi,)),
    Operation("get", "/v1/models", "All models", (models.ModelList,)),
    Operation("get", "/v1/models/{model}", "One model", (models.ModelDetails,), errors=(404,)),
    Operation("get", "/v1/loaded", "The models that are loaded", (LoadedList,)),
    Operation("get", _IMPORT, "The models on sticks and cards", (imports.ImportSources,)),
    Operation(
        "post",
        _IMPORT,
        "Copies models into the models directory",
        (imports.ImportObject,),
        imports.EVENTS,
        Body((imports.ImportRequest,)),
        errors=(409, 413, 503),
        named=True,
    ),
    Operation(
        "get",
        f"{_IMPORT}/{{id}}",
        "An import, while it runs and after",
        (imports.ImportObject,),
        imports.EVENTS,
        query=("stream",),
        errors=(404,),
        named=True,
    ),
    Operation(
        "delete",
        f"{_IMPORT}/{{id}}",
        "Cancels an import if it runs, and forgets it",
        (imports.DeletedImport,),
        errors=(404,),
    ),
    Operation(
        "post",
        f"{_IMPORT}/{{id}}/cancel",
        "Cancels an import",
        (imports.ImportObject,),
        errors=(404,),
    ),
    Operation(
        "post",
        "/v1/models/{model}/load",
        "Loads a model",
        (models.ModelDetails,),
        body=Body((models.LoadRequest,), foreign=True, optional=True),
        errors=_OF_A_MODEL,
        later=True,
    ),
    Operation(
        "post",
        "/v1/models/{model}/unload",
        "Unloads a model when no request uses it any more",
        (models.ModelDetails,),
        body=Body((models.UnloadRequest,), foreign=True, optional=True),
        errors=_OF_A_MODEL,
        later=True,
    ),
    Operation(
        "post",
        "/v1/chat/completions",
        "The next message of a conversation",
        (chat_shapes.ChatCompletion,),
        (chat_shapes.ChatCompletionChunk,),
        _generation_body(chat.ChatRequest, replaced=_CHAT),
        errors=_OF_A_MODEL,
        headers=_SEED,
    ),
    Operation(
        "post",
        "/v1/chat/completions/input_tokens",
        "Number of prompt tokens of a chat request",
        (InputTokens,),
        body=_generation_body(
            chat.ChatRequest,
            name="InputTokensRequest",
            replaced=_CHAT,
        ),
        errors=_OF_A_MODEL,
    ),
    Operation(
        "post",
        "/v1/completions",
        "The continuation of a text",
        (completions_shapes.TextCompletion,),
        (completions_shapes.TextCompletionChunk,),
        _generation_body(completions.CompletionRequest, replaced=_TEXT),
        errors=_OF_A_MODEL,
        headers=_SEED,
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
        errors=_OF_A_MODEL,
    ),
    Operation(
        "post",
        "/v1/rerank",
        "Documents sorted by relevance to a query",
        (Reranking,),
        body=Body((RerankRequest,), ignored=IGNORED, foreign=True),
        errors=_OF_A_MODEL,
    ),
    Operation(
        "post",
        "/tokenize",
        "Token ids of a text or a conversation",
        (tokens.ContentTokens, tokens.PromptTokens),
        body=Body(
            (tokens.ContentRequest, tokens.PromptRequest, tokens.MessagesRequest), foreign=True
        ),
        errors=_OF_A_MODEL,
    ),
    Operation(
        "post",
        "/detokenize",
        "The text of token ids",
        (tokens.Detokenized,),
        body=Body((tokens.TokensRequest,), foreign=True),
        errors=_OF_A_MODEL,
    ),
    Operation(
        "get",
        "/tokenizer_info",
        "Special tokens, context length and chat template of a model",
        (tokens.TokenizerInfo,),
        query=("model",),
        errors=(404, 409, 503),
    ),
    Operation(
        "post",
        _RESPONSES,
        "An answer that is stored and can be continued",
        (responses_shapes.ResponseObject,),
        responses_shapes.EVENTS,
        _responses_body(),
        errors=_OF_A_MODEL,
        headers=_SEED,
        named=True,
    ),
    Operation(
        "post",
        f"{_RESPONSES}/input_tokens",
        "Number of prompt tokens of a Responses request",
        (InputTokens,),
        body=_responses_body(name="ResponseTokensRequest"),
        errors=_OF_A_MODEL,
    ),
    Operation(
        "get",
        f"{_RESPONSES}/{{id}}",
        "A stored response",
        (responses_shapes.ResponseObject,),
        responses_shapes.EVENTS,
        query=("include", "include_obfuscation", "starting_after", "stream"),
        errors=(404, 503),
        named=True,
    ),
    Operation(
        "delete",
        f"{_RESPONSES}/{{id}}",
        "Deletes a stored response",
        (responses_shapes.DeletedResponse,),
        errors=(404, 503),
    ),
    Operation(
        "get",
        f"{_RESPONSES}/{{id}}/input_items",
        "The input items of a stored response",
        (responses_shapes.InputItems,),
        query=("after", "include", "limit", "order"),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_RESPONSES}/{{id}}/cancel",
        "Ends a response in the background",
        (responses_shapes.ResponseObject,),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_RESPONSES}/compact",
        "Not supported: every request gets an error",
        (responses_shapes.ResponseObject,),
        errors=(404, 503),
    ),
    Operation(
        "post",
        _CONVERSATIONS,
        "A new conversation",
        (conversations.ConversationObject,),
        body=Body(
            (conversations.ConversationRequest,),
            replaced={"items": by_hand.items(conversations.MAX_ITEMS, least=0)},
            optional=True,
        ),
        errors=(413, 503),
    ),
    Operation(
        "get",
        f"{_CONVERSATIONS}/{{id}}",
        "A conversation",
        (conversations.ConversationObject,),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_CONVERSATIONS}/{{id}}",
        "Replaces the metadata of a conversation",
        (conversations.ConversationObject,),
        body=Body((conversations.ConversationUpdate,)),
        errors=(404, 413, 503),
    ),
    Operation(
        "delete",
        f"{_CONVERSATIONS}/{{id}}",
        "Deletes a conversation",
        (conversations.DeletedConversation,),
        errors=(404, 503),
    ),
    Operation(
        "get",
        f"{_CONVERSATIONS}/{{id}}/items",
        "The items of a conversation",
        (conversations.ConversationItems,),
        query=("after", "include", "limit", "order"),
        errors=(404, 503),
    ),
    Operation(
        "post",
        f"{_CONVERSATIONS}/{{id}}/items",
        "Adds items to a conversation",
        (conversations.ConversationItems,),
        body=Body(
            (conversations.ItemsRequest,),
            replaced={"items": by_hand.items(conversations.MAX_ITEMS)},
        ),
        query=("include",),
        errors=(404, 413, 503),
    ),
    Operation(
        "get",
        f"{_CONVERSATIONS}/{{id}}/items/{{item_id}}",
        "An item of a conversation",
        responses_shapes.INPUT_ITEMS,
        query=("include",),
        errors=(404, 503),
    ),
    Operation(
        "delete",
        f"{_CONVERSATIONS}/{{id}}/items/{{item_id}}",
        "Removes an item from a conversation",
        (conversations.ConversationObject,),
        errors=(404, 503),
    ),
)
