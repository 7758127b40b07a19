"""The catalogue of models: the GGUF files of the models directory, read anew at each call.

Files are served from where they lie. A model's id is its path below the models directory without
``.gguf``; subfolders give ids with ``/``. Of two files with the same id (``a.gguf`` and ``a.GGUF``)
the lower-case ending wins. A split model is one model, with the id of its first part, and all its
parts must be there. The catalogue leaves out files that are not regular, not readable, or do not
begin like a GGUF, and names that are not UTF-8, and says why
(:class:`~offgrid.store.survey.Skipped`). Hidden files and
folders are passed over.

A file with ``mmproj`` as a word of its name is not a model but a projector, which computes
embeddings of images. Without that word, its name is the name of its model in the same folder
(``mmproj-a.gguf``, ``a-mmproj.gguf`` and ``a.mmproj.gguf`` to ``a.gguf``). If the folder has only
one model and one projector, they belong together.
"""

from __future__ import annotations

import difflib
import itertools
import os
import threading
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from offgrid.config import ModelSettings, Settings, did_you_mean
from offgrid.errors import ConfigError, ModelNotFound
from offgrid.store.description import Blame, Description, describe
from offgrid.store.draft_models import DraftModels
from offgrid.store.names import EXTENSION, stem_of
from offgrid.store.preferences import Preferences
from offgrid.store.profiles import Profiles, adapter_stamp, read_template
from offgrid.store.survey import (
    MAX_NAMED,
    Fault,
    ModelEntry,
    Skipped,
    file_problem,
    folder_problem,
    listed,
    path_problem,
    read_entry,
    reason_of,
    survey_file,
    survey_folder,
)

STARTER_ID = "offgrid-starter"
STARTER_PATH = Path(__file__).parent.parent / "models" / f"{STARTER_ID}.gguf"
_MAX_NAME = 200
"""Most characters of a request's model that a message repeats."""
_MAX_DESCRIPTIONS = 4096
_FAULTS: dict[Blame, Fault] = {
    "file": "damaged", "kind": "no_model", "adapter": "adapter", "draft": "draft",
}  # fmt: skip


class Catalogue:
    """Finds models by id.

    Args:
        settings: ``models_dir`` and ``model_paths`` are searched; if only the latter are given,
            not the default folder. If ``model`` is the path of a file, it is listed too,
            with the file's name as its id.

    Attributes:
        default_id: the id of the configured default model; None if none is configured.
        preferences: those that requests have set; the settings come first.
        template: the chat template that the settings give the default model.
        profiles: the settings of single models.

    Raises:
        ConfigError: ``model`` is neither an id nor the path of a GGUF file,
            ``chat_template`` is neither a name nor a file with text, or a setting of a single model
            is wrong.
    """

    def __init__(self, settings: Settings) -> None:
        self.default_id: str | None = None
        self.preferences = Preferences.beside(settings.responses_file)
        self._settings = settings
        self.profiles = Profiles(settings.models)
        self._aliases = self.profiles.aliases | dict(settings.model_aliases)
        self._folded_aliases = {alias.casefold(): alias for alias in self._aliases}
        self._drafts = DraftModels(settings)
        self.template = _read_template(settings.chat_template)
        self._descriptions: dict[str, tuple[ModelEntry, Description]] = {}
        self._lock = threading.Lock()
        paths = [_absolute(path) for path in settings.model_paths]
        self._folders = [path for path in paths if path.is_dir()]
        self._files = [path for path in paths if not path.is_dir()]
        if settings.models_dir_source or not paths:
            self._folders.append(settings.models_dir)
        if settings.model:
            self.default_id = self._choose(settings.model)
        elif paths and not paths[0].is_dir():
            self.default_id = stem_of(paths[0].name)

    @classmethod
    def of_files(cls, settings: Settings) -> Catalogue:
        """Return a catalogue for work on files, to which the settings of single models do not
        matter: each file is one entry, and adapters are entries too."""
        made = cls(replace(settings, models=(), draft_model=""))
        made.preferences = Preferences(None)
        return made

    # --- what there is ------------------------------------------------------------------------

    def entries(self) -> list[ModelEntry]:
        """Return all models, sorted by id.

        The bundled starter is one of them if it is the default model, or if there is no other model
        and no place of models was configured.
        """
        return self.survey()[0]

    def survey(self) -> tuple[list[ModelEntry], list[Skipped]]:
        """Return all models, sorted by id, and the files that are left out."""
        found: dict[str, ModelEntry] = {}
        skipped: list[Skipped] = []
        for file in self._files:
            self._add(survey_file(file), found, skipped)
        for folder in self._folders:
            self._add(survey_folder(folder), found, skipped)
        # The starter is listed if it is the only model or the default model.
        if (not found and not self.configured) or self.default_id == STARTER_ID:
            starter = read_entry(STARTER_PATH, STARTER_ID)
            if isinstance(starter, ModelEntry):
                found.setdefault(STARTER_ID, starter)
        self._apply_profiles(found, skipped)
        for name in self.preferences.read().pinned:
            if name in found:
                found[name] = replace(found[name], kept=True)
        entries = sorted(found.values(), key=lambda entry: entry.id)
        if self.template is not None and entries:
            default = self._default_of(entries)
            entries = [
                replace(entry, template=entry.template or self.template)
                if entry.id == default
                else entry
                for entry in entries
            ]
        if self._drafts.configured and entries:
            by_id = {entry.id: entry for entry in entries}
            self._drafts.attach(by_id, self._default_of(entries))
            entries = [*by_id.values()]
        return entries, skipped

    def _apply_profiles(self, found: dict[str, ModelEntry], skipped: list[Skipped]) -> None:
        """Attach the settings of single models to them; add the models that have a base."""
        if not self.profiles.by_id:
            return
        adapters = self.profiles.adapters
        for model_id, entry in [*found.items()]:  # an adapter that is used is no unusable model
            if _absolute(entry.path) in adapters:
                del found[model_id]
        files = dict(found)
        for name, own in self.profiles.by_id.items():
            base = files.get(own.base or name)
            if base is None or (own.base is not None and name in files):
                continue  # check() says why
            changed = self._with_profile(base, own)
            if isinstance(changed, Skipped):
                found.pop(name, None)
                skipped.append(changed)
            else:
                found[name] = changed

    def _with_profile(self, entry: ModelEntry, own: ModelSettings) -> ModelEntry | Skipped:
        try:
            stamp = entry.stamp + adapter_stamp(own.lora)
        except OSError as ex:
            reason = f"its adapter {os.path.basename(str(ex.filename))}: {reason_of(ex)}"
            return Skipped(entry.path, reason, own.name, "adapter")
        template = self.profiles.templates.get(own.name)
        return replace(entry, id=own.name, own=own, stamp=stamp, template=template)

    @staticmethod
    def _add(
        more: tuple[list[ModelEntry], list[Skipped]],
        found: dict[str, ModelEntry],
        skipped: list[Skipped],
    ) -> None:
        skipped += more[1]
        for entry in more[0]:
            first = found.setdefault(entry.id, entry)
            if first.path != entry.path:
                reason = f"another file has the same id {entry.id}"
                skipped.append(Skipped(entry.path, reason, code="duplicate"))

    @property
    def configured(self) -> bool:
        """Whether the settings say where models are."""
        return bool(self._settings.models_dir_source or self._settings.model_paths)

    @property
    def places(self) -> list[Path]:
        """The files and folders in which models are looked for."""
        return [*self._files, *self._folders]

    @property
    def default(self) -> str | None:
        """The id of the model that answers requests that name none; None if there is no model.

        It is the configured one, else the one that a request has set, as long as it exists, else
        the first by id that generates text, else the first.
        """
        return self.default_id or self._default_of(self.entries())

    def _default_of(self, entries: Sequence[ModelEntry]) -> str | None:
        if self.default_id is not None or not entries:
            return self.default_id
        preferred = self._preferred_of(entries)
        if preferred is not None:
            return preferred
        # Only the headers up to the first suitable model are read. Files come before the models
        # that the settings make of them.
        entries = sorted(entries, key=lambda entry: entry.own.base is not None)
        for entry in entries:
            if self.describe(entry).generates:
                return entry.id
        usable = (entry.id for entry in entries if self.describe(entry).problem is None)
        return next(usable, entries[0].id)

    def _preferred_of(self, entries: Sequence[ModelEntry]) -> str | None:
        """Return the default model that a request has set; None if it does not exist now."""
        preferred = self.preferences.read().default
        return preferred if any(entry.id == preferred for entry in entries) else None

    def describe(self, entry: ModelEntry) -> Description:
        """Return what the files of a model say about it; they are read once until they change."""
        # By id, since several models may have one file; other entries have the same id and differ.
        with self._lock:
            known = self._descriptions.get(entry.id)
        if known is not None and known[0] == entry:
            return known[1]
        description = describe(entry.files, entry.template, entry.adapters, entry.draft)
        with self._lock:
            if len(self._descriptions) >= _MAX_DESCRIPTIONS:
                self._descriptions.clear()
            self._descriptions[entry.id] = (entry, description)
        return description

    def fault(self, entry: ModelEntry) -> str | None:
        """Return why a model cannot be used, for lists of files; None if it can be."""
        problem = self.describe(entry).problem
        if problem is None or entry.own.base is None:
            return problem
        return f"as {entry.id}: {problem}"  # the file itself may be sound

    def left_out(self, entry: ModelEntry) -> Skipped | None:
        """Return why a model cannot be used, and its file; None if it can be."""
        problem = self.fault(entry)
        if problem is None:
            return None
        return Skipped(entry.path, problem, entry.id, _FAULTS[self.describe(entry).blame or "file"])

    def aliases(self) -> dict[str, list[str]]:
        """Return the aliases of each id, those of the settings."""
        by_id = {entry.id: entry for entry in self.entries()}
        found: dict[str, list[str]] = {}
        for alias, wanted in self._aliases.items():
            entry = match(wanted, by_id)
            if entry is not None and alias not in by_id:
                found.setdefault(entry.id, []).append(alias)
        return found

    # --- one model ----------------------------------------------------------------------------

    def find(self, name: str) -> ModelEntry | None:
        """Return the same as :meth:`get`; None if no model has the name."""
        entries = self.entries()
        by_id = {entry.id: entry for entry in entries}
        wanted = name or self._default_of(entries) or ""
        return by_id.get(wanted) or match(self._meant(wanted, by_id), by_id)

    def get(self, model_id: str) -> ModelEntry:
        """Return the model that a request names.

        The name is compared with the ids of the files found and never joined to a path. In this
        order it may be: an id, an alias in any case, an id with ``.gguf`` or in another case, the
        beginning of only one id. An empty name is the default model.

        Raises:
            ModelNotFound: no model has this id; the message lists those that exist.
        """
        entries, skipped = self.survey()
        by_id = {entry.id: entry for entry in entries}
        wanted = model_id or self._default_of(entries) or ""
        if wanted in by_id:
            return by_id[wanted]
        alias, wanted = wanted, self._meant(wanted, by_id)
        entry = match(wanted, by_id)
        if entry is not None:
            return entry
        shown = model_id if len(model_id) <= _MAX_NAME else f"{model_id[:_MAX_NAME]}..."
        if wanted != alias:
            shown += f", which stands for {wanted}"
        raise ModelNotFound(shown or "(none)", self._advice(wanted, by_id, skipped))

    def _meant(self, name: str, by_id: Container[str]) -> str:
        """Return what an alias stands for; other names unchanged. An id is no alias."""
        alias = name if name in self._aliases else self._folded_aliases.get(name.casefold(), name)
        return name if alias in by_id else self._aliases.get(alias, name)

    def _advice(
        self, wanted: str, by_id: Mapping[str, ModelEntry], skipped: Iterable[Skipped]
    ) -> str:
        for file in skipped:
            if file.id and file.id == stem_of(wanted):
                return f"Its file cannot be used: {file.reason}."
        if not by_id:
            return "This server has no model now; copy a GGUF file into its models directory."
        ids = nearest(wanted, by_id)
        if len(ids) == 1:
            return f"The only model is {ids[0]}."
        return f"The models are {listed(ids)}."

    # --- the settings -------------------------------------------------------------------------

    def check_folder(self) -> None:
        """Check that the configured places exist and can be read.

        Raises:
            ConfigError: one of them does not, or a path that was given is not a model.
        """
        settings = self._settings
        problems = []
        for given in settings.model_paths:
            problem = path_problem(_absolute(given))
            if problem is not None:
                problems.append(f"{given}: {problem}")
        if settings.models_dir_source:
            problem = folder_problem(settings.models_dir)
            if problem is not None:
                problems.append(f"{settings.models_dir_source}: {settings.models_dir} {problem}")
        if problems:
            raise ConfigError("; ".join(problems))

    def check(self) -> None:
        """Check that there is a model to serve, or that peers may have one: nothing else is served
        in its place.

        Raises:
            ConfigError: a configured place does not exist, cannot be read, or has no model, or a
                draft model cannot be used.
        """
        self.check_folder()
        self.check_profiles()
        if self._drafts.configured:
            entries = self.entries()
            self._drafts.check({entry.id: entry for entry in entries}, self._default_of(entries))
        if self.default_id is not None:
            return
        entries, skipped = self.survey()
        settings = self._settings
        # A machine without models uses those of its peers.
        if entries or not self.configured or settings.peers:
            return
        reasons = listed([f"{file.path.name}: {file.reason}" for file in skipped], "; ")
        more = f" (skipped: {reasons})" if skipped else ""
        source = settings.models_dir_source
        place = f"{source}: {settings.models_dir} contains" if source else "the paths contain"
        raise ConfigError(
            f"{place} no model{more}; copy a GGUF file into it, or name another folder"
        )

    def check_profiles(self) -> None:
        """Check that the models with settings of their own exist.

        Raises:
            ConfigError: one does not, or its file or an adapter cannot be used.
        """
        if not self.profiles.by_id:
            return
        entries, skipped = self.survey()
        by_id = {entry.id: entry for entry in entries}
        for name, own in self.profiles.by_id.items():
            entry = by_id.get(name)
            if entry is not None and entry.own is own:
                continue
            _check_adapters(own)
            key = own.source if own.base is None else own.key("base")
            if entry is not None:
                raise ConfigError(f"{key}: a file has the id {name} already; choose another name")
            for file in skipped:
                if file.id in (name, own.base):
                    raise ConfigError(f"{own.source}: its file cannot be used: {file.reason}")
            raise ConfigError(f"{key}: {self._unknown(own.base or name, by_id)}")

    def _unknown(self, wanted: str, by_id: Mapping[str, ModelEntry]) -> str:
        ids = nearest(wanted, [name for name, entry in by_id.items() if entry.own.base is None])
        hint = did_you_mean(stem_of(wanted[:_MAX_NAME]), ids)
        there = f"the ids are {listed(ids)}" if ids else "there are no models"
        return f"no model has the id {wanted[:_MAX_NAME]} ({there}){hint}"

    def start_ids(self) -> list[str]:
        """Return the models to load at start: the default model that is configured or set, or the
        only model, and the pinned ones. One that would be unloaded at once is loaded at its first
        request."""
        entries = self.entries()
        default = self.default_id or self._preferred_of(entries) or self._only(entries)
        ids = [default, *self.profiles.pinned, *(entry.id for entry in entries if entry.kept)]
        stay = {entry.id for entry in entries if self._stays(entry)}
        return [name for name in dict.fromkeys(ids) if name is not None and name in stay]

    def _stays(self, entry: ModelEntry) -> bool:
        own = entry.own.keep_alive
        return entry.pinned or (self._settings.keep_alive if own is None else own) > 0

    def _only(self, entries: Sequence[ModelEntry]) -> str | None:
        """Return the id of the only model, or of the only one that can be used."""
        if len(entries) == 1:
            return entries[0].id
        usable = (entry.id for entry in entries if self.describe(entry).problem is None)
        ids = [*itertools.islice(usable, 2)]  # of many models, only few headers are read
        return ids[0] if len(ids) == 1 else None

    def unknown_aliases(self) -> list[tuple[str, str]]:
        """Return the aliases whose model does not exist now."""
        by_id = {entry.id: entry for entry in self.entries()}
        return [pair for pair in self._aliases.items() if match(pair[1], by_id) is None]

    def hidden_aliases(self) -> list[tuple[str, str]]:
        """Return the aliases that have no effect, because another model has that id now."""
        by_id = {entry.id: entry for entry in self.entries()}
        return [
            (alias, wanted)
            for alias, wanted in self._aliases.items()
            if alias in by_id and match(wanted, by_id) not in (None, by_id[alias])
        ]

    def _choose(self, wanted: str) -> str:
        """Return the id of the configured default model; remember its file if it is a path."""
        # Ids first: a file in the current directory may have the same name as a model.
        if wanted == STARTER_ID:
            return wanted
        by_id = {entry.id: entry for entry in self.entries()}
        if wanted in by_id:
            return wanted
        path = _expanded(wanted)
        problem = "" if path is None else file_problem(path)
        if path is not None and problem is None:
            self._files.insert(0, path)
            return stem_of(path.name)
        entry = match(self._meant(wanted, by_id), by_id)
        if entry is not None:
            return entry.id
        setting = "OFFGRID_MODEL (--model)"
        if path is not None and os.path.isdir(path):
            raise ConfigError(
                f"{setting}: {wanted!r} is a folder; offgrid serve {wanted} serves the models in it"
            )
        if path is not None and os.path.lexists(path):
            raise ConfigError(f"{setting}: {wanted!r} cannot be used: {problem}")
        looked = "no GGUF file at" if wanted.lower().endswith(EXTENSION) else "no model"
        ids = nearest(wanted, by_id)
        there = f"the ids are {listed(ids)}" if ids else "there are no models"
        places = ", ".join(map(str, self.places))
        raise ConfigError(f"{setting}: {looked} {wanted[:_MAX_NAME]!r}; {there} in {places}")


def _check_adapters(own: ModelSettings) -> None:
    """Refuse an adapter that does not exist; the message has the whole path that was looked for."""
    for lora in own.lora:
        try:
            lora.path.stat()
        except OSError as ex:
            raise ConfigError(f"{own.key('lora')}: {lora.path} {_ending(ex)}") from None


def _ending(ex: OSError) -> str:
    reason = reason_of(ex)
    return reason if isinstance(ex, FileNotFoundError) else f"cannot be read: {reason}"


def nearest(wanted: str, ids: Iterable[str]) -> list[str]:
    """Return ids in the order of their similarity to a wanted one."""
    known = sorted(ids)
    wanted = stem_of(wanted[:_MAX_NAME]).casefold()
    begin = [model for model in known if wanted and model.casefold().startswith(wanted)]
    folded = {model.casefold(): model for model in known[:1000]}
    close = difflib.get_close_matches(wanted, folded, n=MAX_NAMED, cutoff=0.4)
    return list(dict.fromkeys([*begin, *(folded[model] for model in close), *known]))


def match(wanted: str, by_id: Mapping[str, ModelEntry]) -> ModelEntry | None:
    """Return the entry that a name means, if it means only one."""
    wanted = stem_of(wanted)
    if wanted in by_id or not wanted:
        return by_id.get(wanted)
    folded = wanted.casefold()
    same = [entry for model, entry in by_id.items() if model.casefold() == folded]
    begin = [entry for model, entry in by_id.items() if model.casefold().startswith(folded)]
    for entries in (same, begin):
        if entries:
            return entries[0] if len(entries) == 1 else None
    return None


# --- paths and templates of the settings ---


def _absolute(path: Path) -> Path:
    return _expanded(str(path)) or path


def _expanded(text: str) -> Path | None:
    try:
        # Keep symbolic links: a cache may link readable names to names that are hashes.
        return Path(os.path.abspath(Path(text).expanduser()))
    except (RuntimeError, ValueError):
        return None  # for example "~nobody", or a null byte


def _read_template(setting: str) -> str | None:
    """Return the chat template that the settings name."""
    return read_template(setting, "OFFGRID_CHAT_TEMPLATE (--chat-template)") if setting else None
