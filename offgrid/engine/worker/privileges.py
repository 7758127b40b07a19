"""Gives up the privilege of the superuser to write where permissions forbid it."""

from __future__ import annotations

import ctypes
import sys

_VERSION = 0x20080522
"""``_LINUX_CAPABILITY_VERSION_3``."""
_OVERRIDE = 1 << 1
"""``CAP_DAC_OVERRIDE``: ignore the permissions of files."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def obey_permissions() -> None:
    """Let the permissions of files hold for this thread, and for those that it starts, also if the
    superuser runs this process (``capset(2)``). Without effect on other systems than Linux.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), sets) == 0:
        sets[0].effective &= ~_OVERRIDE
        sets[0].permitted &= ~_OVERRIDE
        libc.capset(ctypes.byref(header), sets)
