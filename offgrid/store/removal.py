"""Deletes models from the models directory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from offgrid.store import manifest
from offgrid.store.disk import locked
from offgrid.store.exports import files_of
from offgrid.store.names import projector_name
from offgrid.store.survey import ModelEntry


def files_to_remove(entry: ModelEntry) -> list[Path]:
    """Return the files that go with a model: all parts that are there, the first one first, and a
    projector whose name says that it belongs to the model."""
    files = files_of(entry, complete=False)
    if entry.projector is not None:
        name = entry.projector.name
        if projector_name(name, entry.path.name) == name:
            files.append(entry.projector)
    return files


def remove_files(files: Sequence[Path], models_dir: Path) -> None:
    """Delete files of the models directory, in order, and their rows of its manifest.

    Raises:
        TransferError: another process changes the models directory.
        OSError: a file cannot be deleted; those before it are gone.
    """
    with locked(models_dir):
        # The first part makes a split model visible, so it goes first.
        for path in files:
            os.unlink(path)
        manifest.forget(models_dir, [path.relative_to(models_dir).as_posix() for path in files])
