"""``GET /openapi.json``: the API in OpenAPI 3.1, generated from the types that check its requests.

To describe a new endpoint, write its answer as a type (:mod:`offgrid.api.shapes`) and add it to
:data:`offgrid.api.openapi.operations.OPERATIONS`. Tests compare that table with the application's
routes, and real answers with the table. Specification: https://spec.openapis.org/oas/v3.1.1
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any

import falcon
import msgspec

from offgrid import __version__
from offgrid.api.engines import MOST_WAIT, WAIT
from offgrid.api.fields import foreign, notices
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations import OPERATIONS, Body, Operation, Struct
from offgrid.api.shapes import Error

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_UNNAMED = (
    "lines `data: {...}`, described by `x-event-schema`, each followed by an empty line; the last "
    "one is `data: [DONE]`."
)
_NAMED = (
    "pairs of lines, `event: ...` with the type of the event and `data: {...}`, described by "
    "`x-event-schema`, each pair followed by an empty line."
)
_EVERYWHERE = (400, 403, 408, 431, 500)
_REASONS = {
    400: "The request is invalid; `param` names the field at fault.",
    403: "The Host or Origin header, or a path to import, is not allowed.",
    404: "No such model, stored response, conversation or import.",
    408: "The request arrived too slowly.",
    409: "The model is not loaded, and a GET request never unloads another model; or another "
    "import is in progress.",
    413: "The body is too large.",
    431: "The headers of the request are too large.",
    500: "The server could not finish the request.",
    503: "The server cannot accept the request now.",
}
_HEADERS: dict[str, Schema] = {
    "x-request-id": {"description": "Identifier of the request.", "schema": {"type": "string"}},
    "x-offgrid-seed": {
        "description": "The seed of the request, given or drawn.",
        "schema": {"type": "integer"},
    },
    notices.HEADER: {
        "description": "Fields of the request that were accepted and have no effect, with commas "
        "between them.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait before a retry.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
_WAIT: Schema = {
    "name": WAIT,
    "in": "header",
    "required": False,
    "description": "Most seconds that the request waits until its model is loaded; 0 not at all. "
    "Then it gets 503, and the model is loaded nevertheless.",
    "schema": {"type": "number", "minimum": 0, "maximum": MOST_WAIT},
}
_PLACES = frozenset({"documents", "input", "logit_bias", "prompt", "tokens"})
"""Fields with lists in which null is not left out, since the places of the items matter."""


class OpenApiResource:
    """Returns the document. It is made once, and is the same as long as the server runs."""

    def __init__(self) -> None:
        self._document = msgspec.json.encode(document())

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """The document of the whole API."""
        resp.content_type = falcon.MEDIA_JSON
        resp.data = self._document

    on_head = on_get


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
        "components": {"schemas": _components()},
    }


def _components() -> dict[str, Schema]:
    """Return the schemas of all types by name; those of bodies as the parsers accept them."""
    types: set[Struct] = {Error}
    bodies: list[Body] = []
    for operation in OPERATIONS:
        types.update(operation.answers)
        types.update(operation.events)
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
        schemas[name] = _with_nulls(schemas[name])
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
            "content": {falcon.MEDIA_JSON: {"schema": schema}},
        }
    success = _success(operation)
    later = {"202": success} if operation.later else {}
    result["responses"] = {"200": success, **later, **_failures(operation)}
    return result


def _success(operation: Operation) -> Schema:
    description = operation.summary
    headers = _headers("x-request-id", *operation.headers)
    if operation.body is not None:
        headers[notices.HEADER] = _HEADERS[notices.HEADER]  # absent if there are none
    schema = _any_of(struct.__name__ for struct in operation.answers)
    content: dict[str, Any] = {falcon.MEDIA_JSON: {"schema": schema}}
    if operation.events:
        # Before 3.2 (itemSchema) OpenAPI cannot describe the type of an event: ``schema`` would
        # describe the whole stream, though some programs take it for that of an event.
        content["text/event-stream"] = {
            "x-event-schema": _any_of([*(e.__name__ for e in operation.events), "Error"]),
        }
        description += f". With `stream: true`: {_NAMED if operation.named else _UNNAMED}"
    return {
        "description": description,
        "headers": headers,
        "content": content,
    }


def _failures(operation: Operation) -> dict[str, Schema]:
    statuses = sorted({*_EVERYWHERE, *operation.errors})
    return {str(status): _failure(status) for status in statuses}


def _failure(status: int) -> Schema:
    # Another WSGI server than ours may refuse a request by itself, without an x-request-id.
    numbered = () if status in (400, 408, 431) else ("x-request-id",)
    headers = (*numbered, "Retry-After") if status == 503 else numbered
    return {
        "description": _REASONS[status],
        **({"headers": _headers(*headers)} if headers else {}),
        "content": {falcon.MEDIA_JSON: {"schema": _any_of(["Error"])}},
    }


def _headers(*names: str) -> dict[str, Schema]:
    return {name: {**_HEADERS[name], "required": True} for name in names}


def _any_of(names: Iterable[str]) -> Schema:
    references = [{"$ref": _REF.format(name=name)} for name in names]
    return references[0] if len(references) == 1 else {"anyOf": references}
