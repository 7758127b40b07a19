"""The draft models of the catalogue's models: which file the settings mean, and whether it exists.

A draft model is a smaller model with the same vocabulary that proposes tokens. The setting
``draft_model`` is for the default model; a table ``[models."id"]`` may have its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from offgrid.config import BY_NAME, Settings
from offgrid.errors import ConfigError
from offgrid.store.description import Description, describe, draft_problem
from offgrid.store.names import stem_of
from offgrid.store.survey import ModelEntry, survey_file


class DraftModels:
    """Attaches draft models to entries.

    Args:
        settings: ``draft_model``; the tables of single models are in the entries.
    """

    def __init__(self, settings: Settings) -> None:
        self._of_default = settings.draft_model
        self.configured = bool(
            settings.draft_model or any(own.draft_model for own in settings.models)
        )

    def attach(self, found: dict[str, ModelEntry], default: str | None) -> None:
        """Attach to each entry the draft model that the settings give it.

        One that does not exist is attached too: then the description of the model says so.

        Args:
            found: all models by id; entries are replaced.
            default: the id of the default model.
        """
        models = dict(found)
        for model_id, wanted, folder, _ in self._wanted(models, default):
            draft = _resolve(wanted, folder, models)
            entry = found[model_id]
            found[model_id] = replace(entry, draft=draft.files, stamp=entry.stamp + draft.stamp)

    def check(self, entries: Mapping[str, ModelEntry], default: str | None) -> None:
        """Check that the draft models exist and can be used.

        Raises:
            ConfigError: one cannot; the message names the setting.
        """
        for model_id, wanted, folder, source in self._wanted(entries, default):
            draft = _resolve(wanted, folder, entries)
            if not draft.path.exists():
                raise ConfigError(
                    f"{source}: no model has the id {wanted!r}, and there is no file {draft.path}"
                )
            if draft.path == entries[model_id].path:
                raise ConfigError(
                    f"{source}: {model_id} cannot be its own draft model; name a smaller model "
                    "with the same vocabulary"
                )
            problem = draft_problem(draft.path.name, _description(draft))
            if problem is not None:
                raise ConfigError(f"{source}: {problem}")

    def _wanted(
        self, entries: Mapping[str, ModelEntry], default: str | None
    ) -> Iterator[tuple[str, str, Path, str]]:
        """Yield model ids with the id or path of a draft model, the folder to which paths are
        relative, and the name of the setting."""
        for model_id, entry in entries.items():
            own = entry.own
            if own.draft_model is not None:
                yield model_id, own.draft_model, own.folder, own.key("draft_model")
            elif self._of_default and model_id == default:
                source = BY_NAME["draft_model"].source_names
                yield model_id, self._of_default, Path(), source


def _resolve(wanted: str, folder: Path, models: Mapping[str, ModelEntry]) -> ModelEntry:
    """Return the entry of a file that is given by its id or its path."""
    for model_id in (wanted, stem_of(wanted)):
        if model_id in models:
            return models[model_id]
    path = Path(os.path.abspath(folder / os.path.expanduser(wanted)))
    entries, _ = survey_file(path)
    return entries[0] if entries else ModelEntry(stem_of(path.name), path, 0, 0)


def with_drafts(
    entries: Sequence[ModelEntry], known: Iterable[ModelEntry], configured: Iterable[ModelEntry]
) -> list[ModelEntry]:
    """Return the entries of files and, after them, those of their draft models.

    Args:
        entries: models to be copied.
        known: all models that are files of the models directory.
        configured: the same models with their settings; several may be of one file.
    """
    chosen = {entry.path for entry in entries}
    by_path = {entry.path: entry for entry in known}
    found = [*entries]
    for model in configured:
        if model.path not in chosen or not model.draft or model.draft[0] in chosen:
            continue
        path = model.draft[0]
        chosen.add(path)
        elsewhere, _ = survey_file(path)
        absent = ModelEntry(stem_of(path.name), path, 0, 0)
        found.append(by_path.get(path) or next(iter(elsewhere), absent))
    return found


def _description(entry: ModelEntry) -> Description:
    _, skipped = survey_file(entry.path)
    return Description(skipped[0].reason) if skipped else describe(entry.files)
