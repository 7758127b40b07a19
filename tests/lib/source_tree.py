"""Makes ``python -m pytest`` work like ``pytest``: it tests the installed package.

``python -m`` puts the current folder first in ``sys.path``. That is the source tree. Its C parts
are not compiled unless somebody compiled them in place, so it cannot be imported. Import this
module before any module of the package.
"""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def _is_compiled(package: Path) -> bool:
    """Whether this Python can import the sampler from this folder."""
    return any((package / "sampling" / f"_sampler{end}").exists() for end in EXTENSION_SUFFIXES)


if not _is_compiled(_ROOT / "offgrid"):
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != _ROOT]
