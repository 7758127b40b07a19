"""What the bodies of several APIs have in common."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from offgrid.api.chat import request as chat
from offgrid.api.fields.common import GenerationFields
from offgrid.api.fields.inert import IGNORED
from offgrid.api.fields.sampling import ALIASES, SamplingFields
from offgrid.api.openapi import by_hand
from offgrid.api.openapi.operations.operation import Body

OF_A_MODEL = (404, 413, 503)
"""The model may not exist or may not be loaded in time; the body may be too large."""
SEED = ("x-offgrid-seed",)
SAMPLING = {
    "seed": by_hand.SEED,
    "logit_bias": by_hand.LOGIT_BIAS,
    "dry_sequence_breakers": by_hand.BREAKERS,
    "stop": by_hand.STOP,
    **by_hand.STRUCTURED,
}
CHAT = {
    **SAMPLING,
    "max_tokens": by_hand.limit(1),
    "max_completion_tokens": by_hand.limit(1),
}


def generation_body(struct: type[GenerationFields], **more: Any) -> Body:
    return Body(
        (struct,),
        ignored=IGNORED,
        aliases=ALIASES,
        foreign=True,
        hidden=struct.PARSED,
        more=(SamplingFields,),
        **more,
    )


def _default(schema: dict[str, Any]) -> dict[str, Any]:
    return {"default": schema["default"]} if "default" in schema else {}


def of_chat(names: Collection[str]) -> dict[str, Any]:
    """Return the schemas of fields that are chat's, checked there."""
    _, schemas = msgspec.json.schema_components([chat.ChatRequest, SamplingFields])
    typed = {**schemas["ChatRequest"]["properties"], **schemas["SamplingFields"]["properties"]}
    return {
        name: {**(CHAT.get(name) or typed[name]), **_default(typed.get(name, {}))}
        for name in names
        if name not in ALIASES
    }
