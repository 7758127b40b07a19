"""``POST /v1/embeddings``: the request's fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from offgrid.api.schema.body import are_tokens
from offgrid.api.schema.fields import check_fields
from offgrid.api.schema.inert import InertFields
from offgrid.engine.protocol import EmbeddingRequest
from offgrid.errors import InvalidParameter

MAX_INPUTS = 2048

Input = str | tuple[int, ...]


class EmbeddingsRequest(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None

    def embedding(self) -> EmbeddingRequest:
        """The inputs in the engine's form.

        Raises:
            InvalidParameter: ``param`` names the input that is no text and no token ids, or empty.
        """
        inputs, params = _split(self.input)
        return EmbeddingRequest(inputs, dimensions=self.dimensions, params=params)


def parse_embeddings(body: dict[str, Any]) -> EmbeddingsRequest:
    """Check the body of an embeddings request.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    return check_fields(body, EmbeddingsRequest)


def _split(value: Any) -> tuple[tuple[Input, ...], tuple[str, ...]]:
    """Text, token ids, or a list of either, to inputs and the names of their fields."""
    if isinstance(value, str) or are_tokens(value):
        return (_input(value, "input"),), ("input",)
    if not isinstance(value, list) or not value:
        raise InvalidParameter("input must be text, token ids, or a list of these.", "input")
    if len(value) > MAX_INPUTS:
        raise InvalidParameter(
            f"input takes at most {MAX_INPUTS} inputs, not {len(value)}.", "input"
        )
    params = tuple(f"input[{index}]" for index in range(len(value)))
    return tuple(map(_input, value, params)), params


def _input(value: Any, param: str) -> Input:
    if isinstance(value, str):
        if not value:
            raise InvalidParameter(f"{param} is empty.", param)
        return value
    if are_tokens(value):
        return tuple(value)
    raise InvalidParameter("An input must be text or token ids.", param)
