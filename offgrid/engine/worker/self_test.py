"""Computes two tokens with the starter: ``python -I -m offgrid.engine.worker.self_test``.

The installer on a stick runs this. Packages that were built on another machine may need a newer C
library than this machine has; then the import fails. Or they use instructions that its processor
does not have; then the process dies of a signal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import offgrid
from offgrid.engine.protocol.commands import Load
from offgrid.engine.worker.llama.model import Model

_STARTER = Path(offgrid.__file__).parent / "models" / "offgrid-starter.gguf"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discard what llama.cpp writes to standard error."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def main() -> None:
    """Load the starter; that decodes two tokens.

    Raises:
        LoadError: the starter cannot be loaded or computed.
    """
    with _quiet():
        Model(Load(str(_STARTER), ctx_size=64, parallel=1, threads=1)).close()


if __name__ == "__main__":
    main()
