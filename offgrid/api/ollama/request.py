"""The fields of ``/api/chat`` and ``/api/generate``."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from offgrid.api.fields import notices
from offgrid.api.fields.common import Unsupported, refuse_others
from offgrid.api.fields.foreign import FOREIGN, ONLY_IF_OFF, SAME, SWITCHES
from offgrid.api.fields.keep_alive import KeepAlive, seconds_of
from offgrid.api.fields.messages import different, invalid, missing, unknown
from offgrid.api.fields.nulls import present
from offgrid.api.fields.sampling import ALIASES, NAMES
from offgrid.api.fields.translated import Translated
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter

S = TypeVar("S", bound=msgspec.Struct)

OPTIONS = (
    NAMES
    | ALIASES.keys()
    | FOREIGN - SAME.keys() - {*SWITCHES, "format", "options"}
    | {name for name, own in SAME.items() if own not in ("keep_alive", "n")}
    | {
        "banned_strings", "cache_prompt", "cache_salt", "grammar", "grammar_type", "ignore_eos",
        "max_tokens", "n_indent", "post_sampling_probs", "priority", "reasoning_budget_tokens",
        "regex", "samplers", "service_tier", "stop", "t_max_predict_ms",
    }
)  # fmt: skip
"""The members of ``options``: Ollama's, and the parameters that only this server has."""

_ADVICE = re.compile(r"(?<=[:;] use )\w+")

Think = bool | Literal["low", "medium", "high", "max"]
Images = list[str]
"""Image files in base64, or data URLs with them."""


class OllamaFunction(msgspec.Struct, frozen=True):
    """The function of a call, and its arguments as an object."""

    name: str
    arguments: dict[str, Any] = {}
    index: int | None = None


class OllamaToolCall(msgspec.Struct, frozen=True):
    """A call that an earlier answer made."""

    function: OllamaFunction
    id: str | None = None


class OllamaMessage(msgspec.Struct, frozen=True):
    """A message. Unknown fields of messages and calls are ignored: they are notes of clients."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: Images = []
    tool_calls: list[OllamaToolCall] = []
    tool_name: str | None = None
    tool_call_id: str | None = None


class _Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of both endpoints; ``options`` are checked with the fields of a chat request."""

    model: str = ""
    stream: bool = True
    format: str | dict[str, Any] = ""
    options: dict[str, Any] = {}
    keep_alive: KeepAlive = None
    think: Think | None = None
    truncate: bool = False
    shift: bool = False
    logprobs: bool = False
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] = 0


class OllamaChatRequest(_Fields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation. Without messages, the model is only loaded, or with ``keep_alive`` 0
    unloaded."""

    messages: list[OllamaMessage] = []
    tools: list[dict[str, Any]] = []
    system: str = ""
    """Without effect, as in Ollama: Open WebUI sends it beside a system message."""


class OllamaGenerateRequest(_Fields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt, which becomes a user message, or with ``raw`` or ``suffix`` is used as it is.

    Without a prompt, the model is only loaded, or with ``keep_alive`` 0 unloaded.
    """

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    context: list[int] = []
    raw: bool = False
    images: Images = []


UNSUPPORTED: Unsupported = {
    "template": lambda value: value == "",
    "_debug_render_only": lambda value: value is False,
    "height": lambda value: value == 0,
    "steps": lambda value: value == 0,
    "width": lambda value: value == 0,
}
"""Fields that would change the answer, and the values with which they do not."""


def typed_fields(body: Json, cls: type[S], unsupported: Unsupported = MappingProxyType({})) -> S:
    """Check the fields of a request to Ollama's API, apart from its options.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    known = cls.__struct_fields__
    given = Translated(present(body), known)
    for name in [*given.fields]:
        if name in OPTIONS and name not in known and not notices.tolerant():
            if name in ONLY_IF_OFF:
                advice = of_options(f": {ONLY_IF_OFF[name].reason}")
                raise InvalidParameter(
                    f"{name} is not supported by this server{advice}.",
                    name,
                    code="unsupported_parameter",
                )
            raise InvalidParameter(
                f'Unknown field: {name}. It is an option: {{"options": {{"{name}": ...}}}}.',
                name,
                code="unknown_parameter",
            )
    refuse_others(given.fields, known, unsupported, given)
    try:
        typed = msgspec.convert(given.fields, cls)
    except msgspec.ValidationError as ex:
        raise given.labelled(invalid(str(ex), given.fields, cls)) from None
    seconds_of(getattr(typed, "keep_alive", None))  # its type does not check the pattern
    return typed


def model_of(model: str, name: str) -> str:
    """Return the model of a request in which ``name`` is an older name of ``model``.

    Raises:
        InvalidParameter: neither is given, or they differ.
    """
    if not (model or name):
        raise missing("model")
    if model and name and model != name:
        raise different("name", "model")
    return model or name


def of_options(message: str) -> str:
    """Return a message that advises to use another field, as an option if it is one."""
    return _ADVICE.sub(
        lambda match: f"options.{match[0]}" if match[0] in OPTIONS else match[0], message
    )


def known_options(options: Json) -> Json:
    """Return the members of ``options`` that are options; refuse others, or note that they have no
    effect if the server ignores unknown fields.

    Raises:
        InvalidParameter: ``param`` names the member.
    """
    others = [name for name in options if name not in OPTIONS]
    for name in others:
        if not notices.tolerant():
            raise unknown(f"options.{name}", OPTIONS - ONLY_IF_OFF.keys(), "options")
        notices.ignore(f"options.{name}")
    return {name: value for name, value in options.items() if name in OPTIONS}
