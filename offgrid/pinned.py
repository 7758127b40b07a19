"""TLS with machines whose certificates are known."""

from __future__ import annotations

import ssl

_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name."""


def ignore_clock(context: ssl.SSLContext) -> None:
    """Accept certificates whatever time it is. A known certificate is trusted until its machine is
    forgotten, and the clock of a machine without a battery starts at 1970."""
    context.verify_flags |= _NO_CHECK_TIME
