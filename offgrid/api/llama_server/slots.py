"""``GET /slots``: what the slots of a model are used for, without any text of a request."""

from __future__ import annotations

import falcon

from offgrid.api.http.scopes import LOADED, MODELS
from offgrid.api.ownership import check_model
from offgrid.api.peers.listed import refuse_change
from offgrid.api.shapes import Json
from offgrid.engine.client.client import EngineClient
from offgrid.engine.client.pool import EnginePool
from offgrid.engine.protocol.reports import SlotState
from offgrid.errors import NotOffered, Overloaded
from offgrid.peers.forwarding.forwarding import Forwarding

_PATIENCE = 0.25
"""Most seconds to wait for a worker's description of its slots."""


class SlotsResource:
    """The slots of one model. Asking is no use of it: it loads none, and keeps none loaded."""

    scopes = LOADED

    def __init__(self, pool: EnginePool, forwarding: Forwarding | None = None) -> None:
        self._pool = pool
        self._forwarding = forwarding

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """List the slots as they are now. A worker that does not answer is not waited for."""
        model = req.get_param("model") or ""
        refuse_change(self._forwarding, self._pool, model)
        check_model(self._pool, model)
        entry = self._pool.find(model)
        client = next((one for one in self._pool.loaded() if one.name == entry.id), None)
        states = _states(client)
        if req.get_param("fail_on_no_slot") and all(state.running for state in states):
            raise Overloaded("No slot is available; try again later.", code="server_busy")
        resp.media = [_slot(client, state) for state in states if client is not None]

    on_head = on_get


class SlotResource:
    """One slot, which llama-server can save, restore and erase."""

    scopes = MODELS

    def on_post(self, req: falcon.Request, resp: falcon.Response, id: str) -> None:
        """Refuse: the server does this by itself."""
        raise NotOffered(
            "Slots cannot be saved, restored or erased by a request. This server saves and "
            "restores prefixes by itself; the settings cache_ram_mb, cache_dir and cache_disk_mb "
            "say where."
        )


def _states(client: EngineClient | None) -> tuple[SlotState, ...]:
    """Return the states of all slots; none if the model is not loaded."""
    if client is None or not client.ready:
        return ()
    latest = client.ask(_PATIENCE)
    slots = () if latest is None else latest.figures.slots
    if slots or not client.info.generates:
        return slots
    # The worker has just been started, and nothing has run yet.
    return tuple(SlotState(id, False, 0) for id in range(client.info.n_parallel))


def _slot(client: EngineClient, state: SlotState) -> Json:
    return {
        "id": state.id,
        "n_ctx": client.info.n_ctx,
        "speculative": client.load.drafts,
        "is_processing": state.running,
        "n_tokens": state.held,
        "n_prompt_tokens": state.prompt,
        "n_prompt_tokens_cache": state.cached,
        "n_prompt_tokens_processed": max(0, min(state.held, state.prompt) - state.cached),
        "next_token": {
            "has_next_token": state.running,
            "n_remain": state.left if state.running else -1,
            "n_decoded": state.generated,
        },
    }
