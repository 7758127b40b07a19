"""Changes settings while the server runs: each object takes the new ones, or all keep the old ones.

An object that can take new settings registers a function that *prepares* them: it checks the new
values, builds what is needed for them, and returns a function that puts the result into force. If
one object refuses, nothing has changed. Putting into force is one assignment for each object, so
that a request sees an object before the change or after it, never in between.

A setting that no object has registered keeps its value until the server is started again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from offgrid.config.model import NO_SETTINGS, ModelSettings
from offgrid.config.table import BY_NAME, TABLE, Settings

MODELS = "models"
"""The name under which the tables of single models are registered."""

Commit = Callable[[], None]
"""Puts prepared settings into force. It assigns, and cannot fail."""
Prepare = Callable[[Settings], Commit]
"""Checks new settings. Raises OffgridError if they cannot be used; then nothing has changed."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a change of settings has done.

    Attributes:
        changed: names of the settings that have a new value now.
        waiting: names of the settings whose new value needs a restart of the server.
    """

    changed: tuple[str, ...]
    waiting: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.changed)
        changed = f"changed: {names}" if names else "no setting has changed"
        return f"{changed}; needs a restart: {', '.join(self.waiting)}" if self.waiting else changed


class Reloads:
    """The objects that take new settings while the server runs. Thread-safe.

    Args:
        settings: the settings at start.

    Attributes:
        settings: the settings in force.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._live: set[str] = set()
        self._parts: list[Prepare] = []
        self._lock = threading.Lock()

    def add(self, names: Sequence[str], prepare: Prepare) -> None:
        """Register an object that takes new settings.

        Args:
            names: the settings that it takes. None for an object that only reads its files again,
                because their paths do not change.
            prepare: called at each change, whichever settings differ. All other settings of its
                argument are those in force.
        """
        assert all(name == MODELS or name in BY_NAME for name in names), names
        self._live.update(names)
        self._parts.append(prepare)

    @property
    def live(self) -> frozenset[str]:
        """The settings that can be changed while the server runs."""
        return frozenset(self._live)

    def reload(self, wanted: Settings) -> Reloaded:
        """Put new settings into force, as far as they need no restart.

        Raises:
            OffgridError: an object cannot use its new settings. The old ones stay in force.
        """
        with self._lock:
            settings, waiting = self._possible(wanted)
            commits = [prepare(settings) for prepare in self._parts]
            for commit in commits:
                commit()
            changed = tuple(name for name in _NAMES if _differs(name, self.settings, settings))
            self.settings = settings
            return Reloaded(changed, waiting)

    def _possible(self, wanted: Settings) -> tuple[Settings, tuple[str, ...]]:
        """Return the wanted settings with the old values of those that need a restart, and the
        names of the latter."""
        old = self.settings
        differing = [name for name in _NAMES if _differs(name, old, wanted)]
        waiting = [name for name in differing if name not in self._live]
        kept: dict[str, Any] = {name: getattr(old, name) for name in waiting}
        if "models_dir" in kept:
            kept["models_dir_source"] = old.models_dir_source
        settings = replace(
            wanted,
            **kept,
            given=(wanted.given - frozenset(waiting)) | (old.given & frozenset(waiting)),
            model_paths=old.model_paths,
        )
        if MODELS in kept or settings.most_parallel <= old.most_parallel:
            return settings, tuple(waiting)
        # There are threads for as many sequences as the models could have at start.
        known = {own.name: own for own in old.models}
        models = tuple(_with_old_slots(own, known, old.most_parallel) for own in settings.models)
        return replace(settings, models=models), (*waiting, 'parallel in [models."id"]')


_NAMES = (*(row.name for row in TABLE), MODELS)
assert all(name in {field.name for field in fields(Settings)} for name in _NAMES)


def _differs(name: str, old: Settings, new: Settings) -> bool:
    return bool(getattr(old, name) != getattr(new, name))


def _with_old_slots(
    own: ModelSettings, known: dict[str, ModelSettings], most: int
) -> ModelSettings:
    """Return the settings of a model with its old number of slots, if it has too many."""
    if (own.parallel or 0) <= most:
        return own
    return replace(own, parallel=known.get(own.name, NO_SETTINGS).parallel)
