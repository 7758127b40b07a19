"""``GET /props``: what editors and chat programs ask a llama-server about itself."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import falcon

from offgrid import __version__
from offgrid.api.engines import wait_of
from offgrid.api.fields.bounds import bounds
from offgrid.api.fields.sampling import DEFAULT
from offgrid.api.http.owner import owner
from offgrid.api.http.request import liveness
from offgrid.api.http.scopes import MODELS
from offgrid.api.llama_server.request import DEFAULTS, MEDIA
from offgrid.api.llama_server.settings import default_settings
from offgrid.api.ownership import check_model
from offgrid.api.peers.listed import refuse_change
from offgrid.api.shapes import Json
from offgrid.api.tokens import control_text
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.client.use import Use
from offgrid.errors import NotOffered
from offgrid.peers.forwarding.forwarding import Forwarding


class PropsResource:
    """Properties of the server and of one model."""

    scopes = MODELS

    def __init__(self, pool: EnginePool, forwarding: Forwarding | None = None) -> None:
        self._pool = pool
        self._forwarding = forwarding

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the properties.

        This unloads no model: a GET must not take a model away from other clients. Nor does it
        keep one loaded.
        """
        use = Use(wait=wait_of(req), unload=False, owner=owner())
        model = req.get_param("model") or ""
        refuse_change(self._forwarding, self._pool, model)
        check_model(self._pool, model)
        resp.media = _properties(self._pool.engine(model, bounds().within(liveness(req)), use))

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Refuse: llama-server has no properties to change either, and needs a flag for it."""
        raise NotOffered(
            "The properties of this server cannot be changed by a request. Send parameters with "
            "each request, or change the settings of the server."
        )


def _properties(engine: EngineClient) -> Json:
    info = engine.info
    params = dataclasses.replace(DEFAULT.params, **{**DEFAULTS, **engine.defaults.sampling})
    return {
        "default_generation_settings": {
            "id": 0,
            "id_task": -1,
            "n_ctx": info.n_ctx,
            "speculative": engine.load.drafts,
            "is_processing": False,
            "params": default_settings(params),
            "prompt": "",
            "next_token": {
                "has_next_token": False,
                "has_new_line": False,
                "n_remain": -1,
                "n_decoded": 0,
                "stopping_word": "",
            },
        },
        "total_slots": info.n_parallel,
        "model_alias": engine.name,
        "model_path": os.fsencode(Path(info.path).name).decode("utf-8", "replace"),
        "modalities": {"vision": info.has_vision, "audio": False},
        "media_marker": MEDIA,
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "chat_template": info.chat_template or "",
        "bos_token": control_text(info, info.bos_text) or "",
        "eos_token": control_text(info, info.eos_text) or "",
        "build_info": f"offgrid-{__version__}",
        "is_sleeping": False,
    }
