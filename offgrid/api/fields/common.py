"""What chat and text completions have in common: fields, ranges, and what each field's fate is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, structs

from offgrid.api.fields.inert import InertFields, ServiceTier
from offgrid.api.fields.structured import take_grammar
from offgrid.engine.protocol import Grammar, Sampling
from offgrid.errors import InvalidParameter

T = TypeVar("T", bound="GenerationFields")
S = TypeVar("S", bound=msgspec.Struct)

MAX_N = 16
MAX_TOKENS = (1 << 31) - 1
MAX_TOKEN_ID = (1 << 31) - 1
_MAX_ID_DIGITS = 20
"""Leading zeros counted; Python refuses to read thousands."""
MAX_STOP_LENGTH = 4096
"""Characters of one stop string."""
DRY_BREAKERS = ("\n", ":", '"', "*")
"""llama.cpp's."""
MAX_BIASES = 1024
MAX_BIAS_TEXT = 100
"""Characters."""
SEED_RANGE = (-(1 << 63), (1 << 64) - 1)
RANDOM_SEED = -1
"""As clients of llama.cpp ask for one that is drawn."""

Probability = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``stream_options`` of a streamed request."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationFields(InertFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of both endpoints. Defaults are those of the API document."""

    model: str
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.7
    top_p: Probability = 0.95
    top_k: Annotated[int, Meta(ge=-1, le=1 << 30)] = 0
    min_p: Probability = 0.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=100)] = 1.0
    repeat_last_n: Annotated[int, Meta(ge=-1, le=1 << 30)] = 64
    logit_bias: dict[str, Any] | list[Any] = msgspec.field(default_factory=dict)
    seed: int | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_N)] = 1
    stop: str | list[str] = msgspec.field(default_factory=list)
    ignore_eos: bool = False
    cache_prompt: bool = True
    top_n_sigma: Annotated[float, Meta(ge=-1, le=1000)] = 0.0
    typical_p: Probability = 1.0
    xtc_probability: Probability = 0.0
    xtc_threshold: Probability = 0.1
    dynatemp_range: Annotated[float, Meta(ge=0, le=2)] = 0.0
    dynatemp_exponent: Annotated[float, Meta(ge=0, le=100)] = 1.0
    mirostat: Annotated[int, Meta(ge=0, le=2)] = 0
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] = 5.0
    mirostat_eta: Annotated[float, Meta(ge=0, le=10)] = 0.1
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] = 0.0
    dry_base: Annotated[float, Meta(ge=1, le=100)] = 1.75
    dry_allowed_length: Annotated[int, Meta(ge=0, le=1 << 30)] = 2
    dry_penalty_last_n: Annotated[int, Meta(ge=-1, le=1 << 30)] = -1
    dry_sequence_breakers: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=40)]], Meta(max_length=64)
    ] = msgspec.field(default_factory=lambda: list(DRY_BREAKERS))
    min_tokens: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    min_keep: Annotated[int, Meta(ge=0, le=1 << 30)] = 0
    post_sampling_probs: bool = False
    prompt_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    service_tier: ServiceTier = "auto"
    stream: bool = False
    stream_options: StreamOptions | None = None
    grammar: Grammar | None = None
    """Made of the several fields by :mod:`offgrid.api.fields.structured`."""

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple, whatever form they came in."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def obfuscate(self) -> bool:
        """Whether chunks carry random padding; off unless asked for: it hides lengths from the
        network, and there is none."""
        return bool(self.stream_options and self.stream_options.include_obfuscation)

    def sampling(self) -> Sampling:
        """The sampling parameters in the engine's form."""
        logit_bias, text_bias = _logit_bias(self.logit_bias)
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            min_p=self.min_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            repetition_penalty=self.repetition_penalty,
            repeat_last_n=self.repeat_last_n,
            logit_bias=logit_bias,
            text_bias=text_bias,
            seed=None if self.seed == RANDOM_SEED else self.seed,
            top_n_sigma=max(0.0, self.top_n_sigma),
            typical_p=self.typical_p,
            xtc_probability=self.xtc_probability,
            xtc_threshold=self.xtc_threshold,
            dynatemp_range=self.dynatemp_range,
            dynatemp_exponent=self.dynatemp_exponent,
            mirostat=self.mirostat,
            mirostat_tau=self.mirostat_tau,
            mirostat_eta=self.mirostat_eta,
            dry_multiplier=self.dry_multiplier,
            dry_base=self.dry_base,
            dry_allowed_length=self.dry_allowed_length,
            dry_penalty_last_n=self.dry_penalty_last_n,
            dry_sequence_breakers=tuple(self.dry_sequence_breakers),
            min_tokens=self.min_tokens,
            min_keep=self.min_keep,
        )


Unsupported = Mapping[str, Callable[[Any], bool]]
"""Field -> whether a value means just what happens without the field."""


def convert(body: dict[str, Any], cls: type[T], unsupported: Unsupported, max_stops: int) -> T:
    """Check a request body and return it typed.

    ``null`` counts as absent. Fields that change the meaning and are not supported are refused
    unless their value asks for nothing; so are unknown ones.

    Raises:
        InvalidParameter: ``param`` names the field.
    """
    fields = {name: value for name, value in body.items() if value is not None}
    grammar = take_grammar(fields)
    alias = fields.pop("repeat_penalty", None)
    if alias is not None:
        if "repetition_penalty" in fields:
            raise InvalidParameter(
                "repeat_penalty and repetition_penalty are the same parameter; give only one.",
                "repeat_penalty",
            )
        fields["repetition_penalty"] = alias
    refuse_others(fields, cls.__struct_fields__, unsupported)
    try:
        request = msgspec.convert(fields, cls)
    except msgspec.ValidationError as ex:
        message = str(ex)
        if alias is not None:  # the name that the client used
            message = message.replace("$.repetition_penalty", "$.repeat_penalty")
        raise invalid(message) from None
    _check(request, max_stops)
    return request if grammar is None else structs.replace(request, grammar=grammar)


def refuse_others(fields: dict[str, Any], known: Collection[str], unsupported: Unsupported) -> None:
    """Take out fields that are not supported but ask for nothing; refuse those nobody knows.

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
    if request.seed is not None and not SEED_RANGE[0] <= request.seed <= SEED_RANGE[1]:
        raise InvalidParameter("seed must fit into 64 bits.", "seed")
    if request.stream_options is not None and not request.stream:
        raise InvalidParameter("stream_options needs stream: true.", "stream_options")
    if request.prompt_logprobs is not None and request.stream:
        raise InvalidParameter("prompt_logprobs cannot be streamed.", "prompt_logprobs")
    if request.max_tokens is not None and request.min_tokens > request.max_tokens:
        raise InvalidParameter("min_tokens must not be greater than max_tokens.", "min_tokens")
    _logit_bias(request.logit_bias)


def _logit_bias(raw: dict[str, Any] | list[Any]) -> tuple[dict[int, float], dict[str, float]]:
    """Biases by token id and by text; ``false`` bans.

    A key of digits is an id, any other the text of tokens. A list of pairs, as llama.cpp's server
    takes it, tells the two apart by type.
    """
    if len(raw) > MAX_BIASES:
        raise InvalidParameter(f"logit_bias takes at most {MAX_BIASES} entries.", "logit_bias")
    ids: dict[int, float] = {}
    texts: dict[str, float] = {}
    for key, value in raw.items() if isinstance(raw, dict) else map(_pair, raw):
        name = f"logit_bias.{key}" if len(str(key)) <= MAX_BIAS_TEXT else "logit_bias"
        if value is False:
            bias = -math.inf
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidParameter("A bias must be a number or false.", name)
        elif not -100 <= value <= 100:
            raise InvalidParameter("A bias must be between -100 and 100.", name)
        else:
            bias = float(value)
        if isinstance(key, int) or (isinstance(raw, dict) and re.fullmatch(r"[0-9]+", key)):
            # Python refuses to read thousands of digits, or takes long for them.
            if len(str(key)) > _MAX_ID_DIGITS or int(key) > MAX_TOKEN_ID:
                raise InvalidParameter(f"Token id {str(key)[:20]} is out of range.", name)
            ids[int(key)] = bias
        elif 1 <= len(key) <= MAX_BIAS_TEXT:
            texts[key] = bias
        else:
            raise InvalidParameter(
                f"A text in logit_bias must have 1 to {MAX_BIAS_TEXT} characters.", "logit_bias"
            )
    return ids, texts


def _pair(item: Any) -> tuple[int | str, Any]:
    if isinstance(item, list) and len(item) == 2:
        key, value = item
        if isinstance(key, str) or (type(key) is int and 0 <= key < 1 << 31):
            return key, value
    raise InvalidParameter(
        "A logit_bias list must contain [token id or text, bias] pairs.", "logit_bias"
    )


ROLES = ("system", "developer", "user", "assistant", "tool")
_CONTENT_TYPE = re.compile(r"\.content\[\d+\]\.type$")
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_NAMED = re.compile(r"Object (missing required|contains unknown) field `([^`]+)`")


def invalid(message: str) -> InvalidParameter:
    """msgspec's words to ours: the path in them is the parameter."""
    match = _PATH.search(message)
    path = match[1] if match else ""
    reason = message[: match.start()] if match else message
    if path.endswith("[...]"):  # which entry of a map it is, nobody says
        path = path.removesuffix("[...]")
        reason = f"in one of its entries, {reason[:1].lower()}{reason[1:]}"
    named = _NAMED.match(reason)
    if named:
        path = f"{path}.{named[2]}" if path else named[2]
        if named[1] == "missing required":
            return InvalidParameter(
                f"Missing required field: {path}.", path, code="missing_required_parameter"
            )
        return InvalidParameter(f"Unknown field: {path}.", path, code="unknown_parameter")
    if path.endswith(".role"):
        reason = f"{reason}; the roles are {', '.join(ROLES)}"
    if _CONTENT_TYPE.search(path):
        return InvalidParameter(
            f"{path}: only text and image_url parts are supported by this server.",
            path,
            code="unsupported_parameter",
        )
    return InvalidParameter(f"Invalid value for {path}: {reason}.", path or None)
