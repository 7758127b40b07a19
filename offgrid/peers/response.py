"""The response of a peer, and what can go wrong with it."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Iterator

from offgrid.peers.book import Peer
from offgrid.peers.errors import PeerProtocolError, PeerRefused, PeerUnreachable

MAX_ANSWER = 4 << 20
"""Bytes of an answer that is read as a whole, unless the caller says another limit."""


class PeerResponse:
    """The response of a peer; its body is read as it comes.

    Attributes:
        status: the status code.
        headers: the headers, by name in any case.
    """

    def __init__(self, peer: Peer, response: http.client.HTTPResponse) -> None:
        self._peer, self._response = peer, response
        self.status: int = response.status
        self.headers = response.headers

    @property
    def reusable(self) -> bool:
        """Whether the body was read to its end, and the connection stays open."""
        response = self._response
        if response.length == 0 and not response.isclosed():
            response.read()
        return response.isclosed() and not response.will_close

    def read_some(self, limit: int = 65536) -> bytes:
        """Return what has arrived of the body, as soon as something has; empty at its end.

        Args:
            limit: the most bytes.

        Raises:
            PeerUnreachable: the body ended early, or nothing came within the timeout.
            PeerProtocolError: the body is not valid HTTP.
        """
        with explained(self._peer, is_sent=True):
            data = self._response.read1(limit)
        if not data:
            self._check_end()
        return data

    def read_into(self, buffer: memoryview) -> int:
        """Fill a buffer; return how many bytes were written, fewer only at the end of the body.

        Raises:
            PeerUnreachable, PeerProtocolError: as :meth:`read_some`.
        """
        with explained(self._peer, is_sent=True):
            size = self._response.readinto(buffer)
        if size < len(buffer):
            self._check_end()
        return size

    def read_all(self, limit: int = MAX_ANSWER) -> bytes:
        """Return the body.

        Args:
            limit: the most bytes.

        Raises:
            PeerUnreachable, PeerProtocolError: as :meth:`read_some`, or it is longer.
        """
        data = bytearray()
        while some := self.read_some():
            data += some
            if len(data) > limit:
                raise PeerProtocolError(self._peer, f"its answer is longer than {limit} bytes")
        return bytes(data)

    def _check_end(self) -> None:
        if self._response.length:
            raise PeerUnreachable(self._peer, "the connection ended inside an answer", is_sent=True)


def is_refusal(ex: ssl.SSLError) -> bool:
    """Return whether an error is the alert that this machine's certificate is not trusted."""
    reason = ex.reason or ""
    return "ALERT" in reason and any(
        word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
    )


@contextlib.contextmanager
def explained(peer: Peer, *, is_sent: bool) -> Iterator[None]:
    """Turn errors of sockets and of HTTP into those of peers."""
    try:
        yield
    except TimeoutError:
        raise PeerUnreachable(peer, "it does not answer", is_sent=is_sent, is_silent=True) from None
    except ssl.SSLError as ex:
        if is_refusal(ex):
            raise PeerRefused(peer) from None
        raise PeerUnreachable(peer, short(ex), is_sent=is_sent, is_lost=True) from None
    except (OSError, http.client.IncompleteRead, http.client.NotConnected) as ex:
        raise PeerUnreachable(peer, short(ex), is_sent=is_sent, is_lost=True) from None
    except (http.client.HTTPException, ValueError) as ex:
        raise PeerProtocolError(peer, short(ex)) from None


def short(ex: BaseException) -> str:
    """Return an error in a few words."""
    if isinstance(ex, ssl.SSLCertVerificationError):
        return "another machine answers there"
    if isinstance(ex, (ssl.SSLEOFError, http.client.IncompleteRead)):
        return "it has ended the connection"
    if isinstance(ex, ssl.SSLError):
        return f"TLS: {(ex.reason or str(ex)).lower().replace('_', ' ')}"
    if isinstance(ex, TimeoutError):
        return "no answer"
    if isinstance(ex, OSError):
        return (ex.strerror or str(ex)).lower()
    return str(ex)[:200] or type(ex).__name__
