"""The limits of one request: those of the settings, and those of its caller.

They belong to the thread that serves the request: parsers are called from many places, and none of
them has the settings.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from offgrid.errors import InvalidParameter, RequestTimeout
from offgrid.grammar.schema import MAX_SOURCE as MAX_SCHEMA

MAX_DEPTH = 500
"""Most levels of lists and objects in a body."""
MAX_MESSAGES = 40_000
"""Most messages of a conversation; a body cannot hold more objects."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of one request. The defaults are those of the server.

    Attributes:
        max_tokens: most tokens of one answer; None for no limit but the context.
        max_messages: most messages of a conversation.
        max_depth: most levels of lists and objects in the body.
        max_schema: most bytes of a JSON schema.
        timeout: seconds that the request may take in all; 0 for no limit.
        deadline: when they end, in seconds of the monotonic clock.
    """

    max_tokens: int | None = None
    max_messages: int = MAX_MESSAGES
    max_depth: int = MAX_DEPTH
    max_schema: int = MAX_SCHEMA
    timeout: float = 0.0
    deadline: float = math.inf

    @property
    def late(self) -> bool:
        """Whether the request has taken too long."""
        return time.monotonic() > self.deadline

    def check_time(self) -> None:
        """Raise RequestTimeout if the request has taken too long."""
        if self.late:
            raise RequestTimeout(
                f"The request has taken longer than {self.timeout:g} seconds, which is the limit "
                "of this server (OFFGRID_REQUEST_TIMEOUT); ask for a shorter answer."
            )

    def within(self, alive: Callable[[], bool]) -> Callable[[], bool]:
        """Return a function like ``alive`` that raises RequestTimeout once the request is late; for
        code that calls it while it waits."""
        if not self.timeout:
            return alive

        def in_time() -> bool:
            self.check_time()
            return alive()

        return in_time


NO_BOUNDS = Bounds()


class _Served(threading.local):
    """The request that a thread serves."""

    bounds = NO_BOUNDS


_served = _Served()


def begin(bounds: Bounds) -> None:
    """Set the limits of the request that this thread serves from now on."""
    _served.bounds = bounds


def bounds() -> Bounds:
    """Return the limits of the request that this thread serves."""
    return _served.bounds


def check_answer(tokens: int | None, least: int, param: str) -> None:
    """Refuse a request for a longer answer than the caller may have.

    Args:
        tokens: the most tokens that the request asks for; None if it sets no limit.
        least: the least tokens that it asks for.
        param: the field with ``tokens``.

    Raises:
        InvalidParameter: the request asks for more.
    """
    most = bounds().max_tokens
    if most is None:
        return
    for wanted, field in ((tokens, param), (least, "min_tokens")):
        if wanted is not None and wanted > most:
            raise InvalidParameter(
                f"{field} must be at most {most} on this server, not {wanted}.", field
            )


def answer_limit(tokens: int | None) -> int | None:
    """Return the most tokens that an answer may have: those that the request asks for, or fewer."""
    most = bounds().max_tokens
    if most is None or tokens is None:
        return most if tokens is None else tokens
    return min(most, tokens)


def check_messages(count: int, param: str) -> None:
    """Refuse a conversation of too many messages.

    Raises:
        InvalidParameter: it has more than :attr:`Bounds.max_messages`.
    """
    most = bounds().max_messages
    if count > most:
        raise InvalidParameter(
            f"A conversation may have at most {most} messages on this server, not {count}.", param
        )


def check_schema(schema: dict[str, Any] | str, param: str) -> None:
    """Refuse a JSON schema that is too long. The check of the schema itself does so too, so this
    one only looks if the settings allow less.

    Raises:
        InvalidParameter: its JSON has more than :attr:`Bounds.max_schema` bytes.
    """
    most = bounds().max_schema
    if most >= MAX_SCHEMA:
        return
    text = schema.encode("utf-8", "surrogatepass") if isinstance(schema, str) else schema
    size = len(text if isinstance(text, bytes) else msgspec.json.encode(text))
    if size > most:
        raise InvalidParameter(f"{param}: the schema has {size} bytes, at most {most}.", param)
