"""The meter of a request: what it uses of its caller's limits; and the middleware that refuses
requests of callers who have used theirs up.

**What counts.** Every request that takes a place at the gate counts as one request, except for
requests for the history, for imports and for exports, and as running until its last byte is on its
way. A response in the background runs until its answer is complete. Requests for stored responses
and conversations wait for no model, and do not count as running: a caller whose responses in the
background are all that it may have at once can still read them and cancel them. Tokens are those of
``usage``: the prompt once, and the answers of all choices.

**When tokens are charged.** A prompt is charged when it is tokenised, the answer while it is
generated. ``max_tokens`` is not reserved: most requests set none, so a reservation would be the
rest of the context, and a caller with room for 4,000 tokens could ask nothing. So a request may use
more than is left. It is never cut short for that; its caller owes the rest, and waits longer for
the next request.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import falcon

from offgrid.api.fields import bounds
from offgrid.api.fields.bounds import NO_BOUNDS, Bounds
from offgrid.api.http.caller import caller
from offgrid.api.http.gate import never_waits
from offgrid.api.http.once import Once
from offgrid.api.http.rates import Account, Accounts, shown
from offgrid.api.http.streamed import Leaving
from offgrid.api.http.waitress.environ import on_peers_port
from offgrid.caller import Caller, Limits
from offgrid.config import Commit, Settings
from offgrid.errors import RateLimited

LIVE = (
    "requests_per_minute", "tokens_per_minute", "concurrent_requests", "max_tokens", "max_messages",
    "max_json_depth", "max_schema_kb", "request_timeout",
)  # fmt: skip
"""Settings that can be changed while the server runs."""
_STORED = re.compile(
    r"(?:GET|HEAD|DELETE) /v1/responses/.*|POST /v1/responses/[^/]+/cancel|"
    r"[A-Z]+ /v1/conversations(?:/.*)?"
)
"""Requests for what is stored."""
_PATIENT = 4
"""Refusals after which a caller with too many running requests is told to wait a second longer."""
_LONGEST_PAUSE = 30
"""Most seconds that such a caller is told to wait."""


_FREE = ("/v1/history", "/v1/import", "/v1/export")
"""Requests to these paths, and to those below them, do not count."""


def counts(method: str, path: str) -> bool:
    """Return whether a request counts for the limits of its caller. Requests for the history and
    for imports and exports do not: they use no model, and an open page asks for changes every few
    seconds, or follows a copy that takes an hour."""
    is_free = any(path == free or path.startswith(f"{free}/") for free in _FREE)
    return not (is_free or never_waits(method, path))


class Meter:
    """The meter of a request without limits: it measures nothing."""

    counts_tokens = False
    """Whether tokens are to be charged."""

    def hold(self) -> Callable[[], None]:
        """Count the request as running until the returned function is called, even if its response
        ends before. Idempotent."""
        return lambda: None

    def prompt(self, tokens: int) -> None:
        """Charge the tokens of a prompt, or of all inputs.

        Raises:
            RateLimited: it is the first prompt of the request, and has more tokens than are left.
        """

    def charge(self, tokens: int) -> None:
        """Charge the tokens of an answer."""


class CallerMeter(Meter):
    """The meter of a request whose caller is limited.

    Args:
        accounts: the usage of all callers.
        who: the caller.
        limits: its limits in force.
        runs: whether the request counts as running.
    """

    def __init__(
        self, accounts: Accounts, who: Caller, limits: Limits, *, runs: bool = True
    ) -> None:
        self._accounts = accounts
        self._limits = limits
        self._runs = int(runs)
        self._caller = who.id
        self._name = _named(who)
        self._account = Account()
        self._begun = False
        self._holds = 0
        self.counts_tokens = bool(limits.tokens_per_minute)
        self.leave = Once(self._leave)
        """Ends the request, unless :meth:`hold` continues it."""

    def admit(self) -> None:
        """Count the request.

        Raises:
            RateLimited: the caller has used up one of its limits; nothing is counted.
        """
        limits, accounts = self._limits, self._accounts
        with accounts.lock:
            now = accounts.clock()
            account = self._account = accounts.of(self._caller)
            most = limits.concurrent_requests
            if most and self._runs and account.running >= most:
                account.refused += 1
                raise self._too_many_at_once(most)
            per_minute = limits.requests_per_minute
            if per_minute:
                wait = account.requests.wait(1, per_minute, now)
                if wait:
                    raise self._used_up("requests", per_minute, wait)
            if limits.tokens_per_minute:
                wait = account.tokens.wait(1, limits.tokens_per_minute, now)
                if wait:
                    raise self._used_up("tokens", limits.tokens_per_minute, wait)
            if per_minute:
                account.requests.take(1, per_minute, now)
            account.refused = 0
            account.running += self._runs
            self._holds = 1

    def hold(self) -> Callable[[], None]:
        with self._accounts.lock:
            self._holds += 1
        return Once(self._leave)

    def _leave(self) -> None:
        self._accounts.lock.later(self._release)

    def _release(self) -> None:
        """Give back one hold. Called with the lock held."""
        if not self._holds:  # it was refused
            return
        self._holds -= 1
        if not self._holds:
            self._account.running -= self._runs

    def prompt(self, tokens: int) -> None:
        limit = self._limits.tokens_per_minute
        if not limit:
            return
        with self._accounts.lock:
            bucket, now = self._account.tokens, self._accounts.clock()
            wait = 0.0 if self._begun else bucket.wait(tokens, limit, now)
            if not wait:
                self._begun = True
                bucket.take(tokens, limit, now)
                return
        if tokens > limit:
            raise RateLimited(
                f"{self._name} may use {limit} tokens per minute, and the prompt alone has "
                f"{tokens}; shorten it.",
                "tokens",
                None,
            )
        raise self._used_up("tokens", limit, wait, f" The prompt has {tokens} tokens.")

    def charge(self, tokens: int) -> None:
        limit, bucket = self._limits.tokens_per_minute, self._account.tokens
        # A request whose prompt was refused may have got tokens before it was cancelled.
        if limit and self._begun:
            accounts = self._accounts
            accounts.lock.later(lambda: bucket.take(tokens, limit, accounts.clock()))

    def headers(self) -> dict[str, str]:
        """Return the headers that tell the client its limits, as OpenAI's API does."""
        account, found = self._account, {}
        with self._accounts.lock:
            now = self._accounts.clock()
            for kind, limit, bucket in (
                ("requests", self._limits.requests_per_minute, account.requests),
                ("tokens", self._limits.tokens_per_minute, account.tokens),
            ):
                if limit:
                    found[f"x-ratelimit-limit-{kind}"] = str(limit)
                    found[f"x-ratelimit-remaining-{kind}"] = str(bucket.left(limit, now))
                    found[f"x-ratelimit-reset-{kind}"] = shown(bucket.reset(limit, now))
        return found

    def _used_up(
        self, kind: Literal["requests", "tokens"], limit: int, wait: float, more: str = ""
    ) -> RateLimited:
        text = f"{self._name} may use {limit} {kind} per minute and has used them."
        return RateLimited(f"{text}{more} Try again in {shown(wait)}.", kind, wait)

    def _too_many_at_once(self, most: int) -> RateLimited:
        # When the running requests will end is unknown. A client that only repeats its request is
        # told to wait longer and longer.
        wait = min(_LONGEST_PAUSE, 1 + self._account.refused // _PATIENT)
        return RateLimited(
            f"{self._name} may have {most} requests at once; wait until one of them has ended.",
            "requests",
            wait,
        )


class _Served(threading.local):
    """The request that a thread serves."""

    meter: Meter


FREE = Meter()
_Served.meter = FREE
_served = _Served()


def meter() -> Meter:
    """Return the meter of the request that this thread serves."""
    return _served.meter


def smaller(*limits: Limits) -> Limits:
    """Return for each limit the smallest of those that are set; 0 counts as not set."""

    def least(name: str) -> int | None:
        return min((value for one in limits if (value := getattr(one, name))), default=None)

    return Limits(*(least(name) for name in Limits.__slots__))


class RateLimits:
    """Refuses the requests of callers who have used up their limits; tells each its limits.

    A refusal is cheap: it comes before the request takes a place at the gate, and before its body
    is parsed.
    """

    def __init__(self, settings: Settings, accounts: Accounts | None = None) -> None:
        self._accounts = Accounts() if accounts is None else accounts
        self._settings = settings

    def prepare(self, settings: Settings) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`. What was used stays used."""

        def commit() -> None:
            self._settings = settings

        return commit

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Count the request, or raise RateLimited."""
        settings, who = self._settings, caller()
        limits = smaller(of_settings(settings), who.limits, _of_sender(req.env))
        bounds.begin(_bounds(settings, limits))
        _served.meter = FREE
        counted = limits.requests_per_minute or limits.tokens_per_minute
        if not (counted or limits.concurrent_requests) or not counts(req.method, req.path):
            return
        # A request without a valid key is refused by Authorize. If it counted here, a client with
        # many addresses could make the server forget the accounts of keys.
        if getattr(req.context, "refusal", None) is not None:
            return
        own = CallerMeter(
            self._accounts, who, limits, runs=_STORED.fullmatch(f"{req.method} {req.path}") is None
        )
        req.context.meter = own
        own.admit()
        _served.meter = own

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Set the headers; end the request now or at the end of the stream."""
        _served.meter = FREE
        bounds.begin(NO_BOUNDS)
        own: CallerMeter | None = getattr(req.context, "meter", None)
        if own is None:
            return
        resp.set_headers(own.headers())
        if resp.stream is None:
            own.leave()
        else:
            resp.stream = Leaving(resp.stream, own.leave)


def of_settings(settings: Settings) -> Limits:
    """Return the limits of every caller; 0 in the settings means none."""
    return Limits(
        settings.requests_per_minute or None,
        settings.tokens_per_minute or None,
        settings.concurrent_requests or None,
        settings.max_tokens or None,
    )


def _of_sender(env: Mapping[str, Any]) -> Limits:
    """Return the limits of the caller whose request a peer has forwarded; it sends them along."""
    most = env.get("HTTP_X_OFFGRID_MAX_TOKENS", "") if on_peers_port(env) else ""
    return Limits(max_tokens=int(most)) if len(most) < 10 and most.isdecimal() else Limits()


def _bounds(settings: Settings, limits: Limits) -> Bounds:
    timeout = settings.request_timeout
    found = Bounds(
        max_tokens=limits.max_tokens,
        max_messages=settings.max_messages,
        max_depth=settings.max_json_depth,
        max_schema=settings.max_schema_kb << 10,
    )
    if not timeout:
        return found
    return Bounds(
        found.max_tokens, found.max_messages, found.max_depth, found.max_schema, timeout,
        time.monotonic() + timeout,
    )  # fmt: skip


def _named(who: Caller) -> str:
    """Return what messages call a caller. They come to users of a peer too, who must not take its
    limits for those of their keys."""
    if who.is_machine:
        return f"The machine {who.name}"
    return "This key" if who.has_key else "This address"
