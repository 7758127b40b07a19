"""Signals that only the server handles.

A terminal sends Ctrl-C, Ctrl-\\ and its hangup to every process of the group, and an administrator
may send a signal to all of them too. Workers end when their server tells them to, or has ended.
"""

from __future__ import annotations

import signal

FOR_THE_SERVER = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)  # Windows has two of them
)
"""They are blocked while a worker starts; then the worker ignores them."""
