"""What the server notes about one request, for its log line and the statistics.

The middleware begins a record before any other code sees the request. Every part of the request
that a worker computes adds an :class:`Outcome` when it ends, on whatever thread that happens.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from offgrid.caller import LOCAL, Caller


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one prompt, one list of inputs, or one query of the tokeniser.

    Attributes:
        model: id of the model.
        prompt_tokens: of the prompt, or of all inputs; 0 if it was not accepted.
        cached_tokens: how many of these were cached.
        completion_tokens: of all choices.
        steps: how many of these have a token of the same choice before them.
        finished: how many choices ended for each reason: ``stop``, ``length``,
            ``content_filter``, ``abort`` (the client left, or the request gave up) or ``error``.
        drafted: proposed tokens.
        draft_accepted: how many of these are in the answers.
        queue: seconds until it got a slot; None if it got none.
        first_token: when its first token came (``time.monotonic``); None if none came.
        prefill: seconds in which its prompt was computed; None if it was not.
        decode: seconds from the first token of each choice to its last one, added up.
        generates: whether it is a prompt to be continued.
        status: HTTP status of the error with which it failed; 0 if it did not.
        code: code of that error.
    """

    model: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    finished: tuple[tuple[str, int], ...] = ()
    drafted: int = 0
    draft_accepted: int = 0
    queue: float | None = None
    first_token: float | None = None
    prefill: float | None = None
    decode: float = 0.0
    generates: bool = True
    status: int = 0
    code: str = ""


@dataclass(slots=True)
class Record:
    """One request.

    Attributes:
        id: ``x-request-id``.
        method: HTTP method; ``OTHER`` for one that no endpoint has.
        endpoint: template of its path, such as ``/v1/models/{model}``; empty if none matches.
        path: its path; a client may have sent any text.
        caller: who sent it.
        began: when the server began to answer it, in seconds of ``time.monotonic``.
        sink: hears each outcome, on the thread on which it ended. It takes no lock, because that
            may be a thread that collects garbage.
        outcomes: of the parts of the request that have ended.
        status: HTTP status of its response; 499 if the client left, and that of the error if a
            stream ends with one. 0 until it is known.
        code: code of its error.
        seconds: how long it took; negative until it has ended.
        shows_body: whether its body may be logged.
        peer: name of the peer to which it was forwarded; empty if it was not.
        model: id of the peer's model.
    """

    id: str
    method: str = ""
    endpoint: str = ""
    path: str = ""
    caller: Caller = LOCAL
    began: float = field(default_factory=time.monotonic)
    sink: Callable[[Record, Outcome], None] | None = None
    outcomes: deque[Outcome] = field(default_factory=deque)
    status: int = 0
    code: str = ""
    seconds: float = -1.0
    shows_body: bool = False
    peer: str = ""
    model: str = ""

    def report(self, outcome: Outcome) -> None:
        """Add an outcome. Called by any thread; takes no lock."""
        self.outcomes.append(outcome)
        if self.sink is not None:
            self.sink(self, outcome)

    def failed(self, status: int, code: str | None) -> None:
        """Note the error of the request; only the first one counts."""
        if not self.code:
            self.status, self.code = status, code or f"http_{status}"

    @property
    def ended(self) -> bool:
        """Whether its response is complete."""
        return self.seconds >= 0


class _Served(threading.local):
    """The request that a thread serves."""

    record: Record | None = None


_served = _Served()


def begin(record: Record) -> None:
    """Let a thread serve a request."""
    _served.record = record


def end() -> None:
    """Note that the thread serves no request any more."""
    _served.record = None


def current() -> Record | None:
    """Return the record of the request that this thread serves; None outside a request."""
    return _served.record


def label() -> str:
    """Return the id of the request that this thread serves; empty outside a request."""
    record = _served.record
    return "" if record is None else record.id
