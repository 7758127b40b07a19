"""Asks a process of the worker's kind how llama.cpp was built.

llama.cpp may end that process, for example with an instruction that this processor does not have.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import msgspec

from offgrid.engine.build import Build
from offgrid.errors import OffgridError

_ILLEGAL = (-signal.SIGILL, 0xC000001D)
"""Exit statuses of a process with an instruction that the processor does not have; the second one
is STATUS_ILLEGAL_INSTRUCTION of Windows."""
_SECONDS = 60
"""Most seconds for importing llama.cpp from a slow disk."""


class BuildUnknown(OffgridError):
    """llama.cpp cannot be used on this machine; the message says why.

    ``illegal`` says that it was built for another processor.
    """

    def __init__(self, message: str, illegal: bool = False) -> None:
        super().__init__(message)
        self.illegal = illegal


def ask_build() -> Build:
    """Return how llama.cpp was built.

    Raises:
        BuildUnknown: it cannot be imported, or it ended the process.
    """
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from offgrid.engine.worker.about import main; main()"
    )
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BuildUnknown(f"it did not start within {_SECONDS} s") from None
    except OSError as ex:
        raise BuildUnknown(f"the system cannot start a process ({ex.strerror or ex})") from None
    if ended.returncode == 0:
        return msgspec.json.decode(ended.stdout, type=Build)
    raise BuildUnknown(*_reason(ended))


def _reason(ended: subprocess.CompletedProcess[bytes]) -> tuple[str, bool]:
    """Return why a process failed, and whether an instruction was the reason."""
    illegal = ended.returncode in _ILLEGAL
    if ended.returncode < 0:
        try:
            name = signal.Signals(-ended.returncode).name
        except ValueError:
            name = str(-ended.returncode)
        return f"its process was ended by the signal {name}", illegal
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"its process ended with status {ended.returncode}", illegal
