"""Bodies, answers and events of ``/v1/import`` and ``/v1/export``.

See :mod:`offgrid.api.shapes`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from offgrid.api.shapes import Answer, Count

MAX_PATHS = 100
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Texts = Annotated[list[Text], Meta(max_length=MAX_PATHS)]
Status = Literal["in_progress", "completed", "failed", "cancelled"]


class ImportRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to import: ``paths``, ``ids`` or both; or ``peer`` and ``ids``."""

    paths: Texts = []
    """Files and folders below the import roots; all roots if empty."""
    peer: Text | None = None
    """The id or name of a paired machine; models of the import roots if it is not given."""
    ids: Texts = []
    """The models to import; all if empty."""
    replace: bool = False
    stream: bool = False
    background: bool = False


class ExportRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to export, and where to."""

    path: Text
    """A folder below an import root."""
    ids: Texts = []
    """The models to export; all of the models directory if empty."""
    replace: bool = False
    stream: bool = False
    background: bool = False


class Medium(Answer):
    """A stick, card or folder of the import roots. Sizes are in bytes."""

    path: str
    name: Annotated[str, Meta(description="The last part of its path, usually its label.")]
    size: Annotated[int | None, Meta(description="Null, like `free`, if it does not tell.")]
    free: int | None
    file_system: Annotated[str | None, Meta(description="Such as `vfat`; null if unknown.")]
    largest_file: Annotated[
        int | None, Meta(description="Bytes of the largest file that it can hold, if limited.")
    ]
    writable: Annotated[bool, Meta(description="Whether this server may write to it.")]


class TransferProgress(Answer):
    """How far the current file and the whole transfer are, in bytes."""

    file: str
    phase: Literal["comparing", "copying", "verifying"]
    done: Count
    total: Count
    all_done: Count
    all_total: Count


class TransferFailure(Answer):
    """Why the transfer ended before it was complete."""

    code: str
    message: str


class ImportFile(Answer):
    """What became of a model or file."""

    status: Literal["imported", "identical", "skipped", "failed"]
    id: Annotated[str | None, Meta(description="The model's id; null for a file that is none.")]
    name: str
    size: Annotated[int, Meta(ge=0, description="Bytes; 0 if unknown.")]
    reason: str | None
    code: str | None


class ExportFile(Answer):
    """What became of a model."""

    status: Literal["exported", "identical", "skipped", "failed"]
    id: Annotated[str | None, Meta(description="The model's id; null for a projector.")]
    name: str
    size: Annotated[int, Meta(ge=0, description="Bytes; 0 if unknown.")]
    reason: str | None
    code: str | None


class ImportObject(Answer):
    """An import: what it does or did."""

    id: Annotated[str, Meta(pattern="^import_[0-9a-f]{24}$")]
    object: Literal["import"]
    created_at: Count
    completed_at: Count | None
    status: Annotated[
        Status,
        Meta(description="Completed: all that was found is in the models directory."),
    ]
    paths: list[str]
    peer: Annotated[str | None, Meta(description="The peer, as the request named it.")]
    ids: list[str]
    replace: bool
    background: bool
    progress: TransferProgress | None
    files: list[ImportFile]
    error: TransferFailure | None


class ExportObject(Answer):
    """An export: what it does or did."""

    id: Annotated[str, Meta(pattern="^export_[0-9a-f]{24}$")]
    object: Literal["export"]
    created_at: Count
    completed_at: Count | None
    status: Annotated[
        Status,
        Meta(description="Completed: all models are on the medium, verified, and nothing is left "
             "to be written."),
    ]  # fmt: skip
    path: str
    ids: list[str]
    replace: bool
    background: bool
    progress: TransferProgress | None
    files: list[ExportFile]
    error: TransferFailure | None


class ImportCreatedEvent(Answer):
    """The first event of a stream."""

    type: Literal["import.created"]
    import_: ImportObject = msgspec.field(name="import")


class ImportProgressEvent(Answer):
    type: Literal["import.progress"]
    progress: TransferProgress


class ImportFileEvent(Answer):
    type: Literal["import.file"]
    file: ImportFile


class ImportEndedEvent(Answer):
    """The last event of a stream."""

    type: Literal["import.completed", "import.failed", "import.cancelled"]
    import_: ImportObject = msgspec.field(name="import")


IMPORT_EVENTS = (ImportCreatedEvent, ImportProgressEvent, ImportFileEvent, ImportEndedEvent)


class ExportCreatedEvent(Answer):
    """The first event of a stream."""

    type: Literal["export.created"]
    export: ExportObject


class ExportProgressEvent(Answer):
    type: Literal["export.progress"]
    progress: TransferProgress


class ExportFileEvent(Answer):
    type: Literal["export.file"]
    file: ExportFile


class ExportEndedEvent(Answer):
    """The last event of a stream."""

    type: Literal["export.completed", "export.failed", "export.cancelled"]
    export: ExportObject


EXPORT_EVENTS = (ExportCreatedEvent, ExportProgressEvent, ExportFileEvent, ExportEndedEvent)


class ImportSource(Answer):
    """A model that can be imported."""

    id: str
    path: Annotated[str, Meta(description="Its file or first part; in a wheel, after a colon.")]
    size: Count
    parts: Annotated[int, Meta(ge=1)]
    present: Annotated[bool, Meta(description="Whether a model with this id is served already.")]


class ImportSkipped(Answer):
    """A file that cannot be imported."""

    path: str
    reason: str


class ImportSources(Answer):
    """The models below the import roots."""

    object: Literal["list"]
    data: list[ImportSource]
    skipped: list[ImportSkipped]
    media: Annotated[list[Medium], Meta(description="The sticks and folders, also empty ones.")]
    roots: Annotated[list[str], Meta(description="The import roots that exist now.")]
    complete: Annotated[bool, Meta(description="False if there are too many folders to search.")]
    running: Annotated[str | None, Meta(description="Id of the import that is in progress.")]


class ExportTargets(Answer):
    """The sticks and folders to which models can be exported."""

    object: Literal["list"]
    data: list[Medium]
    running: Annotated[str | None, Meta(description="Id of the export that is in progress.")]


class DeletedImport(Answer):
    id: str
    object: Literal["import.deleted"]
    deleted: Literal[True]


class DeletedExport(Answer):
    id: str
    object: Literal["export.deleted"]
    deleted: Literal[True]
