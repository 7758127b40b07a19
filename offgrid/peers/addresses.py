"""The machines at the addresses of the settings, for networks that block mDNS."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from offgrid.addresses import split_address
from offgrid.errors import ConfigError
from offgrid.peers.connection import CONNECT_SECONDS, HANDSHAKE_SECONDS
from offgrid.peers.contexts import pairing_context
from offgrid.peers.found import Place
from offgrid.peers.identity import id_of

EVERY = 30.0
"""Seconds after which each address is tried again."""
LOOKED_AT = 5.0
"""The same when somebody looks."""
MAX_ADDRESSES = 64
_JOIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Addressed:
    """What is at an address of the settings.

    Attributes:
        place: the address, or a name, and the port.
        id: of the machine that answered last, as its certificate says; empty before the first.
        last_seen: when that was, in seconds since 1970; None before.
        answers: whether it answered the last time.
    """

    place: Place
    id: str = ""
    last_seen: float | None = None
    answers: bool = False


class Addresses:
    """Looks which machine is at each address, in a thread. Thread-safe.

    It asks for no more than the certificate. That anybody could show: a connection to a peer checks
    that it has the key, too.

    Args:
        own: id of this machine, which is left out.
        places: the addresses.
    """

    def __init__(self, own: str, places: Sequence[Place]) -> None:
        self._own = own
        self._found = {place: Addressed(place) for place in places}
        self._ended = False
        self._wanted = threading.Event()
        self._tried_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="peer-addresses", daemon=True)

    def start(self) -> None:
        """Begin to look, if there are addresses."""
        if self._found:
            self._thread.start()

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._ended = True
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)

    def all(self) -> list[Addressed]:
        """Return what is known of each address."""
        return [one for one in self._found.values() if one.id != self._own]

    def places(self) -> list[Place]:
        """Return the addresses."""
        return list(self._found)

    def look(self) -> None:
        """Try again now, unless that was a moment ago."""
        if time.monotonic() - self._tried_at > LOOKED_AT:
            self._wanted.set()

    def _run(self) -> None:
        while not self._ended:
            self._wanted.clear()
            for place, before in self._found.items():
                if self._ended:
                    return
                self._found[place] = _tried(before)
            self._tried_at = time.monotonic()
            self._wanted.wait(EVERY)


def _tried(before: Addressed) -> Addressed:
    with contextlib.suppress(OSError, ValueError):
        return Addressed(before.place, id_at(before.place), time.time(), True)
    return replace(before, answers=False)


def id_at(place: Place) -> str:
    """Return the id of the machine at an address, as the certificate says that it shows.

    Raises:
        OSError: none answers, or it does not speak TLS.
    """
    with socket.create_connection(place, CONNECT_SECONDS) as plain:
        plain.settimeout(HANDSHAKE_SECONDS)
        with pairing_context().wrap_socket(plain) as sock:
            certificate = sock.getpeercert(binary_form=True) or b""
    return id_of(hashlib.sha256(certificate).hexdigest())


def read_addresses(texts: Sequence[str], port: int) -> list[Place]:
    """Return the addresses of the setting ``peer_addresses``.

    Args:
        texts: names or addresses, perhaps with ports.
        port: the usual one.

    Raises:
        ConfigError: one of them is no address, or there are too many.
    """
    if len(texts) > MAX_ADDRESSES:
        raise ConfigError(
            f"OFFGRID_PEER_ADDRESSES (--peer-addresses): {len(texts)} addresses; the most are "
            f"{MAX_ADDRESSES}"
        )
    try:
        return list(dict.fromkeys(split_address(text, port) for text in texts))
    except ValueError as ex:
        raise ConfigError(f"OFFGRID_PEER_ADDRESSES (--peer-addresses): {ex}") from None
