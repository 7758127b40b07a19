"""Resources that only peers reach, through the peers port."""

from __future__ import annotations

import falcon

from offgrid.api.http.scopes import INFERENCE


class AliveResource:
    """``GET /peer/alive``: shows that this machine can be reached. It waits for nothing."""

    scopes = INFERENCE
    for_peers = True

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer without a body."""
        resp.status = falcon.HTTP_204
