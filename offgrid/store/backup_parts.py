"""What a backup contains, and its format.

A backup is a zip file with a ``manifest.json`` and the files that it lists: the files of the server
under the names of :data:`PARTS`, the configuration file as ``config/offgrid.toml``, and beside it
the files of its folder that it names, such as chat templates. Content filters are in
``filters`` (:mod:`offgrid.store.backup_filters`). Models are not in it; the manifest lists them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from offgrid.config import Settings
from offgrid.store.profiles import CHAT_TEMPLATES
from offgrid.store.signing_key import NAME as SIGNING_KEY

MANIFEST = "manifest.json"
CONFIG = "config/offgrid.toml"
CONFIG_FOLDER = "config"
FORMAT, VERSION = "offgrid-backup", 1
JOURNAL = "-journal"
"""End of the name of what SQLite keeps beside a file without a write-ahead log while it writes."""

_BUSY_SECONDS = 5.0
"""How long a database may be locked by another process."""
_PAUSE = 0.05
_LOCKED = (5, 6)
"""SQLITE_BUSY and SQLITE_LOCKED, for which Python 3.10 has no names."""


@dataclass(frozen=True)
class Part:
    """A file of the server that belongs into a backup.

    Attributes:
        name: its name in the archive.
        setting: the setting that has its path, or beside whose file it lies.
        beside: its name beside that file; empty for the file itself.
        inside: its name in the folder that the setting has; empty if the setting has a file.
        is_database: whether it is an SQLite file, which a server may write to meanwhile.
    """

    name: str
    setting: str
    beside: str = ""
    is_database: bool = True
    inside: str = ""

    def path(self, settings: Settings) -> Path | None:
        """Return where the file is; None if this version has no such setting."""
        path = getattr(settings, self.setting, None)
        if not path:
            return None
        if self.inside:
            return Path(path) / self.inside
        return Path(path).with_name(self.beside) if self.beside else Path(path)


KEYS = "keys.sqlite3"
PARTS = (
    Part(KEYS, "keys_file"),
    Part("responses.sqlite3", "responses_file"),
    Part("history.sqlite3", "history_file"),
    Part("stats.json", "responses_file", beside="stats.json", is_database=False),
    Part("preferences.json", "responses_file", beside="preferences.json", is_database=False),
    Part(SIGNING_KEY, "responses_file", beside=SIGNING_KEY, is_database=False),
    # This machine's identity and its peers: offgrid.peers.identity and offgrid.peers.book.
    Part("peers/peers.json", "peers_dir", inside="peers.json", is_database=False),
    Part("peers/key.pem", "peers_dir", inside="key.pem", is_database=False),
    Part("peers/certificate.pem", "peers_dir", inside="certificate.pem", is_database=False),
)
"""The files of the server. A new file that must survive the machine is one more row."""


class File(msgspec.Struct, frozen=True):
    """One file of the archive; ``size`` in bytes."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """The contents of an archive.

    Attributes:
        format: :data:`FORMAT`.
        version: at most :data:`VERSION`.
        offgrid: the version of OffGrid that wrote it.
        created_at: when, in UTC.
        files: the files, without the manifest.
        models: ids of the models that the server had.
        filters: a path, as a key or the settings name a content filter -> its name in the archive.
        filter_file: the path that the settings name; empty if they name none.
        folder: the folder of the configuration, to which paths in it are relative; empty if there
            is no configuration.
    """

    format: str
    version: int
    offgrid: str
    created_at: str
    files: tuple[File, ...]
    models: tuple[str, ...] = ()
    filters: dict[str, str] = {}
    filter_file: str = ""
    folder: str = ""


def config_files(settings: Settings, config: Path | None) -> tuple[dict[str, Path], list[Path]]:
    """Return the files of the configuration by name in the archive, and chat templates in other
    folders, which are not in the archive."""
    if config is None:
        return {}, []
    found, elsewhere = {CONFIG: config}, []
    folder = config.absolute().parent
    named = [
        (Path(), settings.chat_template),
        *((own.folder, own.chat_template or "") for own in settings.models),
    ]
    for base, text in named:
        path = base / Path(text).expanduser()
        if text in ("", *CHAT_TEMPLATES) or path in elsewhere or not path.is_file():
            continue
        with contextlib.suppress(ValueError):
            below = path.resolve().relative_to(folder.resolve())
            found[f"{CONFIG_FOLDER}/{below.as_posix()}"] = path
            continue
        elsewhere.append(path)
    return found, elsewhere


def config_path(name: str, config: Path) -> Path | None:
    """Return where a file of the configuration belongs; None if the name leads elsewhere.

    Args:
        name: a name in an archive, which may be hostile.
        config: the path of the configuration file.
    """
    if name == CONFIG:
        return config
    parts = PurePosixPath(name).parts
    is_plain = name == "/".join(parts) and not set(name) & set("\\:\0") and ".." not in parts
    if not is_plain or len(parts) < 2 or parts[0] != CONFIG_FOLDER or name.startswith("/"):
        return None
    return config.parent.joinpath(*parts[1:])


@contextlib.contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open an SQLite file that exists."""
    mode = "rw" if write else "ro"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS)
    try:
        yield connection
    finally:
        connection.close()


def copy_database(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy a database in one transaction, while other processes use either of them.

    Raises:
        sqlite3.Error: one cannot be used, or stays locked.
    """
    source.backup(target, progress=_patience(), sleep=_PAUSE)


def _patience() -> Callable[[int, int, int], None]:
    """Return a function that gives up when the other process does not end its lock. Without it,
    Python would try for ever."""
    tries = 0

    def progress(status: int, remaining: int, total: int) -> None:
        nonlocal tries
        tries += status in _LOCKED
        if tries * _PAUSE > _BUSY_SECONDS:
            raise sqlite3.OperationalError("database is locked")

    return progress


def undo_interrupted(path: Path) -> None:
    """Let SQLite undo a write to a file that a kill has interrupted. The journal beside it has what
    was there before. A connection that may only read gets an error instead."""
    if path.with_name(path.name + JOURNAL).exists():
        with contextlib.suppress(sqlite3.Error), opened(path, write=True) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def check_database(path: Path) -> str | None:
    """Return what is wrong with an SQLite file; None if it is sound."""
    try:
        with opened(path) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as ex:
        return str(ex)
    return None if verdict == "ok" else str(verdict)
