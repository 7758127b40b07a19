"""Adds up what becomes of requests.

A request may end on any thread, even on one that collects garbage while it holds a lock. So the end
of a request is only put into a queue, and the thread that reads the statistics, or that has put the
last of many requests into the queue, adds it up.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from offgrid.record import Outcome, Record
from offgrid.stats.histogram import Histogram, Latest
from offgrid.stats.totals import OTHERS, Totals, TotalsFile, Used, now

UNKNOWN = "(unknown)"
"""The endpoint of requests that no route matches."""
_MANY = 256
"""Ends in the queue after which a request adds them up, even if no client asks."""
_ATTEMPTS = 3
"""How often saving begins again because another process has changed the file meanwhile."""
_MOST_MODELS = 256
"""Most models that have separate figures; a catalogue may change for months."""

_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
"""Bounds for times to the first token: as in vLLM."""
_PER_TOKEN = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
"""Bounds for times per token: vLLM's, and smaller ones for small models."""
_WHOLE = (
    0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
"""Bounds for times of requests and their parts: vLLM's, and smaller ones for small models."""
_TOKENS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000,
)  # fmt: skip

HISTOGRAMS: dict[str, tuple[float, ...]] = {
    "first_token": _SECONDS,
    "per_token": _PER_TOKEN,
    "request_per_token": _PER_TOKEN,
    "whole": _WHOLE,
    "queue": _WHOLE,
    "prefill": _WHOLE,
    "decode": _WHOLE,
    "inference": _WHOLE,
    "prompt_tokens": _TOKENS,
    "completion_tokens": _TOKENS,
}
"""What is counted by size -> its bounds, in seconds or tokens."""


class ModelFigures:
    """What requests for one model used and how long they took, since the server was started.

    Attributes:
        used: requests and tokens.
        drafted: proposed tokens.
        draft_accepted: how many of these are in the answers.
        finished: number of choices that ended for each reason.
        histograms: of :data:`HISTOGRAMS`.
        first_token: seconds to the first token, of the latest requests.
        per_token: mean seconds per token after the first.
        whole: seconds of whole requests.
    """

    def __init__(self) -> None:
        self.used = Used()
        self.drafted = 0
        self.draft_accepted = 0
        self.finished: Counter[str] = Counter()
        self.histograms = {name: Histogram(bounds) for name, bounds in HISTOGRAMS.items()}
        self.first_token = Latest()
        self.per_token = Latest()
        self.whole = Latest()

    def add(self, record: Record, outcome: Outcome) -> None:
        """Add a part of a request."""
        self.used.add(
            Used(0, outcome.prompt_tokens, outcome.cached_tokens, outcome.completion_tokens)
        )
        if not outcome.generates:
            return
        self.drafted += outcome.drafted
        self.draft_accepted += outcome.draft_accepted
        self.finished.update(dict(outcome.finished))
        many = self.histograms
        if outcome.prompt_tokens:
            many["prompt_tokens"].observe(outcome.prompt_tokens)
        if outcome.queue is not None:
            many["queue"].observe(outcome.queue)
        if outcome.prefill is not None:
            many["prefill"].observe(outcome.prefill)
        if outcome.first_token is None:
            return
        first = outcome.first_token - record.began
        many["first_token"].observe(first)
        self.first_token.add(first)
        many["completion_tokens"].observe(outcome.completion_tokens)
        many["decode"].observe(outcome.decode)
        many["inference"].observe((outcome.prefill or 0.0) + outcome.decode)
        if outcome.steps:
            mean = outcome.decode / outcome.steps
            # The times of single tokens are not noted, which would cost time for each of them.
            many["per_token"].observe(mean, outcome.steps)
            many["request_per_token"].observe(mean)
            self.per_token.add(mean)

    def end(self, seconds: float) -> None:
        """Note the end of a whole request."""
        self.used.requests += 1
        self.histograms["whole"].observe(seconds)
        self.whole.add(seconds)


class Stats:
    """The statistics of a server. Thread-safe.

    Args:
        file: keeps the totals.
        wall: returns seconds since 1970.

    Attributes:
        began: when the server was started, in seconds of ``time.monotonic``.
        started: the same in seconds since 1970.
    """

    def __init__(self, file: TotalsFile, wall: Callable[[], float] = now) -> None:
        self.began = time.monotonic()
        self.started = wall()
        self._file = file
        self._ends: deque[tuple[Record, Outcome | None]] = deque()
        self._lock = threading.Lock()
        """Guards what follows. It is held for moments, and never while a file is used."""
        self._run = Totals(self.started)
        self._fresh = Totals(self.started)
        """What is not in the file yet."""
        self._kept = Totals(self.started)
        """What is in the file."""
        self._models: dict[str, ModelFigures] = {}
        self._forwarded: dict[tuple[str, str], tuple[int, float]] = {}
        """(name of a peer, class of status) -> requests that were forwarded to it, and their
        seconds. Names are bounded: there are few peers."""
        self._saving = threading.Lock()
        """Held while the file is used."""

    # --- from requests ------------------------------------------------------------------------

    def note(self, record: Record, outcome: Outcome) -> None:
        """Note a part of a request that has ended. Takes no lock."""
        self._ends.append((record, outcome))

    def ended(self, record: Record) -> None:
        """Note the end of a request. Never waits."""
        self._ends.append((record, None))
        if len(self._ends) >= _MANY and self._lock.acquire(blocking=False):
            try:
                self._add_up()
            finally:
                self._lock.release()

    def _add_up(self) -> None:
        """Add up the ends in the queue. Called with the lock held."""
        for _ in range(len(self._ends)):
            try:
                record, outcome = self._ends.popleft()
            except IndexError:
                return
            if outcome is None:
                self._end(record)
            else:
                self._part(record, outcome)

    def _part(self, record: Record, outcome: Outcome) -> None:
        self._model(outcome.model).add(record, outcome)
        used = Used(0, outcome.prompt_tokens, outcome.cached_tokens, outcome.completion_tokens)
        for totals in (self._run, self._fresh):
            totals.add_model(outcome.model, used)
            if record.caller.has_key:
                totals.add_key(record.caller.id, record.caller.name, used)

    def _end(self, record: Record) -> None:
        status = f"{record.status // 100}xx"
        if record.peer:
            number, seconds = self._forwarded.get((record.peer, status), (0, 0.0))
            self._forwarded[record.peer, status] = (number + 1, seconds + record.seconds)
        model = record.outcomes[0].model if record.outcomes else ""
        if model:
            self._model(model).end(record.seconds)
        for totals in (self._run, self._fresh):
            totals.count(record.method, record.endpoint or UNKNOWN, status)
            if model:
                totals.add_model(model, Used(1))
            if record.caller.has_key:
                totals.add_key(record.caller.id, record.caller.name, Used(1))

    def _model(self, name: str) -> ModelFigures:
        if name not in self._models and len(self._models) >= _MOST_MODELS:
            name = OTHERS
        return self._models.setdefault(name, ModelFigures())

    # --- for readers --------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[tuple[Totals, dict[str, ModelFigures]]]:
        """Give what was counted since the server was started: totals, and figures by model. They do
        not change inside the block."""
        with self._lock:
            self._add_up()
            yield self._run, self._models

    def forwarded(self) -> dict[tuple[str, str], tuple[int, float]]:
        """Return how many requests were forwarded since the server was started, and their seconds
        added up, by the name of the peer and the class of the status."""
        with self._lock:
            self._add_up()
            return dict(self._forwarded)

    def posts(self) -> tuple[int, int, int]:
        """Return how many POST requests have ended since the server was started: with a status
        below 400, with 4xx and with 5xx."""
        with self._lock:
            self._add_up()
            counts = {"4xx": 0, "5xx": 0, "": 0}
            for (method, _, status), number in self._run.requests.items():
                if method == "POST":
                    counts[status if status in counts else ""] += number
        return counts[""], counts["4xx"], counts["5xx"]

    def totals(self) -> Totals:
        """Return all totals, with those of earlier runs."""
        with self._lock:
            self._add_up()
            return self._sum()

    def _sum(self) -> Totals:
        total = Totals(self._kept.since)
        total.add(self._kept)
        total.add(self._fresh)
        return total

    # --- the file -----------------------------------------------------------------------------

    def load(self) -> None:
        """Read the totals of earlier runs."""
        with self._saving:
            kept = self._file.load()
            if kept is not None:
                with self._lock:
                    self._kept = kept

    def save(self, *, wait: bool = True) -> None:
        """Write the totals, if they have changed.

        The file may have changed since it was read: another server has added to it, or a backup was
        restored. So this adds only what was counted since the last save, to what the file has now.

        Args:
            wait: whether to wait for a thread that uses the file; if not, nothing is written then.
        """
        if not self._saving.acquire(blocking=wait):
            return
        try:
            for _ in range(_ATTEMPTS):
                if self._save() or not self._file.changed:
                    return
        finally:
            self._saving.release()

    def _save(self) -> bool:
        """Try to write the totals; return whether the file has them."""
        changed = self._file.changed
        with self._lock:
            self._add_up()
            if not self._fresh and not changed:
                return True
        kept = self._file.load()
        with self._lock:
            self._add_up()
            before = self._kept = self._kept if kept is None else kept
            if not self._fresh:
                return True
            fresh, total = self._fresh, self._sum()
            self._fresh, self._kept = Totals(self.started), total
        if self._file.save(total):
            return True
        with self._lock:  # another time
            fresh.add(self._fresh)
            self._fresh, self._kept = fresh, before
        return False
