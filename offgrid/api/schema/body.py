"""Bytes of a request body to a JSON object, strictly.

The standard parser lets through what has no meaning or two (NaN, infinities, a key that comes
twice, half a surrogate pair); here each is a 400 that says so.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from offgrid.errors import InvalidParameter

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object that ``raw`` holds.

    Whole numbers that are written as floats (``16.0``) come back as integers, as some clients
    write all numbers that way.

    Raises:
        InvalidParameter: not JSON, not an object, or one of the traps above; code
            ``invalid_json``.
    """
    try:
        value = json.loads(
            raw.decode("utf-8-sig"),
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except UnicodeDecodeError as ex:
        raise _malformed(f"it is not UTF-8 (byte {ex.start})") from None
    except ValueError as ex:
        raise _malformed(str(ex)) from None
    if not isinstance(value, dict):
        raise _malformed("the top level must be an object")
    if _SURROGATE_ESCAPE.search(raw):
        _refuse_surrogates(value)
    return value


def _malformed(reason: str) -> InvalidParameter:
    return InvalidParameter(f"The request body is not valid JSON: {reason}.", code="invalid_json")


def _parse_float(text: str) -> float | int:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} comes twice")
            seen.add(key)
    return result


def _refuse_surrogates(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise _malformed("a string holds half a surrogate pair") from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_surrogates(key)
            _refuse_surrogates(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_surrogates(item)
