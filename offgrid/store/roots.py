"""The folders from which the API may import: the import roots of the settings.

Anybody who may use the API may import from them and see which models they hold. Nothing outside of
them is looked at, not even whether it exists.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

REMOVABLE = "removable"
"""The word in the setting that stands for the places where systems mount sticks and cards."""
NONE = "none"
_PLACES = ("/media", "/run/media", "/mnt", "/Volumes")


class OutsideRoots(Exception):
    """A path that is not below an import root."""


class Roots:
    """The import roots.

    Args:
        names: paths, and the words ``removable`` and ``none``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = [name for name in names if name != NONE]

    def given(self) -> list[Path]:
        """Return the roots as the settings name them, also those that do not exist now."""
        folders: list[Path] = []
        for name in self._names:
            if name == REMOVABLE:
                folders += _removable()
            else:
                folders.append(Path(os.path.abspath(os.path.expanduser(name))))
        return folders

    def real(self) -> list[Path]:
        """Return the roots that exist now, with symbolic links resolved."""
        folders = [Path(os.path.realpath(folder)) for folder in self.given()]
        return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]

    def named(self) -> list[Path]:
        """Return the roots that are paths of the settings and exist now, with links resolved."""
        return Roots(name for name in self._names if name != REMOVABLE).real()

    def resolve(self, text: str) -> Path:
        """Return a path below a root, with symbolic links resolved; it need not exist.

        Raises:
            OutsideRoots: it is not below a root, or a link in it leads out of all roots.
        """
        path = Path(text)
        real = self.real()
        # The text decides first, so that nothing outside is asked whether it exists.
        below = any(path.is_relative_to(root) for root in (*self.given(), *real))
        if "\0" in text or ".." in path.parts or not below:
            raise OutsideRoots
        resolved = Path(os.path.realpath(path))
        if not any(resolved.is_relative_to(root) for root in real):
            raise OutsideRoots
        return resolved


def _removable() -> list[Path]:
    if sys.platform == "win32":
        parts = psutil.disk_partitions(all=False)
        return [Path(part.mountpoint) for part in parts if "removable" in part.opts]
    return [Path(place) for place in _PLACES]
