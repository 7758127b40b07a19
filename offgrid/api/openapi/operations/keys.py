"""The keys of the server."""

from __future__ import annotations

from offgrid.api.keys import shapes as keys
from offgrid.api.openapi.operations.operation import Body, Operation

_KEYS = "/v1/keys"

OPERATIONS = (
    Operation("get", _KEYS, "The keys", (keys.KeyList,), query=("all",)),
    Operation(
        "post",
        _KEYS,
        "Creates a key; the answer has its secret, this once",
        (keys.KeyWithSecret,),
        body=Body((keys.KeyRequest,)),
        query=("confirm",),
        errors=(409, 413),
        creates=True,
    ),
    Operation("get", f"{_KEYS}/self", "What the caller's key allows", (keys.OwnKey,)),
    Operation("get", f"{_KEYS}/{{id}}", "A key", (keys.KeyObject,), errors=(404,)),
    Operation(
        "post",
        f"{_KEYS}/{{id}}",
        "Changes what a key allows",
        (keys.KeyObject,),
        body=Body((keys.KeyUpdate,)),
        query=("confirm",),
        errors=(404, 409, 413),
    ),
    Operation(
        "delete",
        f"{_KEYS}/{{id}}",
        "Revokes a key",
        (keys.KeyObject,),
        query=("confirm",),
        errors=(404, 409),
    ),
    Operation(
        "post",
        f"{_KEYS}/{{id}}/rotate",
        "Replaces the secret of a key; the answer has the new one, this once",
        (keys.KeyWithSecret,),
        body=Body((keys.RotateRequest,), optional=True),
        errors=(404, 413),
    ),
)
