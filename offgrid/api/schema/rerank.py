"""``POST /v1/rerank``: the request's fields."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from offgrid.api.schema.fields import check_fields
from offgrid.api.schema.inert import InertFields
from offgrid.engine.protocol import EmbeddingRequest
from offgrid.errors import InvalidParameter

MAX_DOCUMENTS = 2048


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document as an object; a plain text is the same."""

    text: str


class RerankRequest(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Meta(ge=1, le=1 << 30)] | None = None
    return_documents: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The documents' texts in order."""
        return tuple(d if isinstance(d, str) else d.text for d in self.documents)

    def embedding(self) -> EmbeddingRequest:
        """Query and documents in the engine's form."""
        params = tuple(f"documents[{index}]" for index in range(len(self.documents)))
        return EmbeddingRequest(self.texts, query=self.query, params=params)


def parse_rerank(body: dict[str, Any]) -> RerankRequest:
    """Check the body of a rerank request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    request = check_fields(body, RerankRequest)
    for index, text in enumerate(request.texts):
        if not text:
            raise InvalidParameter(f"documents[{index}] is empty.", f"documents[{index}]")
    return request
