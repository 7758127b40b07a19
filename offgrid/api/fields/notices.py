"""Notices about a request: fields that have no effect, warnings, and places of items in lists.

The client finds the names of the fields in the response header ``x-offgrid-ignored``, and a warning
in ``x-offgrid-warning``. Errors name items of lists by their places in the request. Notices belong
to the thread that serves the request: parsers are called from many places, and none of them has the
response.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from urllib.parse import quote

HEADER = "x-offgrid-ignored"
WARNING = "x-offgrid-warning"
MAX_NAMES = 32
"""Most names in the header; a number stands for the others."""
MAX_NAME = 64
"""Maximum length of a name in the header, in characters."""
_PATH = re.compile(r"[a-z_]\w*(?:\.\w+|\[\d+\])+")
_INDEX = re.compile(r"\[(\d+)\]")
_ALL: Mapping[str, list[int]] = {}


class _Served(threading.local):
    """The request that a thread serves."""

    tolerant = False
    names: tuple[str, ...] = ()
    warning: str | None = None
    places = _ALL


_served = _Served()


def begin(*, tolerant: bool) -> None:
    """Begin a request without names.

    Args:
        tolerant: whether unknown fields are accepted.
    """
    _served.tolerant = tolerant
    _served.names = ()
    _served.warning = None
    _served.places = _ALL


def tolerant() -> bool:
    """Whether unknown fields of this thread's request are accepted."""
    return _served.tolerant


def ignore(name: str) -> None:
    """Note that a field of this thread's request has no effect."""
    if name not in _served.names:
        _served.names = (*_served.names, name)


def ignored() -> tuple[str, ...]:
    """Return the names noted since :func:`begin`, in order."""
    return _served.names


def warn(text: str) -> None:
    """Set the warning of this thread's request: a fixed text of ASCII characters."""
    _served.warning = text


def warning() -> str | None:
    """Return the warning that was set since :func:`begin`."""
    return _served.warning


def set_places(places: Mapping[str, list[int]]) -> None:
    """Say which items of lists are left of this thread's request.

    Args:
        places: path of a list -> places of the items that are left, in the list of the client.
    """
    _served.places = places


def in_request(text: str) -> str:
    """Return a path or a message with the places that items have in the request of the client."""
    if not _served.places:
        return text
    return _PATH.sub(lambda match: _placed(match[0]), text)


def _placed(path: str) -> str:
    def place(match: re.Match[str]) -> str:
        left = _served.places.get(path[: match.start()])
        at = int(match[1])
        return f"[{left[at]}]" if left and at < len(left) else match[0]

    return _INDEX.sub(place, path)


def header(names: tuple[str, ...]) -> str:
    """Return names as the value of a header: cut to a bounded length, and safe in a header."""
    listed = [quote(name[:MAX_NAME], safe="[]()@$!'*") for name in names[:MAX_NAMES]]
    if len(names) > MAX_NAMES:
        listed.append(f"and {len(names) - MAX_NAMES} more")
    return ", ".join(listed)
