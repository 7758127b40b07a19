"""The side of a pairing that shows the code: it opens codes, and answers who types one."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from offgrid.errors import InvalidParameter, Overloaded, StoreFailed
from offgrid.peers import pairing
from offgrid.peers.attempts import Attempts, Clock
from offgrid.peers.book import Book, Peer
from offgrid.peers.identity import Identity, fingerprint_of
from offgrid.peers.pairing import PairingClosed, PairingFailed, PairingLocked
from offgrid.terminal import shown

log = logging.getLogger(__name__)

CODE_SECONDS = 300.0
"""How long a code is valid."""
EXCHANGE_SECONDS = 15.0
"""How long an exchange may take; after a pairing, how long the other machine may take it back."""
MAX_EXCHANGES = 4
"""Exchanges that are not finished. Each costs 25 ms of computing."""
MAX_OF_ADDRESS = 2
"""Those of one address, so that no machine can keep all others from pairing."""

State = Literal["none", "open", "paired", "expired", "closed", "locked"]
_CLOSED = (
    "This machine shows no pairing code now. Run 'offgrid peers pair' on it, and type the code "
    "within five minutes; a code is valid once."
)


class Pairing(NamedTuple):
    """What became of the latest code.

    Attributes:
        id: of the code; it says nothing about its digits. Empty if there was none.
        state: ``locked`` after too many wrong codes.
        expires_at: until when the code is valid, Unix time in seconds; None if it is not.
        peer: the machine that was paired.
        locked_for: for how many seconds no code can be opened.
    """

    id: str = ""
    state: State = "none"
    expires_at: int | None = None
    peer: Peer | None = None
    locked_for: float = 0.0


class _Code(NamedTuple):
    """An open code; ``ends`` in seconds of the monotonic clock."""

    id: str
    digits: str
    ends: float
    expires_at: int


class _Exchange(NamedTuple):
    """An exchange after its second message, or a pairing that may be taken back."""

    code: str
    ends: float
    shared: pairing.Shared
    peer: Peer
    address: str
    before: Peer | None = None
    """What was in the book before it was paired."""


class PairingDesk:
    """Shows codes, and pairs with the machine that proves to know one. Thread-safe.

    Args:
        identity: this machine.
        book: gets the peer.
        folder: the setting ``peers_dir``.
        let_in: called with whether machines without a certificate may connect; raises OSError if
            they cannot.
        clock: the clocks.
    """

    def __init__(
        self,
        identity: Identity,
        book: Book,
        folder: Path,
        let_in: Callable[[bool], None],
        clock: Clock | None = None,
    ) -> None:
        self._identity, self._book, self._let_in = identity, book, let_in
        self._clock = clock or Clock()
        self._attempts = Attempts(folder, self._clock)
        self._lock = threading.RLock()
        self._code: _Code | None = None
        self._latest = Pairing()
        self._exchanges: dict[str, _Exchange] = {}
        self._paired: dict[str, _Exchange] = {}

    @property
    def is_open(self) -> bool:
        """Whether a code is open. It waits for nothing."""
        code = self._code
        return code is not None and self._clock.monotonic() < code.ends

    def open(self) -> tuple[str, Pairing]:
        """Open a code; return its digits, and what :meth:`state` returns. It replaces an open one.

        Raises:
            PairingLocked: too many wrong codes were typed.
            StoreFailed: key or certificate cannot be read; nothing has changed.
        """
        with self._lock:
            self._check_lock()
            try:
                self._let_in(True)
            except OSError as ex:
                files = f"{self._identity.key_file} and {self._identity.certificate_file}"
                raise StoreFailed(
                    f"No code can be opened: {files} cannot be used ({ex.strerror or ex}). Check "
                    "these files, and try again."
                ) from ex
            now, wall = self._clock.monotonic(), self._clock.wall()
            expires = int(wall + CODE_SECONDS)
            code = _Code(
                pairing.new_exchange()[:8], pairing.new_code(), now + CODE_SECONDS, expires
            )
            self._exchanges.clear()
            self._code, self._latest = code, Pairing(code.id, "open", expires)
        return code.digits, self.state()

    def close(self) -> None:
        """Close the open code, if there is one. Idempotent."""
        with self._lock:
            self._end("closed")

    def state(self) -> Pairing:
        """Return what became of the latest code."""
        with self._lock:
            if self._code is not None and not self.is_open:
                self._end("expired")
            return self._latest._replace(locked_for=self._attempts.locked_for())

    def answer(self, body: bytes, address: str) -> bytes:
        """Return the answer to the first message of an exchange.

        Args:
            body: the message, at most ``pairing.MAX_BODY`` bytes.
            address: where it came from.

        Raises:
            PairingClosed: no code is open.
            PairingLocked: too many wrong codes were typed.
            Overloaded: too many exchanges are not finished.
            InvalidParameter: it is no such message.
        """
        code = self._open_code()
        self._check_room(address)
        hello = pairing.decoded(body, pairing.Hello)
        own = self._identity
        certificate = pairing.checked_certificate(hello.certificate, own.fingerprint)
        fingerprint = fingerprint_of(certificate)
        if not self._book.has_room(fingerprint):
            raise InvalidParameter("The other machine has too many peers; forget one there first.")
        speaker = pairing.Speaker("responder", code.digits, fingerprint, own.fingerprint)
        id = pairing.new_exchange()
        reply = pairing.encoded(
            pairing.Reply(pairing.VERSION, own.name, own.certificate, speaker.element, id)
        )
        peer = Peer(
            name=hello.name, certificate=certificate, addresses=(), port=hello.port, paired_at=0
        )
        shared = speaker.finish(hello.spake, body, reply)
        ends = self._clock.monotonic() + EXCHANGE_SECONDS
        self._begin(id, _Exchange(code.id, ends, shared, peer, address))
        return reply

    def confirm(self, body: bytes, address: str) -> bytes:
        """Return the answer to the third message; the peer is in the book then.

        Args:
            body: the message, at most ``pairing.MAX_BODY`` bytes.
            address: where it came from.

        Raises:
            PairingClosed: the exchange is not known, or no longer; or no code is open.
            PairingLocked: too many wrong codes were typed.
            PairingFailed: the code was wrong, or a message was altered.
            StoreFailed: nothing can be written; no machine was paired.
            InvalidParameter: it is no such message.
        """
        proof = pairing.decoded(body, pairing.Proof)
        with self._lock:
            if proof.step == "undo":
                exchange = self._take_back(proof)
            else:
                exchange = self._check(proof)
                self._store(proof.exchange, exchange, address)
        return pairing.encoded(pairing.Receipt(exchange.shared.mac("responder", proof.step)))

    def _open_code(self) -> _Code:
        with self._lock:
            self._check_lock()
            code = self._code
            if code is None or not self.is_open:
                raise PairingClosed(_CLOSED)
            return code

    def _check_lock(self) -> None:
        seconds = self._attempts.locked_for()
        if seconds:
            self._end("locked")
            raise locked(seconds)

    def _check_room(self, address: str) -> None:
        """Forget exchanges that took too long; raise Overloaded if there are too many others, or
        too many of this address."""
        with self._lock:
            now = self._clock.monotonic()
            for kept in (self._exchanges, self._paired):
                for key in [key for key, one in kept.items() if one.ends <= now]:
                    del kept[key]
            same = [one for one in self._exchanges.values() if one.address == address]
            if len(self._exchanges) >= MAX_EXCHANGES or len(same) >= MAX_OF_ADDRESS:
                raise Overloaded("Too many machines try to pair; try again later.", retry_after=5)

    def _begin(self, id: str, exchange: _Exchange) -> None:
        with self._lock:
            self._check_room(exchange.address)
            self._exchanges[id] = exchange

    def _check(self, proof: pairing.Proof) -> _Exchange:
        """Return the exchange that a message proves. Whatever it proves, the exchange has ended:
        each is one attempt."""
        code = self._open_code()
        exchange = self._exchanges.pop(proof.exchange, None)
        if exchange is None or exchange.ends <= self._clock.monotonic() or exchange.code != code.id:
            raise PairingClosed("The exchange has ended. Begin the pairing again.")
        if not exchange.shared.proves(proof.mac, "initiator", "confirm"):
            self._count()
        if not pairing.has_signed(exchange.peer.certificate, proof.signature, exchange.shared):
            raise PairingFailed("The machine has no key of its certificate. Pair again.")
        return exchange

    def _count(self) -> None:
        """Count a wrong code before the other machine learns that it was wrong; then raise."""
        try:
            self._attempts.add()
        except OSError as ex:
            # After a restart it would not count, so nothing more can be tried.
            self._end("closed")
            raise StoreFailed(f"Wrong codes cannot be counted on disk: {ex}.") from ex
        left = self._attempts.left
        log.warning("a wrong pairing code was typed; %d more lock the pairing", left)
        if not left:
            self._end("locked")
        raise PairingFailed(
            "The code is wrong, or somebody on the network has altered the pairing. Type the code "
            "again."
        )

    def _store(self, id: str, exchange: _Exchange, address: str) -> None:
        """Write the peer into the book. The code is used up, also if that fails."""
        self._end("closed")
        before = self._book.by_fingerprint(exchange.peer.fingerprint)
        peer = Peer(
            name=exchange.peer.name, certificate=exchange.peer.certificate, addresses=(address,),
            port=exchange.peer.port, paired_at=int(self._clock.wall()),
        )  # fmt: skip
        store(self._book, peer)
        peer = self._book.by_fingerprint(peer.fingerprint) or peer
        ends = self._clock.monotonic() + EXCHANGE_SECONDS
        self._paired[id] = exchange._replace(peer=peer, before=before, ends=ends)
        self._latest = self._latest._replace(state="paired", peer=peer)
        log.info("paired with %s (%s) at %s", shown(peer.name), peer.id, address)

    def _take_back(self, proof: pairing.Proof) -> _Exchange:
        """Undo a pairing that the other machine could not store."""
        exchange = self._paired.get(proof.exchange)
        if exchange is None or exchange.ends <= self._clock.monotonic():
            raise PairingClosed("The exchange has ended. Forget the peer, or pair again.")
        if not exchange.shared.proves(proof.mac, "initiator", "undo"):
            raise PairingFailed("This is not the machine that was paired.")
        restore(self._book, exchange.peer, exchange.before)
        del self._paired[proof.exchange]
        self._latest = self._latest._replace(state="closed", peer=None)
        log.warning("the other machine could not store the pairing; it was undone here")
        return exchange

    def _end(self, state: State) -> None:
        """Close the code, and forget all exchanges that it began."""
        with self._lock:
            if self._code is None:
                return
            self._code = None
            self._exchanges.clear()
            self._latest = self._latest._replace(state=state, expires_at=None)
            self._let_in(False)


def locked(seconds: float) -> PairingLocked:
    """Return the error for a lock that lasts some seconds more."""
    return PairingLocked(
        f"Too many wrong pairing codes were typed. Try again in {math.ceil(seconds / 60)} minutes.",
        retry_after=math.ceil(seconds),
    )


def store(book: Book, peer: Peer) -> None:
    """Write a peer into the book.

    Raises:
        StoreFailed: it cannot be written; nothing has changed.
        InvalidParameter: there are too many peers.
    """
    try:
        book.add(peer)
    except OSError as ex:
        raise StoreFailed(f"The peer cannot be stored: {ex.strerror or ex}. Free room on the disk, "
                          "and pair again.") from ex  # fmt: skip
    except ValueError as ex:
        raise InvalidParameter(f"The peer cannot be stored: {ex}.") from None


def restore(book: Book, peer: Peer, before: Peer | None) -> None:
    """Write into the book what was there before a pairing.

    Raises:
        StoreFailed: it cannot be written; nothing has changed.
    """
    try:
        if before is None:
            book.remove(peer.fingerprint)
        else:
            book.add(before)
    except OSError as ex:
        raise StoreFailed(f"The pairing cannot be undone: {ex.strerror or ex}.") from ex
