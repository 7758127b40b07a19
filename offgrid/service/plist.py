"""The file of a service for launchd, the service manager of macOS."""

from __future__ import annotations

import plistlib
from collections.abc import Sequence
from pathlib import Path

LABEL = "org.offgrid-llm.server"


def plist_text(command: Sequence[str], drain_timeout: float) -> str:
    """Return a property list that starts the server with the login, and again after a crash.

    Args:
        command: the program and its arguments.
        drain_timeout: seconds that running answers have to finish.
    """
    log = str(Path.home() / "Library" / "Logs" / "offgrid.log")
    content = {
        "Label": LABEL,
        "ProgramArguments": [*command],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": round(drain_timeout) + 40,
        "Umask": 0o077,
        "HardResourceLimits": {"Core": 0},
        "ProcessType": "Interactive",
        "StandardErrorPath": log,
        "StandardOutPath": log,
    }
    return plistlib.dumps(content, sort_keys=False).decode()
