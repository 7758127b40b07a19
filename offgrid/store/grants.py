"""What people write about a key, checked: the command line and the API have the same rules."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from offgrid.caller import Limits, Scope
from offgrid.config import did_you_mean
from offgrid.config.values import to_seconds
from offgrid.errors import OffgridError
from offgrid.store.catalogue import Catalogue
from offgrid.store.keys import Key
from offgrid.terminal import shown

USUAL: tuple[Scope, ...] = ("inference", "history")
"""The scopes of a key for which nothing else is said."""
MOST = 10**9
"""Largest limit, and most seconds until a key expires or its former secret ends."""
LATEST = 253_370_764_800
"""The last moment at which a key may end, 9999-01-01: in each time zone its year can be written."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UNITS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrent_requests": "at once",
    "max_tokens": "tokens/answer",
}


class GrantRefused(OffgridError):
    """A property of a key is not valid; the message says why, without the name of the field."""


def known_models(
    given: Iterable[str], catalogue: Catalogue, listed_by: str, others: Iterable[str] = ()
) -> frozenset[str]:
    """Return ids and aliases as the catalogue spells them: a misspelt one would silently forbid the
    model.

    Args:
        given: ids and aliases, in any case.
        catalogue: knows the models.
        listed_by: what lists the models, for the message.
        others: ids and aliases of models that only peers have.

    Raises:
        GrantRefused: there is no such model.
        OffgridError: the models are not known.
    """
    ids = [entry.id for entry in catalogue.entries()]
    names = [*ids, *(alias for aliases in catalogue.aliases().values() for alias in aliases)]
    names += others
    known = {name.casefold(): name for name in reversed(names)}
    for model in given:
        if model.casefold() not in known:
            hint = did_you_mean(model, names) or f"; {listed_by} all"
            raise GrantRefused(f"there is no model {model[:80]!r}{hint}")
    return frozenset(known[model.casefold()] for model in given)


def moment(text: str, clock: Callable[[], float] = time.time) -> float | None:
    """Return when a key expires, in seconds since 1970; None for never.

    Args:
        text: a time from now (``12h``, ``30d``), a date in the local time of this machine, or
            ``never``.
        clock: seconds since 1970.

    Raises:
        GrantRefused: it is none of these, or not in the future.
    """
    if text.strip().lower() == "never":
        return None
    expected = "such as 30d or 2027-01-31, or never"
    if _DATE.match(text):
        try:
            end = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            raise GrantRefused(f"{text[:80]!r} is not a time; {expected}") from None
        return checked_end(end, text, clock)
    length = seconds(text, expected)
    if not length:
        raise GrantRefused(f"{text[:80]!r} is over at once; {expected}")
    return clock() + length


def checked_end(end: float, given: object, clock: Callable[[], float] = time.time) -> float:
    """Return when a key expires, if that is in the future and its date can be written.

    Args:
        end: seconds since 1970.
        given: what was written for it, for the message.
        clock: seconds since 1970.

    Raises:
        GrantRefused: it is not.
    """
    if end <= clock():
        raise GrantRefused(f"{str(given)[:80]} is over; give a time in the future")
    if end > LATEST:
        raise GrantRefused(
            f"{str(given)[:80]} is after the year 9998; give never or an earlier time"
        )
    return float(end)


def seconds(text: str, expected: str) -> float:
    """Return a length of time in seconds.

    Args:
        text: such as ``90``, ``90s`` or ``1h30m``.
        expected: what the message says about times that are valid.

    Raises:
        GrantRefused: it is no time, or not from 0 to :data:`MOST` seconds.
    """
    try:
        length = to_seconds(text)
        timedelta(seconds=length)
    except (ValueError, OverflowError):
        length = -1.0
    if not 0 <= length <= MOST:
        raise GrantRefused(f"{text[:80]!r} is not a time; {expected}")
    return length


def described(key: Key) -> dict[str, Any]:
    """Return a key as JSON, without anything from which its secret could be found."""
    grant = key.grant
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": sorted(grant.scopes),
        "models": None if grant.models is None else sorted(grant.models),
        "limits": dataclasses.asdict(grant.limits),
        "filter_file": grant.filter_file or None,
        "created": int(key.created),
        "expires": None if grant.expires is None else int(grant.expires),
        "revoked": None if key.revoked is None else int(key.revoked),
        "last_used": None if key.last_used is None else int(key.last_used),
        "valid": key.valid(time.time()),
    }


def summary(key: Key) -> str:
    """Return a line about a key for people; it is safe for terminals and logs."""
    grant = key.grant
    models = "" if grant.models is None else f"; models: {', '.join(sorted(grant.models))}"
    limits = f"; limits: {limits_of(grant.limits)}" if limits_of(grant.limits) else ""
    return (
        f"{shown(key.name)} ({key.id}); scopes: {', '.join(sorted(grant.scopes))}{shown(models)}"
        f"{limits}; expires: {day(grant.expires) or 'never'}"
    )


def limits_of(limits: Limits) -> str:
    """Return the limits that are set, for people; empty if none is."""
    given = dataclasses.asdict(limits).items()
    return ", ".join(f"{number} {_UNITS[name]}" for name, number in given if number is not None)


def day(moment: float | None) -> str:
    """Return a time in the local time of this machine; empty for None."""
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")
