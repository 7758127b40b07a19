"""``GET /openapi.json``: the API in OpenAPI 3.1, generated from the types that check its requests.

To describe a new endpoint, write its answer as a type (:mod:`offgrid.api.shapes`) and add it to
the table of its API in :mod:`offgrid.api.openapi.operations`. Tests compare these tables with the
application's routes, and real answers with the tables. Specification:
https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable
from typing import Any

import falcon
import msgspec

from offgrid import __version__
from offgrid.api.engines import MOST_WAIT, WAIT
from offgrid.api.fields import foreign, notices
from offgrid.api.http.meter import counts
from offgrid.api.http.rates import HEADERS as RATE_HEADERS
from offgrid.api.http.scopes import ANY_KEY
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations import OPERATIONS
from offgrid.api.openapi.operations.operation import Body, Operation, Struct
from offgrid.api.peers.endpoints import ENDPOINTS, PEER, PEER_REQUEST

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_UNNAMED = (
    "lines `data: {...}`, described by `x-event-schema`, each followed by an empty line; the last "
    "one is `data: [DONE]`."
)
_NOT_DONE = (
    "lines `data: {...}`, described by `x-event-schema`, each followed by an empty line. The last "
    "one of each answer has `stop: true`."
)
_NAMED = (
    "pairs of lines, `event: ...` with the type of the event and `data: {...}`, described by "
    "`x-event-schema`, each pair followed by an empty line."
)
_LINES = (
    "lines of JSON, each described by `x-event-schema`. A stream that fails ends with an error."
)
_EVERYWHERE = (400, 401, 403, 408, 429, 431, 500, 503)
_REASONS = {
    400: "The request is invalid; `param` names the field at fault.",
    401: "The server has keys, and the request has no valid one.",
    403: "The Host or Origin header, the key's scopes or models, or a path do not allow it.",
    404: "No such model, stored response, conversation, import, export or file of the page; or the "
    "server stores no history.",
    408: "The request arrived too slowly.",
    409: "The model is not loaded, and a GET request never unloads another model; the settings or "
    "a peer decide it, or the model cannot be removed; another import or export is in progress; a "
    "finished message of the history would change; or a machine shows no pairing code.",
    413: "The body is too large.",
    429: "The caller has used up one of its limits (`type` says which), or too many wrong keys "
    "came from its address; or too many wrong pairing codes were typed.",
    431: "The headers of the request are too large.",
    500: "The server could not finish the request.",
    501: "Another API has this endpoint, and this server does not do what it is for.",
    502: "Another machine cannot be reached, does not answer any more, or answers as no OffGrid "
    "does.",
    503: "The server cannot accept the request now.",
    504: "The request took longer than the server allows.",
    507: "The history has reached its limit. Nothing was stored, and nothing deleted.",
}
_HEADERS: dict[str, Schema] = {
    "x-request-id": {"description": "Identifier of the request.", "schema": {"type": "string"}},
    "request-id": {
        "description": "The same, under the name of Anthropic's API.",
        "schema": {"type": "string"},
    },
    "openai-processing-ms": {
        "description": "Milliseconds until the response began.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "openai-version": {
        "description": "Version of OpenAI's API.",
        "schema": {"type": "string"},
    },
    "x-offgrid-seed": {
        "description": "The seed of the request, given or drawn.",
        "schema": {"type": "integer"},
    },
    PEER: {
        "description": "Name of the peer that has answered, if the request was forwarded.",
        "schema": {"type": "string"},
    },
    PEER_REQUEST: {
        "description": "Identifier of the request on that peer.",
        "schema": {"type": "string"},
    },
    notices.HEADER: {
        "description": "Fields of the request that were accepted and have no effect, with commas "
        "between them.",
        "schema": {"type": "string"},
    },
    "WWW-Authenticate": {
        "description": "The scheme Bearer, and what is wrong with the key.",
        "schema": {"type": "string"},
    },
    "Location": {
        "description": "Where to go, relative to the URL of the request.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait before a retry.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
_KEYS: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x_api_key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "api_key": {"type": "apiKey", "in": "header", "name": "api-key"},
}
"""Where a request may have its key."""
_OF_LIMITS = {
    name: {
        "description": "Of a caller with limits; a time is such as `120ms` or `6m0s`.",
        "schema": {"type": "string"},
    }
    for name in RATE_HEADERS
}
"""Headers that only responses to callers with limits have."""
_WAIT: Schema = {
    "name": WAIT,
    "in": "header",
    "required": False,
    "description": "Most seconds that the request waits until its model is loaded; 0 not at all. "
    "Then it gets 503, and the model is loaded nevertheless.",
    "schema": {"type": "number", "minimum": 0, "maximum": MOST_WAIT},
}
_MORE_HEADERS = {401: ("WWW-Authenticate",), 503: ("Retry-After",)}
_PLACES = frozenset({
    "continuation", "data_1", "data_2", "documents", "input", "logit_bias", "prompt", "queries",
    "text_1", "text_2", "tokens",
})  # fmt: skip
"""Fields with lists in which null is not left out, since the places of the items matter."""
_EXACT = frozenset({"QuestionJson"})
"""Types with data that the model reads, in which null is a value."""


class OpenApiResource:
    """Returns the document. It is made at the first request, since that takes about as long as all
    else that a start does, and is the same as long as the process runs."""

    scopes = ANY_KEY

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The document of the whole API."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = _encoded()

    on_head = on_get


@functools.cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """Return the OpenAPI document of :data:`~offgrid.api.openapi.operations.OPERATIONS`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation)
    return {
        "openapi": "3.1.1",
        "info": {
            "title": "OffGrid LLM",
            "version": __version__,
            "summary": "GGUF models on this machine through the OpenAI API",
        },
        "paths": paths,
        "components": {"schemas": _components(), "securitySchemes": _KEYS},
        # The last one: a server without keys needs none.
        "security": [*({name: []} for name in _KEYS), {}],
    }


def _components() -> dict[str, Schema]:
    """Return the schemas of all types by name; those of bodies as the parsers accept them."""
    types: set[Struct] = {operation.error for operation in OPERATIONS}
    bodies: list[Body] = []
    for operation in OPERATIONS:
        types.update(operation.answers)
        types.update(operation.events)
        types.update(operation.failures.values())
        if operation.body is not None:
            types.update(operation.body.types, operation.body.more)
            bodies.append(operation.body)
    _, plain = msgspec.json.schema_components(types, ref_template=_REF)
    schemas = dict(plain)
    for body in bodies:
        for struct in body.types:
            name = body.name or struct.__name__
            accepted = _accepted([plain[kind.__name__] for kind in (struct, *body.more)], body)
            schemas[name] = {**accepted, "title": name}
    named = {body.name or kind.__name__ for body in bodies for kind in body.types}
    for name in _reached(plain, {*_referred(schemas, named)}):
        schemas[name] = _with_nulls(schemas[name], items=name not in _EXACT)
    tidy = {name: _tidy(schema) for name, schema in sorted(schemas.items())}
    checked = {kind.__name__ for body in bodies for kind in (*body.types, *body.more)}
    described = {kind.__name__ for kind in types} - checked
    used = _reached(tidy, named | described)
    return {name: schema for name, schema in tidy.items() if name in used}


def _reached(schemas: dict[str, Schema], names: set[str]) -> set[str]:
    """Return the names of all schemas that these refer to, directly or not, these included.

    A field that is checked by hand does not refer to the schema of its type.
    """
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached and name in schemas:
            reached.add(name)
            waiting += _referred(schemas, {name})
    return reached


def _referred(schemas: dict[str, Schema], names: set[str]) -> list[str]:
    """Return the names of the schemas to which some of these refer directly."""
    text = msgspec.json.encode([schemas[name] for name in names]).decode()
    return re.findall(r'"#/components/schemas/(\w+)"', text)


def _accepted(schemas: list[Schema], body: Body) -> Schema:
    """Return the schema that the parsers accept: null counts as absent, some fields do nothing."""
    properties: dict[str, Schema] = {
        name: typed
        for schema in schemas
        for name, typed in schema["properties"].items()
        if name not in body.hidden
    }
    required = schemas[0]["required"]
    for name, replacement in body.replaced.items():
        typed = properties.get(name, {})
        default = {"default": typed["default"]} if "default" in typed else {}
        properties[name] = {**replacement, **default}
    own = frozenset(properties)
    others = foreign.aliases(own) if body.foreign else {}
    for alias, name in {**others, **body.aliases}.items():
        same: Schema = {"description": f"The same as {name}."}
        properties[alias] = {**properties[name], **same}
    for name in properties:
        properties[name] = _with_nulls(properties[name], items=name not in _PLACES)
        if name not in required:
            properties[name] = _or_null(properties[name])
    if body.foreign:
        for name, words in foreign.descriptions(properties).items():
            properties[name] = {"description": words}
    for name in body.ignored:
        properties[name] = {**properties[name], "description": "Without effect."}
    return {**schemas[0], "properties": dict(sorted(properties.items())), "required": required}


def _with_nulls(schema: Any, *, items: bool = True) -> Any:
    """Return a schema that allows null in lists, in maps, and for fields that are not required.

    Args:
        schema: a schema or a part of one.
        items: whether null is left out of lists.
    """
    if isinstance(schema, list):
        return [_with_nulls(inner, items=items) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: _with_nulls(inner, items=items) for name, inner in schema.items()}
    for keyword in ("items", "additionalProperties") if items else ("additionalProperties",):
        if isinstance(result.get(keyword), dict):
            result[keyword] = _or_null(result[keyword])
    if result.get("additionalProperties") is False:  # null counts as absent there too
        result["additionalProperties"] = {"type": "null"}
    if items and result.get("minItems") and isinstance(result.get("items"), dict):
        result |= by_hand.present(result["minItems"])
    if result.get("minProperties"):
        assert result["minProperties"] == 1  # more cannot be said so
        result["not"] = {"additionalProperties": {"type": "null"}}
    if isinstance(result.get("properties"), dict):
        result["properties"] = {
            name: inner if name in schema.get("required", ()) else _or_null(inner)
            for name, inner in result["properties"].items()
        }
    return result


def _or_null(schema: Schema) -> Schema:
    options = schema.get("anyOf", [])
    if {"type": "null"} in options or not schema.keys() - {"default", "description"}:
        return schema
    outer: Schema = {key: schema[key] for key in ("default", "description") if key in schema}
    inner = {key: value for key, value in schema.items() if key not in outer}
    return {"anyOf": [*(options or [inner]), {"type": "null"}], **outer}


def _tidy(schema: Any) -> Any:
    """Return a schema whose descriptions, taken from docstrings, are running text."""
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
    if operation.public:
        result["security"] = []
    in_path = re.findall(r"{(\w+)}", operation.path)
    parameters: list[Schema] = [
        {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}
        for where, names in (("path", in_path), ("query", operation.query))
        for name in names
    ]
    if operation.names_a_model:
        parameters.append(_WAIT)
    if parameters:
        result["parameters"] = parameters
    if operation.body is not None:
        schema = _any_of(operation.body.name or struct.__name__ for struct in operation.body.types)
        result["requestBody"] = {
            "required": not operation.body.optional,
            "content": {
                falcon.MEDIA_JSON: {"schema": schema},
                **{kind: {"schema": {"type": "string"}} for kind in operation.body.texts},
            },
        }
    success = _success(operation)
    later = {"202": success} if operation.later else {}
    leads = {"302": _leading(operation)} if operation.leads else {}
    status = "201" if operation.creates else "200"
    result["responses"] = {status: success, **later, **leads, **_failures(operation)}
    return result


def _success(operation: Operation) -> Schema:
    description = operation.summary
    headers = _headers("x-request-id", "openai-processing-ms", "openai-version", *operation.headers)
    if operation.body is not None:
        headers[notices.HEADER] = _HEADERS[notices.HEADER]  # absent if there are none
    if operation.path in ENDPOINTS:
        headers |= {name: _HEADERS[name] for name in (PEER, PEER_REQUEST)}
    if _is_counted(operation):
        headers |= _OF_LIMITS
    content: dict[str, Any] = {kind: {"schema": {"type": "string"}} for kind in operation.texts}
    content |= {kind: {} for kind in operation.files}
    if operation.answers:
        schema = _any_of(struct.__name__ for struct in operation.answers)
        if operation.lists != "never":
            many = {"type": "array", "items": schema}
            schema = many if operation.lists == "always" else {"anyOf": [schema, many]}
        content[falcon.MEDIA_JSON] = {"schema": schema}
    if operation.events:
        # Before 3.2 (itemSchema) OpenAPI cannot describe the type of an event: ``schema`` would
        # describe the whole stream, though some programs take it for that of an event.
        kind = "application/x-ndjson" if operation.lines else "text/event-stream"
        names = [struct.__name__ for struct in (*operation.events, operation.error)]
        content[kind] = {"x-event-schema": _any_of(names)}
        description += f". With `stream: true`: {_framing(operation)}"
    return {
        "description": description,
        "headers": headers,
        "content": content,
    }


def _leading(operation: Operation) -> Schema:
    return {"description": operation.leads, "headers": _headers("x-request-id", "Location")}


def _framing(operation: Operation) -> str:
    """Return the words for how the events of a stream are written."""
    if operation.lines:
        return _LINES
    if operation.named:
        return _NAMED
    return _UNNAMED if operation.done else _NOT_DONE


def _failures(operation: Operation) -> dict[str, Schema]:
    others = {502, 504} if operation.names_a_model else set()
    statuses = sorted({*_EVERYWHERE, *operation.errors, *others})
    return {
        str(status): _failure(status, operation.failures.get(status, operation.error))
        for status in statuses
    }


def _is_counted(operation: Operation) -> bool:
    """Whether requests count for the limits of their callers."""
    return counts(operation.method.upper(), operation.path)


def _failure(status: int, answer: Struct) -> Schema:
    # Another WSGI server than ours may refuse a request by itself, without an x-request-id.
    numbered = () if status in (400, 408, 431) else ("x-request-id",)
    headers = _headers(*numbered, *_MORE_HEADERS.get(status, ()))
    if status == 429:
        headers |= _OF_LIMITS
    return {
        "description": _REASONS[status],
        **({"headers": headers} if headers else {}),
        "content": {falcon.MEDIA_JSON: {"schema": _any_of([answer.__name__])}},
    }


def _headers(*names: str) -> dict[str, Schema]:
    return {name: {**_HEADERS[name], "required": True} for name in names}


def _any_of(names: Iterable[str]) -> Schema:
    references = [{"$ref": _REF.format(name=name)} for name in names]
    return references[0] if len(references) == 1 else {"anyOf": references}
