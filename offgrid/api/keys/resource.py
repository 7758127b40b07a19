"""``/v1/keys``: list, create, change, rotate and revoke keys; and what one's own key allows.

The rules and words are those of ``offgrid keys``. What is added here protects a server from being
locked by a request: the first key is created on this machine only and can create others, and the
last key that can create others neither is taken away nor expires without a confirmation.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

import falcon
from msgspec import structs

from offgrid.api.fields.common import check_fields
from offgrid.api.http.access import Access
from offgrid.api.http.caller import caller
from offgrid.api.http.forwarding import foreign_sender
from offgrid.api.http.machines import RemoteRefused
from offgrid.api.http.refusals import KeysNotKnown, NotAuthenticated
from offgrid.api.http.request import read_checked
from offgrid.api.http.scopes import ANY_KEY, KEYS
from offgrid.api.keys.shapes import GivenLimits, KeyRequest, KeyUpdate, RotateRequest
from offgrid.api.shapes import Json
from offgrid.caller import SCOPES, Limits
from offgrid.config import Settings, is_local
from offgrid.errors import InvalidParameter, LastAdminKey, NotStored
from offgrid.store.catalogue import Catalogue
from offgrid.store.grants import (
    GrantRefused,
    checked_end,
    described,
    known_models,
    moment,
    seconds,
    summary,
)
from offgrid.store.key_ring import KeysUnavailable
from offgrid.store.keys import (
    Grant,
    Key,
    KeyFile,
    KeyRefused,
    KeysError,
    KeysLocked,
    LastAdmin,
    NameRefused,
    NoSuchKey,
    NotTheFirst,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

_OF_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
"""Types of bodies that a web page of any site can send without asking the server first."""


class Keys:
    """The keys of a running server, as callers with ``admin`` change them. Thread-safe.

    Args:
        access: decides with them which requests pass.
        catalogue: knows the models for which a key may be.
        of_peers: returns ids and aliases of models of peers; a key may be for these too.
    """

    def __init__(
        self,
        access: Access,
        catalogue: Catalogue,
        of_peers: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._ring = access.ring
        self._catalogue = catalogue
        self._of_peers = of_peers
        self._file = KeyFile(access.ring.path)

    def all(self) -> list[Key]:
        """Return all keys, also revoked ones; none if there is no keys file.

        Raises:
            KeysNotKnown: the file cannot be read.
        """
        if not self._ring.path.exists():
            return []
        return self._asked(self._file.all)

    def get(self, id: str) -> Key:
        """Return a key, also a revoked one.

        Raises:
            NotStored: no key has that id.
        """
        for key in self.all():
            if key.id == id:
                return key
        raise _none()

    def create(self, request: KeyRequest, *, first: bool) -> tuple[Key, str]:
        """Create a key; return it and its secret."""
        grant = self._granted(request, Grant(frozenset()))
        return self._changed(lambda: self._file.create(request.name, grant, first=first))

    def change(self, id: str, request: KeyUpdate, *, confirmed: bool) -> Key:
        """Change what a key allows; return it.

        Raises:
            LastAdminKey: no valid key with ``admin`` would be left, and that is not confirmed.
        """
        self.get(id)
        wanted = self._granted(request, Grant(frozenset()))
        given = {
            name: getattr(wanted, name)
            for name in request.__struct_fields__
            if getattr(request, name) is not None
        }
        return self._changed(
            lambda: self._file.change(
                id, lambda grant: dataclasses.replace(grant, **given), keep_admin=not confirmed
            )
        )

    def revoke(self, id: str, *, confirmed: bool) -> Key:
        """End a key at once; return it.

        Raises:
            LastAdminKey: no valid key with ``admin`` would be left, and that is not confirmed.
        """
        self.get(id)
        self._changed(lambda: self._file.revoke(id, keep_admin=not confirmed))
        return self.get(id)

    def rotate(self, id: str, grace: float) -> tuple[Key, str]:
        """Give a key another secret; return both."""
        self.get(id)
        return self._changed(lambda: self._file.rotate(id, grace))

    def _granted(self, request: KeyRequest | KeyUpdate, grant: Grant) -> Grant:
        """Return a grant with what a request sets."""
        if request.scopes is not None:
            grant = dataclasses.replace(grant, scopes=frozenset(request.scopes))
        if request.models:
            models = request.models
            found = _checked("models", lambda: known_models(
                models, self._catalogue, "GET /v1/models lists", self._of_peers()
            ))  # fmt: skip
            grant = dataclasses.replace(grant, models=found)
        if request.limits is not None:
            grant = dataclasses.replace(grant, limits=_limits(request.limits))
        if request.expires is not None:
            grant = dataclasses.replace(grant, expires=_expires(request.expires))
        return grant

    def _changed(self, work: Callable[[], T]) -> T:
        """Change the file, and let all requests from now on see it."""
        result = self._asked(work)
        try:
            self._ring.reload()
        except KeysUnavailable as ex:
            raise KeysNotKnown(f"The keys were changed, and cannot be read now: {ex}.") from None
        return result

    def _asked(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except KeysError as ex:
            self._refuse(ex)

    @staticmethod
    def _refuse(error: KeysError) -> NoReturn:
        """Raise what the client is told about an error of the file."""
        if isinstance(error, LastAdmin):
            raise LastAdminKey from None
        if isinstance(error, NoSuchKey):
            raise _none() from None
        if isinstance(error, NotTheFirst):  # another request was faster
            raise NotAuthenticated("This server needs a key now.", wrong=False) from None
        if isinstance(error, NameRefused):
            raise InvalidParameter(f"{error}.", "name") from None
        if isinstance(error, KeyRefused):
            raise InvalidParameter(f"{error}.") from None
        log.error("%s", error)
        busy = isinstance(error, KeysLocked)
        why = "another process has locked the keys file" if busy else "the keys file is at fault"
        raise KeysNotKnown(
            f"The server cannot use its keys now: {why}. Its log says what to do.", retry_after=5
        ) from None


class KeysResource:
    """``GET`` and ``POST /v1/keys``."""

    scopes = KEYS

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._keys = keys
        self._max_body = settings.max_body_mb << 20

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the keys; those that were revoked only with ``all=true``."""
        everything = _flag(req, "all")
        listed = [key for key in self._keys.all() if everything or key.revoked is None]
        resp.media = {"object": "list", "data": [_object(key) for key in listed]}

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Create a key; the response has its secret."""
        _check_type(req)
        confirmed = _flag(req, "confirm")
        request = read_checked(req, self._max_body, lambda body: check_fields(body, KeyRequest))
        first = not caller().has_key
        if first:
            _check_first(req, request, confirmed)
        key, secret = self._keys.create(request, first=first)
        log.info("created the key %s, by %s", summary(key), _who())
        if first:
            log.warning("from now on every request needs a key")
        resp.status = 201
        _never_kept(resp)
        resp.media = {**_object(key), "key": secret}


class KeyResource:
    """One key."""

    scopes = KEYS

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._keys = keys
        self._max_body = settings.max_body_mb << 20

    def on_get(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Return the key, also a revoked one."""
        resp.media = _object(self._keys.get(id))

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Change what the key allows."""
        _check_type(req)
        confirmed = _flag(req, "confirm")
        request = read_checked(req, self._max_body, lambda body: check_fields(body, KeyUpdate))
        key = self._keys.change(id, request, confirmed=confirmed)
        log.info("changed the key %s, by %s", summary(key), _who())
        resp.media = _object(key)

    def on_delete(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Revoke the key."""
        key = self._keys.revoke(id, confirmed=_flag(req, "confirm"))
        log.info("revoked the key %s, by %s", summary(key), _who())
        resp.media = _object(key)


class KeyRotateResource:
    """``POST /v1/keys/{id}/rotate``."""

    scopes = KEYS

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._keys = keys
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Give the key another secret; the response has it."""
        _check_type(req)
        request = read_checked(
            req, self._max_body, lambda body: check_fields(body, RotateRequest), optional=True
        )
        key, secret = self._keys.rotate(id, _grace(request.grace))
        log.info("rotated the key %s, by %s", summary(key), _who())
        _never_kept(resp)
        resp.media = {**_object(key), "key": secret}


class OwnKeyResource:
    """``GET /v1/keys/self``: what the caller may do, for clients that adapt to it."""

    scopes = ANY_KEY

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Return the name, scopes, models and limits of the caller's key."""
        who = caller()
        scopes = SCOPES if who.may("admin") else who.scopes
        resp.media = {
            "object": "key.self",
            "needed": who.has_key,
            "id": who.id if who.has_key else None,
            "name": who.name if who.has_key else None,
            "scopes": sorted(scopes),
            "models": None if who.models is None else sorted(who.models),
            "limits": dataclasses.asdict(who.limits),
        }

    on_head = on_get


def _check_first(req: falcon.Request, request: KeyRequest, confirmed: bool) -> None:
    """Check what holds for the first key only: it closes a server that was open.

    Raises:
        RemoteRefused: another machine asks; it would take the server from those who use it.
        InvalidParameter: the key could not create others, so no request could.
        LastAdminKey: the key could do so for a while only, and that is not confirmed.
    """
    if foreign_sender(req.env) is not None or not is_local(req.env.get("REMOTE_ADDR") or ""):
        raise RemoteRefused(
            "The first key can be created only on the machine of the server, because from then on "
            "every request needs a key. Run 'offgrid keys create' there, or open its page there."
        )
    if "admin" not in request.scopes:
        raise InvalidParameter(
            "The first key must have the scope admin: from then on every request needs a key, and "
            "without this scope no key could create another one over HTTP. Add it, or use "
            "'offgrid keys create'.",
            "scopes",
        )
    if not confirmed and request.expires is not None and _expires(request.expires) is not None:
        raise LastAdminKey(
            "The first key would expire, and without another key with the scope admin every change "
            "of keys would then need 'offgrid keys' on the machine of the server. Leave expires "
            "out, or confirm with ?confirm=true.",
            "expires",
        )


def _check_type(req: falcon.Request) -> None:
    """Refuse bodies of web forms. Pages of other sites are refused by their origin already; this
    also holds for old browsers that do not tell it."""
    given = (req.content_type or "").partition(";")[0].strip().lower()
    if given in _OF_FORMS:
        raise InvalidParameter(
            f"The Content-Type must be application/json and not {given}, which forms of any web "
            "page can send (curl: -H 'Content-Type: application/json')."
        )


def _never_kept(resp: falcon.Response) -> None:
    """Let no cache keep a response with a secret."""
    resp.set_header("Cache-Control", "no-store")


def _expires(given: str | int) -> float | None:
    if isinstance(given, str):
        return _checked("expires", lambda: moment(given))
    return _checked("expires", lambda: checked_end(given, given))


def _grace(given: str | int) -> float:
    if isinstance(given, int):
        return float(given)
    return _checked("grace", lambda: seconds(given, "such as 1h"))


def _limits(given: GivenLimits) -> Limits:
    return Limits(**structs.asdict(given))


def _checked(field: str, check: Callable[[], T]) -> T:
    try:
        return check()
    except GrantRefused as ex:
        raise InvalidParameter(f"{ex}.", field) from None


def _flag(req: falcon.Request, name: str) -> bool:
    given = req.get_param(name, default="false")
    if given not in ("true", "false"):
        raise InvalidParameter(f"{name} must be true or false.", name)
    return bool(given == "true")


def _object(key: Key) -> Json:
    return {"object": "key", **described(key)}


def _none() -> NotStored:
    # The text is not repeated: people paste secrets.
    return NotStored("No key has this id, or it was revoked; GET /v1/keys lists all keys.", "id")


def _who() -> str:
    """Return who changes keys, for the log."""
    who = caller()
    return f"{who.name} ({who.id})" if who.has_key else who.address or "this machine"
