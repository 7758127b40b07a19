"""``x-request-id``: the client's own, if it can be used, or a new one."""

from __future__ import annotations

import re
import secrets

_USABLE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""What may stand in a header and in a log line as it is."""


def new_request_id() -> str:
    """Return a new id."""
    return f"req_{secrets.token_hex(12)}"


def request_id(given: str | None) -> str:
    """Return the id of a request.

    Args:
        given: the header ``X-Request-ID`` of the client. Anything but 1 to 128 letters, digits and
            ``._:/+=@-`` is replaced by a new id.
    """
    if given is not None and _USABLE.fullmatch(given):
        return given
    return new_request_id()
