"""Who may pass: the key of a request, its scope, and addresses that try wrong keys.

Requests are refused by default, in one place (:class:`Access`), and by the resource that Falcon has
found, never by a path or a host name. A resource says with ``scopes`` which scopes its methods
need; a resource that does not say it needs ``admin``. :func:`~offgrid.app.build_app` lists the
resource objects that anybody may use.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import falcon

from offgrid.addresses import group_of
from offgrid.api.http.refusals import Forbidden, KeysNotKnown, NotAuthenticated, TooManyAttempts
from offgrid.api.http.scopes import ADMIN, Needs, Scopes
from offgrid.caller import Caller
from offgrid.config import Commit, Settings
from offgrid.errors import ConfigError
from offgrid.store.key_ring import KeyRing, KeysUnavailable, Problem

log = logging.getLogger(__name__)

MOST_FAILURES = 20
"""Wrong keys that an address may send at once before it has to wait."""
FAILURE_SECONDS = 3.0
"""Seconds after which it may send another one."""
_MOST_ADDRESSES = 4096
"""Addresses that are remembered. The one that failed longest ago is forgotten first."""
_MAX_SECRET = 512
"""Characters of a header with a key; no key is as long."""
_HEADERS = ("HTTP_X_API_KEY", "HTTP_API_KEY")
_HOW = "Send it as Authorization: Bearer KEY (api_key in OpenAI's clients) or X-Api-Key: KEY."
_WHY: dict[Problem, str] = {
    "revoked": "The key {name} was revoked. Ask for another one.",
    "expired": "The key {name} has expired. Ask for another one.",
    "replaced": "This secret of the key {name} was replaced by a newer one. Use that one.",
}
"""Only the holder of a secret learns this."""


def secret_of(env: Mapping[str, Any]) -> str | None:
    """Return the key that a request sends, from its WSGI environment; None if it sends none.

    Raises:
        NotAuthenticated: it sends two different keys, or something else than a key.
    """
    found: list[str] = []
    given: str | None = env.get("HTTP_AUTHORIZATION")
    if given:
        scheme, _, secret = given.partition(" ")
        secret = secret.strip(" ")
        # Some clients send an empty key if none is configured.
        if scheme.lower() != "bearer":
            raise NotAuthenticated(f"The scheme of the Authorization header must be Bearer. {_HOW}")
        if secret:
            found.append(secret)
    found += [value for value in map(env.get, _HEADERS) if value]
    if not found:
        return None
    # The server joins repeated headers with a comma, and a proxy in front may read only one.
    if any("," in secret for secret in found):
        raise NotAuthenticated("A request must have only one header with a key; it has several.")
    if any(secret != found[0] for secret in found):
        raise NotAuthenticated(
            "The headers of the request have different keys. Send one key, in one header."
        )
    if len(found[0]) > _MAX_SECRET or any(c.isspace() for c in found[0]):
        raise NotAuthenticated(f"This is not a key. {_HOW}")
    return found[0]


class Failures:
    """Counts the wrong keys of each address. Thread-safe.

    Args:
        most: wrong keys that an address may send at once before it has to wait.
        seconds: after this time it may send one more.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        most: int = MOST_FAILURES,
        seconds: float = FAILURE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._seconds = seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """Group of addresses -> when its bucket is full again; the latest failure last."""

    def __len__(self) -> int:
        return len(self._full_at)

    def add(self, group: str) -> int:
        """Count a failure; return after how many seconds another one is allowed, 0 for now."""
        now = self._monotonic()
        with self._lock:
            full_at = max(self._full_at.pop(group, now), now)
            missing = (full_at - now) / self._seconds
            late = missing + 1 > self._most
            self._full_at[group] = full_at if late else full_at + self._seconds
            while len(self._full_at) > _MOST_ADDRESSES:
                self._full_at.popitem(last=False)
        if late:
            return math.ceil((missing + 1 - self._most) * self._seconds)
        if missing + 2 > self._most:
            log.warning("%s sends wrong keys; it has to wait before it may try more", group)
        return 0


class Access:
    """Decides which requests pass. Thread-safe.

    Attributes:
        ring: the keys.
        failures: counts wrong keys.
    """

    def __init__(self, ring: KeyRing, failures: Failures | None = None) -> None:
        self.ring = ring
        self.failures = failures or Failures()

    def admit(self, env: Mapping[str, Any], address: str) -> Caller:
        """Return the caller of a request.

        A valid key passes however many wrong ones came from its address: several machines may share
        an address, and a key cannot be guessed.

        Args:
            env: its WSGI environment.
            address: the IP address that it came from; empty for a Unix socket.

        Raises:
            NotAuthenticated: it has no valid key, and it needs one.
            TooManyAttempts: the same, and too many came from this address.
            KeysNotKnown: the keys file cannot be read.
        """
        try:
            if not self.ring.needed:
                return Caller(group_of(address), address=address)
            return self._check(env, address)
        except KeysUnavailable as ex:
            raise KeysNotKnown(
                f"The server cannot check keys now: {ex}. Its log says what to do.", retry_after=5
            ) from None

    def prepare(self, settings: Settings) -> Commit:
        """Read the keys again: see :mod:`offgrid.config.reloading`.

        Raises:
            ConfigError: the keys file cannot be read; requests are refused until it can be.
        """
        try:
            self.ring.reload()
        except KeysUnavailable as ex:
            raise ConfigError(f"OFFGRID_KEYS_FILE (--keys-file): {ex}") from None
        return lambda: None

    def refuses(self, env: Mapping[str, Any]) -> bool | None:
        """Return whether :meth:`admit` will refuse a request; None if the answer would take long.

        ``env`` needs only the headers.
        """
        try:
            return self.ring.refuses(secret_of(env))
        except NotAuthenticated:
            return self.ring.refuses(None)

    def _check(self, env: Mapping[str, Any], address: str) -> Caller:
        try:
            secret = secret_of(env)
            if secret is None:
                raise NotAuthenticated(f"This server needs a key. {_HOW}", wrong=False)
            found = self.ring.find(secret)
            if found is None:
                raise NotAuthenticated(f"The key is not valid. {_HOW}")
            key, problem = found
            if problem is not None:
                raise NotAuthenticated(_WHY[problem].format(name=key.name))
        except NotAuthenticated as ex:
            wait = self.failures.add(group_of(address)) if ex.wrong else 0
            if wait:
                raise TooManyAttempts(
                    f"Too many wrong keys came from this address; try again in {wait} s.",
                    retry_after=wait,
                ) from None
            raise
        self.ring.touch(key)
        return key.caller(address)


def needs_of(resource: object, method: str) -> Needs:
    """Return the scopes of which a key needs one to call a method of a resource."""
    if method == "OPTIONS" or not hasattr(resource, f"on_{method.lower()}"):
        return ()  # it tells which methods there are, or is refused with 405
    scopes: Scopes = getattr(resource, "scopes", {})
    return scopes.get("GET" if method == "HEAD" else method, ADMIN)


def check_scope(caller: Caller, needs: Needs) -> None:
    """Raise Forbidden unless a caller has one of the scopes, or none is needed."""
    if needs and not any(caller.may(scope) for scope in needs):
        raise Forbidden(caller.name, needs, caller.scopes)


class Authorize:
    """Middleware that lets a request reach its resource, or refuses it.

    Args:
        public: the resources that anybody may use.
    """

    def __init__(self, public: Collection[object]) -> None:
        self._public = frozenset(map(id, public))
        self._kept = tuple(public)  # an id is that of no other object while this one exists

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        """Raise the error that :class:`Identify` has remembered, or Forbidden."""
        if id(resource) in self._public:
            return
        refuse_unknown(req)
        check_scope(req.context.caller, needs_of(resource, req.method))


def refuse_unknown(req: falcon.Request) -> None:
    """Raise the reason why the caller of a request is not known, if it needs a key."""
    refusal: Exception | None = req.context.refusal
    if refusal is not None:
        raise refusal


def unknown_url(req: falcon.Request, resp: falcon.Response, **params: str) -> None:
    """Answer requests for paths without a resource: without a key they tell nothing either."""
    refuse_unknown(req)
    raise falcon.HTTPRouteNotFound
