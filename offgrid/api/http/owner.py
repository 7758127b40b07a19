"""Whose request it is, for sharing slots and places: the caller, or one of several programs of it.

With keys, the owner is the key. Without keys, it is the address; but all programs of this machine
have the same address, so they are told apart by what the system says about their connections (see
:func:`program_of`), or else by the key that most of them send although none is needed. A program
that sends many different ones would take more than its share, so this counts only on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import sys
import threading
from collections import OrderedDict
from pathlib import Path

import falcon

from offgrid.api.http.caller import caller
from offgrid.api.http.waitress.environ import memory

_PROGRAM = "program"
_KEY_HEADERS = ("AUTHORIZATION", "X-API-KEY", "API-KEY")
_MOST_REMEMBERED = 4096
_ESTABLISHED = "01"
"""State of a TCP connection in ``/proc/net/tcp``."""
_READINGS = 3
"""How often a connection is looked for in that file."""


class _Served(threading.local):
    """The request that a thread serves."""

    owner = ""


_served = _Served()


def owner() -> str:
    """Return the owner of the request that this thread serves."""
    return _served.owner or caller().id


def begin(req: falcon.Request) -> str:
    """Find the owner of a request, and remember it for this thread. Return it."""
    who = caller()
    _served.owner = who.id if who.has_key else who.id + _program(req, who.address)
    return _served.owner


def _program(req: falcon.Request, address: str) -> str:
    """Return what tells apart the programs that have the same address; empty if nothing does."""
    if not is_loopback(address):
        return ""
    remembered = memory(req.env)
    if _PROGRAM not in remembered:
        port = str(req.env.get("REMOTE_PORT") or "")
        remembered[_PROGRAM] = _programs.find(address, int(port)) if port.isdecimal() else None
    if remembered[_PROGRAM] is not None:
        return f" process {remembered[_PROGRAM]}"
    sent = next((text for name in _KEY_HEADERS if (text := req.get_header(name))), "")
    return " " + hashlib.blake2b(sent.encode(), digest_size=8).hexdigest() if sent else ""


def is_loopback(address: str) -> bool:
    """Return whether an address is that of this machine to itself."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback


class _Programs:
    """The processes of this machine that hold connections to this server (Linux).

    ``/proc`` says which socket a connection has on the client's side, and which process holds that
    socket. Processes of other users cannot be searched: their connections belong to the user.
    Thread-safe.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, str] = OrderedDict()
        """Inode of a socket -> its process. An inode number is used once until the system has used
        all of them."""
        self._latest: list[str] = []
        """Processes that held a socket, latest first: they are searched first."""
        self._lock = threading.Lock()

    def find(self, address: str, port: int) -> str | None:
        """Return what identifies the program at the other end of a connection; None if the system
        does not tell."""
        if sys.platform != "linux":
            return None
        found = _socket_in(Path("/proc/net", "tcp6" if ":" in address else "tcp"), address, port)
        if found is None:
            return None
        user, inode = found
        with self._lock:
            known = self._known.get(inode)
            if known is None:
                known = self._search(inode) or f"of user {user}"
                self._known[inode] = known
                while len(self._known) > _MOST_REMEMBERED:
                    self._known.popitem(last=False)
            return known

    def _search(self, inode: str) -> str | None:
        """Return the process that holds a socket."""
        for process in dict.fromkeys([*self._latest, *_processes()]):
            if _holds(process, inode):
                self._latest = [process, *(one for one in self._latest if one != process)][:16]
                return process
        return None


_programs = _Programs()


def _socket_in(file: Path, address: str, port: int) -> tuple[str, str] | None:
    """Return user and inode of the socket with this local address; None if there is none.

    The system does not keep the file still: while connections come and go, lines may be missing
    from what is read.
    """
    for _ in range(_READINGS):
        try:
            return _socket_of(file.read_text(), address, port)
        except LookupError:
            continue
        except OSError:
            break
    return None


def _socket_of(table: str, address: str, port: int) -> tuple[str, str]:
    """Return user and inode of the socket with this local address.

    Raises:
        LookupError: there is none.
    """
    packed = ipaddress.ip_address(address).packed
    words = [packed[at : at + 4][:: -1 if sys.byteorder == "little" else 1] for at in
             range(0, len(packed), 4)]  # fmt: skip
    local = f"{b''.join(words).hex().upper()}:{port:04X}"
    at = table.find(f" {local} ")
    while at >= 0:
        end = table.find("\n", at)
        fields = table[at : end if end >= 0 else None].split()
        # Local address, the other one, state, queues, timer, retransmissions, user, timeout, inode.
        if len(fields) > 8 and fields[2] == _ESTABLISHED:
            return fields[6], fields[8]
        at = table.find(f" {local} ", end) if end >= 0 else -1
    raise LookupError(local)


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdecimal()]


def _holds(process: str, inode: str) -> bool:
    folder = f"/proc/{process}/fd"
    try:
        with os.scandir(folder) as found:
            for entry in found:
                with contextlib.suppress(OSError):  # closed in the meantime
                    if os.readlink(entry.path) == f"socket:[{inode}]":
                        return True
    except OSError:  # another user's process, or one that has ended
        pass
    return False
