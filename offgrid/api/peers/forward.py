"""Middleware: requests for a model that only peers have are sent to one of them.

It comes after all checks of the request: its key, the scopes, the limits, the place at the gate.
Models of this machine come first, and a request that a peer has sent is never sent on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import falcon
import msgspec

from offgrid.api.fields import notices
from offgrid.api.fields.bounds import bounds
from offgrid.api.http.caller import caller
from offgrid.api.http.memory import was_large
from offgrid.api.http.refusals import ModelForbidden
from offgrid.api.http.request import LARGE, in_turn, liveness, read_raw
from offgrid.api.http.waitress.environ import on_peers_port, when_gone
from offgrid.api.peers.endpoints import ENDPOINTS, PEER, PEER_REQUEST, QUERIES, Endpoint, Fields
from offgrid.api.peers.relayed import RelayedBody, RelayedStream, read_whole
from offgrid.api.screening import in_force
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import NotForwarded
from offgrid.peers.forwarding.forwarding import Forwarding
from offgrid.peers.forwarding.known import Found
from offgrid.peers.forwarding.running import Outgoing, Running
from offgrid.peers.peers import Peers
from offgrid.record import Record

FORWARDED = "x-offgrid-forwarded"
"""Header of a forwarded request: the id of the machine that has forwarded it."""
MAX_TOKENS = "x-offgrid-max-tokens"
"""Header of a forwarded request: most tokens of an answer, from the limits of its caller."""
_SENT = (
    "accept", "anthropic-beta", "anthropic-version", "content-type", "openai-beta",
    "x-offgrid-wait",
)  # fmt: skip
"""Headers of a client that a peer gets: none that says who the client is."""
_RELAYED = (
    "cache-control", "content-type", "retry-after", "retry-after-ms", "x-accel-buffering",
    "x-offgrid-ignored", "x-offgrid-seed", "x-offgrid-warning", "x-should-retry",
)  # fmt: skip
"""Headers of a peer that a client gets."""
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""A value that a header may have: without control characters, such as the ends of lines in a value
that is continued on the next line."""
_STREAMS = ("text/event-stream", "application/x-ndjson")
_BODILESS = (204, 304)
"""Statuses of responses without a body: the framework drops what they are given as one."""
_decoder = msgspec.json.Decoder(Fields)


class Forward:
    """Forwards requests.

    Args:
        forwarding: sends requests to peers; None if peers are off.
        pool: knows the models of this machine.
        settings: the largest body, and this machine's name among its peers.
        sender: id of this machine.
    """

    def __init__(
        self, forwarding: Forwarding | None, pool: EnginePool, settings: Settings, sender: str = ""
    ) -> None:
        self._forwarding = forwarding
        self._pool = pool
        self._max_body = settings.max_body_mb << 20
        self._sender = sender

    @classmethod
    def of(cls, peers: Peers | None, pool: EnginePool, settings: Settings) -> Forward:
        """Return what a server needs."""
        if peers is None:
            return cls(None, pool, settings)
        return cls(peers.forwarding, pool, settings, peers.identity.id)

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Answer the request if it is for a model of a peer; otherwise let it pass."""
        forwarding = self._forwarding
        if forwarding is None or is_forwarded(req) or not forwarding.where.listed():
            return
        if req.method == "POST":
            endpoint = ENDPOINTS.get(req.path)
        else:
            endpoint = QUERIES.get(req.path) if req.method == "GET" else None
        if endpoint is None:
            return
        body = read_raw(req, self._max_body) if req.method == "POST" else None
        fields = _fields_of(req, body)
        found = [] if fields is None else self._found(endpoint.names(fields))
        if fields is None or not found:
            return
        self._pool.line.check_draining()
        _check_filter(found[0])
        endpoint.check(fields, found[0].peer.name)
        self._answer(req, resp, endpoint, found, body)
        _note_store(resp, fields)

    def _found(self, names: list[str]) -> list[Found]:
        """Return the models of peers that a name means, if it means none of this machine.

        Raises:
            ModelForbidden: its caller may not use the model.
        """
        return next(filter(None, (find(self._forwarding, self._pool, name) for name in names)), [])

    def _answer(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        endpoint: Endpoint,
        found: list[Found],
        body: bytes | None,
    ) -> None:
        """Send the request to one of its peers, and make a response of that peer's response."""
        assert self._forwarding is not None
        record: Record = req.context.record
        record.peer, record.model = found[0].peer.name, found[0].model.id
        running = self._forwarding.send(found, self._outgoing(req, body))
        try:
            record.peer = running.peer.name
            resp.status = running.response.status
            for name, value in _headers_of(running).items():
                resp.set_header(name, value)
            _relay(req, resp, endpoint, running)
        except BaseException:
            running.close()
            raise
        resp.complete = True
        if body is not None and len(body) >= LARGE:
            was_large()

    def _outgoing(self, req: falcon.Request, body: bytes | None) -> Outgoing:
        """Return the request for a peer."""
        headers = {name: value for name in _SENT if (value := req.get_header(name)) is not None}
        headers |= {FORWARDED: self._sender, "x-request-id": req.context.record.id}
        limits = bounds()
        if limits.max_tokens is not None:
            headers[MAX_TOKENS] = str(limits.max_tokens)
        query = f"?{req.query_string}" if req.query_string else ""
        return Outgoing(
            req.method, quote(req.path) + query, headers, body,
            late=limits.check_time,
            deadline=limits.deadline if limits.timeout else math.inf,
            alive=liveness(req),
            gone=lambda leave: when_gone(req.env, leave),
        )  # fmt: skip


def is_forwarded(req: falcon.Request) -> bool:
    """Return whether a machine has forwarded a request to this one."""
    return on_peers_port(req.env) or req.get_header(FORWARDED) is not None


def find(forwarding: Forwarding | None, pool: EnginePool, name: str) -> list[Found]:
    """Return the models of peers that a name means, in the order in which they are asked; none if
    it means a model of this machine. An exact name of a peer's model is not taken for the beginning
    of one of this machine.

    Raises:
        ModelForbidden: the caller of this request may not use the model.
    """
    found = [] if forwarding is None else forwarding.where.find(name)
    if forwarding is None or not found or _is_own(pool, name, found[0]):
        return []
    models = caller().models
    if models is not None and found[0].model.id not in allowed_ids(forwarding, pool, models):
        raise ModelForbidden(caller(), name, models)
    return found


def _is_own(pool: EnginePool, name: str, found: Found) -> bool:
    entry = pool.look_up(name)
    return entry is not None and (name not in found.names or name in pool.names(entry))


def allowed_ids(forwarding: Forwarding, pool: EnginePool, models: frozenset[str]) -> frozenset[str]:
    """Return the ids of the models of peers that a caller may use.

    Args:
        forwarding: knows the models of peers.
        pool: knows the models of this machine. Their names stand for these, so a peer that uses one
            of them as an alias gives the caller nothing more.
        models: ids and aliases that the caller may use.
    """
    meant = (forwarding.where.meant(name) for name in models - pool.all_names())
    return frozenset(id for id in meant if id is not None)


def _fields_of(req: falcon.Request, body: bytes | None) -> Fields | None:
    """Return the fields of a body, or of the query; None if the body is no JSON object: then its
    resource says what is wrong with it."""
    if body is None:
        return Fields(model=req.get_param("model"))
    try:
        with in_turn():
            return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return None


def _check_filter(found: Found) -> None:
    """Refuse callers with a content filter: the peer would not apply it.

    Raises:
        NotForwarded: a filter is in force.
    """
    if in_force() is not None:
        raise NotForwarded(
            f"The model {found.model.id} is on the peer {found.peer.name}, and the content filter "
            "of this machine cannot be applied there. Use a model of this machine, or copy that "
            "one: offgrid import --from PEER MODEL.",
            "model",
        )


def _headers_of(running: Running) -> Mapping[str, str]:
    """Return the headers for the client."""
    given = running.response.headers
    sent = {name: name for name in _RELAYED} | {PEER_REQUEST: "x-request-id"}
    headers = {
        name: value
        for name, theirs in sent.items()
        if (value := given.get(theirs)) is not None and _VALUE.fullmatch(value)
    }
    headers[PEER] = quote(running.peer.name, safe=" ()+")
    return headers


def _relay(
    req: falcon.Request, resp: falcon.Response, endpoint: Endpoint, running: Running
) -> None:
    """Make a response body of a peer's.

    Raises:
        PeerLost: the peer was lost before the whole answer came.
    """
    record: Record = req.context.record
    kind = running.response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _STREAMS and running.response.status not in _BODILESS:
        framing = endpoint.framing(record.id)
        resp.stream = RelayedStream(running, framing, endpoint.ends, record.failed)
        return
    data, whole = read_whole(running)
    if whole:
        running.close()
        resp.data = data
    else:
        resp.stream = RelayedBody(data, running)


def _note_store(resp: falcon.Response, fields: Fields) -> None:
    """Say that a response is not stored, if that was asked for."""
    if fields.store is True:
        before = resp.get_header(notices.HEADER)
        resp.set_header(notices.HEADER, f"{before}, store" if before else "store")
