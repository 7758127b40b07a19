"""Finds other machines by mDNS (RFC 6762).

Being found makes no machine a peer. What is announced is no secret in the network: the name of the
machine, its id, its addresses, the peers port and the version.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from offgrid import __version__
from offgrid.addresses import interface_addresses
from offgrid.peers.found import FoundMachines
from offgrid.peers.identity import Identity

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

log = logging.getLogger(__name__)

TYPE = "_offgrid._tcp.local."
LOOK_EVERY = 5.0
"""Seconds between two looks at the interfaces of this machine: a laptop moves."""
_ASK_MS = 1000
"""How long a machine may take to tell the rest, if its first record was incomplete."""
_MAX_WAITING = 64
"""Incomplete records that wait for the rest; more are dropped until they are announced again."""
_JOIN_SECONDS = 3.0
_LABEL = 63
"""Bytes of the longest label of a DNS name."""


class Discovery:
    """Announces this machine by mDNS and listens for others, in threads. Where multicast is not
    possible, it says so in the log and tries again when the interfaces change.

    Args:
        identity: this machine.
        host: the setting ``peers_host``: the address whose network is meant, or all.
        found: gets what is found.
        appeared: called with the id of a machine that was heard.
    """

    def __init__(
        self,
        identity: Identity,
        host: str,
        found: FoundMachines,
        appeared: Callable[[str], None] = lambda id: None,
    ) -> None:
        self._identity, self._host = identity, host
        self._found, self._appeared = found, appeared
        self._port = 0
        self._ended = threading.Event()
        self._waiting: queue.Queue[str] = queue.Queue(_MAX_WAITING)
        self._zeroconf: Zeroconf | None = None
        self._addresses: list[str] = []
        self._thread = threading.Thread(target=self._run, name="peer-discovery", daemon=True)

    def start(self, port: int) -> None:
        """Begin, with the peers port."""
        self._port = port
        self._thread.start()

    def close(self) -> None:
        """Tell the network that this machine leaves, and end all threads. Idempotent."""
        self._ended.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait("")
        if self._thread.ident is not None:
            self._thread.join(_JOIN_SECONDS)

    def add_service(self, zeroconf: Zeroconf, type_: str, name: str) -> None:
        """Note a machine; called by zeroconf."""
        from zeroconf import Error, ServiceInfo

        with contextlib.suppress(Error, ValueError):  # a strange name
            info = ServiceInfo(type_, name)
            if info.load_from_cache(zeroconf) and info.properties:
                self._note(info)
            else:
                with contextlib.suppress(queue.Full):
                    self._waiting.put_nowait(name)

    update_service = add_service

    def remove_service(self, zeroconf: Zeroconf, type_: str, name: str) -> None:
        """Note that a machine has left, or was not heard for long; called by zeroconf."""
        self._found.forget(name)

    def _note(self, info: ServiceInfo) -> None:
        name = info.name.removesuffix(f".{TYPE}")
        id = self._found.hear(
            info.name, info.properties, info.parsed_scoped_addresses(), _without_id(name)
        )
        if id is not None:
            self._appeared(id)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._follow_interfaces()
                self._complete()
            except Exception:
                log.exception("looking for other machines by mDNS failed")
                self._ended.wait(LOOK_EVERY)
        self._stop()

    def _follow_interfaces(self) -> None:
        """Begin anew after this machine has come into another network."""
        addresses = self._own_addresses()
        if addresses == self._addresses:
            return
        self._stop()
        self._addresses = addresses
        self._found.forget_all()
        if addresses:
            self._open(addresses)

    def _own_addresses(self) -> list[str]:
        with contextlib.suppress(ValueError):  # a name
            if not ipaddress.ip_address(self._host).is_unspecified:
                return [self._host]
        family = socket.AF_INET6 if self._host == "::" else socket.AF_INET
        return sorted(interface_addresses(family))

    def _open(self, addresses: Sequence[str]) -> None:
        from zeroconf import Error, Zeroconf

        try:
            self._zeroconf = Zeroconf(interfaces=list(addresses), use_asyncio=False)
            self._zeroconf.add_service_listener(TYPE, self)  # type: ignore[arg-type]
            self._zeroconf.register_service(self._info(addresses), allow_name_change=True)
        except (OSError, Error) as ex:
            log.warning(
                "other machines cannot be found by mDNS (%s); peer_addresses can name them",
                str(ex) or type(ex).__name__,
            )

    def _info(self, addresses: Sequence[str]) -> ServiceInfo:
        """Return what is announced."""
        from zeroconf import ServiceInfo

        id = self._identity.id
        properties: dict[str, Any] = {"id": id, "port": str(self._port), "v": __version__}
        return ServiceInfo(
            TYPE,
            f"{_label(self._identity.name, id)}.{TYPE}",
            addresses=[ipaddress.ip_address(one).packed for one in addresses],
            port=self._port,
            properties=properties,
            server=f"offgrid-{id}.local.",
        )

    def _complete(self) -> None:
        """Ask for the rest of an incomplete record, if there is one before long."""
        from zeroconf import ServiceInfo

        try:
            name = self._waiting.get(timeout=LOOK_EVERY)
        except queue.Empty:
            return
        if name and self._zeroconf is not None and not self._ended.is_set():
            info = ServiceInfo(TYPE, name)
            if info.request(self._zeroconf, _ASK_MS):
                self._note(info)

    def _stop(self) -> None:
        if self._zeroconf is not None:
            with contextlib.suppress(Exception):  # its network may be gone
                self._zeroconf.close()
            self._zeroconf = None


def _label(name: str, id: str) -> str:
    """Return the name of this machine's record: no two machines have the same."""
    end = f" {id[:6]}"
    return name.encode()[: _LABEL - len(end)].decode(errors="ignore") + end


def _without_id(label: str) -> str:
    """Return the name of a machine from the name of its record."""
    name, _, end = label.rpartition(" ")
    return name if len(end) == 6 else label
