"""The book of peers: the machines that this one was paired with, on disk.

A machine is in the book from its pairing until it is forgotten. Only the book says which machines
are trusted; what a network tells changes nothing but the addresses at which a peer is looked for.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from offgrid.caller import Caller, Limits
from offgrid.errors import ConfigError
from offgrid.peers.identity import clean_name, fingerprint_of, id_of, write_private

log = logging.getLogger(__name__)

FILE = "peers.json"
MAX_PEERS = 64
MAX_ADDRESSES = 8
"""Addresses of a peer that are kept; the latest first."""


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a peer may do here.

    Attributes:
        models: ids and aliases of models that it may use and copy; None means all.
        limits: its limits, as of a key.
    """

    models: tuple[str, ...] | None = None
    limits: Limits = Limits()


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that was paired.

    Attributes:
        name: its name, for people.
        certificate: its certificate, PEM text.
        addresses: where it may be found, such as ``192.168.1.7``; the latest first.
        port: its peers port.
        paired_at: Unix time in seconds.
        grant: what it may do here.
    """

    name: str
    certificate: str
    addresses: tuple[str, ...]
    port: int
    paired_at: int
    grant: Grant = Grant()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate, 64 hexadecimal digits."""
        return fingerprint_of(self.certificate)

    @property
    def id(self) -> str:
        """The first 16 digits of the fingerprint."""
        return id_of(self.fingerprint)

    def caller(self, address: str) -> Caller:
        """Return the peer as the caller of a request that came from an address."""
        models = self.grant.models
        return Caller(
            f"peer:{self.id}",
            name=self.name,
            address=address,
            has_key=True,
            scopes=frozenset({"inference"}),
            models=None if models is None else frozenset(models),
            limits=self.grant.limits,
            is_machine=True,
        )


_Version = tuple[int, int] | None
"""What tells a version of the file from others; None if there is no file."""


class _File(msgspec.Struct):
    peers: list[Peer]
    version: int = 1


class Book:
    """The peers in a folder. Thread-safe.

    Args:
        folder: the setting ``peers_dir``.

    Raises:
        ConfigError: its file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._changing = threading.Lock()
        """Held while the file is read or written. No reader of the peers waits for it: each request
        of a peer is one, and a disk may be slow."""
        self._changed: list[Callable[[], None]] = []
        self._peers: dict[str, Peer] = {}
        """Fingerprint -> peer; replaced as a whole, and never changed."""
        self._read: _Version = None
        """The version of the file that has these peers."""
        self.reload()

    def reload(self) -> None:
        """Read the file again.

        Raises:
            ConfigError: it cannot be read; the peers stay as they were.
        """
        with self._changing:
            found, version = self._found()
            changed, self._peers, self._read = found != self._peers, found, version
        if changed:
            self._tell()

    def _found(self) -> tuple[dict[str, Peer], _Version]:
        """Return what the file has now, and its version."""
        try:
            with self._path.open("rb") as file:
                version = _version(os.fstat(file.fileno()))
                read = msgspec.json.decode(file.read(), type=_File).peers
            return {peer.fingerprint: peer for peer in read}, version
        except FileNotFoundError:
            return {}, None
        except (OSError, msgspec.MsgspecError, ValueError) as ex:
            raise ConfigError(
                f"{self._path} cannot be read ({ex}). Restore it from a backup; or delete it, and "
                "pair this machine with its peers again."
            ) from None

    def reload_if_changed(self) -> None:
        """Read the file again if another process has changed it since it was read. After an error,
        the next call tries it again.

        Raises:
            ConfigError: it cannot be read; the peers stay as they were.
        """
        if self._version_now() != self._read:
            self.reload()

    def _version_now(self) -> _Version:
        try:
            return _version(self._path.stat())
        except OSError:
            return None

    def _catch_up(self) -> None:
        """Take what another process has written, such as a backup that was restored, before the
        file is written again.

        Raises:
            OSError: it cannot be read.
        """
        try:
            self.reload_if_changed()
        except ConfigError as ex:
            log.error("%s", ex)
            raise OSError(errno.EIO, "the file of the peers cannot be read") from None

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call a function after each change, on the thread that made it."""
        self._changed.append(listener)

    def all(self) -> list[Peer]:
        """Return the peers, in the order in which they were paired."""
        return list(self._peers.values())

    def by_fingerprint(self, fingerprint: str) -> Peer | None:
        """Return the peer whose certificate has a fingerprint."""
        return self._peers.get(fingerprint)

    def find(self, word: str) -> Peer | None:
        """Return the peer with an id or, if only one has it, a name; upper and lower case are the
        same. An id may be cut off after at least 6 digits."""
        wanted = word.strip().lower()
        peers = self.all()
        for matches in (
            [peer for peer in peers if peer.id == wanted],
            [peer for peer in peers if peer.name.lower() == wanted],
            [peer for peer in peers if len(wanted) >= 6 and peer.id.startswith(wanted)],
        ):
            if len(matches) == 1:
                return matches[0]
        return None

    def has_room(self, fingerprint: str) -> bool:
        """Return whether the peer with a fingerprint could be added, or replaced."""
        peers = self._peers
        return fingerprint in peers or len(peers) < MAX_PEERS

    def add(self, peer: Peer) -> None:
        """Add a peer, or replace one with the same certificate; it keeps its grant then.

        Raises:
            OSError: the file cannot be read or written; nothing has changed.
            ValueError: there are too many peers.
        """
        peer = msgspec.structs.replace(
            peer, name=clean_name(peer.name), addresses=peer.addresses[:MAX_ADDRESSES]
        )
        self._catch_up()
        with self._changing:
            before = self._peers.get(peer.fingerprint)
            if before is not None:
                peer = msgspec.structs.replace(peer, grant=before.grant)
            elif len(self._peers) >= MAX_PEERS:
                raise ValueError(f"this machine has {MAX_PEERS} peers already; forget one first")
            self._write({**self._peers, peer.fingerprint: peer})
        self._tell()

    def change(self, fingerprint: str, change: Callable[[Peer], Peer]) -> Peer | None:
        """Replace a peer by what a function makes of it; return it, or None if it is not there.

        Raises:
            OSError: the file cannot be read or written; nothing has changed.
        """
        self._catch_up()
        with self._changing:
            before = self._peers.get(fingerprint)
            if before is None:
                return None
            after = change(before)
            if after == before:
                return before
            self._write({**self._peers, fingerprint: after})
        self._tell()
        return after

    def found_at(self, fingerprint: str, address: str, port: int) -> None:
        """Note where a peer has proved who it is; the latest address comes first."""

        def change(peer: Peer) -> Peer:
            others = [known for known in peer.addresses if known != address]
            addresses = (address, *others)[:MAX_ADDRESSES]
            return msgspec.structs.replace(peer, addresses=addresses, port=port)

        # It is looked for there next time, even if this cannot be written.
        with contextlib.suppress(OSError):
            self.change(fingerprint, change)

    def remove(self, fingerprint: str) -> bool:
        """Forget a peer; return whether it was there.

        Raises:
            OSError: the file cannot be read or written; nothing has changed.
        """
        self._catch_up()
        with self._changing:
            if fingerprint not in self._peers:
                return False
            self._write({key: one for key, one in self._peers.items() if key != fingerprint})
        self._tell()
        return True

    def _write(self, peers: dict[str, Peer]) -> None:
        """Write the file, then use what it holds. The caller holds the lock."""
        data = msgspec.json.format(msgspec.json.encode(_File(list(peers.values()))))
        write_private(self._path, data)
        self._peers, self._read = peers, self._version_now()

    def _tell(self) -> None:
        """Call all listeners. The change is on disk, so an error of one must neither keep the
        others from hearing of it nor look like an error of the write."""
        for listener in self._changed:
            try:
                listener()
            except Exception:
                log.exception("a change of the peers could not be applied everywhere")


def _version(status: os.stat_result) -> _Version:
    return status.st_mtime_ns, status.st_ino
