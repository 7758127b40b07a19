"""``POST /v1/lab/distribution``: the request's fields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta, structs

from offgrid.api.chat.request import (
    ChatRequest,
    Documents,
    Effort,
    Messages,
    TemplateVariables,
    checked,
)
from offgrid.api.chat.tools import Tool
from offgrid.api.fields.common import refuse_others, typed, with_samplers
from offgrid.api.fields.inert import InertFields
from offgrid.api.fields.keep_alive import KeepAlive
from offgrid.api.fields.nulls import present
from offgrid.api.fields.samplers import Chosen
from offgrid.api.fields.sampling import DEFAULT, NAMES, Sampling, parse_sampling, take_fields
from offgrid.api.fields.tiers import ServiceTier, level_of
from offgrid.api.fields.translated import Translated
from offgrid.errors import InvalidParameter

MAX_TOP = 2048
"""Most tokens of each distribution in an answer."""
MAX_SAMPLES = 10_000
PROMPTS = ("prompt", "messages", "tokens")
"""The fields of which a request has one."""
_OF_MESSAGES = (
    "tools", "documents", "chat_template_kwargs", "reasoning_effort", "add_generation_prompt",
    "continue_final_message",
)  # fmt: skip
"""Fields that only a conversation has."""

TokenId = Annotated[int, Meta(ge=0, lt=1 << 31)]
TokenIds = Annotated[list[TokenId], Meta(min_length=1)]


class LabRequest(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, the answer so far, and how the next token is sampled."""

    PARSED: ClassVar[frozenset[str]] = frozenset({"sampling", "chosen", "chat"})
    """Attributes that are made from fields and are not fields of the body."""

    model: str = ""
    prompt: Annotated[str, Meta(min_length=1)] | None = None
    messages: Messages | None = None
    tokens: TokenIds | None = None
    continuation: str | list[TokenId] = ""
    top: Annotated[int, Meta(ge=1, le=MAX_TOP)] = 50
    samples: Annotated[int, Meta(ge=0, le=MAX_SAMPLES)] = 0
    sampling: Sampling = DEFAULT
    ignore_eos: bool = False
    samplers: str | list[str] = msgspec.field(default_factory=list)
    chosen: Chosen | None = None
    tools: list[Tool] = msgspec.field(default_factory=list)
    documents: Documents = msgspec.field(default_factory=list)
    chat_template_kwargs: TemplateVariables = msgspec.field(default_factory=dict)
    reasoning_effort: Effort | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    cache_prompt: bool = True
    cache_salt: Annotated[str, Meta(max_length=1024)] = ""
    service_tier: ServiceTier = "auto"
    priority: Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)] = 0
    keep_alive: KeepAlive = None
    chat: ChatRequest | None = None
    """The conversation as a request to chat; None for a text and for token ids."""

    @property
    def level(self) -> int:
        """The class of the request."""
        return level_of(self.service_tier, self.priority)


def parse_lab(body: dict[str, Any]) -> LabRequest:
    """Check the body of a request.

    Raises:
        InvalidParameter: ``param`` names the field as the client does.
    """
    known = {*LabRequest.__struct_fields__, *NAMES} - LabRequest.PARSED
    given = Translated(present(body), known)
    fields = given.fields
    try:
        sampling = take_fields(fields)
        refuse_others(fields, known, {}, given)
        _check_prompts(fields)
        request = structs.replace(typed(fields, LabRequest), sampling=parse_sampling(sampling))
        if request.samplers:
            request = with_samplers(request)
        return structs.replace(request, chat=_conversation(request))
    except InvalidParameter as ex:
        raise given.labelled(ex) from None


def _check_prompts(fields: dict[str, Any]) -> None:
    present = [name for name in PROMPTS if name in fields]
    if not present:
        raise InvalidParameter(
            "One of prompt, messages and tokens is required.",
            "prompt",
            code="missing_required_parameter",
        )
    if len(present) > 1:
        raise InvalidParameter(f"{present[0]} and {present[1]} are mutually exclusive.", present[1])
    if present != ["messages"]:
        for name in _OF_MESSAGES:
            if name in fields:
                raise InvalidParameter(f"{name} needs messages.", name)


def _conversation(request: LabRequest) -> ChatRequest | None:
    if request.messages is None:
        return None
    same = {name: getattr(request, name) for name in ("messages", *_OF_MESSAGES)}
    return checked(ChatRequest(**same))
