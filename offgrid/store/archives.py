"""What zipfile raises for archives that are damaged, encrypted or of a foreign kind."""

from __future__ import annotations

import struct
import zipfile
import zlib

FAULTS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, KeyError,
    NotImplementedError, OverflowError, RuntimeError, ValueError,
)  # fmt: skip
"""zipfile has no common class for them: an unknown compression is a NotImplementedError, an
encrypted member a RuntimeError, a name that is not UTF-8 a ValueError, a member that is not in the
archive a KeyError."""
