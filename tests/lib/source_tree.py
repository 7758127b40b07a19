"""``python -m pytest`` works like ``pytest``: it tests the package as it is installed.

``python -m`` puts the current folder first in ``sys.path``. That is the source tree, whose C parts
are not compiled unless somebody did that in place, so nothing could be imported from it. This
module is imported before anything of the package is.
"""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def _is_compiled(package: Path) -> bool:
    """Whether this Python could import the sampler from there."""
    return any((package / "sampling" / f"_sampler{end}").exists() for end in EXTENSION_SUFFIXES)


if not _is_compiled(_ROOT / "offgrid"):
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != _ROOT]
