"""One log line for each request, when it has ended.

A line has no text of a prompt, an answer or a key, and of the URL at most the path. Refusals that
repeat are counted, so that a client that repeats them cannot fill the disk.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from offgrid.config import is_loopback
from offgrid.record import Record

log = logging.getLogger("offgrid.requests")

WINDOW = 10.0
"""Seconds in which refusals like one in the log are only counted."""
_MOST_KINDS = 256
"""Kinds of refusals that are told apart at a time."""
_MAX_PATH = 100
_QUIET = frozenset({
    "/health", "/ready", "/metrics", "/v1/stats", "/v1/stats/series", "/v1/stats/slots",
    "/ui/{path}", "/favicon.ico", "/v1/history", "/v1/history/{id}", "/v1/history/{id}/messages",
    "/peer/alive", "/peer/models", "/peer/models/{rest}", "/peer/status", "/v1/peers",
    "/v1/peers/pair",
})  # fmt: skip
"""Endpoints that monitors, the page and peers ask all the time, files of the page, and parts of
files that peers copy: their answers are logged at ``debug`` only, except for deletions. What a
pairing does has its own lines."""
_PLAIN = re.compile(r"[\w.:/+=@(){}-]+", re.ASCII)

Kind = tuple[int, str, str, str, str]


@dataclass(slots=True)
class _Repeated:
    """Refusals of one kind: when the first was logged, and how many came since."""

    since: float
    more: int = 0


class RequestLog:
    """Logs requests. Thread-safe.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._repeated: dict[Kind, _Repeated] = {}

    def begun(self, record: Record, body: int) -> None:
        """Log at ``debug`` that a request has come; ``body`` is its size in bytes."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s begins: %d bytes id=%s", record.method, _path(record), body, record.id)

    def ended(self, record: Record) -> None:
        """Log the end of a request, or count it if it was refused like many before."""
        is_quiet = record.endpoint in _QUIET and record.method != "DELETE"
        if is_quiet and record.status < 400:
            level = logging.DEBUG
        else:
            # 503 is how a busy server answers.
            failed = record.status >= 500 and record.status != 503
            level = logging.WARNING if failed else logging.INFO
        if log.isEnabledFor(level) and not (record.status >= 400 and self._repeats(record)):
            fields = fields_of(record)
            log.log(level, "%s", line_of(record, fields), extra={"fields": fields})

    def answered_later(self, record: Record) -> None:
        """Log the end of a background response, whose request has ended before."""
        fields = fields_of(record)
        log.info(
            "%s %s answered in the background:%s", record.method, _path(record), _written(fields),
            extra={"fields": fields},
        )  # fmt: skip

    def _repeats(self, record: Record) -> bool:
        """Whether a refusal is like one that was logged lately; it is counted then."""
        if record.status == 499:
            return False
        kind = (record.status, record.code, record.method, record.endpoint, record.caller.id)
        now = self._clock()
        due: list[tuple[Kind, _Repeated]] = []
        with self._lock:
            known = self._repeated.get(kind)
            if known is None and len(self._repeated) >= _MOST_KINDS:
                kind = (record.status, "", "", "", "")
                known = self._repeated.get(kind)
            if known is not None and now - known.since < WINDOW:
                known.more += 1
                return True
            if known is not None:
                due.append((kind, known))
            self._repeated[kind] = _Repeated(now)
        self._tell(due)
        return False

    def tell_repeated(self, all: bool = False) -> None:
        """Log how many refusals were counted, for those kinds whose time is over, or for all."""
        now = self._clock()
        with self._lock:
            due = [pair for pair in self._repeated.items() if all or now - pair[1].since >= WINDOW]
            for kind, _ in due:
                del self._repeated[kind]
        self._tell(due)

    @staticmethod
    def _tell(due: list[tuple[Kind, _Repeated]]) -> None:
        for (status, code, method, endpoint, _), repeated in due:
            if repeated.more:
                what = " ".join(filter(None, (method, endpoint, str(status), code)))
                log.info("%s: and %d more like it in %.0f s", what, repeated.more, WINDOW)


def show_body(record: Record, raw: bytes) -> None:
    """Log the body of a request at ``debug``. Call it only if the record shows its body."""
    log.debug("id=%s body: %s", record.id, raw.decode("utf-8", "replace"))


def fields_of(record: Record) -> dict[str, Any]:
    """Return what a log line says of a request, in order; the names are those of the line."""
    outcomes = tuple(record.outcomes)
    fields: dict[str, Any] = {
        "method": record.method, "path": _path(record), "status": record.status,
        "seconds": round(max(record.seconds, 0.0), 3),
    }  # fmt: skip
    if record.code:
        fields["code"] = record.code
    if outcomes or record.model:
        fields["model"] = record.model or outcomes[0].model
    if record.peer:
        fields["peer"] = record.peer
    caller = record.caller
    if caller.has_key:
        fields["key"] = caller.name or caller.id
    elif caller.address not in ("", "unix") and not is_loopback(caller.address):
        fields["from"] = caller.address
    if outcomes:
        completion = sum(one.completion_tokens for one in outcomes)
        fields["in"] = sum(one.prompt_tokens for one in outcomes)
        fields["cached"] = sum(one.cached_tokens for one in outcomes)
        fields["out"] = completion
        first = min((one.first_token for one in outcomes if one.first_token), default=None)
        if first is not None:
            fields["first"] = round(first - record.began, 3)
        seconds, steps = sum(one.decode for one in outcomes), sum(one.steps for one in outcomes)
        if steps and seconds > 0:
            fields["speed"] = round(steps / seconds, 1)
    fields["id"] = record.id
    return fields


def line_of(record: Record, fields: dict[str, Any]) -> str:
    """Return the line of a request."""
    begin = f"{record.method} {_path(record)} {record.status} {fields['seconds']:.3f}s"
    return f"{begin}{_written(fields)}"


def _written(fields: dict[str, Any]) -> str:
    """Return the fields that are not at the beginning of the line."""
    units = {"first": "s", "speed": "/s"}
    rest = {k: v for k, v in fields.items() if k not in ("method", "path", "status", "seconds")}
    return "".join(f" {name}={_value(value)}{units.get(name, '')}" for name, value in rest.items())


def _value(value: object) -> str:
    """Return a value as it stands in a line, in quotes if it could be mistaken for two."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _path(record: Record) -> str:
    """Return the template of the path, or the beginning of an unknown path."""
    return record.endpoint or _value(record.path[:_MAX_PATH])
