"""The compiled modules of the package: every ``.pyx`` file has one."""

from __future__ import annotations

import importlib
from pathlib import Path

_SOURCES = Path(__file__).parent.parent.parent / "offgrid" / "sampling"
COMPILED = [
    importlib.import_module(f"offgrid.sampling.{path.stem}")
    for path in sorted(_SOURCES.glob("*.pyx"))
]
assert COMPILED, f"{_SOURCES} has no .pyx files"
