"""Preparation of a process before its first thread starts, in the server and in every worker.

Threads of this package share no object that is built on first use: type information, templates
and tables are built before threads start, or under a lock.
"""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Iterator

import msgspec

_PACKAGE = f"{__package__}."
_LONGEST_TURN = 0.0005
"""Seconds that a thread keeps Python's lock while others wait for it. With Python's default of
5 ms, a thread that reads many sockets waits 5 ms after each read while another thread computes."""


def prepare_process() -> None:
    """Build the type information of all structs, let a crash leave a trace, shorten turns.

    A turn is the time for which a thread keeps Python's lock.

    Call it after all modules that this process needs are imported and before any thread starts.
    """
    enable_crash_trace()
    build_type_information()
    sys.setswitchinterval(min(sys.getswitchinterval(), _LONGEST_TURN))


def forbid_core_dumps() -> None:
    """Let a crash of this process, or of one that it starts, write no core dump.

    The dump would contain the texts of all users, and as many bytes as the model.
    """
    # The module is missing on Windows, which writes none. A limit of 0 may be in force already.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def enable_crash_trace() -> None:
    """Write all threads' stacks to standard error if a signal such as SIGSEGV ends the process.

    If ``sys.stderr`` has no file descriptor (it is closed, or a program that embeds the server has
    replaced it), the original ``sys.__stderr__`` is used. Without either there is no trace. If
    faulthandler is enabled already, nothing changes.
    """
    if faulthandler.is_enabled():
        return
    for stream in (sys.stderr, sys.__stderr__):
        if stream is None:
            continue
        # A stream without a file descriptor may raise any exception: that depends on its class.
        with contextlib.suppress(Exception):
            faulthandler.enable(stream)
            return


def build_type_information() -> None:
    """Build the type information that msgspec needs to decode each struct's fields.

    msgspec (0.22 and earlier) builds it when a struct is first decoded, and publishes it half
    built: a second thread that decodes the same struct meanwhile reads null pointers, and the
    process ends with SIGSEGV. Making a decoder for a struct builds its type information completely,
    including that of all types in its fields. Encoding does not need it.
    """
    for struct in package_structs():
        msgspec.msgpack.Decoder(struct)


def package_structs() -> Iterator[type[msgspec.Struct]]:
    """Yield every struct of this package that is defined in this process, parents first."""
    waiting: list[type[msgspec.Struct]] = [msgspec.Struct]
    while waiting:
        children = waiting.pop().__subclasses__()
        yield from (child for child in children if child.__module__.startswith(_PACKAGE))
        waiting += children
