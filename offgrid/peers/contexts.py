"""TLS between peers: version 1.3 only, and both sides must have a certificate that is known.

The certificates of the peers are the only trust anchors. No authority signs them, and names in them
mean nothing: a connection belongs to the peer whose certificate it has.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable

from offgrid.peers.book import Book, Peer
from offgrid.peers.identity import Identity
from offgrid.pinned import ignore_clock
from offgrid.tls import secure_context

log = logging.getLogger(__name__)


class ServerContexts:
    """The TLS context of the peers port; a new one for the first connection after a change of the
    book. Thread-safe.

    A connection in a context keeps what was trusted when it began, so whether its peer is still in
    the book is checked again at each request.

    Args:
        identity: this machine.
        book: the peers.
    """

    def __init__(self, identity: Identity, book: Book) -> None:
        self._identity, self._book = identity, book
        self._lock = threading.Lock()
        self._pairing = False
        self._still: Callable[[], bool] = lambda: True
        self._context = self._make(is_open=False)
        self._is_current = True
        self._problem = ""
        book.on_change(self._outdate)

    @property
    def context(self) -> ssl.SSLContext:
        """The context for the next connection.

        Raises:
            OSError: key or certificate cannot be read, and the former context would let in machines
                without a certificate although no code is open any more.
        """
        if not self._is_current or self._lets_in() != _lets_in(self._context):
            with self._lock:
                self._update()
        return self._context

    def open_pairing(self, is_open: bool, still: Callable[[], bool] = lambda: True) -> None:
        """Let machines without a certificate finish the handshake, or no longer.

        Args:
            is_open: whether they may.
            still: whether they may even now; called for each connection, so it must not wait.

        Raises:
            OSError: they may, but key or certificate cannot be read; nothing has changed.
        """
        with self._lock:
            if is_open:
                self._context, self._is_current = self._make(is_open=True), True
            self._pairing, self._still = is_open, still

    def _lets_in(self) -> bool:
        return self._pairing and self._still()

    def _outdate(self) -> None:
        """Have the next connection make a context. The one whose change this is needs none, and
        must not fail because of it."""
        with self._lock:
            self._is_current = False

    def _update(self) -> None:
        """Make the context that is right now. The caller holds the lock."""
        is_open = self._lets_in()
        try:
            self._context, self._is_current = self._make(is_open), True
            self._problem = ""
        except OSError as ex:
            problem = ex.strerror or str(ex)
            if problem != self._problem:
                self._problem = problem
                log.error(
                    "%s and %s cannot be used (%s): changes of the peers hold for no new "
                    "connection. Check these files.",
                    self._identity.key_file, self._identity.certificate_file, problem,
                )  # fmt: skip
            if _lets_in(self._context) and not is_open:
                raise

    def _make(self, is_open: bool) -> ssl.SSLContext:
        context = _base(ssl.PROTOCOL_TLS_SERVER, self._identity)
        context.verify_mode = ssl.CERT_OPTIONAL if is_open else ssl.CERT_REQUIRED
        # A ticket would let a machine return without its certificate.
        context.num_tickets = 0
        for peer in self._book.all():
            context.load_verify_locations(cadata=peer.certificate)
        return context


def _lets_in(context: ssl.SSLContext) -> bool:
    """Return whether machines without a certificate can finish the handshake."""
    return context.verify_mode == ssl.CERT_OPTIONAL


def client_context(identity: Identity, peer: Peer) -> ssl.SSLContext:
    """Return the context for connections to a peer: it must have the certificate of its pairing."""
    context = _base(ssl.PROTOCOL_TLS_CLIENT, identity)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=peer.certificate)
    return context


def pairing_context() -> ssl.SSLContext:
    """Return the context for connections to a machine that is not paired yet. Its certificate is
    not checked: the pairing itself proves it."""
    context = secure_context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _base(protocol: ssl._SSLMethod, identity: Identity) -> ssl.SSLContext:
    context = secure_context(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    ignore_clock(context)
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    return context
