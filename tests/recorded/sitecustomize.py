"""Records the name of every thread that a program starts, in programs with this folder in
``PYTHONPATH`` and another folder in ``RECORDED_THREADS``.

Each process writes a file in the other folder, named after its process id, with one name per line.
"""

import os
import threading
from pathlib import Path

_FILE = Path(os.environ["RECORDED_THREADS"], str(os.getpid()))
_start = threading.Thread.start


def _record(name: str) -> None:
    with _FILE.open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")


def _start_recorded(self: threading.Thread) -> None:
    _record(self.name)
    _start(self)


threading.Thread.start = _start_recorded  # type: ignore[method-assign]
_record(threading.current_thread().name)
