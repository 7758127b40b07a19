"""Copies bytes between two sockets, of which each may speak TLS.

One thread serves both directions: a TLS connection must not be used by two threads at once.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass, field

_PART = 1 << 18
"""Bytes that are read at once."""
_HELD = 1 << 22
"""Bytes that may wait for a slow reader."""
_FLUSH_SECONDS = 2.0
"""Time for the last bytes when one end has closed."""
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(eq=False)
class _End:
    """One of the two sockets. ``out`` waits to be sent to it. ``read_on`` and ``write_on``: what
    the next attempt waits for; TLS may have to write in order to read."""

    socket: socket.socket
    out: deque[memoryview] = field(default_factory=deque)
    held: int = 0
    read_on: int = _READ
    write_on: int = _WRITE
    closed: bool = False

    @property
    def has_more(self) -> bool:
        """Whether TLS holds bytes that no event announces."""
        return isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0

    def read(self) -> bytes:
        """Return what has arrived; nothing if that is nothing. Notes the end."""
        try:
            data = self.socket.recv(_PART)
        except (ssl.SSLWantReadError, BlockingIOError):
            self.read_on = _READ
            return b""
        except ssl.SSLWantWriteError:
            self.read_on = _WRITE
            return b""
        except OSError:
            data = b""
        self.read_on = _READ
        self.closed = not data
        return data

    def write(self) -> None:
        """Send what the socket takes now. Notes the end."""
        while self.out:
            try:
                sent = self.socket.send(self.out[0])
            except (ssl.SSLWantWriteError, BlockingIOError):
                self.write_on = _WRITE
                return
            except ssl.SSLWantReadError:
                self.write_on = _READ
                return
            except OSError:
                self.closed = True
                return
            self.write_on = _WRITE
            self.held -= sent
            if sent == len(self.out[0]):
                self.out.popleft()
            else:
                self.out[0] = self.out[0][sent:]

    def take(self, data: bytes) -> None:
        """Hold bytes that are to be sent, and send them as far as possible."""
        if data:
            self.out.append(memoryview(data))
            self.held += len(data)
            self.write()


def relay(one: socket.socket, other: socket.socket) -> socket.socket:
    """Copy bytes in both directions until one end closes its connection, or fails.

    Args:
        one, other: connected sockets. They do not block afterwards, and stay open.

    Returns:
        The socket that has ended. What it had sent before was passed on.
    """
    ends = (_End(one), _End(other))
    for end in ends:
        end.socket.setblocking(False)
        with contextlib.suppress(OSError):
            end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with selectors.DefaultSelector() as selector:
        for end in ends:
            selector.register(end.socket, _READ, end)
        while True:
            for end, peer in (ends, ends[::-1]):
                peer.write()
                if peer.held < _HELD:
                    peer.take(end.read())
                if end.closed:
                    _flush(selector, end, peer)
                    return end.socket
            _wait(selector, ends)


def _wait(selector: selectors.BaseSelector, ends: tuple[_End, _End]) -> None:
    ready = False
    for end, peer in (ends, ends[::-1]):
        reads = peer.held < _HELD
        ready = ready or (reads and end.has_more)
        events = (end.read_on if reads else 0) | (end.write_on if end.out else 0)
        if events != _registered(selector, end):
            _register(selector, end, events)
    if not ready:
        selector.select()


def _registered(selector: selectors.BaseSelector, end: _End) -> int:
    key = selector.get_map().get(end.socket)
    return 0 if key is None else key.events


def _register(selector: selectors.BaseSelector, end: _End, events: int) -> None:
    """Wait for other events; a selector takes no empty set of them."""
    if not events:
        selector.unregister(end.socket)
    elif _registered(selector, end):
        selector.modify(end.socket, events, end)
    else:
        selector.register(end.socket, events, end)


def _flush(selector: selectors.BaseSelector, ended: _End, left: _End) -> None:
    """Send the last bytes of an end that has closed, for a short time."""
    deadline = time.monotonic() + _FLUSH_SECONDS
    if _registered(selector, ended):
        selector.unregister(ended.socket)
    while left.out and not left.closed and time.monotonic() < deadline:
        _register(selector, left, left.write_on)
        selector.select(deadline - time.monotonic())
        left.write()
