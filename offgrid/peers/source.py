"""Models of a peer as a source of imports (:mod:`offgrid.store.imports`).

A paired machine may still be faulty or taken over, so nothing that it says is believed: names must
be those of the model that was asked for, and no file gets its name before its content has the hash
that was stated before the first byte. A file is asked for in parts, and each request names the
hash: if the file was replaced in between, the peer sends something else, and the copy ends.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote

import msgspec

from offgrid.errors import TransferError
from offgrid.peers.book import Peer
from offgrid.peers.connection import PeerConnection, PeerConnections
from offgrid.peers.errors import PeerError, PeerRefused
from offgrid.peers.offered import HashLine, OfferedModel, OfferedModels
from offgrid.peers.response import PeerResponse
from offgrid.store.names import is_projector, projector_beside, safe_path, split_of, stem_of
from offgrid.store.progress import Report
from offgrid.store.search import Found
from offgrid.store.sources import Group, Item
from offgrid.store.survey import listed

_T = TypeVar("_T")
SILENCE = 30.0
"""Seconds in which a peer must send something."""
PART = 64 << 20
"""Bytes of a file that one request asks for. After each, the peer checks again what this machine
may copy, and serves others that wait."""
_BLOCK = 1 << 18
"""Bytes that are read in one call; progress is reported after each."""
_LONGEST_LINE = 1024
_AFTER_PAIRING = "Then the copy continues where it stopped."
_MAX_REASON = 300
"""Characters of the reason for a refusal, and bytes of the answer with it."""


class PeerModels:
    """The models of a peer. Used by one thread; any other may call :meth:`cancel`.

    Args:
        connections: to peers.
        peer: the peer.
        look: called now and then; it may raise an exception, which ends the copy.

    Attributes:
        remedy: what to do if the peer fails.
    """

    def __init__(
        self, connections: PeerConnections, peer: Peer, look: Callable[[], None] = lambda: None
    ) -> None:
        self.peer = peer
        self._connections = connections
        self._look = look
        self._lock = threading.Lock()
        self._current: PeerConnection | None = None
        """The connection in use; not one that was given back, which may be another's by now."""
        self._cancelled = False
        self.remedy = "Try again later: the copy continues where it stopped."

    def cancel(self) -> None:
        """End the connection, so that the copy notices at once that it is to end."""
        with self._lock:
            self._cancelled = True
            if self._current is not None:
                self._current.cancel()

    def open(self) -> PeerConnection:
        """Return a connection to the peer; :meth:`give_back` takes it.

        Raises:
            PeerError: the peer cannot be reached.
        """
        self._look()
        opened = self._connections.open(self.peer, SILENCE)
        with self._lock:
            self._current = opened
            if self._cancelled:
                opened.cancel()
        return opened

    def give_back(self, connection: PeerConnection, *, whole: bool) -> None:
        """Take a connection; ``whole`` says whether the answer was read to its end."""
        with self._lock:
            self._current = None
        if whole:
            connection.release()
        else:
            connection.close()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[PeerConnection]:
        connection, whole = self.open(), False
        try:
            yield connection
            whole = True
        finally:
            self.give_back(connection, whole=whole)

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of the peer into OSError, unless the copy is to end anyway."""
        try:
            yield
        except PeerError as ex:
            self._look()
            if isinstance(ex, PeerRefused):
                self.remedy = _AFTER_PAIRING
            raise OSError(str(ex).rstrip(".")) from None

    def search(self, ids: Sequence[str], report: Report) -> Found:
        """Return models with their projectors and draft models.

        Args:
            ids: the models. Letter case and a ``.gguf`` at the end do not matter.
            report: hears how far the peer is with hashes that it has to compute first.

        Raises:
            TransferError: the peer cannot be reached, or its answer is not valid.
        """
        try:
            with self.explained():
                offered = self._offered()
                found = Found()
                for model in self._chosen(offered, ids, found):
                    self._add(model, found, report)
                return found
        except OSError as ex:
            raise TransferError(f"{ex}. {self.remedy}", "source") from None

    def _offered(self) -> Sequence[OfferedModel]:
        with self._connected() as connection:
            response = connection.request("GET", "/peer/models")
            if response.status != 200:
                raise OSError(refusal(self.peer, response))
            return self._decoded(response.read_all(), OfferedModels).data

    def _decoded(self, data: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as ex:
            reason = f"{self.peer.name} does not answer as expected ({ex})"
            raise OSError(f"{reason}; both machines should have the same version") from None

    def _chosen(
        self, offered: Sequence[OfferedModel], ids: Sequence[str], found: Found
    ) -> list[OfferedModel]:
        """Return the models with some ids and their draft models; note unknown ids."""
        by_id = {model.id.casefold(): model for model in reversed(offered)}
        chosen: dict[str, OfferedModel] = {}
        for name in ids:
            model = by_id.get(stem_of(name).casefold())
            if model is None:
                there = listed([model.id for model in offered]) or "none"
                reason = f"{self.peer.name} offers no model with this id; the ids are: {there}"
                found.failed.append((name, reason))
                continue
            chosen[model.id] = model
            draft = by_id.get((model.draft_model or "").casefold())
            if draft is not None:
                chosen.setdefault(draft.id, draft)
        return [*chosen.values()]

    def _add(self, model: OfferedModel, found: Found, report: Report) -> None:
        """Add a model to what was found, or the reason why it cannot be copied."""
        problem = next(filter(None, (file.problem for file in model.files)), "") or _fault(model)
        if not problem:
            known = [file.sha256 or "" for file in model.files]
            if not all(known):
                known = self._computed(model, report)
            if all(known):
                found.groups += self._groups(model, known)
                return
            problem = "the peer states no hash of it"
        found.failed.append((f"{self.peer.name}: {model.id[:_MAX_REASON]}", problem[:_MAX_REASON]))

    def _groups(self, model: OfferedModel, hashes: Sequence[str]) -> list[Group]:
        items = []
        for number, (file, sha256) in enumerate(zip(model.files, hashes, strict=True)):
            source = PeerSource(self, model.id, number, file.name, file.size, sha256)
            items.append(Item(source, file.name, sha256))
        first = items[0].name
        projector = items.pop() if len(items) > 1 and _is_projector(items[-1].name) else None
        split = split_of(first)
        name = first if split is None else f"{split[0]} ({split[2]} parts)"
        groups = [Group(name, tuple(items))]
        return groups if projector is None else [*groups, Group(projector.name, (projector,))]

    def _computed(self, model: OfferedModel, report: Report) -> list[str]:
        """Let the peer compute the hashes of a model; those that it does not tell are empty."""
        known = [file.sha256 or "" for file in model.files]
        with self._connected() as connection:
            response = connection.request("GET", f"{path_of(model.id)}/hashes")
            if response.status != 200:
                raise OSError(refusal(self.peer, response))
            for line in _lines(response):
                told = self._decoded(line, HashLine)
                if told.file >= len(model.files):
                    raise OSError(f"{self.peer.name} states the hash of an unknown file")
                file = model.files[told.file]
                known[told.file] = known[told.file] or told.sha256 or ""
                report(file.name, "comparing", min(told.done, file.size), file.size)
        return known


@dataclass(frozen=True)
class PeerSource:
    """A file of a model of a peer; ``sha256`` is the hash that its content must have."""

    models: PeerModels
    model: str
    number: int
    name: str
    size: int
    sha256: str

    @property
    def origin(self) -> str:
        return f"{self.models.peer.name}: {self.name}"

    @property
    def remedy(self) -> str:
        return self.models.remedy

    @property
    def path(self) -> str:
        """The path of its URL."""
        return f"{path_of(self.model)}/files/{self.number}"

    def open(self, offset: int = 0) -> PeerReader:
        return PeerReader(self, offset)

    def changed(self) -> bool:
        # Every request names the hash, and the copy is compared with it.
        return False


class PeerReader:
    """Reads a file of a peer from an offset to its end."""

    def __init__(self, source: PeerSource, offset: int) -> None:
        self._source = source
        self._models = source.models
        self._at = offset
        self._left = 0
        """Bytes of the current part that have not been read."""
        self._connection: PeerConnection | None = None
        self._response: PeerResponse | None = None

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Read into a buffer; return how many bytes, 0 at the end of the file.

        Raises:
            OSError: the peer cannot be reached, is silent, or has another file now.
        """
        view = memoryview(buffer)[:_BLOCK]
        if self._at >= self._source.size or not view:
            return 0
        with self._models.explained():
            if self._response is None:
                self._response = self._ask()
            size = self._response.read_into(view[: self._left])
            if not size:
                raise OSError("the answer ended early")
            self._at += size
            self._left -= size
            if not self._left:
                self._give_back(whole=True)
        return size

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; nothing at the end.

        Raises:
            OSError: as :meth:`readinto`.
        """
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(buffer)])

    def close(self) -> None:
        """End the connection if a part was not read to its end."""
        self._give_back(whole=False)

    def _ask(self) -> PeerResponse:
        """Ask for the next part; return the response, after its head was checked."""
        source, begin = self._source, self._at
        end = min(begin + PART, source.size)
        self._connection = self._models.open()
        headers = {"Range": f"bytes={begin}-{end - 1}", "If-Range": f'"{source.sha256}"'}
        response = self._connection.request("GET", source.path, headers=headers)
        if response.status == 200:
            raise OSError("the file was replaced there meanwhile")
        if response.status != 206:
            raise OSError(refusal(self._models.peer, response))
        expected = {
            "Content-Range": f"bytes {begin}-{end - 1}/{source.size}",
            "Content-Length": f"{end - begin}",
            "Transfer-Encoding": None,
        }
        if any(response.headers.get(name) != value for name, value in expected.items()):
            raise OSError(f"{self._models.peer.name} sends another part than was asked for")
        self._left = end - begin
        return response

    def _give_back(self, *, whole: bool) -> None:
        connection, self._connection, self._response = self._connection, None, None
        if connection is not None:
            self._models.give_back(connection, whole=whole)


def path_of(model: str) -> str:
    """Return the path of the URLs of a model."""
    return f"/peer/models/{quote(model, safe='')}"


def refusal(peer: Peer, response: PeerResponse) -> str:
    """Return why a peer refuses a request, from its answer."""
    said = b""
    with contextlib.suppress(PeerError):
        said = response.read_all(1 << 16)
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        message = msgspec.json.decode(said, type=_Refusal).error.message
        return f"{peer.name} answers: {message[:_MAX_REASON].rstrip('.')}"
    return f"{peer.name} answers {response.status}"


class _Error(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Error


def _lines(response: PeerResponse) -> Iterator[bytes]:
    """Yield the lines of a response."""
    data = b""
    while some := response.read_some():
        *lines, data = (data + some).split(b"\n")
        yield from lines
        if len(data) > _LONGEST_LINE:
            raise OSError("a line of the answer is too long")
    if data:
        raise OSError("the answer ended early")


def _is_projector(name: str) -> bool:
    return is_projector(name.rpartition("/")[2])


def _fault(model: OfferedModel) -> str:
    """Return what is wrong with the names of a model's files; empty if nothing is.

    They decide where files are written. So they must be exactly those that the id of the model has:
    its file or all its parts, and a projector that belongs to it.
    """
    names = [file.name for file in model.files]
    if any(safe_path(name) is None for name in names):
        return "the name of a file cannot be used; rename it there"
    first = names[0]
    if len(names) > 1 and _is_projector(names[-1]):
        projector = names.pop()
        if projector_beside(projector.rpartition("/")[2], first) != projector:
            return "the peer offers a projector that does not belong to it"
    split = split_of(first)
    parts = [(split[0], part, split[2]) for part in range(1, len(names) + 1)] if split else [None]
    whole = split is None or split[2] == len(names)
    if stem_of(first) != model.id or not whole or [*map(split_of, names)] != parts:
        return "the peer offers other files than those of this model"
    return ""
