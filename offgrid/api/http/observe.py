"""Observes every request: gives it an id, and notes what becomes of it.

This is the outermost middleware, so it sees every request that the application gets, and its
response last. A streamed response ends when the server closes its body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import falcon

from offgrid import record as records
from offgrid.api.http.error_bodies import speaks_anthropic
from offgrid.api.http.request import liveness
from offgrid.api.http.request_id import request_id
from offgrid.api.http.request_log import RequestLog
from offgrid.api.http.streamed import StreamedBody
from offgrid.api.http.waitress.environ import BODY
from offgrid.caller import Caller
from offgrid.config import Commit, Settings
from offgrid.record import Outcome, Record
from offgrid.stats.collected import Stats

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Methods that are told apart; a client may send any word."""
OTHER = "OTHER"
OPENAI_VERSION = "2020-10-01"
"""The version of OpenAI's API whose shapes the answers have."""
_GONE = 499
"""The status of a request whose client left before the end, as in nginx."""


class Observer:
    """Middleware that observes requests.

    Args:
        stats: hears of each request.
        log: writes a line for each request.
        log_prompts: whether bodies of requests may be logged.
    """

    def __init__(self, stats: Stats, log: RequestLog, *, log_prompts: bool = False) -> None:
        self.stats = stats
        self.log = log
        self.endpoint_at: Callable[[str], str] = lambda path: ""
        """Returns the endpoint of a path; empty if no route matches."""
        self._log_prompts = log_prompts

    def prepare(self, settings: Settings) -> Commit:
        """Take a new ``log_prompts``."""

        def commit() -> None:
            self._log_prompts = settings.log_prompts

        return commit

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Begin the record of a request."""
        record = Record(
            request_id(req.env.get("HTTP_X_REQUEST_ID")),
            method_of(req.method),
            path=req.path,
            sink=self._note,
            shows_body=self._log_prompts,
        )
        req.context.record = record
        records.begin(record)
        self.log.begun(record, req.content_length or 0)

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Note who asks for what, before any part of the request can end."""
        record: Record = req.context.record
        record.endpoint = endpoint_of(req.uri_template)
        record.caller = getattr(req.context, "caller", record.caller)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Set the headers; end the record, now or at the end of the stream."""
        record: Record = req.context.record
        record.caller = getattr(req.context, "caller", record.caller)
        record.status = record.status or resp.status_code
        resp.set_header("x-request-id", record.id)
        if speaks_anthropic(req.path, req.env.get("HTTP_ANTHROPIC_VERSION")):
            resp.set_header("request-id", record.id)
        resp.set_header("openai-version", OPENAI_VERSION)
        passed = time.monotonic() - record.began
        resp.set_header("openai-processing-ms", str(round(1000 * passed)))
        if resp.stream is None:
            self.end(record)
        else:
            resp.stream = _Observed(resp.stream, self, record, liveness(req))
            req.env[BODY] = resp.stream

    def end(self, record: Record, *, told: bool = True) -> None:
        """End a record: count the request, and log it unless ``told`` is false."""
        if record.ended:
            return
        _learn(record)
        if not record.endpoint:  # it was refused before a route was looked up
            record.endpoint = self.endpoint_at(record.path)
        record.seconds = time.monotonic() - record.began
        self.stats.ended(record)
        if told:
            self.log.ended(record)

    def refused(self, method: str, path: str, status: int, code: str, address: str) -> str:
        """Note a request that was refused before the application saw it; return its id."""
        record = Record(request_id(None), method_of(method), path=path, status=status, code=code)
        record.caller = Caller(address, address=address)
        self.end(record)
        return record.id

    def _note(self, record: Record, outcome: Outcome) -> None:
        self.stats.note(record, outcome)
        if record.ended and outcome.generates:
            self.log.answered_later(record)


class _Observed(StreamedBody):
    """The body of a streamed response; its end is the end of the request."""

    def __init__(
        self, body: Any, observer: Observer, record: Record, alive: Callable[[], bool]
    ) -> None:
        super().__init__(body)
        self._alive = alive
        self._observer = observer
        self._record = record

    def ended(self) -> None:
        self._end()
        records.end()

    def dropped(self) -> None:
        # A destructor may run inside any line, also inside one of the log, so it logs nothing.
        if not self._record.ended:
            self._end(told=False)

    def _end(self, *, told: bool = True) -> None:
        _learn(self._record)
        aborted = any(
            reason == "abort" for one in self._record.outcomes for reason, _ in one.finished
        )
        if not self.whole or (aborted and not self._alive()):
            self._record.failed(_GONE, "client_gone")
        self._observer.end(self._record, told=told)


def _learn(record: Record) -> None:
    """Note the error with which a part of the request failed."""
    for outcome in tuple(record.outcomes):
        if outcome.status:
            record.failed(outcome.status, outcome.code)


def method_of(method: str) -> str:
    """Return a method as statistics name it."""
    return method if method in METHODS else OTHER


def endpoint_of(template: str | None) -> str:
    """Return the endpoint of a route's template; empty if no route matches."""
    return (template or "").replace(":path}", "}")
