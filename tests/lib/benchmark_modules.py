"""Loads modules of ``benchmarks/`` that tests use too: generators and simulations."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).parents[2] / "benchmarks"


def load_module(name: str) -> ModuleType:
    """Return ``benchmarks/<name>.py`` as a module.

    The folder is not put on the search path: its names are too general for that.
    """
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", _FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module
