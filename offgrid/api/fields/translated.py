"""The fields of a request under the names of this API; :mod:`offgrid.api.fields.foreign` has the
tables."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from offgrid.api.fields import notices
from offgrid.api.fields.body import excess
from offgrid.api.fields.foreign import (
    DYNAMIC,
    INERT,
    LIMITS,
    NO_LIMIT,
    NOTHING,
    SWITCHES,
    counterpart,
    generates,
    refusal,
    unknown_field,
)
from offgrid.api.fields.messages import different
from offgrid.errors import InvalidParameter, RequestError

_FIRST = re.compile(r"^[\w.]+(?= and [\w.]+ are )")
_ON_OFF = {"on": True, "off": False}
_OFF: tuple[Any, ...] = (False, "off", "none", "disabled")


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
        if generates(known):
            self._read_dynamic()
        if "reasoning" in known:
            self._split_reasoning()
        for name in [name for name in self.fields if name not in known]:
            self._translate(name)

    def label(self, name: str) -> str:
        """Return the name under which the client sent a field."""
        return self._labels.get(name, name)

    @property
    def labels(self) -> dict[str, str]:
        """The names under which the client sent fields, by their names here, if these differ."""
        return dict(self._labels)

    def labelled(self, error: RequestError) -> RequestError:
        """Return an error with the field's name as the client sent it."""
        return labelled(error, self._labels)

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
        if self.fields.get("reasoning_budget_tokens") == -1:
            del self.fields["reasoning_budget_tokens"]
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
        if counterpart(name, self._known):
            self._rename(name)
        elif name == "add_special_tokens" and "messages" in self._known and value is False:
            del self.fields[name]  # vLLM's chat adds none, since the template writes them
        elif name in INERT:
            del self.fields[name]
            if value is not True or name != "include_reasoning":
                notices.ignore(label)
        elif (off := refusal(name)) is not None and generates(self._known):
            del self.fields[name]
            if off.is_usual(value):
                notices.ignore(label)
            elif not off.asks_nothing(value):
                raise _unsupported(label, off.reason)
        elif name in SWITCHES and "reasoning_effort" in self._known:
            del self.fields[name]
            self._reason(name, value, label)
        elif name in SWITCHES and "thinking" in self._known:
            del self.fields[name]
            self._check_off(value, label)
        elif name in SWITCHES and generates(self._known) and "reasoning" not in self._known:
            del self.fields[name]
            notices.ignore(label)  # without a template there is no reasoning
        elif name == "custom_token_bans" and generates(self._known):
            del self.fields[name]
            self._ban(value, label)
        elif name == "format" and "json_schema" in self._known:
            del self.fields[name]
            self._form(value, label)

    def _rename(self, name: str) -> None:
        value, target = self.fields.pop(name), counterpart(name, self._known)
        nothing = NOTHING.get(target)
        if not (_is_no_limit(value) and target in (*LIMITS, "seed")) and value != nothing:
            self._put(target, value, self.label(name))

    def _put(self, name: str, value: Any, label: str) -> None:
        """Set a field, which must not have another value already."""
        if name not in self.fields:
            self.fields[name] = value
            self._labels[name] = label
        elif not _same(self.fields[name], value):
            raise different(label, self.label(name))

    def _reason(self, name: str, value: Any, label: str) -> None:
        """Read a field that turns reasoning on or off, or sets its effort.

        ``think`` and ``enable_thinking`` (Ollama, Qwen) are a boolean or an effort. ``thinking``
        (DeepSeek, Anthropic) has the type ``enabled`` or ``disabled``. ``reasoning`` (OpenRouter,
        LM Studio) has an ``effort``, or is ``on`` or ``off``. Both may have a budget.
        """
        if name in ("thinking", "reasoning") and isinstance(value, dict):
            members = dict(value)
            if members.pop("exclude", False) is not False:
                notices.ignore(f"{label}.exclude")
            self._take_budget(
                members, "max_tokens" if name == "reasoning" else "budget_tokens", label
            )
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

    def _take_budget(self, members: dict[str, Any], key: str, label: str) -> None:
        """Take a reasoning budget out of the members of a field."""
        budget = members.pop(key, None)
        if budget is None:
            return
        if "reasoning_budget_tokens" in self._known:
            self._put("reasoning_budget_tokens", budget, f"{label}.{key}")
        else:
            notices.ignore(f"{label}.{key}")

    def _split_reasoning(self) -> None:
        """Take the switches out of ``reasoning`` of ``/v1/responses``, as if chat had them."""
        value = self.fields.get("reasoning")
        if not isinstance(value, dict):
            return
        rest = self.fields["reasoning"] = dict(value)
        if "effort" in rest:
            self._put("reasoning_effort", rest.pop("effort"), "reasoning.effort")
        if isinstance(rest.get("enabled"), bool):
            self._switch(rest.pop("enabled"), "reasoning.enabled")
        self._take_budget(rest, "max_tokens", "reasoning")
        if isinstance(rest.get("exclude"), bool) and rest.pop("exclude"):
            notices.ignore("reasoning.exclude")

    def _check_off(self, value: Any, label: str) -> None:
        """Refuse such a field where ``thinking`` has the form of Anthropic's API, unless both turn
        reasoning off.
        """
        members = value.values() if isinstance(value, dict) else (value,)
        thinking = self.fields.get("thinking")
        kind = thinking.get("type") if isinstance(thinking, dict) else "disabled"
        if kind in ("enabled", "adaptive") or not all(one in _OFF for one in members):
            raise _unsupported(label, 'use thinking, such as {"type": "adaptive"}')

    def _switch(self, value: Any, label: str) -> None:
        on = _ON_OFF.get(value) if isinstance(value, str) else value
        if on is True:
            self._turn_on(label)
        elif self._on and (on is False or value == "none"):
            raise different(label, self._on)
        elif on is False:
            self._put("reasoning_effort", "none", label)
        else:
            self._put("reasoning_effort", value, label)

    def _turn_on(self, label: str) -> None:
        """Set the switches of the usual templates that turn reasoning on."""
        if self.fields.get("reasoning_effort") == "none":
            raise different(label, self.label("reasoning_effort"))
        self._on = label
        variables = self.fields.get("chat_template_kwargs", {})
        if isinstance(variables, dict):
            switches = {"enable_thinking": True, "thinking": True}
            self.fields["chat_template_kwargs"] = switches | variables

    def _form(self, value: Any, label: str) -> None:
        """Read Ollama's ``format``: a JSON schema, or ``json`` for any object."""
        schema = {"type": "object"} if value == "json" else value
        if value and not isinstance(schema, dict):
            raise InvalidParameter(f'{label} must be "json" or a JSON schema.', label)
        if value != "":
            self._put("json_schema", schema, label)

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


def labelled(error: RequestError, labels: Mapping[str, str]) -> RequestError:
    """Return an error with the field's name as the client sent it.

    Args:
        error: names the field as this API does.
        labels: name here -> name that the client sent.
    """
    error = with_first(error, lambda name: labels.get(name, name))
    param = error.param or ""
    name = re.split(r"[.\[]", param, maxsplit=1)[0]
    label = labels.get(name, name)
    if label == name:
        return error
    # It stands at the beginning, or after another field that excludes it.
    place = rf"(?:^|(?<= and )){re.escape(name)}(?=[ .:\[])"
    message = re.sub(place, lambda _: label, error.message, count=1)
    return type(error)(message, label + param[len(name) :], code=error.code)


def with_first(error: RequestError, rename: Callable[[str], str]) -> RequestError:
    """Return an error about two fields with another name of the first; ``param`` is the second."""
    message = _FIRST.sub(lambda match: rename(match[0]), error.message)
    if message == error.message:
        return error
    return type(error)(message, error.param, code=error.code)


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


def _unsupported(name: str, reason: str) -> InvalidParameter:
    return InvalidParameter(
        f"{name} is not supported by this server with this value: {reason}.",
        name,
        code="unsupported_parameter",
    )
