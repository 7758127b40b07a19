"""The check of the peers: libraries, this machine's identity, and who may read its key."""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from offgrid.cli.doctor.check import Check
from offgrid.config import Settings
from offgrid.errors import ConfigError
from offgrid.peers.book import Book
from offgrid.peers.identity import check_identity

_LIBRARIES = ("cryptography", "spake2", "zeroconf")
_INSTALL = "run pip install 'offgrid-llm[peers]'"
_RESTORE = (
    "restore {0} from a backup ('offgrid restore'); or delete it, and pair this machine with its "
    "peers again"
)


def check_peers(settings: Settings) -> Check:
    """Say whether a server could work with its peers, and whether its key is private."""
    folder = settings.peers_dir
    faults = [*_open_to_others(folder)]
    if faults:
        texts, fixes = zip(*faults, strict=True)
        return Check("peers", "warning", "; ".join(texts), "; ".join(fixes))
    if not settings.peers:
        return Check("peers", "ok", "off; --peers turns them on")
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        return Check("peers", "problem", f"libraries are missing: {', '.join(missing)}", _INSTALL)
    try:
        check_identity(folder)
        peers = Book(folder).all()
    except ConfigError as ex:
        return Check("peers", "problem", str(ex), _RESTORE.format(folder))
    if not _can_write(folder):
        fix = f"make this user its owner: chown -R USER {folder}"
        return Check("peers", "problem", f"{folder} cannot be written", fix)
    return Check("peers", "ok", f"{len(peers)} paired; the certificate is in {folder}")


def _open_to_others(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what other users may read, and how to prevent it."""
    if os.name == "nt":
        return
    for path in (folder, *sorted(folder.glob("*.pem")), *sorted(folder.glob("*.json"))):
        mode = 0 if not path.exists() else stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            what = "use" if path == folder else "read"
            wanted = 700 if path == folder else 600
            yield f"other users may {what} {path}", f"chmod {wanted} {path}"


def _can_write(folder: Path) -> bool:
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    return os.access(existing, os.W_OK)
