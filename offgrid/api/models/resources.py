"""``GET /v1/models`` and ``GET /v1/models/{id}``; ``POST`` below the latter changes a model."""

from __future__ import annotations

import falcon

from offgrid.api.anthropic import models as anthropic
from offgrid.api.http.caller import caller
from offgrid.api.http.scopes import MODELS
from offgrid.api.models.actions import Actions
from offgrid.api.models.describe import Describer, unusable
from offgrid.api.ownership import check_model, is_allowed
from offgrid.api.peers import listed as peers
from offgrid.api.peers.listed import of_peers
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import InvalidParameter
from offgrid.peers.forwarding.forwarding import Forwarding
from offgrid.store.catalogue import Catalogue
from offgrid.store.hashes import Hashes


class ModelsResource:
    """All models, sorted by id."""

    scopes = MODELS

    def __init__(
        self,
        catalogue: Catalogue,
        pool: EnginePool,
        hashes: Hashes,
        forwarding: Forwarding | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._hashes = hashes
        self._forwarding = forwarding

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the models that the caller may use."""
        details = _wants_details(req)
        entries, skipped = self._catalogue.survey()
        if caller().models is not None:
            entries = [entry for entry in entries if is_allowed(self._pool, entry)]
            skipped = []
        usable = []
        for entry in entries:
            file = self._catalogue.left_out(entry)
            if file is None:
                usable.append(entry)
            else:
                skipped.append(file)
        far = of_peers(self._forwarding, self._pool)
        if anthropic.wanted(req):
            listed = [anthropic.described(e, self._catalogue.describe(e)) for e in usable]
            listed += [anthropic.described_far(one.model) for one in far]
            resp.media = anthropic.page(req, sorted(listed, key=_id))
            return
        anthropic.note_unused(req)
        describer = Describer(self._catalogue, self._pool, self._hashes)
        describe = describer.details if details else describer.listed
        describe_far = peers.details if details else peers.listed
        data = [describe(entry) for entry in usable] + [describe_far(one) for one in far]
        resp.media = {
            "object": "list",
            "data": sorted(data, key=_id),
            "unusable": unusable(skipped, entries, self._catalogue.places),
        }

    on_head = on_get


def _id(model: Json) -> str:
    return str(model["id"])


def _wants_details(req: falcon.Request) -> bool:
    details = req.get_param("details", default="false")
    if details not in ("true", "false"):
        raise InvalidParameter("details must be true or false.", "details")
    return details == "true"


class ModelResource:
    """One model.

    An id may contain slashes, so this resource also gets the paths that end with an action, such as
    ``/load``. A model whose id ends like this can be described and loaded all the same, because
    only POST reads the end of the path as an action.
    """

    scopes = MODELS

    def __init__(
        self,
        catalogue: Catalogue,
        pool: EnginePool,
        settings: Settings,
        hashes: Hashes,
        forwarding: Forwarding | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._pool = pool
        self._hashes = hashes
        self._forwarding = forwarding
        self._actions = Actions(catalogue, pool, settings, hashes)

    def on_get(self, req: falcon.Request, resp: falcon.Response, model: str) -> None:
        """Describe one model; returns 404 if no model has that id."""
        far = peers.find_listed(self._forwarding, self._pool, model)
        if far is not None:
            wanted = anthropic.wanted(req)
            resp.media = anthropic.described_far(far.model) if wanted else peers.details(far)
            return
        check_model(self._pool, model)
        entry = self._catalogue.get(model)
        if anthropic.wanted(req):
            resp.media = anthropic.described(entry, self._catalogue.describe(entry))
        else:
            resp.media = Describer(self._catalogue, self._pool, self._hashes).details(entry)

    on_head = on_get

    def on_post(self, req: falcon.Request, resp: falcon.Response, model: str) -> None:
        """Do what the end of the path says with a model, and describe it afterwards."""
        name, _, action = model.rpartition("/")
        do = self._actions.by_name.get(action)
        if do is None or not name:
            raise falcon.HTTPMethodNotAllowed(["GET", "HEAD", "OPTIONS"])
        peers.refuse_change(self._forwarding, self._pool, name)
        check_model(self._pool, name)
        do(req, resp, self._pool.find(name))
