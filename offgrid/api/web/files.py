"""The files of the web page, with what HTTP says about each: media type, ETag, compressed bytes.

Only the names of the list are looked up, never a path that a client sends. A file is read and
compressed at its first request, and again after it has changed on the disk.

The wheel has no compressed files beside these: they would save 3 ms for the 26 files of the first
visit after a start, and 0.2 s and at most 1.2 MB of memory for all 167 (two cores, measured), and
installations in place would need another way.
"""

from __future__ import annotations

import gzip
import hashlib
import threading
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent / "web"
"""The folder of the page in the package."""
INDEX = "index.html"
ICON = "icons/favicon.ico"
_TEXT = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Media types of the files that are compressed."""
MEDIA_TYPES = {**_TEXT, ".ico": "image/x-icon", ".png": "image/png", ".woff2": "font/woff2"}
"""End of a file's name -> its media type. Files with other ends are not served."""


class Version(NamedTuple):
    """Bytes of a file as they are sent, and the ETag that stands for them."""

    data: bytes
    etag: str


class PageFile(NamedTuple):
    """A file of the page.

    Attributes:
        media_type: for the header Content-Type.
        plain: the file as it is.
        zipped: the file as gzip compresses it; None if that saves nothing.
    """

    media_type: str
    plain: Version
    zipped: Version | None


def read(path: Path) -> PageFile:
    """Read and compress a file.

    Raises:
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    zipped = None
    if path.suffix in _TEXT:
        # Without a time, so that the bytes are the same on each server.
        smaller = gzip.compress(data, mtime=0)
        if len(smaller) < len(data):
            zipped = Version(smaller, f"{digest}-gzip")
    return PageFile(MEDIA_TYPES[path.suffix], Version(data, digest), zipped)


class PageFiles:
    """The files below a folder. Thread-safe.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._made: dict[str, tuple[tuple[int, int], PageFile]] = {}
        """Name -> time of change and size of the file that was read, and what was made of it."""

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the files that are served, with ``/`` between folders."""
        return frozenset(
            path.relative_to(self._root).as_posix()
            for path in self._root.rglob("*")
            if path.suffix in MEDIA_TYPES and path.is_file()
        )

    def get(self, name: str) -> PageFile | None:
        """Return a file; None if the page has none with this name."""
        if name not in self.names:
            return None
        path = self._root / name
        try:
            with self._lock:
                return self._current(name, path)
        except OSError:  # it was removed after the list was made
            return None

    def _current(self, name: str, path: Path) -> PageFile:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        made = self._made.get(name)
        if made is None or made[0] != stamp:
            made = self._made[name] = (stamp, read(path))
        return made[1]
