"""Structured answers: a schema from a type of Python, and a value of that type from an answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from offgrid.errors import InvalidParameter

Parse = Callable[[str], Any]


class Structure:
    """What an answer must look like.

    Args:
        schema: a JSON schema; a type that msgspec knows (a dataclass, a ``Struct``, a
            ``TypedDict``, ``list[int]`` and others); a pydantic model; or None for any text.

    Attributes:
        fields: the fields of a request that enforce it.
        parse: makes the value from the text of an answer; None for any text.

    Raises:
        InvalidParameter: no schema can be made from this type.
    """

    def __init__(self, schema: Any) -> None:
        self.fields: dict[str, Any] = {}
        self.parse: Parse | None = None
        if schema is not None:
            wanted, self.parse = _read(schema)
            self.fields["json_schema"] = wanted


def _read(schema: Any) -> tuple[Mapping[str, Any], Parse]:
    if isinstance(schema, Mapping):
        return dict(schema), json.loads
    if hasattr(schema, "model_json_schema") and hasattr(schema, "model_validate_json"):
        return schema.model_json_schema(), schema.model_validate_json
    try:
        return msgspec.json.schema(schema), msgspec.json.Decoder(schema).decode
    except (TypeError, RuntimeError, NameError) as ex:
        raise InvalidParameter(f"No JSON schema can be made from schema: {ex}", "schema") from None
