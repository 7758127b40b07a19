"""The process that renders templates whose operations Python cannot interrupt.

It reads requests from its standard input and writes results to its standard output, each as four
bytes of length and JSON in ASCII. :mod:`offgrid.chat.child` is the other end. Its memory is
limited, and its processor time for each request, so that a template can end this process but harm
no other.
"""

from __future__ import annotations

import functools
import json
import os
import struct
import sys
from typing import IO, Any

from offgrid.chat.budget import Budget, TemplateLimit
from offgrid.chat.sandbox import Sandbox
from offgrid.chat.words import unpacked

MEMORY = 1 << 30
"""Bytes of address space; Python and Jinja take a tenth of it."""
SECONDS = 6
"""Processor time for one request: more than the budget of a rendering allows."""
MAX_FRAME = 128 << 20
"""Bytes. The longest text of a rendering fits, even if all of it is escaped."""
HEADER = struct.Struct("<I")
_MAX_ERROR = 2000


def limit_memory() -> None:
    """Limit the memory of this process, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time() -> None:
    """Have the system end this process after :data:`SECONDS` more of processor time."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime) + SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)  # only root may raise it
    if hard != resource.RLIM_INFINITY:
        until = min(until, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> tuple[Sandbox, Any]:
    sandbox = Sandbox(interruptible=False)
    return sandbox, sandbox.from_string(source)


def render(request: dict[str, Any]) -> dict[str, Any]:
    """Render a template; return its text or its error, and what is left of its budget."""
    budget = Budget(request["steps"], request["text"], request["seconds"])
    try:
        sandbox, template = _compiled(request["source"])
        variables = unpacked(request["variables"])
        result = {"written": sandbox.render_bounded(template, variables, budget)}
    except TemplateLimit as ex:
        result = {"limit": str(ex)[:_MAX_ERROR]}
    except MemoryError:
        result = {"limit": "the chat template needs too much memory"}
    except Exception as ex:  # A template can raise any exception.
        result = {"error": str(ex)[:_MAX_ERROR], "kind": type(ex).__name__}
    steps, text, left = budget.left()
    return {**result, "steps": steps, "text": text, "seconds": left}


def read_frame(stream: IO[bytes]) -> Any:
    """Return the next message; None at the end of the pipe."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME:
        return None
    body = stream.read(length)
    return json.loads(body) if len(body) == length else None


def write_frame(stream: IO[bytes], message: Any) -> None:
    """Write a message."""
    body = json.dumps(message).encode("ascii")
    stream.write(HEADER.pack(len(body)) + body)
    stream.flush()


def main() -> None:
    """Entry point of the process: serve until the pipe ends."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit_memory()
    while (request := read_frame(sys.stdin.buffer)) is not None:
        _limit_time()
        write_frame(results, render(request))
