"""Writes the transcripts of event streams that ``tests/api/test_transcripts.py`` compares with.

A change of these bytes is a change that clients may see: run this after a wanted one only, and read
what ``git diff`` says.

Usage: python tests/golden/make_transcripts.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from transcripts import BROKEN, CASES, FOLDER, transcript

from offgrid.config import load_settings
from offgrid.server import Server


def main() -> None:
    """Write all of them."""
    with tempfile.TemporaryDirectory() as models:
        flags = {"port": 0, "models_dir": models, "drain_timeout": 0}
        server = Server(load_settings(flags, environ={}))
        server.start()
        try:
            for name in [*CASES, *BROKEN]:
                text = transcript(server, name)
                (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
