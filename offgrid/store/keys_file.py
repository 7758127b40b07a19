"""The keys file as SQLite sees it: its tables, and how it is created.

A new file gets its name when its tables exist. It belongs to the owner of its folder.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from pathlib import Path

from offgrid.store.database import version_of

_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
"""Flags with which only a folder can be opened, and not through a link."""
_VERSION = 1
_SCHEMA = (
    """CREATE TABLE keys (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL COLLATE NOCASE,
        scopes TEXT NOT NULL,
        models TEXT,
        limits TEXT NOT NULL,
        filter_file TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL,
        revoked REAL,
        last_used REAL
    )""",
    "CREATE UNIQUE INDEX keys_by_name ON keys (name) WHERE revoked IS NULL",
    """CREATE TABLE secrets (
        digest BLOB PRIMARY KEY,
        key TEXT NOT NULL REFERENCES keys,
        prefix TEXT NOT NULL,
        created REAL NOT NULL,
        until REAL
    )""",
)


def check(connection: sqlite3.Connection) -> None:
    """Refuse a file without the tables: an empty file is a damaged one, not one without keys."""
    version = version_of(connection, _VERSION)
    if version < 1:
        raise sqlite3.DatabaseError("it is no keys file")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")


def make_file(path: Path) -> None:
    """Create an empty keys file. It gets its name when it is complete."""
    absent = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        for folder in reversed(absent):
            _give_to_owner(folder, os.O_RDONLY | _FOLDER)
        _give_to_owner(made, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        connection = sqlite3.connect(made, isolation_level=None)
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {'; '.join(_SCHEMA)}; PRAGMA user_version = {_VERSION}; COMMIT;"
            )
        finally:
            connection.close()
        try:
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.link(made, path)
        except OSError:  # a file system without links
            if not os.path.lexists(path):
                os.rename(made, path)
    finally:
        made.unlink(missing_ok=True)


def _give_to_owner(path: Path, flags: int) -> None:
    """Give a new file or folder to the owner of the folder in which it is, if this is root: the
    administrator creates the keys of a service, which must be able to read them.

    It is changed through a descriptor, because that owner could put something else in its place.
    """
    if flags & os.O_CREAT == 0 and not _is_root():  # Windows opens no folders
        return
    descriptor = os.open(path, flags, 0o600)
    try:
        if _is_root():
            above = os.stat(path.parent)
            os.fchown(descriptor, above.st_uid, above.st_gid)
    finally:
        os.close(descriptor)


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
