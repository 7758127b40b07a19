"""Both sides of a pairing in one process, without a network: messages are passed on by hand."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from offgrid.peers.attempts import Clock
from offgrid.peers.book import Book
from offgrid.peers.desk import PairingDesk
from offgrid.peers.identity import Identity, der_of, load_identity
from offgrid.peers.joining import Initiator


@dataclass
class Times:
    """Clocks that a test moves."""

    wall: float = 1_800_000_000.0
    monotonic: float = 1000.0

    @property
    def clock(self) -> Clock:
        """The clocks, as the desk gets them."""
        return Clock(lambda: self.wall, lambda: self.monotonic)

    def go_on(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.monotonic += seconds


@functools.cache
def identity_of(name: str) -> Identity:
    """A machine's identity; made once for all tests, as books and desks do not change it."""
    return load_identity(Path(tempfile.mkdtemp(prefix="offgrid-identity-")), name)


@dataclass
class Side:
    """A machine with a new, empty book in a folder."""

    folder: Path
    name: str
    times: Times = field(default_factory=Times)
    is_open: bool = False
    """Whether machines without a certificate may connect."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.identity = identity_of(self.name)
        self.restart()

    def restart(self) -> None:
        """Read the folder again, as a new process does."""
        self.book = Book(self.folder)
        self.desk = PairingDesk(
            self.identity, self.book, self.folder, self._let_in, self.times.clock
        )

    def initiator(self, other: Side, code: str, port: int = 11612) -> Initiator:
        """Begin an exchange with a machine that shows a code."""
        return Initiator(self.identity, port, der_of(other.identity.certificate), code)

    def try_code(self, other: Side, code: str) -> None:
        """Do the whole exchange, with errors as they come."""
        initiator = self.initiator(other, code)
        proof = initiator.prove(other.desk.answer(initiator.hello, "10.0.0.2"))
        peer = initiator.finish(other.desk.confirm(proof, "10.0.0.9"))
        self.book.add(peer)

    def knows(self, other: Side) -> bool:
        """Whether the other machine is in the book."""
        return self.book.by_fingerprint(other.identity.fingerprint) is not None

    def _let_in(self, is_open: bool) -> None:
        self.is_open = is_open


def wrong(code: str) -> str:
    """Another code."""
    return f"{(int(code) + 1) % 10**8:08}"
