"""``GET /v1/models`` and ``GET /v1/models/{id}`` as clients of Anthropic's API want them."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import falcon
from msgspec import Meta

from offgrid.api.fields import notices
from offgrid.api.http.queries import PREFIX
from offgrid.api.shapes import Answer, Count, Json
from offgrid.errors import InvalidParameter
from offgrid.store.description import Description
from offgrid.store.survey import ModelEntry

VERSION = "anthropic-version"
"""The header by which such a client is known."""
DEFAULT_LIMIT, MAX_LIMIT = 20, 1000
"""Models on one page."""
QUERY = ("after_id", "before_id", "lifecycle", "limit")
"""Parameters of the list."""
_STAGES = ("active", "deprecated", "retired")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")


class Support(Answer):
    supported: bool


class EffortSupport(Answer):
    supported: bool
    low: Support
    medium: Support
    high: Support
    xhigh: Support
    max: Support


class ThinkingTypes(Answer):
    adaptive: Support
    between_tools: Support
    disabled: Support
    enabled: Support


class ThinkingSupport(Answer):
    supported: bool
    types: ThinkingTypes


class ServerToolSupport(Answer):
    supported: bool
    code_execution: Support
    web_search: Support


class ContextManagementSupport(Answer):
    supported: bool
    clear_thinking_20251015: Support
    clear_tool_uses_20250919: Support
    compact_20260112: Support


class Capabilities(Answer):
    batch: Support
    citations: Support
    code_execution: Support
    context_management: ContextManagementSupport
    effort: EffortSupport
    image_input: Support
    pdf_input: Support
    server_tools: ServerToolSupport
    structured_outputs: Support
    thinking: ThinkingSupport


class ListedModel(Answer, tag_field="type", tag="model"):
    """A model, in the form of Anthropic's API."""

    id: str
    display_name: str
    created_at: Annotated[str, Meta(description="Of its file; RFC 3339.")]
    lifecycle: Literal["active"]
    line: None
    deprecated_at: None
    retires_at: None
    max_input_tokens: Annotated[
        int | None, Meta(description="Tokens of the context with which it was trained.")
    ]
    max_tokens: Count | None
    capabilities: Capabilities


class ModelPage(Answer):
    """A page of models. Requests with the header ``anthropic-version`` get it."""

    data: list[ListedModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


def wanted(req: falcon.Request) -> bool:
    """Return whether the client speaks Anthropic's API."""
    return req.get_header(VERSION) is not None


def note_unused(req: falcon.Request) -> None:
    """Note the parameters that have no effect for clients of other APIs: they get all models."""
    for name in req.params:
        if name.removesuffix("[]") in QUERY:
            notices.ignore(f"{PREFIX}{name}")


def described(entry: ModelEntry, description: Description) -> Json:
    """Return the object of a model."""
    sees = entry.projector is not None
    return _described(
        entry.id, entry.created, description.context_length, description.reasoning, sees
    )


def described_far(model: Any) -> Json:
    """Return the object of a model as a peer has reported it."""
    return _described(model.id, model.created, model.context_length, model.reasoning, model.vision)


def _described(id: str, created: int, context: int | None, reasons: bool, sees: bool) -> Json:
    return {
        "type": "model",
        "id": id,
        "display_name": id,
        "created_at": datetime.datetime.fromtimestamp(created, datetime.timezone.utc)
        .isoformat()
        .replace("+00:00", "Z"),
        "lifecycle": "active",
        "line": None,
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": context,
        "max_tokens": context,
        "capabilities": {
            "batch": _support(False),
            "citations": _support(False),
            "code_execution": _support(False),
            "context_management": {
                "supported": False,
                "clear_thinking_20251015": _support(False),
                "clear_tool_uses_20250919": _support(False),
                "compact_20260112": _support(False),
            },
            "effort": {"supported": reasons, **{name: _support(reasons) for name in _EFFORTS}},
            "image_input": _support(sees),
            "pdf_input": _support(False),
            "server_tools": {
                "supported": False,
                "code_execution": _support(False),
                "web_search": _support(False),
            },
            "structured_outputs": _support(True),
            "thinking": {
                "supported": reasons,
                "types": {
                    "adaptive": _support(reasons),
                    "between_tools": _support(True),
                    "disabled": _support(True),
                    "enabled": _support(reasons),
                },
            },
        },
    }


def page(req: falcon.Request, models: Sequence[Json]) -> Json:
    """Return the page of models that a request asks for.

    Raises:
        InvalidParameter: a parameter of the query is wrong.
    """
    stages = [*req.get_param_as_list("lifecycle", default=[])]
    stages += req.get_param_as_list("lifecycle[]", default=[])
    for stage in stages:
        if stage not in _STAGES:
            raise InvalidParameter("lifecycle must be active, deprecated or retired.", "lifecycle")
    found = [] if stages and "active" not in stages else [*models]
    limit = _limit(req.get_param("limit"))
    after, before = req.get_param("after_id"), req.get_param("before_id")
    if after is not None:
        found = found[_place(found, after, "after_id") + 1 :]
    if before is not None:
        found = found[: _place(found, before, "before_id")]
    shown = found[-limit:] if before is not None and after is None else found[:limit]
    return {
        "data": shown,
        "has_more": len(shown) < len(found),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    limit = int(text) if len(text) < 10 and text.isascii() and text.isdigit() else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"limit must be 1 to {MAX_LIMIT}.", "limit")
    return limit


def _place(models: Sequence[Json], id: str, param: str) -> int:
    place = next((n for n, model in enumerate(models) if model["id"] == id), None)
    if place is None:
        raise InvalidParameter(f"{param}: no model has the id {id[:80]!r}.", param)
    return place


def _support(supported: bool) -> Json:
    return {"supported": supported}
