"""Signals that are meant for the server alone.

A terminal sends Ctrl-C, Ctrl-\\ and its own end to every process of the group, and so does an
administrator who means "all of it". Workers end when their server says so, or is gone.
"""

from __future__ import annotations

import signal

FOR_THE_SERVER = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has two of them
)
"""Blocked while a worker is started and ignored by it."""
