"""The server's OpenAPI document, against which its responses are checked."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator
from support import Json, Response, request

SSE = "text/event-stream"
LINES = "application/x-ndjson"


class Documented:
    """The document of a server.

    Args:
        document: the object that ``GET /openapi.json`` returns.
    """

    def __init__(self, document: Json) -> None:
        self.document = document

    @classmethod
    def of(cls, base_url: str) -> Documented:
        """Ask a server for its document."""
        return cls(request(base_url, "GET", "/openapi.json").json)

    def validator(self, schema: Json) -> Draft202012Validator:
        """A validator of a schema that may refer to the document's components."""
        whole = {**schema, "components": self.document["components"]}
        return Draft202012Validator(whole)

    def validate(self, value: Any, schema: Json) -> None:
        """Fail unless the value satisfies the schema."""
        self.validator(schema).validate(value)

    def body(self, method: str, path: str) -> Draft202012Validator:
        """A validator of the bodies that an operation accepts."""
        content = self.document["paths"][path][method]["requestBody"]["content"]
        return self.validator(content["application/json"]["schema"])

    def fields(self, method: str, path: str, some: set[str]) -> list[str]:
        """All fields of the one body schema of an operation that contains the fields ``some``."""
        content = self.document["paths"][path][method]["requestBody"]["content"]
        schema = content["application/json"]["schema"]
        names = [s["$ref"].rpartition("/")[2] for s in schema.get("anyOf", [schema])]
        schemas = self.document["components"]["schemas"]
        kinds = [schemas[name]["properties"] for name in names]
        (fields,) = [sorted(kind) for kind in kinds if some <= kind.keys()]
        return fields

    def not_given(self, method: str, path: str, bodies: list[Any]) -> set[str]:
        """The fields of an operation's body, and of the objects in it, that are in no given body.

        Each is named after its schema and itself, such as ``ChatRequest.seed``.
        """
        content = self.document["paths"][path][method]["requestBody"]["content"]
        schema = content["application/json"]["schema"]
        known: set[str] = set()
        given: set[str] = set()
        self._walk(schema, [*bodies], known, given, set())
        return known - given

    def _walk(
        self, schema: Json, values: list[Any], known: set[str], given: set[str], above: set[str]
    ) -> None:
        """Walk through a schema and the values that it describes in parallel."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            inner = self.document["components"]["schemas"][name]
            objects = [
                v for v in values if isinstance(v, dict) and self.validator(inner).is_valid(v)
            ]
            fields = inner.get("properties", {})
            known.update(f"{name}.{field}" for field in fields)
            given.update(f"{name}.{field}" for value in objects for field in value)
            if name in above:
                return
            for field, described in fields.items():
                inside = [value[field] for value in objects if field in value]
                self._walk(described, inside, known, given, above | {name})
        for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
            self._walk(option, values, known, given, above)
        if isinstance(schema.get("items"), dict):
            items = [item for value in values if isinstance(value, list) for item in value]
            self._walk(schema["items"], items, known, given, above)

    def check(self, response: Response, method: str, path: str) -> None:
        """Fail unless the document allows this response to the operation."""
        said = self.document["paths"][path][method]["responses"][str(response.status)]
        required = {
            name.lower()
            for name, header in said.get("headers", {}).items()
            if header.get("required")
        }
        missing = required - response.headers.keys()
        assert not missing
        media_type = response.headers["content-type"].partition(";")[0]
        content = said["content"][media_type]
        if response.status == 400:
            error = response.json["error"]
            if isinstance(error, dict):
                assert (error.get("param") or "")[:80] in error["message"]
        if media_type == SSE:
            self._check_events(response.body, content["x-event-schema"])
        elif media_type == LINES:
            validator = self.validator(content["x-event-schema"])
            for line in response.body.splitlines():
                validator.validate(json.loads(line))
        elif media_type == "application/json":
            self.validate(response.json, content["schema"])
        else:
            self.validate(response.body.decode(), content["schema"])

    def _check_events(self, body: bytes, schema: Json) -> None:
        *events, rest = body.decode().split("\n\n")
        assert rest == ""
        validator = self.validator(schema)
        if events[0].startswith("event: "):
            for event in events:
                name, data = event.split("\n")
                value = json.loads(data.removeprefix("data: "))
                assert name == f"event: {value['type']}"
                validator.validate(value)
            return
        if events[-1] == "data: [DONE]":
            events.pop()
        elif not json.loads(events[-1].removeprefix("data: ")).get("stop"):
            assert "error" in json.loads(events[-1].removeprefix("data: "))
        for event in events:
            assert event.startswith("data: ")
            validator.validate(json.loads(event[6:]))
