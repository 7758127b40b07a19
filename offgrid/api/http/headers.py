"""Headers of every response that limit what browsers do with it."""

from __future__ import annotations

from collections.abc import Iterable

_ALWAYS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # A response shown as a page loads nothing and is shown in no frame.
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    # No page of another site may embed it. Requests with CORS are not affected.
    ("Cross-Origin-Resource-Policy", "same-origin"),
    # Answers are private, and the same request has another answer later.
    ("Cache-Control", "no-store"),
)
_SECURE = ("Strict-Transport-Security", "max-age=86400")
"""A day: a browser that has seen it refuses plain HTTP to the host for so long, and an operator may
have to turn TLS off."""


def protective_headers(given: Iterable[str], *, secure: bool) -> list[tuple[str, str]]:
    """Return the headers to add to a response.

    Args:
        given: names of the headers that it has; they stay as they are.
        secure: whether it is sent over TLS.
    """
    names = {name.lower() for name in given}
    all_headers = (*_ALWAYS, _SECURE) if secure else _ALWAYS
    return [header for header in all_headers if header[0].lower() not in names]
