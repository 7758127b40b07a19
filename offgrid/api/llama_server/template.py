"""``POST /apply-template``: the text that a conversation becomes."""

from __future__ import annotations

import falcon

from offgrid.api.chat.prompt import chat_prompt, warn_of_base
from offgrid.api.chat.request import parse_chat
from offgrid.api.engines import engine_for
from offgrid.api.http.request import liveness, read_checked
from offgrid.api.http.scopes import INFERENCE
from offgrid.api.llama_server.request import MEDIA
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool


class ApplyTemplateResource:
    """Renders a conversation with the model's chat template, and generates nothing."""

    scopes = INFERENCE

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the prompt; the body is that of a chat request, and may omit the model."""
        request = read_checked(req, self._max_body, parse_chat)
        engine = engine_for(self._pool, req, request, liveness(req), generates=True)
        warn_of_base(engine)
        parts = chat_prompt(engine, request).rendered.parts
        resp.media = {"prompt": "".join(MEDIA if part.image >= 0 else part.text for part in parts)}
