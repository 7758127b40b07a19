"""Makes the wall clock of a program jump, as when somebody corrects it. Python imports this file
at start if its folder is on ``PYTHONPATH``. The file ``JUMPING_CLOCK`` has the seconds."""

from __future__ import annotations

import os
import time

_now = time.time


def _jumping() -> float:
    try:
        with open(os.environ["JUMPING_CLOCK"], encoding="ascii") as file:
            return _now() + float(file.read() or 0)
    except (OSError, KeyError):
        return _now()


time.time = _jumping
