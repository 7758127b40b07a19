"""``GET /openapi.json``: the API in OpenAPI 3.1, made of the types that check its requests.

To describe a new endpoint, write its answer in :mod:`offgrid.api.schema.answers` and add a line to
:data:`OPERATIONS`; tests compare the table with the routes of the application, and real answers
with what it says. Specification: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import falcon
import msgspec

from offgrid import __version__
from offgrid.api.schema import answers
from offgrid.api.schema.chat import MAX_STOPS as MAX_CHAT_STOPS
from offgrid.api.schema.chat import ChatRequest
from offgrid.api.schema.completions import MAX_STOPS as MAX_TEXT_STOPS
from offgrid.api.schema.completions import CompletionRequest
from offgrid.api.schema.embeddings import EmbeddingsRequest
from offgrid.api.schema.fields import IGNORED, stop_schema
from offgrid.api.schema.rerank import RerankRequest

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_EVERYWHERE = (400, 403, 431, 500)
_REASONS = {
    400: "The request is wrong; `param` names the field.",
    403: "The Host or Origin header names nobody that this server serves.",
    404: "There is no such model.",
    413: "The body is too large.",
    431: "The head of the request is too large.",
    500: "The server could not finish the request.",
    503: "The server cannot take the request now.",
}


@dataclass(frozen=True)
class Body:
    """The JSON object that a request carries.

    Attributes:
        type: the struct that checks it.
        ignored: fields that are accepted without effect.
        aliases: other names of fields.
        replaced: schemas of fields whose type says less than what is checked.
    """

    type: type[msgspec.Struct]
    ignored: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, Schema] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """What one method of one path takes and gives.

    Attributes:
        method: in lower case; HEAD goes with GET.
        path: as the document writes it, ``{name}`` for a parameter.
        summary: a few words.
        answer: what a whole answer is.
        event: what each event of a stream is, where the answer may be one.
        body: what the request carries.
        errors: statuses besides those that every request may be answered with.
        headers: more headers of the answer.
    """

    method: str
    path: str
    summary: str
    answer: type[msgspec.Struct]
    event: type[msgspec.Struct] | None = None
    body: Body | None = None
    errors: tuple[int, ...] = ()
    headers: tuple[str, ...] = ()


_MODEL_ERRORS = (404, 413, 503)
_ALIASES = {"repeat_penalty": "repetition_penalty"}

OPERATIONS = (
    Operation("get", "/", "Name and version of the server", answers.Root),
    Operation("get", "/health", "Whether the server is there", answers.Health),
    Operation("get", "/openapi.json", "This document", answers.OpenApi),
    Operation("get", "/v1/models", "All models", answers.ModelList),
    Operation("get", "/v1/models/{model}", "One model", answers.Model, errors=(404,)),
    Operation(
        "post",
        "/v1/chat/completions",
        "The next message of a conversation",
        answers.ChatCompletion,
        answers.ChatCompletionChunk,
        Body(ChatRequest, IGNORED, _ALIASES, {"stop": stop_schema(MAX_CHAT_STOPS)}),
        _MODEL_ERRORS,
        ("x-offgrid-seed",),
    ),
    Operation(
        "post",
        "/v1/completions",
        "The continuation of a text",
        answers.TextCompletion,
        answers.TextCompletionChunk,
        Body(CompletionRequest, IGNORED, _ALIASES, {"stop": stop_schema(MAX_TEXT_STOPS)}),
        _MODEL_ERRORS,
        ("x-offgrid-seed",),
    ),
    Operation(
        "post",
        "/v1/embeddings",
        "Texts as vectors",
        answers.EmbeddingList,
        body=Body(EmbeddingsRequest, IGNORED),
        errors=_MODEL_ERRORS,
    ),
    Operation(
        "post",
        "/v1/rerank",
        "Documents in the order in which they fit a query",
        answers.Reranking,
        body=Body(RerankRequest, IGNORED),
        errors=_MODEL_ERRORS,
    ),
)

_HEADERS: dict[str, Schema] = {
    "x-request-id": {"description": "Number of the request.", "schema": {"type": "string"}},
    "x-offgrid-seed": {
        "description": "The seed in force, given or drawn.",
        "schema": {"type": "integer"},
    },
    "Retry-After": {
        "description": "Seconds after which a retry makes sense.",
        "schema": {"type": "integer", "minimum": 0},
    },
}


class OpenApiResource:
    """Gives the document, which is the same as long as the server runs."""

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The document of the whole API."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = _encoded()

    on_head = on_get


@functools.lru_cache(maxsize=1)
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """Return the OpenAPI document of :data:`OPERATIONS`."""
    schemas = _components()
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "OffGrid LLM",
            "version": __version__,
            "summary": "GGUF models of this machine through the OpenAI API",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _components() -> dict[str, Schema]:
    """Schemas of all types, by name; those of request bodies say what is really accepted."""
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    _, schemas = msgspec.json.schema_components(_types(), ref_template=_REF)
    for body in bodies:
        name = body.type.__name__
        schemas[name] = _accepted(schemas[name], body)
    return {name: _tidy(schema) for name, schema in sorted(schemas.items())}


def _types() -> Iterator[type[msgspec.Struct]]:
    yield answers.Error
    for operation in OPERATIONS:
        yield operation.answer
        if operation.event is not None:
            yield operation.event
        if operation.body is not None:
            yield operation.body.type


def _accepted(schema: Schema, body: Body) -> Schema:
    """As the parsers read it: null counts as absent, and some fields are accepted only."""
    properties: dict[str, Schema] = {**schema["properties"]}
    for name, replacement in body.replaced.items():
        properties[name] = {**replacement, "default": properties[name].get("default")}
    for alias, name in body.aliases.items():
        same: Schema = {"description": f"The same as {name}."}
        properties[alias] = {**properties[name], **same}
    for name in properties:
        if name not in schema["required"]:
            properties[name] = _or_null(properties[name])
    for name in body.ignored:
        properties[name] = {"description": "Accepted without effect."}
    return {**schema, "properties": dict(sorted(properties.items()))}


def _or_null(schema: Schema) -> Schema:
    options = schema.get("anyOf", [])
    if {"type": "null"} in options:
        return schema
    outer: Schema = {key: schema[key] for key in ("default", "description") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in outer}
    return {"anyOf": [*(options or [inner]), {"type": "null"}], **outer}


def _tidy(schema: Any) -> Any:
    """Docstrings as running text."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {key: _tidy(value) for key, value in schema.items()}
    if isinstance(tidy.get("description"), str):
        text = inspect.cleandoc(tidy["description"]).replace("``", "`")
        tidy["description"] = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
    return tidy


def _describe(operation: Operation) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", f"{operation.method}{operation.path}").strip("_")
    result: dict[str, Any] = {"operationId": name, "summary": operation.summary}
    parameters = re.findall(r"{(\w+)}", operation.path)
    if parameters:
        result["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in parameters
        ]
    if operation.body is not None:
        content = {falcon.MEDIA_JSON: {"schema": _ref(operation.body.type)}}
        result["requestBody"] = {"required": True, "content": content}
    result["responses"] = {"200": _success(operation), **_failures(operation)}
    return result


def _success(operation: Operation) -> Schema:
    content: dict[str, Any] = {falcon.MEDIA_JSON: {"schema": _ref(operation.answer)}}
    if operation.event is not None:
        content["text/event-stream"] = {
            # OpenAPI has no word for the type of an event before 3.2 (itemSchema).
            "schema": {
                "type": "string",
                "description": "Lines `data: {...}`, each followed by an empty line, and at last "
                "`data: [DONE]`; with `stream: true`.",
            },
            "x-event-schema": {"oneOf": [_ref(operation.event), _ref(answers.Error)]},
        }
    return {
        "description": operation.summary,
        "headers": _headers("x-request-id", *operation.headers),
        "content": content,
    }


def _failures(operation: Operation) -> dict[str, Schema]:
    statuses = sorted({*_EVERYWHERE, *operation.errors})
    return {str(status): _failure(status) for status in statuses}


def _failure(status: int) -> Schema:
    # What the HTTP server refuses by itself never reaches whoever numbers the requests.
    numbered = () if status in (400, 431) else ("x-request-id",)
    headers = (*numbered, "Retry-After") if status == 503 else numbered
    return {
        "description": _REASONS[status],
        **({"headers": _headers(*headers)} if headers else {}),
        "content": {falcon.MEDIA_JSON: {"schema": _ref(answers.Error)}},
    }


def _headers(*names: str) -> dict[str, Schema]:
    return {name: {**_HEADERS[name], "required": True} for name in names}


def _ref(cls: type[msgspec.Struct]) -> Schema:
    return {"$ref": _REF.format(name=cls.__name__)}
