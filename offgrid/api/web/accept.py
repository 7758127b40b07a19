"""What a client would rather get (RFC 9110, section 12.5)."""

from __future__ import annotations

import falcon
from falcon import mediatypes

HTML = "text/html"


def prefers_html(accept: str) -> bool:
    """Whether a client would rather have HTML than JSON, from its Accept header.

    Browsers would. Programs accept JSON or anything (``*/*``), or send no such header. A header
    that cannot be read says nothing.
    """
    accept = accept.lower()
    try:
        html = mediatypes.quality(HTML, accept)
        return html > mediatypes.quality(falcon.MEDIA_JSON, accept)
    except falcon.InvalidMediaType:
        return False


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client understands gzip, from its Accept-Encoding header."""
    qualities = dict(map(_quality, accept_encoding.split(",")))
    return 0 < qualities.get("gzip", qualities.get("*", 0.0)) <= 1


def _quality(part: str) -> tuple[str, float]:
    """Return a coding and its quality; 0 if the quality cannot be read."""
    coding, _, rest = part.partition(";")
    name, _, value = rest.partition("=")
    if not rest:
        return coding.strip().lower(), 1.0
    try:
        quality = float(value) if name.strip().lower() == "q" else 0.0
    except ValueError:
        quality = 0.0
    return coding.strip().lower(), quality
