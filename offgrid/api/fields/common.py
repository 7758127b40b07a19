"""Common code of chat and text completions: fields, ranges, unsupported and unknown fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Protocol, TypeVar

import msgspec
from msgspec import Meta, structs

from offgrid.api.fields import notices, structured
from offgrid.api.fields.bounds import check_answer
from offgrid.api.fields.foreign import unknown_field
from offgrid.api.fields.inert import InertFields
from offgrid.api.fields.keep_alive import KeepAlive, seconds_of
from offgrid.api.fields.messages import invalid
from offgrid.api.fields.nulls import present
from offgrid.api.fields.samplers import Chosen, chosen
from offgrid.api.fields.sampling import DEFAULT, NAMES, Sampling, parse_sampling, take_fields
from offgrid.api.fields.tiers import TIERS, ServiceTier, Tier, level_of
from offgrid.api.fields.translated import Translated
from offgrid.api.http.caller import caller
from offgrid.api.http.owner import owner
from offgrid.api.screening import program_in_force
from offgrid.engine.protocol.requests import GenerationRequest, Grammar
from offgrid.errors import InvalidParameter

T = TypeVar("T", bound="GenerationFields")
S = TypeVar("S", bound=msgspec.Struct)

MAX_N = 16
MAX_TOKENS = (1 << 31) - 1
MAX_MILLISECONDS = 86_400_000
"""A day."""
MAX_INDENT = 1024
MAX_STOPS = 64
MAX_STOP_LENGTH = 4096
"""Maximum length of a stop string, in characters."""


MAX_BANNED = 1024
MAX_BANNED_LENGTH = 256
"""Maximum length of a banned string, in characters."""


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``stream_options`` of a streamed request."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's. Only false is accepted: usage is sent once, at the end."""


class GenerationFields(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of both endpoints. Defaults are those of the API document."""

    PARSED: ClassVar[frozenset[str]] = frozenset({"sampling", "chosen"})
    """Attributes that are made from fields and are not fields of the body."""

    model: str = ""
    """Empty for the default model."""
    sampling: Sampling = DEFAULT
    """Made from the fields of :mod:`offgrid.api.fields.sampling`."""
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] = 1
    stop: str | list[str] = msgspec.field(default_factory=list)
    banned_strings: str | list[str] = msgspec.field(default_factory=list)
    ignore_eos: bool = False
    cache_prompt: bool = True
    post_sampling_probs: bool = False
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    timings_per_token: bool = False
    return_progress: bool = False
    samplers: str | list[str] = msgspec.field(default_factory=list)
    chosen: Chosen | None = None
    """Made from :attr:`samplers`; None for all of them."""
    t_max_predict_ms: Annotated[int, Meta(ge=-1, le=MAX_MILLISECONDS)] = 0
    n_indent: Annotated[int, Meta(ge=0, le=MAX_INDENT)] = 0
    service_tier: ServiceTier = "auto"
    priority: Annotated[int, Meta(ge=-(1 << 31), le=(1 << 31) - 1)] = 0
    """vLLM's: lower goes first."""
    cache_salt: Annotated[str, Meta(max_length=1024)] = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    keep_alive: KeepAlive = None
    grammar: Grammar | None = None
    """Made from the fields for structured output by :mod:`offgrid.api.fields.structured`."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple; the field may be one string or a list."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def banned(self) -> tuple[str, ...]:
        """The banned strings as a tuple, each once; an empty text is none."""
        if isinstance(self.banned_strings, str):
            return (self.banned_strings,) if self.banned_strings else ()
        return tuple(dict.fromkeys(self.banned_strings))

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def obfuscate(self) -> bool:
        """Whether chunks carry random padding. Off by default: padding hides lengths from the
        network, but there is no network."""
        return bool(self.stream_options and self.stream_options.include_obfuscation)

    @property
    def level(self) -> int:
        """The class of the request: ``service_tier`` decides, or else ``priority``."""
        return level_of(self.service_tier, self.priority)

    @property
    def tier(self) -> Tier:
        """The class, as the ``service_tier`` of a response."""
        return TIERS[self.level]

    def generation(
        self, own: Mapping[str, Any], *, timings: bool = False, **more: Any
    ) -> GenerationRequest:
        """Return the request for the engine.

        Args:
            own: the model's own values of sampling parameters that the request does not set.
            timings: whether all deltas have times, even if the request does not ask for them.
            more: the fields of the engine's request that each endpoint sets in its own way.
        """
        who = caller()
        return GenerationRequest(
            sampling=self.sampling.with_defaults(own),
            text_bias=self.sampling.text_bias,
            dry_breakers=self.sampling.dry_breakers,
            banned_strings=self.banned,
            ignore_eos=self.ignore_eos,
            post_sampling=self.post_sampling_probs,
            cache_prompt=self.cache_prompt,
            timings=self.timings_per_token or timings,
            return_progress=self.return_progress and self.stream,
            t_max_predict_ms=max(0, self.t_max_predict_ms),
            n_indent=self.n_indent,
            owner=owner(),
            priority=self.level,
            partition=who.id if who.has_key else "",
            cache_salt=self.cache_salt,
            report_wait=self.stream,
            filter=program_in_force(),
            **more,
        )


_ADVICE = {"functions": "; use tools", "function_call": "; use tool_choice"}
Unsupported = Mapping[str, Callable[[Any], bool]]
"""Field -> predicate: is this value equivalent to omitting the field?"""


def convert(
    body: dict[str, Any],
    cls: type[T],
    unsupported: Unsupported,
    named: Mapping[str, str] = MappingProxyType({}),
) -> T:
    """Check a request body and return it typed.

    ``null`` counts as absent. Fields of other servers are translated. Unsupported fields are
    refused unless their value is equivalent to omitting them. So are unknown fields, unless the
    server ignores them (:mod:`offgrid.api.fields.notices`).

    Args:
        body: the body, parsed.
        cls: the type of the request.
        unsupported: the fields that may only have some values.
        named: attribute of the request -> field. If the field is given, the attribute gets the name
            under which the client sent it, for errors that are found later.

    Raises:
        InvalidParameter: ``param`` names the field as the client does.
    """
    known = {*cls.__struct_fields__, *NAMES, *structured.NAMES} - cls.PARSED
    given = Translated(present(body), known | unsupported.keys())
    fields = given.fields
    try:
        grammar = structured.take_grammar(fields)
        sampling = take_fields(fields)
        refuse_others(fields, known, unsupported, given)
        labels = {name: given.label(field) for name, field in named.items() if field in fields}
        request = structs.replace(
            typed(fields, cls), sampling=parse_sampling(sampling), grammar=grammar, **labels
        )
        if request.samplers:
            request = with_samplers(request)
        _check(request, given.label)
    except InvalidParameter as ex:
        raise given.labelled(ex) from None
    return request


class Sampled(Protocol):
    """A request with sampling parameters."""

    @property
    def samplers(self) -> str | list[str]: ...
    @property
    def sampling(self) -> Sampling: ...


R = TypeVar("R", bound=Sampled)


def with_samplers(request: R) -> R:
    """Return a request in which the samplers that it does not name are off, whatever it or the
    model's settings say about them. It is a struct that has an attribute ``chosen``."""
    wanted = chosen(request.samplers)
    if wanted is None:
        return request
    if not wanted.exact:
        notices.ignore("samplers")
    sampling = request.sampling
    sampling = structs.replace(
        sampling,
        params=dataclasses.replace(sampling.params, **wanted.off),
        given=sampling.given | wanted.off.keys(),
    )
    return structs.replace(request, sampling=sampling, chosen=wanted)  # type: ignore[type-var]


def refuse_others(
    fields: dict[str, Any],
    known: Collection[str],
    unsupported: Unsupported,
    given: Translated | None = None,
) -> None:
    """Refuse unknown and unsupported fields; remove unsupported ones whose value changes nothing.

    If the server ignores unknown fields, they are removed and noted.

    Args:
        fields: the fields that are left when some are taken out.
        known: names of the fields that exist.
        unsupported: the fields that may only have some values.
        given: knows the names that the client used, if ``fields`` were translated.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    for name in list(fields):
        label = name if given is None else given.label(name)
        if name in unsupported:
            if not unsupported[name](fields.pop(name)):
                advice = _ADVICE.get(name, "")
                raise InvalidParameter(
                    f"{label} is not supported by this server{advice}.",
                    name,
                    code="unsupported_parameter",
                )
        elif name not in known:
            if not notices.tolerant():
                raise unknown_field(name, {*known, *unsupported}, in_options=label != name)
            del fields[name]
            notices.ignore(label)


def check_fields(body: dict[str, Any], cls: type[S], *, items: bool = False) -> S:
    """Check the body of a request that generates nothing, and return it typed.

    ``null`` counts as absent. With ``items``, the field ``input`` is a list of items, as in
    ``/v1/responses``.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    given = Translated(present(body, items=items), cls.__struct_fields__)
    refuse_others(given.fields, cls.__struct_fields__, {}, given)
    try:
        return typed(given.fields, cls)
    except InvalidParameter as ex:
        raise given.labelled(ex) from None


def typed(fields: dict[str, Any], cls: type[S]) -> S:
    """Return the fields of a request as a struct.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    try:
        result = msgspec.convert(fields, cls)
    except msgspec.ValidationError as ex:
        raise invalid(str(ex), fields, cls) from None
    seconds_of(getattr(result, "keep_alive", None))  # its type does not check the pattern
    return result


def _check(request: GenerationFields, label: Callable[[str], str]) -> None:
    stops = request.stops
    if len(stops) > MAX_STOPS:
        raise InvalidParameter(f"stop takes at most {MAX_STOPS} strings, not {len(stops)}.", "stop")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise InvalidParameter(
                f"stop: each string must have 1 to {MAX_STOP_LENGTH} characters, not {len(stop)}.",
                "stop",
            )
    _check_banned(request.banned)
    if request.stream_options is not None and not request.stream:
        raise InvalidParameter("stream_options needs stream: true.", "stream_options")
    if request.stream_options is not None and request.stream_options.continuous_usage_stats:
        name = "stream_options.continuous_usage_stats"
        raise InvalidParameter(
            f"{name} is not supported by this server; use include_usage.",
            name,
            code="unsupported_parameter",
        )
    if request.return_progress and not request.stream:
        notices.ignore("return_progress")
    if request.prompt_logprobs is not None and request.stream:
        raise InvalidParameter("prompt_logprobs cannot be streamed.", "prompt_logprobs")
    longer = getattr(request, "max_completion_tokens", None)
    field = "max_tokens" if longer is None else "max_completion_tokens"
    wanted = request.max_tokens if longer is None else longer
    least = request.sampling.params.min_tokens
    check_answer(wanted, least, field)
    if wanted is not None and least > wanted:
        raise InvalidParameter(f"min_tokens must not be greater than {label(field)}.", "min_tokens")


def _check_banned(strings: tuple[str, ...]) -> None:
    if len(strings) > MAX_BANNED:
        raise InvalidParameter(
            f"banned_strings takes at most {MAX_BANNED} strings, not {len(strings)}.",
            "banned_strings",
        )
    for string in strings:
        if not 1 <= len(string) <= MAX_BANNED_LENGTH:
            raise InvalidParameter(
                f"banned_strings: each string must have 1 to {MAX_BANNED_LENGTH} characters, not "
                f"{len(string)}.",
                "banned_strings",
            )
