"""Unknown parameters of a query, such as ``?api-version=...``: the response names them.

Clients and gateways add parameters of other servers to any URL. They have no effect here, and
``x-offgrid-ignored`` says so, as of fields of the body.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import falcon

from offgrid.api.fields import notices

PREFIX = "query."
"""Begins the names of parameters in the header: a body may have a field of the same name."""
_LISTS = frozenset({"include", "lifecycle"})
"""Parameters that some clients write with brackets."""
_CONVERTER = re.compile(r":\w+(?=})")


class UnknownQueries:
    """Notes the parameters of a query that its endpoint does not have.

    Args:
        known: method in lower case and path, as in the OpenAPI document -> names of parameters.
    """

    def __init__(self, known: Mapping[tuple[str, str], Collection[str]]) -> None:
        self._known = known

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: object
    ) -> None:
        """Note the names; the values stay unread."""
        if not req.query_string:
            return
        method = "get" if req.method == "HEAD" else req.method.lower()
        path = _CONVERTER.sub("", req.uri_template or "")
        known = self._known.get((method, path), ())
        for name in req.params:
            plain = name.removesuffix("[]")
            if (plain if plain in _LISTS else name) not in known:
                notices.ignore(f"{PREFIX}{name}")
