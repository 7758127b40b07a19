"""The caller of a request: found once for each request, before any resource sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import falcon

from offgrid.addresses import group_of
from offgrid.caller import LOCAL, Caller
from offgrid.errors import RequestError


class _Served(threading.local):
    """The request that a thread serves."""

    caller = LOCAL


_served = _Served()


def caller() -> Caller:
    """Return the caller of the request that this thread serves."""
    return _served.caller


class Identify:
    """Finds the caller of every request. It refuses none, because that depends on the resource; see
    :class:`~offgrid.api.http.access.Authorize`.

    Args:
        admit: returns the caller of a request with an environment and an address, or raises
            RequestError if the request needs a key and has no valid one.
    """

    def __init__(self, admit: Callable[[Mapping[str, Any], str], Caller]) -> None:
        self._admit = admit

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Remember the caller for this thread, and in ``req.context.caller``.

        A caller that is not known may do nothing, and ``req.context.refusal`` says why.
        """
        address = req.env.get("REMOTE_ADDR") or ""
        req.context.refusal = None
        try:
            found = self._admit(req.env, address)
        except RequestError as ex:
            found = Caller(group_of(address), address=address, scopes=frozenset())
            req.context.refusal = ex
        _served.caller = req.context.caller = found
