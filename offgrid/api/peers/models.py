"""``/peer/models``: the models that a peer may copy, and their files.

A peer names a model by its id and a file by its number. It gets files only of models that its grant
names, and only with their hash as ``ETag``, so that it notices a file that was replaced.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from io import FileIO
from typing import NoReturn

import falcon
import msgspec

from offgrid.api.http.caller import caller
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.http.waitress.environ import PEER
from offgrid.api.ownership import is_allowed
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import RequestError
from offgrid.peers.book import Book
from offgrid.peers.offered import HashLine, OfferedFile, OfferedModel, OfferedModels
from offgrid.store.digest import open_regular
from offgrid.store.offers import FileOffer, Offer, Offers

log = logging.getLogger(__name__)

_BLOCK = 1 << 18
"""Bytes of a file that are read and sent at a time."""
_PAUSE = 1.0
"""Seconds between two lines about a hash that is being computed."""
_FILE = re.compile(r"(?P<id>.+)/files/(?P<number>[0-9]{1,6})", re.DOTALL)
_HASHES = re.compile(r"(?P<id>.+)/hashes", re.DOTALL)


class NoSuchFile(RequestError):
    """404: there is no such model or file, or the peer may not copy it."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"
    may_succeed = False


class NotCopied(RequestError):
    """409: the file cannot be copied as it is now."""

    status = 409
    type = "invalid_request_error"


class PeerModelsResource:
    """``GET /peer/models``: the models that the peer may copy."""

    scopes = INFERENCE
    for_peers = True

    def __init__(self, offered: Offers, pool: EnginePool) -> None:
        self._offers = offered
        self._pool = pool

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the models with their files and known hashes."""
        found = self._offers.all(lambda entry: is_allowed(self._pool, entry))
        resp.data = msgspec.json.encode(OfferedModels(tuple(map(self._described, found))))
        resp.content_type = falcon.MEDIA_JSON

    def _described(self, offer: Offer) -> OfferedModel:
        about = self._offers.files.describe(offer.entry)
        return OfferedModel(
            id=offer.id,
            kind=about.kind,
            size=sum(file.size for file in offer.files),
            context_length=about.context_length,
            draft_model=offer.draft or None,
            files=tuple(
                OfferedFile(file.name, file.size, file.sha256 or None, file.problem or None)
                for file in offer.files
            ),
        )


class PeerModelResource:
    """``GET /peer/models/{id}/files/{n}``: the bytes of a file. ``GET /peer/models/{id}/hashes``:
    computes the hashes that are not known yet, and says how far it is.

    An id may contain slashes, so this resource gets all paths below ``/peer/models``.

    Args:
        offered: the models that are offered.
        pool: knows the aliases of models; and whether the server stops, which ends a copy.
        book: the peers; what is sent to one ends when it is forgotten, or its models change.
    """

    scopes = INFERENCE
    for_peers = True

    def __init__(self, offered: Offers, pool: EnginePool, book: Book | None) -> None:
        self._offers = offered
        self._pool = pool
        self._book = book

    def on_get(self, req: falcon.Request, resp: falcon.Response, rest: str) -> None:
        """Send a file or a part of it, or compute hashes."""
        hashes, file = _HASHES.fullmatch(rest), _FILE.fullmatch(rest)
        if file is not None:
            self._send_file(req, resp, self._find(file["id"]), int(file["number"]))
        elif hashes is not None:
            offer, goes_on = self._find(hashes["id"]), self._goes_on(req)
            resp.content_type = "application/x-ndjson"
            resp.stream = _hash_lines(self._offers, offer, goes_on)
        else:
            _refuse()

    def _find(self, id: str) -> Offer:
        offer = self._offers.find(id, lambda entry: is_allowed(self._pool, entry))
        return _refuse() if offer is None else offer

    def _goes_on(self, req: falcon.Request) -> Callable[[], bool]:
        """Return a function that says whether the peer may still have the same models as now, and
        the server goes on."""
        fingerprint = req.env.get(PEER, "")

        def granted() -> tuple[bool, object]:
            peer = None if self._book is None else self._book.by_fingerprint(fingerprint)
            return (False, None) if peer is None else (True, peer.grant.models)

        now = granted()

        def goes_on() -> bool:
            return now[0] and granted() == now and not self._pool.draining

        return goes_on

    def _send_file(
        self, req: falcon.Request, resp: falcon.Response, offer: Offer, number: int
    ) -> None:
        if number >= len(offer.files):
            _refuse()
        file = offer.files[number]
        if file.problem or not file.sha256:
            raise NotCopied(file.problem or "Its hash is not known yet; ask for /hashes first.")
        etag = f'"{file.sha256}"'
        part = _range(req, etag, file.size)
        begin, end = part or (0, file.size)
        resp.set_header("ETag", etag)
        resp.set_header("Accept-Ranges", "bytes")
        resp.content_type = "application/octet-stream"
        if part is not None:
            resp.status = falcon.HTTP_206
            resp.set_header("Content-Range", f"bytes {begin}-{end - 1}/{file.size}")
        if begin == 0:
            log.info("%s copies %s", caller().name, file.name)
        opened = _opened(file)
        opened.seek(begin)
        resp.set_stream(_blocks(opened, end - begin, self._goes_on(req)), end - begin)


def _refuse() -> NoReturn:
    raise NoSuchFile("There is no such model or file here, or this machine may not copy it.")


def _opened(file: FileOffer) -> FileIO:
    """Open a file that has the size that was told.

    Raises:
        NotCopied: it was replaced or removed.
    """
    try:
        opened = open_regular(file.path)
    except OSError as ex:
        raise NotCopied(f"It cannot be read ({ex.strerror or ex}).") from None
    if opened.seek(0, 2) != file.size:
        opened.close()
        raise NotCopied("It was just replaced; try again.")
    return opened


def _range(req: falcon.Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return the first byte that a request wants, and the one after the last; None for all, also if
    the request names another hash.

    Raises:
        HTTPRangeNotSatisfiable: the file is shorter.
    """
    wanted = req.range if req.range_unit == "bytes" else None
    same = (req.get_header("If-Range") or etag) == etag
    if wanted is None or not same:
        return None
    first, last = wanted
    begin = max(0, size + first) if first < 0 else first
    end = size if last < 0 else min(last + 1, size)
    if begin >= size or begin >= end:
        raise falcon.HTTPRangeNotSatisfiable(size)
    return begin, end


def _blocks(file: FileIO, left: int, goes_on: Callable[[], bool]) -> Iterator[bytes]:
    """Yield ``left`` bytes of a file, and close it. Fewer if the peer may not have it any more, the
    server stops, or the file was cut off; the connection is closed then."""
    with file:
        while left and goes_on():
            block = file.read(min(left, _BLOCK))
            if not block:
                return
            left -= len(block)
            yield block


def _hash_lines(offered: Offers, offer: Offer, goes_on: Callable[[], bool]) -> Iterator[bytes]:
    """Yield a line about once a second, and one with each hash."""
    told = time.monotonic()
    for number, file in enumerate(offer.files):
        if file.sha256:
            yield _line(HashLine(number, file.size, file.sha256))
            continue
        for done, sha256 in offered.hash(file):
            if not goes_on():
                return
            now = time.monotonic()
            if sha256 or now - told >= _PAUSE:
                told = now
                yield _line(HashLine(number, done, sha256 or None))


def _line(line: HashLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"
