"""Makes GGUF files with random weights for the tests: one of each kind of memory and of model.

The generators of architectures are those of ``benchmarks/models.py``; files are written where the
caller says. A file is under 1 MB and takes a few hundredths of a second.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _load(path: Path) -> ModuleType:
    """Import a file by its place: the benchmarks are scripts, not a package."""
    spec = importlib.util.spec_from_file_location("benchmark_models", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their own module up
    spec.loader.exec_module(module)
    return module


models = _load(Path(__file__).parents[1] / "benchmarks" / "models.py")

WINDOW = 32
"""Tokens that most of gemma3's layers look back."""


def make(architecture: str, folder: Path) -> Path:
    """Return a new file with a model that generates: llama, mamba, jamba or gemma3."""
    path: Path = models.make(f"small-{architecture}", folder)
    return path
