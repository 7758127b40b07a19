"""Fields of other servers that clients send to this one, in tables.

Clients that are made for several servers send the fields of all of them. A field with a
counterpart here is used as that (:data:`SAME`, and the forms that :func:`translate` describes). A
field that cannot change the answer is accepted (:data:`WITHOUT_EFFECT`), and the response names it
(:mod:`offgrid.api.fields.notices`). A field that would change the answer is accepted only if its
value asks for nothing or is a usual default of clients (:data:`ONLY_IF_OFF`), and otherwise refused
with a reason.

The names are those of llama-server, Ollama, LM Studio, vLLM, text-generation-webui, KoboldCpp,
TabbyAPI, Mistral, DeepSeek, Anthropic and OpenRouter, as their clients send them. ``docs/API.md``
lists them; a test compares it with the tables.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from offgrid.api.fields import notices
from offgrid.api.fields.body import excess
from offgrid.api.fields.messages import unknown
from offgrid.api.fields.orders import KOBOLD_CPP, LLAMA_CPP, LLAMA_CPP_CODES, WEB_UI, Orders
from offgrid.errors import InvalidParameter, RequestError

SAME = {
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "ban_eos_token": "ignore_eos",
    "grammar_string": "grammar",
    "min_length": "min_tokens",
    "mirostat_mode": "mirostat",
    "nsigma": "top_n_sigma",
    "random_seed": "seed",
    "rep_pen": "repetition_penalty",
    "rep_pen_range": "repeat_last_n",
    "repeat_penalty": "repetition_penalty",
    "repetition_penalty_range": "repeat_last_n",
    "sampler_seed": "seed",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "stopping_strings": "stop",
    "typical": "typical_p",
}
"""Field -> the field of this API with the same meaning."""
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Fields that limit the answer."""
NO_LIMIT = (-1, -2)
"""Values of these that mean no limit; as a seed, a random one."""

_NOTHING: dict[str, Any] = {"grammar": "", "stop": []}
"""Fields with another name in :data:`SAME`, and the value that asks for nothing."""

WITHOUT_EFFECT: dict[str, frozenset[str]] = {
    # Reason -> fields.
    "the settings of the server decide": frozenset({
        "draft_model", "f16_kv", "keep_alive", "low_vram", "main_gpu", "n_ctx", "num_batch",
        "num_ctx", "num_gpu", "num_thread", "numa", "speculative.n_max", "speculative.n_min",
        "speculative.p_min", "speculative_ngram", "truncation_length", "ttl", "use_mlock",
        "use_mmap", "vocab_only",
    }),
    "the server chooses the slot and manages its cache": frozenset({
        "cache_control", "copilot_cache_control", "id_slot", "n_keep", "num_keep", "slot_id",
    }),
    "notes of clients and gateways": frozenset({
        "api_server", "api_type", "chat_id", "client_metadata", "conversation_id", "extra_content",
        "legacy_api", "models", "priority", "provider", "provider_specific_fields",
        "reasoning_details", "request_id", "route", "session_id", "thinking_blocks", "trace_id",
        "transforms",
    }),
    "they ask for facts beside the answer": frozenset({
        "return_progress", "return_tokens", "timings_per_token", "usage",
    }),
    "they refine a feature that is refused, or off": frozenset({
        "early_stopping", "guided_decoding_backend", "length_penalty", "negative_prompt",
        "smoothing_curve", "spaces_between_special_tokens",
    }),
    "reasoning is always returned": frozenset({"include_reasoning"}),
}  # fmt: skip
"""Fields whose values are not checked. They cannot change the text of the answer."""
INERT = frozenset(name for names in WITHOUT_EFFECT.values() for name in names)


class Off(NamedTuple):
    """When a field asks for nothing.

    Attributes:
        values: the values that ask for nothing, in words for the documentation.
        asks_nothing: whether a value asks for nothing.
        reason: why other values are refused, or the alternative; a part of a sentence.
        is_usual: whether a value asks for something, but is accepted without effect: clients send
            it although their user has chosen nothing.
    """

    values: str
    asks_nothing: Callable[[Any], bool]
    reason: str
    is_usual: Callable[[Any], bool] = lambda value: False


def _number(*numbers: float, reason: str) -> Off:
    """Return the rule of a number that turns something off."""
    return Off(
        " or ".join(f"{number:g}" for number in numbers),
        lambda value: not isinstance(value, bool) and value in numbers,
        reason,
    )


def _switch(on: bool, reason: str) -> Off:
    return Off(str(on).lower(), lambda value: value is on, reason)


def _empty(reason: str) -> Off:
    return Off(
        "empty", lambda value: isinstance(value, (list, dict, str)) and not value, reason
    )  # fmt: skip


def _order(whose: str, orders: Orders, codes: Collection[str] = ()) -> Off:
    """Return the rule of a field that asks for an order of the sampling parameters."""
    return Off(
        f"the order of this server, or {whose} usual order, which has no effect",
        orders.is_own,
        _FIXED,
        lambda value: orders.is_usual(value) or (isinstance(value, str) and value in codes),
    )


_FIXED = "the order of the sampling parameters is fixed"
_NO_BEAMS = "this server has no beam search"
_CONTROL = "control tokens are never part of an answer"
_BEGINNING = "the model's file decides; send token ids for another beginning"
_BUDGET = "reasoning cannot be limited to a number of tokens; use reasoning_effort"
_TAIL_FREE = "tail-free sampling does not exist here; use min_p or typical_p"
_STOPS = "tokens cannot end an answer; use stop with their texts"
_BANS = "use logit_bias, where false bans a token"

ONLY_IF_OFF: dict[str, Off] = {
    "add_bos_token": _switch(True, _BEGINNING),
    "add_special_tokens": _switch(True, _BEGINNING),
    "allowed_token_ids": _empty("use a grammar, choice or regex"),
    "bad_words": _empty(_BANS),
    "banned_strings": _empty(_BANS),
    "banned_tokens": _empty(_BANS),
    "beam_width": _number(1, reason=_NO_BEAMS),
    "cache_salt": _empty("use cache_prompt: false"),
    "cfg_scale": _number(1, reason="there is no guidance by a second prompt"),
    "chat_template": _empty("the template of the model's file is used"),
    "do_sample": _switch(True, "use temperature 0 for the most likely tokens"),
    "encoder_repetition_penalty": _number(1, reason="use repetition_penalty"),
    "epsilon_cutoff": _number(0, reason="use min_p"),
    "eta_cutoff": _number(0, reason="use min_p"),
    "guidance_scale": _number(1, reason="there is no guidance by a second prompt"),
    "guided_whitespace_pattern": _empty("the white space of JSON is fixed"),
    "image_data": _empty("send images in the messages of a chat request"),
    "include_stop_str_in_output": _switch(False, "an answer ends before its stop string"),
    "logits_processors": _empty("clients cannot run code here"),
    "lora": _empty("adapters cannot be chosen by a request"),
    "max_tokens_second": _number(0, reason="the speed of an answer cannot be limited"),
    "mm_processor_kwargs": _empty("the projector's file decides"),
    "n_discard": _number(0, reason="the context is never shifted"),
    "n_indent": _number(0, reason="use a grammar"),
    "n_probs": _number(0, reason="use logprobs"),
    "no_repeat_ngram_size": _number(0, reason="use dry_multiplier"),
    "num_beams": _number(1, reason=_NO_BEAMS),
    "parse_tool_calls": _switch(True, "calls are always parsed"),
    "penalize_newline": _switch(False, "use logit_bias"),
    "penalize_nl": _switch(False, "use logit_bias"),
    "penalty_alpha": _number(0, reason="there is no contrastive search"),
    "plugins": _empty("the server has no plugins"),
    "reasoning_format": Off(
        "auto or deepseek", lambda value: value in ("auto", "deepseek"),
        "reasoning is always returned as reasoning_content",
    ),
    "reasoning_in_content": _switch(False, "reasoning is always returned as reasoning_content"),
    "rep_pen_slope": _number(0, 1, reason="the penalty is the same at every distance"),
    "repetition_decay": _number(0, reason="the penalty is the same at every distance"),
    "response_fields": _empty("responses are always complete"),
    "return_token_ids": _switch(False, "use POST /tokenize"),
    "return_tokens_as_token_ids": _switch(False, "use POST /tokenize"),
    "safe_prompt": _switch(False, "write a system message"),
    "sampler_order": _order("KoboldCpp's", KOBOLD_CPP),
    "sampler_priority": _order("text-generation-webui's", WEB_UI),
    "samplers": _order("llama.cpp's", LLAMA_CPP, LLAMA_CPP_CODES),
    "skew": _number(0, reason="use temperature"),
    "skip_special_tokens": _switch(True, _CONTROL),
    "smoothing_factor": _number(0, reason="use dynatemp_range or min_p"),
    "stop_token_ids": _empty(_STOPS),
    "t_max_predict_ms": _number(0, -1, reason="use max_tokens"),
    "t_max_prompt_ms": _number(0, -1, reason="the time of a prompt cannot be limited"),
    "temperature_last": Off(
        "false, or true, which has no effect", lambda value: value is False, _FIXED,
        lambda value: value is True,
    ),
    "tfs": _number(1, reason=_TAIL_FREE),
    "tfs_z": _number(1, reason=_TAIL_FREE),
    "thinking_budget": _number(-1, reason=_BUDGET),
    "thinking_budget_tokens": _number(-1, reason=_BUDGET),
    "thinking_forced_open": _switch(False, "the model's template decides"),
    "thinking_token_budget": _number(-1, reason=_BUDGET),
    "top_a": _number(0, reason="use min_p"),
    "truncate_prompt_tokens": _number(-1, reason="a prompt is never cut"),
    "use_beam_search": _switch(False, _NO_BEAMS),
}  # fmt: skip
"""Fields that would change the answer, and the values with which they do not."""
IF_UNKNOWN = {
    "best_of": _number(1, reason="only /v1/completions chooses among answers"),
    "echo": _switch(False, "only /v1/completions repeats its prompt"),
}
"""The same for fields that exist in another endpoint."""

SWITCHES = ("enable_thinking", "reasoning", "think", "thinking")
"""Fields that turn reasoning on or off, or set its effort; see :meth:`Translated._reason`.

In ``/v1/responses`` only its own ``reasoning`` does.
"""
DYNAMIC = ("dynamic_temperature", "dynatemp_high", "dynatemp_low")
"""text-generation-webui's form of a temperature with ``dynatemp_range``."""
SPECIAL = ("custom_token_bans", "options", *DYNAMIC, *SWITCHES)
"""Fields that become one or more fields of this API."""
FOREIGN = frozenset({*SAME, *INERT, *ONLY_IF_OFF, *SPECIAL})
"""All fields of this module."""

_ON_OFF = {"on": True, "off": False}


def unknown_field(name: str, known: Collection[str], *, in_options: bool) -> InvalidParameter:
    """Return the error for a field that does not exist, neither here nor elsewhere."""
    path, parent = (f"options.{name}", "options") if in_options else (name, "")
    return unknown(path, {*known, *aliases(known)}, parent)


def aliases(known: Collection[str]) -> dict[str, str]:
    """Return the names that some of an endpoint's fields have elsewhere."""
    return {name: own for name, own in SAME.items() if own in known and name not in known}


def _generates(known: Collection[str]) -> bool:
    """Whether an endpoint with these fields generates text."""
    return "stop" in known


def descriptions(known: Collection[str]) -> dict[str, str]:
    """Return the other foreign fields that an endpoint accepts, each with a sentence about it."""
    found = {
        name: f"Without effect: {reason}."
        for reason, names in WITHOUT_EFFECT.items()
        for name in names
    }
    if _generates(known):
        for name, off in (ONLY_IF_OFF | IF_UNKNOWN).items():
            found[name] = f"Refused unless it is {off.values}: {off.reason}."
    if "reasoning_effort" in known:
        found |= dict.fromkeys(SWITCHES, "Another form of reasoning_effort.")
    elif _generates(known) and "reasoning" not in known:
        found |= dict.fromkeys(SWITCHES, "Without effect: there is no template.")
    found["options"] = "Its members are fields of the request."
    if _generates(known):
        found |= dict.fromkeys(DYNAMIC, "Another form of temperature and dynatemp_range.")
        found["custom_token_bans"] = "Token ids that logit_bias bans."
    return {name: words for name, words in found.items() if name not in known}


class Translated:
    """The fields of a request under the names of this API.

    Args:
        fields: the fields as the client sent them, without nulls.
        known: names of the fields that the endpoint has.

    Attributes:
        fields: the fields under this API's names; the given object is not changed.

    Raises:
        InvalidParameter: a field asks for something that this server does not do, or two names of
            the same field have different values.
    """

    def __init__(self, fields: dict[str, Any], known: Collection[str]) -> None:
        self.fields = dict(fields)
        self._known = known
        self._labels: dict[str, str] = {}
        """Name here -> name that the client sent."""
        self._on = ""
        """Name of the field that turned reasoning on."""
        if "options" not in known:
            self._unpack_options()
        self._read_forms()
        if _generates(known):
            self._read_dynamic()
        for name in [name for name in self.fields if name not in known]:
            self._translate(name)

    def label(self, name: str) -> str:
        """Return the name under which the client sent a field."""
        return self._labels.get(name, name)

    def labelled(self, error: RequestError) -> RequestError:
        """Return an error with the field's name as the client sent it."""
        param = error.param or ""
        name = re.split(r"[.\[]", param, maxsplit=1)[0]
        label = self.label(name)
        if label == name:
            return error
        message = re.sub(rf"^{re.escape(name)}(?=[ .:\[])", lambda _: label, error.message)
        return type(error)(message, label + param[len(name) :], code=error.code)

    def _unpack_options(self) -> None:
        """Put the members of Ollama's ``options`` beside the other fields."""
        options = self.fields.pop("options", None)
        if options is None:
            return
        if not isinstance(options, dict):
            raise InvalidParameter("options must be an object.", "options")
        for name, value in options.items():
            if name in INERT:
                notices.ignore(f"options.{name}")
            elif name == "options":
                raise unknown_field(name, self._known, in_options=True)
            else:
                self._put(name, value, f"options.{name}")

    def _read_forms(self) -> None:
        """Read the other forms of fields that this API has."""
        for name in LIMITS:
            if _is_no_limit(self.fields.get(name)):
                del self.fields[name]
        breakers = self.fields.get("dry_sequence_breakers")
        if isinstance(breakers, str):
            self.fields["dry_sequence_breakers"] = _breakers(breakers)

    def _read_dynamic(self) -> None:
        """Read a temperature that is given by its ends.

        Clients send the middle and half the width besides, computed in their own arithmetic.
        """
        given = {name: self.fields.pop(name) for name in DYNAMIC if name in self.fields}
        switch = given.pop("dynamic_temperature", False)
        label = self.label("dynamic_temperature")
        if not isinstance(switch, bool):
            raise InvalidParameter(f"{label} must be true or false.", label)
        if not switch:
            for name in given:
                notices.ignore(self.label(name))
            return
        low: Any = given.get("dynatemp_low")
        high: Any = given.get("dynatemp_high")
        if not (_is_number(low) and _is_number(high) and low <= high):
            raise InvalidParameter(
                f"{label} needs the numbers dynatemp_low and dynatemp_high, the smaller one first.",
                label,
            )
        for name, value, source in (
            ("temperature", (low + high) / 2, "dynatemp_low"),
            ("dynatemp_range", (high - low) / 2, "dynatemp_high"),
        ):
            other = self.fields.get(name)
            if not (isinstance(other, (int, float)) and math.isclose(other, value, abs_tol=1e-6)):
                self._put(name, value, self.label(source))

    def _translate(self, name: str) -> None:
        value = self.fields[name]
        label = self.label(name)
        if name in SAME and SAME[name] in self._known:
            self._rename(name)
        elif name == "add_special_tokens" and "messages" in self._known and value is False:
            del self.fields[name]  # vLLM's chat adds none, since the template writes them
        elif name in INERT:
            del self.fields[name]
            if value is not True or name != "include_reasoning":
                notices.ignore(label)
        elif (name in ONLY_IF_OFF or name in IF_UNKNOWN) and _generates(self._known):
            off = ONLY_IF_OFF.get(name) or IF_UNKNOWN[name]
            del self.fields[name]
            if off.is_usual(value):
                notices.ignore(label)
            elif not off.asks_nothing(value):
                raise _unsupported(label, off.reason)
        elif name in SWITCHES and "reasoning_effort" in self._known:
            del self.fields[name]
            self._reason(name, value, label)
        elif name in SWITCHES and _generates(self._known) and "reasoning" not in self._known:
            del self.fields[name]
            notices.ignore(label)  # without a template there is no reasoning
        elif name == "custom_token_bans" and _generates(self._known):
            del self.fields[name]
            self._ban(value, label)

    def _rename(self, name: str) -> None:
        value, target = self.fields.pop(name), SAME[name]
        nothing = _NOTHING.get(target)
        if not (_is_no_limit(value) and target in (*LIMITS, "seed")) and value != nothing:
            self._put(target, value, self.label(name))

    def _put(self, name: str, value: Any, label: str) -> None:
        """Set a field, which must not have another value already."""
        if name not in self.fields:
            self.fields[name] = value
            self._labels[name] = label
        elif not _same(self.fields[name], value):
            raise _different(label, self.label(name))

    def _reason(self, name: str, value: Any, label: str) -> None:
        """Read a field that turns reasoning on or off, or sets its effort.

        ``think`` and ``enable_thinking`` (Ollama, Qwen) are a boolean or an effort. ``thinking``
        (DeepSeek, Anthropic) has the type ``enabled`` or ``disabled``. ``reasoning`` (OpenRouter,
        LM Studio) has an ``effort``, or is ``on`` or ``off``.
        """
        if name in ("thinking", "reasoning") and isinstance(value, dict):
            members = dict(value)
            if members.pop("exclude", False) is not False:
                notices.ignore(f"{label}.exclude")
            if name == "reasoning" and members.pop("max_tokens", None) is not None:
                raise _unsupported(f"{label}.max_tokens", _BUDGET)
            for key, inner in members.items():
                place = f"{label}.{key}"
                if key == "type" and inner in ("enabled", "disabled"):
                    self._switch(inner == "enabled", place)
                elif key in ("effort", "enabled"):
                    self._switch(inner, place)
                else:
                    notices.ignore(place)
        else:
            self._switch(value, label)

    def _switch(self, value: Any, label: str) -> None:
        on = _ON_OFF.get(value) if isinstance(value, str) else value
        if on is True:
            self._turn_on(label)
        elif self._on and (on is False or value == "none"):
            raise _different(label, self._on)
        elif on is False:
            self._put("reasoning_effort", "none", label)
        else:
            self._put("reasoning_effort", value, label)

    def _turn_on(self, label: str) -> None:
        """Set the switches of the usual templates that turn reasoning on."""
        if self.fields.get("reasoning_effort") == "none":
            raise _different(label, self.label("reasoning_effort"))
        self._on = label
        variables = self.fields.get("chat_template_kwargs", {})
        if isinstance(variables, dict):
            switches = {"enable_thinking": True, "thinking": True}
            self.fields["chat_template_kwargs"] = switches | variables

    def _ban(self, value: Any, label: str) -> None:
        """Add bans to ``logit_bias``: token ids in a list, or in a text with commas."""
        ids = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(ids, list):
            raise InvalidParameter(f"{label} must be a list of token ids.", label)
        tokens = [str(id) for id in ids if id != ""]
        if any(isinstance(id, bool) for id in ids) or not all(map(_is_id, tokens)):
            raise InvalidParameter(f"{label} must be a list of token ids.", label)
        biases = self.fields.get("logit_bias", {})
        if isinstance(biases, dict):
            biases = {**biases, **dict.fromkeys(tokens, False)}
        elif isinstance(biases, list):
            biases = [*biases, *([int(token), False] for token in tokens)]
        if tokens:
            self.fields["logit_bias"] = biases


def _is_id(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _is_no_limit(value: Any) -> bool:
    return type(value) is int and value in NO_LIMIT


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(first: Any, second: Any) -> bool:
    """Whether two values of a field mean the same; a text is a list of one text."""
    first, second = ([v] if isinstance(v, str) else v for v in (first, second))
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def _breakers(text: str) -> Any:
    """Read sequence breakers from text: a JSON list, or its items with commas between them."""
    name = "dry_sequence_breakers"
    source = text.strip()
    source = source if source.startswith("[") else f"[{source}]"
    try:
        parsed = None if excess(source) else json.loads(source)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, list):
        raise InvalidParameter(f"{name} must be a list of strings, or that list as JSON.", name)
    return parsed


def _different(label: str, other: str) -> InvalidParameter:
    return InvalidParameter(
        f"{label} and {other} are the same parameter and have different values; give only one.",
        label,
    )


def _unsupported(name: str, reason: str) -> InvalidParameter:
    return InvalidParameter(
        f"{name} is not supported by this server with this value: {reason}.",
        name,
        code="unsupported_parameter",
    )
