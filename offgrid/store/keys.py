"""The keys file: who may use the server, and for what. One SQLite file, readable by its owner only.

A key's secret is ``sk-offgrid-`` and 256 random bits. The file holds the SHA-256 of each secret and
never the secret itself. A slow hash, as for passwords, would gain nothing: it makes guessing
expensive where a secret is guessable, and 256 random bits are not. It would only make every request
expensive.

The file is never replaced by an empty one: without its keys the server would be open. So a damaged
or locked file is an error, and a new file gets its name when its tables exist. Changes are written
without a write-ahead log, so that the modification time of the file shows every change, and a
server that may only read the file can do so.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from offgrid.caller import SCOPES, Caller, Limits, Scope
from offgrid.config import Settings, did_you_mean
from offgrid.errors import ConfigError, OffgridError
from offgrid.store.database import Database, Locked
from offgrid.store.keys_file import check, make_file

T = TypeVar("T")

PREFIX = "sk-offgrid-"
"""Every secret begins with it, so that people and scanners of leaked secrets recognise one."""
MAX_KEYS = 1000
"""Keys that are not revoked. Each request is compared with all of them."""
NO_LIMITS = Limits()
_SHOWN = len(PREFIX) + 6
"""Characters of a secret that are stored and shown: 36 of its 256 bits."""
_REPLACED = 30 * 86400.0
"""Seconds for which a replaced secret is remembered, so that its holder is told what happened."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,62}[A-Za-z0-9]|[A-Za-z0-9]")
_NAMES = msgspec.json.Decoder(list[str])
_LIMITS = msgspec.json.Decoder(Limits)
_COLUMNS = (
    "k.id, k.name, k.scopes, k.models, k.limits, k.filter_file, k.created, k.expires, k.revoked,"
    " k.last_used"
)


class KeysError(OffgridError):
    """The keys file cannot be used; the message says why and what to do."""


class KeysLocked(KeysError):
    """Another process has locked the keys file."""


class KeyRefused(KeysError):
    """The keys file is in order, and what was asked is not possible."""


class NameRefused(KeyRefused):
    """A name cannot be that of a key, or is taken."""


class NoSuchKey(KeyRefused):
    """There is no such key, or it was revoked."""


class NotTheFirst(KeyRefused):
    """A key was to be the first one, and there was another key before."""


class LastAdmin(KeyRefused):
    """No valid key with the scope ``admin`` would be left."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key allows.

    Attributes:
        scopes: what its holder may do.
        models: ids and aliases of the models that it may use; None means all.
        limits: its own limits.
        filter_file: the path of the key's content filter; empty if it has none.
        expires: when it ends, in seconds since 1970; None means never.
    """

    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    limits: Limits = NO_LIMITS
    filter_file: str = ""
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret.

    Attributes:
        id: does not change, and is the owner of what the key stores.
        name: chosen by the person who created it; unique among the keys that are not revoked.
        grant: what it allows.
        created: in seconds since 1970, like all times.
        revoked: when it was revoked, or None.
        last_used: about when it was last used, or None.
        prefix: the beginning of its newest secret.
    """

    id: str
    name: str
    grant: Grant
    created: float
    revoked: float | None = None
    last_used: float | None = None
    prefix: str = ""

    def valid(self, now: float) -> bool:
        """Return whether it is neither revoked nor expired."""
        expires = self.grant.expires
        return self.revoked is None and (expires is None or now < expires)

    def caller(self, address: str) -> Caller:
        """Return the caller that its holder is, at an address."""
        grant = self.grant
        return Caller(
            self.id, self.name, address, True,
            grant.scopes, grant.models, grant.limits, grant.filter_file,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret's hash and its key. A rotated key has two secrets for a while.

    Attributes:
        digest: SHA-256 of the secret.
        key: the key.
        until: when it is replaced by a newer secret; None if it is the newest.
    """

    digest: bytes
    key: Key
    until: float | None


def digest_of(secret: str) -> bytes:
    """Return the hash by which a secret is found."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def has_keys(settings: Settings, clock: Callable[[], float] = time.time) -> bool:
    """Return whether the keys file contains a key that is neither revoked nor expired.

    Raises:
        ConfigError: the file exists and cannot be read. This does not mean that there are no keys.
    """
    path = settings.keys_file
    try:
        if not os.path.lexists(path):
            return False
        file = KeyFile(path)
        try:
            return any(key.valid(clock()) for key in file.all())
        finally:
            file.close()
    except KeysError as ex:
        raise ConfigError(str(ex)) from None


class KeyFile:
    """The file. Thread-safe. Every method raises KeysError if the file cannot be used.

    Args:
        path: the file. Only :meth:`create` creates it.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._database = Database(path, check, precious=True)

    def create(self, name: str, grant: Grant, *, first: bool = False) -> tuple[Key, str]:
        """Create a key; return it and its secret, which cannot be learnt later.

        Args:
            name: for people.
            grant: what it allows.
            first: whether to create it only if there has never been a key.

        Raises:
            NameRefused: the name is not valid or taken.
            NotTheFirst: there was a key, and it was to be the first one.
            KeyRefused: there are too many keys.
        """
        _check_name(name)
        if not os.path.lexists(self._path):
            self._explained(lambda: make_file(self._path))
        key = Key(f"key_{secrets.token_hex(8)}", name, grant, self._clock())

        def write(connection: sqlite3.Connection) -> tuple[Key, str]:
            if first and connection.execute("SELECT 1 FROM keys").fetchone():
                raise NotTheFirst("there is a key already, so every request needs one")
            names = [row[0] for row in connection.execute(
                "SELECT name FROM keys WHERE revoked IS NULL"
            )]  # fmt: skip
            if name.lower() in map(str.lower, names):
                raise NameRefused(
                    f"there is a key named {name}; choose another name, or replace its secret with "
                    "'offgrid keys rotate'"
                )
            if len(names) >= MAX_KEYS:
                raise KeyRefused(
                    f"there are {MAX_KEYS} keys; revoke one with 'offgrid keys revoke'"
                )
            connection.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                (key.id, name, *_row_of(grant)[:4], key.created, grant.expires),
            )
            return self._renew(connection, key)

        return self._run(write, write=True)

    def all(self) -> list[Key]:
        """Return all keys, also revoked ones, in the order of their creation."""
        return _keys_of(self.secrets())

    def secrets(self, *, wait: bool = True) -> list[Secret]:
        """Return the hashes of all secrets with their keys, the newest first.

        Args:
            wait: whether to wait for another process that has locked the file.
        """

        return self._run(_secrets_in, wait=wait)

    def find(self, name: str) -> Key:
        """Return the key with a name or an id that is not revoked.

        Raises:
            NoSuchKey: there is none.
        """
        return _choose(self.all(), name)

    def revoke(self, name: str, *, keep_admin: bool = False) -> Key:
        """End a key at once; return it. What it stored stays, and no key can read it.

        Args:
            name: its name or id.
            keep_admin: whether another valid key with the scope ``admin`` must be left.

        Raises:
            NoSuchKey: there is no such key.
            LastAdmin: none would be left.
        """
        key = self.find(name)

        def write(connection: sqlite3.Connection) -> None:
            if keep_admin:
                self._check_admin(connection, key.id)
            connection.execute("UPDATE keys SET revoked = ? WHERE id = ?", (self._clock(), key.id))

        self._run(write, write=True)
        return key

    def change(
        self, name: str, changed: Callable[[Grant], Grant], *, keep_admin: bool = False
    ) -> Key:
        """Change what a key allows; return it. Its secret, id and name stay.

        Args:
            name: its name or id.
            changed: returns the new grant for the present one; may be called more than once.
            keep_admin: whether a valid key with the scope ``admin`` must be left, also when this
                one ends earlier than before.

        Raises:
            NoSuchKey: there is no such key.
            LastAdmin: none would be left.
        """
        id = self.find(name).id

        def write(connection: sqlite3.Connection) -> Key:
            key = _choose(_keys_of(_secrets_in(connection)), id)
            grant = changed(key.grant)
            if keep_admin and "admin" not in grant.scopes:
                self._check_admin(connection, id)
            elif keep_admin and _ends_earlier(key.grant, grant):
                self._check_admin(connection, id, grant.expires)
            connection.execute(
                "UPDATE keys SET scopes = ?, models = ?, limits = ?, filter_file = ?, expires = ?"
                " WHERE id = ?",
                (*_row_of(grant), id),
            )
            return dataclasses.replace(key, grant=grant)

        return self._run(write, write=True)

    def _check_admin(
        self, connection: sqlite3.Connection, without: str, at: float | None = None
    ) -> None:
        """Raise LastAdmin if a key is a valid one with ``admin``, and no other key is, now or at
        another moment."""
        now = self._clock()
        admins = [
            key
            for key in _keys_of(_secrets_in(connection))
            if key.valid(now) and "admin" in key.grant.scopes
        ]
        left = [key for key in admins if key.id != without and key.valid(now if at is None else at)]
        if not left and any(key.id == without for key in admins):
            raise LastAdmin("no valid key with the scope admin would be left")

    def rotate(self, name: str, grace: float = 0.0) -> tuple[Key, str]:
        """Give a key another secret; return both. It keeps its id, and so what it stored.

        Args:
            name: its name or id.
            grace: seconds for which its present secret stays valid.
        """
        key = self.find(name)
        end = self._clock() + grace

        def write(connection: sqlite3.Connection) -> tuple[Key, str]:
            connection.execute("DELETE FROM secrets WHERE until < ?", (end - grace - _REPLACED,))
            connection.execute(
                "UPDATE secrets SET until = min(coalesce(until, ?), ?) WHERE key = ?",
                (end, end, key.id),
            )
            return self._renew(connection, key)

        return self._run(write, write=True)

    def move_filters(self, moved: Mapping[str, str]) -> None:
        """Let keys name their filter files at other paths: path -> other path."""

        def write(connection: sqlite3.Connection) -> None:
            rows = connection.execute("SELECT id, filter_file FROM keys").fetchall()
            connection.executemany(
                "UPDATE keys SET filter_file = ? WHERE id = ?",
                [(moved[path], id) for id, path in rows if path in moved],
            )

        self._run(write, write=True)

    def touch(self, id: str, when: float) -> None:
        """Note when a key was used."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE keys SET last_used = ? WHERE id = ?", (when, id))

        self._run(write, write=True)

    def close(self) -> None:
        """Close the file; a later call reopens it."""
        self._database.close()

    def _renew(self, connection: sqlite3.Connection, key: Key) -> tuple[Key, str]:
        secret = PREFIX + secrets.token_urlsafe(32)
        prefix = secret[:_SHOWN]
        connection.execute(
            "INSERT INTO secrets VALUES (?, ?, ?, ?, NULL)",
            (digest_of(secret), key.id, prefix, self._clock()),
        )
        return dataclasses.replace(key, prefix=prefix), secret

    def _run(
        self, work: Callable[[sqlite3.Connection], T], *, write: bool = False, wait: bool = True
    ) -> T:
        return self._explained(lambda: self._database.run(work, write=write, wait=wait))

    def _explained(self, work: Callable[[], T]) -> T:
        """Do work, and turn the errors of the file into KeysError."""
        try:
            return work()
        except Locked:
            raise KeysLocked(
                f"the keys file {self._path} cannot be used: another process has locked it; end "
                "that process"
            ) from None
        except FileNotFoundError:
            why = "it does not exist; create a key with 'offgrid keys create NAME'"
        except (sqlite3.Error, OSError, ValueError, msgspec.MsgspecError) as ex:
            reason = (ex.strerror if isinstance(ex, OSError) else None) or str(ex)
            why = f"{reason}; {_advice(ex, reason)}"
        raise KeysError(f"the keys file {self._path} cannot be used: {why}")


def _advice(error: Exception, reason: str) -> str:
    """Return what to do about an error of the file. Only a damaged one is to be replaced."""
    access = isinstance(error, (OSError, sqlite3.OperationalError))
    if not access or "no such table" in reason:
        return "restore it from a backup, or remove it and create new keys"
    return (
        "let this user read and write it and its folder, or run the command as the user of the "
        "server; see whether the disk is full or read-only"
    )


def _ends_earlier(old: Grant, new: Grant) -> bool:
    return new.expires is not None and (old.expires is None or new.expires < old.expires)


def _secrets_in(connection: sqlite3.Connection) -> list[Secret]:
    """Return all secrets with their keys, the newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS}, s.prefix, s.digest, s.until FROM secrets s"
        " JOIN keys k ON k.id = s.key ORDER BY s.created DESC, s.rowid DESC"
    ).fetchall()
    return [Secret(bytes(row[-2]), _key_of(row), row[-1]) for row in rows]


def _keys_of(secrets: Iterable[Secret]) -> list[Key]:
    """Return the keys of secrets, each once, in the order of their creation."""
    found: dict[str, Key] = {}
    for secret in secrets:
        found.setdefault(secret.key.id, secret.key)
    return sorted(found.values(), key=lambda key: key.created)


def _row_of(grant: Grant) -> tuple[Any, ...]:
    """Return a grant as values of the columns scopes, models, limits, filter_file and expires."""
    return (
        _json(sorted(grant.scopes)),
        None if grant.models is None else _json(sorted(grant.models)),
        _json(dataclasses.asdict(grant.limits)),
        grant.filter_file,
        grant.expires,
    )


def _key_of(row: tuple[Any, ...]) -> Key:
    scopes = frozenset(_NAMES.decode(row[2]))
    models = None if row[3] is None else frozenset(_NAMES.decode(row[3]))
    limits = _LIMITS.decode(row[4])
    known: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope in scopes)
    grant = Grant(known, models, limits, row[5], row[7])
    return Key(row[0], row[1], grant, row[6], row[8], row[9], row[10])


def _check_name(name: str) -> None:
    if PREFIX in name:
        raise NameRefused("give a name, such as ward-3, and not a key; a name is not secret")
    if not _NAME.fullmatch(name) or name.startswith("key_"):
        raise NameRefused(
            f"{name[:80]!r} cannot be the name of a key; use 1 to 64 letters, digits, spaces and "
            ". _ - + @, such as ward-3"
        )


def _choose(keys: Iterable[Key], name: str) -> Key:
    usable = [key for key in keys if key.revoked is None]
    for key in usable:
        if name == key.id or name.lower() == key.name.lower():
            return key
    if PREFIX in name:
        raise NoSuchKey("give the name of the key, and not its secret; 'offgrid keys list' has it")
    hint = did_you_mean(name, (key.name for key in usable))
    raise NoSuchKey(
        f"there is no key named {name[:80]}{hint or '; '}"
        + ("" if hint else "'offgrid keys list' shows all")
    )


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
