"""Machines that were found: what the network and the settings say about where machines are.

Nothing here is proved: any machine on the network can claim to be any other, and as many as it
likes. So the table is small, and a peer is only looked for in more places because of it.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from offgrid.peers.identity import clean_name

MAX_FOUND = 256
"""Machines that are kept. Peers are among them if they were heard, and none makes room."""
MAX_RECORDS = 4
"""Records of each machine that are kept. More than one is unusual."""
MAX_PLACES = 4
"""Addresses of each record that are kept."""
_ID = re.compile(r"[0-9a-f]{16}")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LONGEST_VERSION = 32
Place = tuple[str, int]
"""An address and a port."""


@dataclass(frozen=True, slots=True)
class FoundMachine:
    """A machine as the network describes it, in one record or in several.

    Attributes:
        id: of the machine, as it claims.
        name: for people, as it claims; may be empty.
        places: where it may be. If there are several records, the first place of each comes before
            the second of each, and those of the latest record come first.
        version: of OffGrid, as it claims; None if it does not say.
        last_seen: when it was heard last, in seconds since 1970.
    """

    id: str
    name: str
    places: tuple[Place, ...]
    version: str | None
    last_seen: float


class FoundMachines:
    """The table of found machines. Thread-safe.

    Args:
        own: id of this machine, which is left out.
        is_peer: whether a machine was paired. Peers are always kept; of the others, the one that
            was not heard for the longest time makes room.
        loopback: whether addresses of this machine itself count.
    """

    def __init__(self, own: str, is_peer: Callable[[str], bool], *, loopback: bool = False) -> None:
        self._own, self._is_peer, self._loopback = own, is_peer, loopback
        self._lock = threading.Lock()
        self._machines: dict[str, dict[str, FoundMachine]] = {}
        """Id -> what each record says about the machine, by the name of the record. What was heard
        last comes last."""
        self._records: dict[str, str] = {}
        """Name of a record -> id, for each record."""

    def hear(
        self,
        record: str,
        text: Mapping[bytes, bytes | None],
        addresses: Sequence[str],
        name: str = "",
    ) -> str | None:
        """Note what a record of mDNS says; return the id of its machine, or None if the record is
        not valid or says nothing.

        Args:
            record: its name.
            text: its TXT record: ``id``, ``port`` and ``v``.
            addresses: of the machine.
            name: of the machine.
        """
        id, port = _text(text, b"id"), _text(text, b"port")
        if not (_ID.fullmatch(id) and _PORT.fullmatch(port) and int(port) < 65536):
            return None
        usable = [one for one in addresses if is_usable(one, loopback=self._loopback)]
        if id == self._own or not usable:
            return None
        version = _text(text, b"v")
        shown = clean_name(version) if 0 < len(version) <= _LONGEST_VERSION else None
        places = tuple((one, int(port)) for one in dict.fromkeys(usable))[:MAX_PLACES]
        self._note(record, FoundMachine(id, clean_name(name), places, shown, time.time()))
        return id

    def forget(self, record: str) -> None:
        """Note that a record is no longer valid. What others say about its machine stays."""
        with self._lock:
            self._drop(record)

    def forget_all(self) -> None:
        """Note that this machine is in another network now."""
        with self._lock:
            self._records.clear()
            self._machines.clear()

    def all(self) -> list[FoundMachine]:
        """Return the machines, sorted by id."""
        with self._lock:
            return [_merged(said) for _, said in sorted(self._machines.items())]

    def places(self, id: str) -> tuple[Place, ...]:
        """Return where a machine may be."""
        with self._lock:
            said = self._machines.get(id)
            return _merged(said).places if said else ()

    def _note(self, record: str, machine: FoundMachine) -> None:
        with self._lock:
            self._drop(record)  # it may have been about another machine
            said = self._machines.pop(machine.id, {})
            if len(said) >= MAX_RECORDS:
                # The first one stays: false ones that came later must not drive out the true one,
                # which does not come again as long as it has not changed.
                dropped = [*said][1]
                del said[dropped], self._records[dropped]
            if len(self._machines) >= MAX_FOUND:
                self._make_room()
            said[record] = machine
            self._machines[machine.id] = said
            self._records[record] = machine.id

    def _drop(self, record: str) -> None:
        """Drop what a record says, and its machine if no other record is about it. The caller holds
        the lock."""
        id = self._records.pop(record, None)
        if id is not None:
            said = self._machines[id]
            del said[record]
            if not said:
                del self._machines[id]

    def _make_room(self) -> None:
        """Drop the machine that was not heard for the longest time. There are fewer peers than
        places in the table. The caller holds the lock."""
        for id, said in self._machines.items():
            if not self._is_peer(id):
                for record in [*said]:
                    self._drop(record)
                return


def _merged(said: Mapping[str, FoundMachine]) -> FoundMachine:
    """Return what all records of a machine say about it."""
    latest_first = [*said.values()][::-1]
    # A false record must not hide the places of the true one.
    turns = itertools.zip_longest(*(one.places for one in latest_first))
    places = tuple(dict.fromkeys(place for turn in turns for place in turn if place is not None))
    return replace(latest_first[0], places=places)


def is_usable(address: str, *, loopback: bool = False) -> bool:
    """Return whether an address may be that of another machine."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if ip.is_loopback:
        return loopback
    return not (ip.is_multicast or ip.is_unspecified or address == "255.255.255.255")


def _text(text: Mapping[bytes, bytes | None], key: bytes) -> str:
    """Return a value of a TXT record; empty if it is absent or no text."""
    try:
        return (text.get(key) or b"").decode("utf-8")
    except UnicodeDecodeError:
        return ""
