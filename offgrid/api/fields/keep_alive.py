"""``keep_alive``: how long a model stays loaded after a request, as in Ollama."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from offgrid.config import to_lifetime
from offgrid.errors import InvalidParameter

_PATTERN = r"^(forever|-?[0-9]{1,9}(\.[0-9]{1,6})?|-?([0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h|d)){1,5})$"
_MOST = 1e9
KeepAlive = (
    Annotated[float, Meta(ge=-_MOST, le=_MOST)]
    | Annotated[str, Meta(max_length=32, extra_json_schema={"pattern": _PATTERN})]
    | None
)
"""Seconds, or a text such as ``5m``; negative for ever; None leaves the model's value. The pattern
is only for the document: :func:`seconds_of` has a clearer message."""


def seconds_of(value: float | str | None) -> float | None:
    """Return the seconds of a field of type :data:`KeepAlive`.

    Raises:
        InvalidParameter: it is none.
    """
    if value is None:
        return None
    try:
        return to_lifetime(value)
    except ValueError:
        raise InvalidParameter(
            "keep_alive must be a number of seconds, a time such as 5m, 0, or -1 (forever).",
            "keep_alive",
        ) from None
