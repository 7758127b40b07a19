"""What a worker does before it imports llama.cpp, which may take seconds: it ties its life to that
of its server. The process that renders templates does the same."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
"""``linux/prctl.h``: sets the signal that the kernel sends when the parent ends."""
_MORE_LIKELY = 500
"""Added to ``oom_score_adj``, which is the server's at first and 1000 at most."""


def depend_on(parent: int) -> None:
    """Have the kernel kill this process when its server ends, even if this process is stopped, and
    before its server when memory runs out: the server starts another worker, and says why.

    Other systems than Linux rely on the end of standard input. The kernel sends the signal when the
    *thread* that started this process ends: see :mod:`offgrid.engine.client.process`.

    Args:
        parent: process id of the server.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        print("prctl:", os.strerror(ctypes.get_errno()), file=sys.stderr)
    if os.getppid() != parent:  # the server has already ended, and no signal will come
        os._exit(0)
    with contextlib.suppress(OSError, ValueError):  # no permission
        path = Path("/proc/self/oom_score_adj")
        path.write_text(str(min(int(path.read_text()) + _MORE_LIKELY, 1000)))
