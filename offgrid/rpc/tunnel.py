"""The borrower's end of a tunnel: a port of this process for llama.cpp, and a peer after it.

llama.cpp connects once to a loopback port, which is closed as soon as that connection has come.
Only a connection of this process itself is accepted, so that no other user of this machine gets
into the tunnel. What llama.cpp says then travels to the peer inside TLS.

llama.cpp ends its process when the connection of its RPC ends, and waits for ever if the other end
is stopped. Therefore the loss of a peer is noticed here, before llama.cpp sees it: a second
connection carries a line each way every second.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from offgrid.errors import RpcError
from offgrid.rpc.connection import ask, reached_at
from offgrid.rpc.endpoint import RpcServer
from offgrid.rpc.messages import (
    ALIVE,
    BEAT,
    BEATS_MISSED,
    STOPPED,
    Ask,
    Offer,
    end_connection,
    other_build,
    read_line,
    send_line,
)
from offgrid.rpc.own import has_connected
from offgrid.rpc.probe import probe
from offgrid.rpc.relay import relay

START_SECONDS = 60.0
"""Time in which a lender must have started a process for a session: it imports llama.cpp."""
_PROBE_SECONDS, _JOIN_SECONDS = 5.0, 5.0
LOOPBACK = "127.0.0.1"


class Tunnel:
    """A session with a server that lends memory.

    Args:
        server: the server.
        question: asks a peer for the session. Its ``build`` says what llama.cpp is on this machine;
            a peer with another one is refused.
        lost: called once, on another thread, with what happened to the server. It should end the
            process: llama.cpp does so as soon as the connection is closed.

    Attributes:
        port: the loopback port for llama.cpp. It takes one connection.
        devices: the free memory in bytes of each device that the server lends.

    Raises:
        RpcError: the server cannot be used; the message names it.
    """

    def __init__(self, server: RpcServer, question: Ask, lost: Callable[[str], None]) -> None:
        self.server = server
        self._lost = lost
        self._closed = threading.Event()
        self._telling = threading.Lock()
        self._told = False
        self._pulse: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((LOOPBACK, 0), backlog=8)
        self.port = int(self._listener.getsockname()[1])
        try:
            self._far = self._open_peer(question) if server.is_peer else self._open_local()
        except BaseException:
            self._listener.close()
            raise

    def start(self) -> None:
        """Wait for llama.cpp's connection, and watch the server, on two threads."""
        self._threads.append(threading.Thread(target=self._run, name="rpc-tunnel", daemon=True))
        if self._pulse is not None:
            self._threads.append(
                threading.Thread(target=self._watch, name="rpc-pulse", daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the session; ``lost`` is not called any more. Idempotent."""
        self._closed.set()
        end_connection(self._listener)
        sockets = [one for one in (self._far, self._pulse) if one is not None]
        for one in sockets:
            end_connection(one)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        for one in (self._listener, *sockets):
            one.close()

    # --- opening ------------------------------------------------------------------------------

    def _open_peer(self, question: Ask) -> socket.socket:
        build = question.build
        pulse, offer = ask(self.server, question, START_SECONDS)
        self._pulse = pulse
        try:
            check_offer(self.server, offer, build)
            self.devices = tuple(device.free for device in offer.devices)
            # The lender expects beats, so there is no time for addresses at which it is not.
            found = reached_at(self.server, pulse)
            far, _ = ask(found, Ask("data", build, session=offer.session), START_SECONDS)
        except BaseException:
            pulse.close()
            raise
        return far

    def _open_local(self) -> socket.socket:
        server = self.server
        try:
            found = probe(server.addresses[0], server.port, _PROBE_SECONDS)
            self.devices = tuple(free for free, _ in found.memory)
            address = (server.addresses[0], server.port)
            return socket.create_connection(address, _PROBE_SECONDS)
        except RpcError as ex:
            raise RpcError(f"the RPC server {server.name} cannot be used: {ex}") from None
        except OSError as ex:
            raise RpcError(f"the RPC server {server.name} cannot be reached ({ex})") from None

    # --- threads ------------------------------------------------------------------------------

    def _run(self) -> None:
        near = self._accept()
        if near is None:
            return
        if relay(near, self._far) is self._far and self._lose("has closed the connection"):
            # llama.cpp must not see the end of its connection before the process ends.
            self._closed.wait()
        near.close()

    def _accept(self) -> socket.socket | None:
        """Return llama.cpp's connection, and listen no more; None if the session was closed."""
        self._listener.settimeout(BEAT)
        with self._listener:
            while not self._closed.is_set():
                try:
                    near, address = self._listener.accept()
                except TimeoutError:
                    continue
                except OSError:
                    return None
                if has_connected(address[:2], near.getsockname()[:2]):
                    return near
                near.close()  # another process
        return None

    def _watch(self) -> None:
        """Exchange a line every second. While one is not answered, each second counts as one
        missing answer."""
        assert self._pulse is not None
        missed, owed, state = 0, False, ""
        begun = bytearray()  # an answer of which only a part has come in its second
        while not self._closed.wait(0 if owed else BEAT):
            try:
                if not owed:
                    send_line(self._pulse, "")
                owed = True
                state = read_line(self._pulse, BEAT, begun)
                owed = False
            except TimeoutError:
                state = ""
            except (OSError, RpcError):
                self._lose("has closed the connection")
                return
            missed = 0 if state == ALIVE else missed + 1
            if state not in (ALIVE, STOPPED, ""):
                self._lose(f"has ended the session: {state}")
                return
            if missed >= BEATS_MISSED:
                self._lose("was stopped" if state else "does not answer any more")
                return

    def _lose(self, what: str) -> bool:
        """Tell that the server was lost, unless the session was closed here; return whether it
        was not. Several threads may notice the loss."""
        with self._telling:
            if self._closed.is_set():
                return False
            if not self._told:
                self._told = True
                self._lost(f"the RPC worker {self.server.name} {what}")
            return True


def check_offer(server: RpcServer, offer: Offer, build: str) -> None:
    """Refuse a lender with another build of llama.cpp, or without a device.

    Raises:
        RpcError: the message has both builds.
    """
    if offer.build != build:
        raise RpcError(f"the RPC worker {server.name} {other_build(offer.build, build)}")
    if not offer.devices:
        raise RpcError(f"the RPC worker {server.name} lends no device")
