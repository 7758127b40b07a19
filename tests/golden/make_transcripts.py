"""Writes the transcripts of event streams that ``tests/api/test_transcripts.py`` checks.

Clients may notice a change of these bytes. Run this only after an intended change, and read the
output of ``git diff``.

Usage: python tests/golden/make_transcripts.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "lib"))

from transcripts import FOLDER, GROUPS, transcript

from offgrid.config import load_settings
from offgrid.server import Server
from offgrid.store.catalogue import STARTER_ID, STARTER_PATH


def main() -> None:
    """Write all transcripts."""
    for group in GROUPS:
        with tempfile.TemporaryDirectory() as models:
            group.write_model(STARTER_PATH, Path(models))
            flags = {
                "port": 0, "models_dir": models, "default_model": STARTER_ID, "drain_timeout": 0,
                **(group.flags or {}),
            }  # fmt: skip
            server = Server(load_settings(flags, environ={}))
            server.start()
            try:
                for name in group.cases:
                    text = transcript(server, group, name)
                    (FOLDER / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
            finally:
                server.stop()


if __name__ == "__main__":
    main()
