"""OffGrid LLM: serve GGUF models through the OpenAI API on a machine without a network.

:class:`LLM` is a model inside a Python program (docs/LIBRARY.md).

The parts, lowest level first: :mod:`offgrid.sampling` (logits to tokens to text, in C),
:mod:`offgrid.engine` (llama.cpp in a worker process of its own), :mod:`offgrid.chat`
(messages to prompt), :mod:`offgrid.store` (models on disk), :mod:`offgrid.api` (HTTP),
:mod:`offgrid.inprocess` (the same answers without HTTP).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offgrid.inprocess.llm import LLM

__all__ = ["LLM", "__version__"]
__version__ = "0.1.0a1"


def __getattr__(name: str) -> Any:
    """Import the library when it is first used: programs that only sample need none of it."""
    if name != "LLM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = importlib.import_module("offgrid.inprocess.llm").LLM
    return value
