"""Sockets of TLS connections."""

from __future__ import annotations

import errno
import os
import ssl
from typing import Any


class SecureSocket(ssl.SSLSocket):
    """A TLS connection that leaves no socket open if the other end has reset it too early.

    Python makes such a socket of a connection that was reset before its handshake, raises an error,
    and closes neither of the two.
    """

    def getpeername(self) -> Any:
        """The address of the other end.

        Raises:
            OSError: it has ended the connection.
        """
        try:
            return super().getpeername()
        except OSError as ex:
            if ex.errno == errno.ENOTCONN and getattr(self, "_sslobj", None) is None:
                self.close()
                raise ConnectionResetError(
                    errno.ECONNRESET, os.strerror(errno.ECONNRESET)
                ) from None
            raise


def secure_context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    """Return a new context whose connections are of this kind."""
    context = ssl.SSLContext(protocol)
    context.sslsocket_class = SecureSocket
    return context
