"""A catalogue whose settings can change while requests use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from offgrid.config import Commit, Settings
from offgrid.store.catalogue import Catalogue

LIVE = ("models", "model", "model_aliases", "chat_template", "draft_model")
"""The settings that can change."""
_OWN = frozenset({"prepare", "_now"})


class LiveCatalogue(Catalogue):
    """Answers every call with the catalogue of the settings that are in force at that moment.

    A method runs to its end on the catalogue on which it was called. So no request sees the aliases
    of new settings with the models of old ones.
    """

    def __init__(self, settings: Settings) -> None:
        self._now = Catalogue(settings)

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN:
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "_now"), name)

    def prepare(self, settings: Settings, check: Callable[[Catalogue], None]) -> Commit:
        """Take new settings: see :mod:`offgrid.config.reloading`.

        Args:
            settings: the new settings.
            check: raises ConfigError if a catalogue cannot be served.
        """
        new = Catalogue(settings)
        check(new)

        def commit() -> None:
            self._now = new

        return commit
