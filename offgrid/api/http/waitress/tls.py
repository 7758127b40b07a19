"""TLS for connections of waitress, which has none.

The handshake is a part of the loop that reads all sockets: each step reads what has arrived and
waits for nothing. A client that does not finish it in time is disconnected. A client that speaks
plain HTTP gets a response in plain HTTP that says so.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Protocol

from waitress.utilities import BadRequest

from offgrid.api.http.waitress.channel import Channel
from offgrid.config import BY_NAME, Commit, Settings
from offgrid.errors import ConfigError
from offgrid.tls import secure_context

_HANDSHAKE_SECONDS = 10.0
"""How long a client may take for the handshake."""
_REST = 65536
"""Bytes, more than a client sends in a handshake."""
_RECORD = 1 << 14
"""Most bytes of a TLS record. A write that did not fit must be repeated with no fewer bytes, so at
most one record is written at a time."""
_HANDSHAKE = 0x16
"""First byte of each TLS connection."""


class Certificate:
    """The certificate and key of a server.

    Args:
        cert: PEM file with the certificate and its issuers.
        key: PEM file with the key; None if it is in the other file.

    Attributes:
        context: for new connections; :meth:`prepare` replaces it.

    Raises:
        ConfigError: a file cannot be read or used.
    """

    def __init__(self, cert: Path, key: Path | None) -> None:
        self._cert, self._key = cert, key
        self.context = self._load()

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """Return the certificate of the settings, or None without one."""
        if settings.tls_cert is None:
            return None
        return cls(settings.tls_cert, settings.tls_key)

    def prepare(self, settings: Settings) -> Commit:
        """Read the files again, or others: see :mod:`offgrid.config.reloading`."""
        assert settings.tls_cert is not None
        new = Certificate(settings.tls_cert, settings.tls_key)

        def commit() -> None:
            self.context = new.context

        return commit

    def _load(self) -> ssl.SSLContext:
        cert = BY_NAME["tls_cert"].source_names
        key = cert if self._key is None else BY_NAME["tls_key"].source_names
        key_file = self._key or self._cert
        for source, file in ((cert, self._cert), (key, key_file)):
            try:
                file.read_bytes()
            except OSError as ex:
                raise ConfigError(f"{source}: cannot read {file}: {ex.strerror or ex}") from None
        context = secure_context(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        asked: list[bool] = []

        def password() -> str:  # without this function, OpenSSL would ask on the terminal
            asked.append(True)
            return ""

        try:
            context.load_cert_chain(self._cert, self._key, password)
        except (ssl.SSLError, ValueError) as ex:
            if asked:
                raise ConfigError(
                    f"{key}: the key in {key_file} has a password; write it without one: "
                    "openssl pkey -in KEY -out NEW_KEY"
                ) from None
            if getattr(ex, "reason", "") == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    f"{key}: the key in {key_file} does not belong to the certificate in "
                    f"{self._cert}"
                ) from None
            if not _has_certificate(self._cert):
                raise ConfigError(f"{cert}: {self._cert} contains no certificate (PEM)") from None
            raise ConfigError(f"{key}: {key_file} contains no private key (PEM)") from None
        return context


def _has_certificate(file: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError, ValueError):
        return False
    return True


class HasContext(Protocol):
    """What has the TLS context for the next connection."""

    @property
    def context(self) -> ssl.SSLContext: ...


class TlsSocket:
    """A connection that looks to waitress like a plain socket that does not block.

    OpenSSL allows one thread at a time to use a connection, so a lock guards every call.

    Raises:
        OSError: the client has left already.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        self._tls = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._lock = threading.Lock()
        self._arrived = b""
        self._ended = False
        self._looked = False
        """Whether the first byte has been looked at."""
        self._raw = False
        """Whether bytes pass without TLS: the client speaks plain HTTP, or our side has ended."""
        self.secured = False
        """Whether the handshake is finished."""
        self.wants_write = False
        """Whether the handshake waits until the client reads."""

    @property
    def plain(self) -> bool:
        """Whether the client speaks plain HTTP."""
        return self._raw and not self.secured

    def advance(self) -> None:
        """Continue the handshake with what has arrived.

        Raises:
            OSError: it failed, or the client has left.
        """
        with self._lock:
            if self._raw or self.secured:
                return
            self.wants_write = False
            try:
                if not self._looked and not self._begins_with_tls():
                    self._raw = True
                    return
                self._looked = True
                self._tls.do_handshake()
                self.secured = True
            except ssl.SSLWantReadError:
                return
            except ssl.SSLWantWriteError:
                self.wants_write = True
            except OSError:
                self._read_rest()
                raise

    def _read_rest(self) -> None:
        """Read what has arrived after a handshake has failed. The system would reset the connection
        otherwise, and the client would lose the alert that says why."""
        with contextlib.suppress(OSError):
            socket.socket.recv(self._tls, _REST)

    def _begins_with_tls(self) -> bool:
        """Look at the first byte; raise SSLWantReadError if there is none yet."""
        try:
            first = socket.socket.recv(self._tls, 1, socket.MSG_PEEK)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None
        if not first:
            raise ConnectionResetError(errno.ECONNRESET, "the client has left")
        return first[0] == _HANDSHAKE or not first.isalpha()

    def fill(self, size: int) -> bool:
        """Decrypt what has arrived, if anything; return whether :meth:`recv` has something to tell:
        bytes, or that the client has left."""
        with self._lock:
            if self._raw:
                return True
            try:
                self._arrived += self._tls.recv(size)
                # The system knows nothing about bytes that OpenSSL has taken from the socket.
                while waiting := self._tls.pending():
                    self._arrived += self._tls.recv(waiting)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return bool(self._arrived)
            except OSError:
                self._ended = True
            else:
                self._ended = not self._arrived
            return True

    def recv(self, size: int) -> bytes:
        """Return the bytes that :meth:`fill` decrypted; none if the client has left."""
        with self._lock:
            if self._raw:
                return socket.socket.recv(self._tls, size)
            arrived, self._arrived = self._arrived, b""
            if not arrived and not self._ended:
                raise BlockingIOError(errno.EWOULDBLOCK, "nothing has arrived")
            return arrived

    def send(self, data: Any) -> int:
        """Send as much as the client has room for, and return how much.

        Raises:
            BlockingIOError: there is no room.
            ConnectionResetError: the client has left.
        """
        with self._lock:
            if self._raw:
                return socket.socket.send(self._tls, data)
            left = memoryview(data)
            try:
                while left:
                    left = left[self._tls.send(left[:_RECORD]) :]
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                if len(left) == len(data):
                    raise BlockingIOError(errno.EWOULDBLOCK, "there is no room") from None
            except ssl.SSLError as ex:
                raise ConnectionResetError(errno.ECONNRESET, str(ex)) from None
            return len(data) - len(left)

    def shutdown(self, how: int) -> None:
        """Tell the client that nothing more comes. What it still sends is no longer decrypted."""
        with self._lock:
            self._say_goodbye()
            self._raw = True
            socket.socket.shutdown(self._tls, how)

    def close(self) -> None:
        """Close the connection. A thread that writes meanwhile has finished before."""
        with self._lock:
            self._say_goodbye()
            self._tls.close()

    def _say_goodbye(self) -> None:
        if self.secured and not self._raw:
            # This sends our part of the end of TLS, and fails for want of the client's.
            with contextlib.suppress(OSError, ValueError):
                self._tls.unwrap()

    def certificate(self) -> bytes:
        """Return the client's certificate, which was checked, as DER; empty if it has none, or has
        left."""
        with self._lock, contextlib.suppress(ValueError, AttributeError):
            return self._tls.getpeercert(binary_form=True) or b"" if self.secured else b""
        return b""

    def fileno(self) -> int:
        """The descriptor."""
        return self._tls.fileno()

    def getsockopt(self, level: int, option: int) -> int:
        """An option of the socket."""
        return self._tls.getsockopt(level, option)

    def setblocking(self, blocking: bool) -> None:
        """Do nothing: the socket never blocks."""


class TlsChannel(Channel):
    """A connection with TLS."""

    certificate: HasContext

    def __init__(self, server: Any, sock: socket.socket, *arguments: Any, **options: Any) -> None:
        self._begun = time.monotonic()
        self._refused = False
        # waitress would close the listening socket after an exception here.
        try:
            secured = TlsSocket(sock, self.certificate.context)
        except (OSError, ValueError):
            sock.close()
            secured = None
        if secured is None:
            return
        super().__init__(server, secured, *arguments, **options)

    @property
    def secure(self) -> bool:
        """Whether what is sent is encrypted on the network."""
        return bool(self.socket is not None and self.socket.secured)

    def readable(self) -> bool:
        """Whether to wait for the client's bytes."""
        if not self._ready and time.monotonic() - self._begun > _HANDSHAKE_SECONDS:
            self.will_close = True
        return super().readable()

    def writable(self) -> bool:
        """Whether to wait until the client reads."""
        if not self._ready:
            return bool(self.will_close or self.socket.wants_write)
        return super().writable()

    @property
    def _ready(self) -> bool:
        """Whether bytes of HTTP may come and go."""
        return bool(self.socket is not None and (self.socket.secured or self.socket.plain))

    def handle_read(self) -> None:
        """Continue the handshake, or read what the client sends."""
        if not self._advance() or self.socket is None:
            return
        if self.socket.plain and not self._refused:
            self._refused = True
            self._refuse_plain()
        elif self.socket.fill(self.adj.recv_bytes):
            super().handle_read()

    def handle_write(self) -> None:
        """Continue the handshake, or write what is kept."""
        if self.will_close or self._advance():
            super().handle_write()

    def _advance(self) -> bool:
        """Return whether the handshake is finished; close the connection if it failed."""
        if self._ready:
            return True
        try:
            self.socket.advance()
        except (OSError, ValueError):
            self.handle_close()
            return False
        return self._ready

    def _refuse_plain(self) -> None:
        """Answer a client that speaks plain HTTP, in plain HTTP."""
        request = self.parser_class(self.adj)
        request.end(BadRequest("this port speaks HTTPS; write https:// instead of http://"))
        request.completed = True
        with self.requests_lock:
            self.requests.append(request)
            self.server.add_task(self)
