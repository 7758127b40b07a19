"""Imports and exports of models."""

from __future__ import annotations

from offgrid.api.openapi.operations.operation import Body, Operation
from offgrid.api.transfers import shapes

_IMPORT, _EXPORT = "/v1/import", "/v1/export"

OPERATIONS = (
    Operation("get", _IMPORT, "The models on sticks and cards", (shapes.ImportSources,)),
    Operation(
        "post",
        _IMPORT,
        "Copies models into the models directory",
        (shapes.ImportObject,),
        shapes.IMPORT_EVENTS,
        Body((shapes.ImportRequest,)),
        errors=(409, 413, 503),
        named=True,
    ),
    Operation(
        "get",
        f"{_IMPORT}/{{id}}",
        "An import, while it runs and after",
        (shapes.ImportObject,),
        shapes.IMPORT_EVENTS,
        query=("stream",),
        errors=(404,),
        named=True,
    ),
    Operation(
        "delete",
        f"{_IMPORT}/{{id}}",
        "Cancels an import if it runs, and forgets it",
        (shapes.DeletedImport,),
        errors=(404,),
    ),
    Operation(
        "post",
        f"{_IMPORT}/{{id}}/cancel",
        "Cancels an import",
        (shapes.ImportObject,),
        errors=(404,),
    ),
    Operation("get", _EXPORT, "The sticks and folders to export to", (shapes.ExportTargets,)),
    Operation(
        "post",
        _EXPORT,
        "Copies models to a stick or folder",
        (shapes.ExportObject,),
        shapes.EXPORT_EVENTS,
        Body((shapes.ExportRequest,)),
        errors=(409, 413, 503),
        named=True,
    ),
    Operation(
        "get",
        f"{_EXPORT}/{{id}}",
        "An export, while it runs and after",
        (shapes.ExportObject,),
        shapes.EXPORT_EVENTS,
        query=("stream",),
        errors=(404,),
        named=True,
    ),
    Operation(
        "delete",
        f"{_EXPORT}/{{id}}",
        "Cancels an export if it runs, and forgets it",
        (shapes.DeletedExport,),
        errors=(404,),
    ),
    Operation(
        "post",
        f"{_EXPORT}/{{id}}/cancel",
        "Cancels an export",
        (shapes.ExportObject,),
        errors=(404,),
    ),
)
