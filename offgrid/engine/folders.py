"""Folders whose changes must survive a power cut, for server and worker."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Return after renamed files of a folder are on the disk, where the system can tell.

    Windows cannot open a folder, and some network file systems cannot sync one; nothing happens
    there.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
