"""The server's own OpenAPI document, to hold its answers against."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator
from support import Json, Response, request

SSE = "text/event-stream"


class Documented:
    """The document of a server.

    Args:
        document: as ``GET /openapi.json`` gives it.
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
        """Fail unless the value is what the schema says."""
        self.validator(schema).validate(value)

    def body(self, method: str, path: str) -> Draft202012Validator:
        """A validator of the bodies that an operation takes."""
        content = self.document["paths"][path][method]["requestBody"]["content"]
        return self.validator(content["application/json"]["schema"])

    def fields(self, method: str, path: str, some: set[str]) -> list[str]:
        """All fields of the one kind of body of an operation that has some of them."""
        content = self.document["paths"][path][method]["requestBody"]["content"]
        schema = content["application/json"]["schema"]
        names = [s["$ref"].rpartition("/")[2] for s in schema.get("anyOf", [schema])]
        schemas = self.document["components"]["schemas"]
        kinds = [schemas[name]["properties"] for name in names]
        (fields,) = [sorted(kind) for kind in kinds if some <= kind.keys()]
        return fields

    def check(self, response: Response, method: str, path: str) -> None:
        """Fail unless the document says that the operation may be answered so."""
        said = self.document["paths"][path][method]["responses"][str(response.status)]
        missing = {name.lower() for name in said.get("headers", ())} - response.headers.keys()
        assert not missing
        media_type = response.headers["content-type"].partition(";")[0]
        content = said["content"][media_type]
        if media_type == SSE:
            self._check_events(response.body, content["x-event-schema"])
        else:
            self.validate(response.json, content["schema"])

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
        else:
            assert "error" in json.loads(events[-1].removeprefix("data: "))
        for event in events:
            assert event.startswith("data: ")
            validator.validate(json.loads(event[6:]))
