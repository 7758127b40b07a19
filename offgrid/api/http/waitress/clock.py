"""Lets waitress measure how long a connection is idle with a clock that never jumps.

waitress 3.0 does that with ``time.time()``. If someone corrects the machine's clock by a day, it
would close connections whose answers are not sent yet, or close no idle connection for a day.
"""

from __future__ import annotations

import time

import waitress.channel
import waitress.server


class _Monotonic:
    """What the two modules use of the module :mod:`time`."""

    time = staticmethod(time.monotonic)


def use_monotonic_clock() -> None:
    """Give waitress's server and connections the monotonic clock. They use no other time."""
    waitress.server.time = waitress.channel.time = _Monotonic
