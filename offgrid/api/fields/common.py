"""Common code of chat and text completions: fields, ranges, unsupported and unknown fields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta, structs

from offgrid.api.fields.inert import InertFields, ServiceTier
from offgrid.api.fields.messages import invalid
from offgrid.api.fields.sampling import DEFAULT, Sampling, parse_sampling, take_fields
from offgrid.api.fields.structured import take_grammar
from offgrid.engine.protocol import Grammar
from offgrid.errors import InvalidParameter

T = TypeVar("T", bound="GenerationFields")
S = TypeVar("S", bound=msgspec.Struct)

MAX_N = 16
MAX_TOKENS = (1 << 31) - 1
MAX_STOP_LENGTH = 4096
"""Maximum length of a stop string, in characters."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``stream_options`` of a streamed request."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationFields(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of both endpoints. Defaults are those of the API document."""

    PARSED: ClassVar[frozenset[str]] = frozenset({"sampling"})
    """Attributes that are made from fields and are not fields of the body."""

    model: str
    sampling: Sampling = DEFAULT
    """Made from the fields of :mod:`offgrid.api.fields.sampling`."""
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] = 1
    stop: str | list[str] = msgspec.field(default_factory=list)
    ignore_eos: bool = False
    cache_prompt: bool = True
    post_sampling_probs: bool = False
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    service_tier: ServiceTier = "auto"
    stream: bool = False
    stream_options: StreamOptions | None = None
    grammar: Grammar | None = None
    """Made from the fields for structured output by :mod:`offgrid.api.fields.structured`."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple; the field may be one string or a list."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def obfuscate(self) -> bool:
        """Whether chunks carry random padding. Off by default: padding hides lengths from the
        network, but there is no network."""
        return bool(self.stream_options and self.stream_options.include_obfuscation)


Unsupported = Mapping[str, Callable[[Any], bool]]
"""Field -> predicate: is this value equivalent to omitting the field?"""


def convert(body: dict[str, Any], cls: type[T], unsupported: Unsupported, max_stops: int) -> T:
    """Check a request body and return it typed.

    ``null`` counts as absent. Unsupported fields are refused unless their value is equivalent to
    omitting them. Unknown fields are refused.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    grammar = take_grammar(fields)
    sampling = take_fields(fields)
    refuse_others(fields, set(cls.__struct_fields__) - cls.PARSED, unsupported)
    try:
        request = msgspec.convert(fields, cls)
    except msgspec.ValidationError as ex:
        raise invalid(str(ex)) from None
    request = structs.replace(request, sampling=parse_sampling(sampling), grammar=grammar)
    _check(request, max_stops)
    return request


def refuse_others(fields: dict[str, Any], known: Collection[str], unsupported: Unsupported) -> None:
    """Refuse unknown and unsupported fields; remove unsupported ones whose value changes nothing.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    for name in list(fields):
        if name in unsupported:
            if not unsupported[name](fields.pop(name)):
                raise InvalidParameter(
                    f"{name} is not supported by this server.", name, code="unsupported_parameter"
                )
        elif name not in known:
            raise InvalidParameter(f"Unknown field: {name}.", name, code="unknown_parameter")


def check_fields(body: dict[str, Any], cls: type[S]) -> S:
    """Check the body of a request that generates nothing, and return it typed.

    ``null`` counts as absent.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    refuse_others(fields, cls.__struct_fields__, {})
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as ex:
        raise invalid(str(ex)) from None


def _check(request: GenerationFields, max_stops: int) -> None:
    stops = request.stops
    if len(stops) > max_stops:
        raise InvalidParameter(f"stop takes at most {max_stops} strings, not {len(stops)}.", "stop")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise InvalidParameter(
                f"A stop string must have 1 to {MAX_STOP_LENGTH} characters, not {len(stop)}.",
                "stop",
            )
    if request.stream_options is not None and not request.stream:
        raise InvalidParameter("stream_options needs stream: true.", "stream_options")
    if request.prompt_logprobs is not None and request.stream:
        raise InvalidParameter("prompt_logprobs cannot be streamed.", "prompt_logprobs")
    if request.max_tokens is not None and request.sampling.params.min_tokens > request.max_tokens:
        raise InvalidParameter("min_tokens must not be greater than max_tokens.", "min_tokens")
