"""A third-party validator accepts the OpenAPI document."""

from __future__ import annotations

from openapi_spec_validator import validate
from support import request


def test_the_document_is_valid(base_url: str) -> None:
    validate(request(base_url, "GET", "/openapi.json").json)
