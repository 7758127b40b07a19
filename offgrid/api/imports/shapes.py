"""Bodies, answers and events of ``/v1/import``; see :mod:`offgrid.api.shapes`."""

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
    """What to import: ``paths``, ``ids`` or both."""

    paths: Texts = []
    """Files and folders below the import roots; all roots if empty."""
    ids: Texts = []
    """The models to import; all if empty."""
    replace: bool = False
    stream: bool = False
    background: bool = False


class ImportFile(Answer):
    """What became of a model or file."""

    status: Literal["imported", "identical", "skipped", "failed"]
    id: Annotated[str | None, Meta(description="The model's id; null for a file that is none.")]
    name: str
    size: Annotated[int, Meta(ge=0, description="Bytes; 0 if unknown.")]
    reason: str | None
    code: str | None


class ImportProgress(Answer):
    """How far the current file and the whole import are, in bytes."""

    file: str
    phase: Literal["comparing", "copying", "verifying"]
    done: Count
    total: Count
    all_done: Count
    all_total: Count


class ImportFailure(Answer):
    """Why the import ended before it was complete."""

    code: str
    message: str


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
    ids: list[str]
    replace: bool
    background: bool
    progress: ImportProgress | None
    files: list[ImportFile]
    error: ImportFailure | None


class ImportCreatedEvent(Answer):
    """The first event of a stream."""

    type: Literal["import.created"]
    import_: ImportObject = msgspec.field(name="import")


class ImportProgressEvent(Answer):
    type: Literal["import.progress"]
    progress: ImportProgress


class ImportFileEvent(Answer):
    type: Literal["import.file"]
    file: ImportFile


class ImportEndedEvent(Answer):
    """The last event of a stream."""

    type: Literal["import.completed", "import.failed", "import.cancelled"]
    import_: ImportObject = msgspec.field(name="import")


EVENTS = (ImportCreatedEvent, ImportProgressEvent, ImportFileEvent, ImportEndedEvent)


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
    roots: Annotated[list[str], Meta(description="The import roots that exist now.")]
    complete: Annotated[bool, Meta(description="False if there are too many folders to search.")]
    running: Annotated[str | None, Meta(description="Id of the import that is in progress.")]


class DeletedImport(Answer):
    id: str
    object: Literal["import.deleted"]
    deleted: Literal[True]
