"""What Ollama's API does with the files of models, and this server does not: each endpoint says so.

``/api/pull`` succeeds for a model that is there, since programs pull a model before they use it.
"""

from __future__ import annotations

import falcon
import msgspec

from offgrid.api.fields import notices
from offgrid.api.http.request import read_checked
from offgrid.api.http.scopes import Scopes
from offgrid.api.ollama.names import without_tag
from offgrid.api.ollama.request import model_of, typed_fields
from offgrid.api.ownership import check_model
from offgrid.api.shapes import Json
from offgrid.config import Settings
from offgrid.engine.client.pool import EnginePool
from offgrid.errors import ModelNotFound, NotOffered

_USERS: Scopes = {method: ("inference", "models") for method in ("GET", "POST", "DELETE")}
_PULL = (
    "This server fetches nothing from a network. Copy a GGUF file into its models directory, or "
    "run offgrid import or offgrid get."
)
_ADVICE = {
    "create": "Settings for a single model are written into the configuration file: "
    "docs/MODEL_FILES.md.",
    "copy": "The setting aliases gives a model further names.",
    "push": "offgrid export copies models to a stick or folder.",
    "delete": "Remove the file of the model from the models directory.",
    "blobs": "Copy a GGUF file into the models directory, or run offgrid import.",
}
"""Endpoint -> how to do with this server what it is for."""


class OllamaPullRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model to pull; ``name`` is an older name of ``model``. The others have no effect."""

    model: str = ""
    name: str = ""
    stream: bool = True
    insecure: bool = False
    username: str = ""
    password: str = ""


class PullResource:
    """Says that a model is there, or that it cannot be pulled."""

    scopes = _USERS

    def __init__(self, pool: EnginePool, settings: Settings) -> None:
        self._pool = pool
        self._max_body = settings.max_body_mb << 20

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Succeed if there is such a model."""
        asked = read_checked(req, self._max_body, _parse_pull)
        for field in ("insecure", "username", "password"):
            if getattr(asked, field):
                notices.ignore(field)
        name = without_tag(self._pool, model_of(asked.model, asked.name))
        check_model(self._pool, name)
        try:
            self._pool.find(name)
        except ModelNotFound as ex:
            raise NotOffered(f"{ex.message} {_PULL}") from None
        resp.media = {"status": "success"}


def _parse_pull(body: Json) -> OllamaPullRequest:
    asked = typed_fields(body, OllamaPullRequest)
    model_of(asked.model, asked.name)
    return asked


class NotOfferedResource:
    """An endpoint that refuses every request.

    Args:
        name: of the endpoint; a key of the table above.
    """

    scopes = _USERS

    def __init__(self, name: str) -> None:
        self._message = f"This server does not offer /api/{name}. {_ADVICE[name]}"

    def on_post(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Refuse the request, and name an alternative."""
        raise NotOffered(self._message)


class NotDeletedResource(NotOfferedResource):
    """``DELETE /api/delete``."""

    on_delete = NotOfferedResource.on_post


class BlobResource(NotOfferedResource):
    """``/api/blobs/{digest}``: no file is there, and none can be put there."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: str) -> None:
        """Say that there is no such file."""
        raise NotOffered(self._message)

    on_head = on_get
