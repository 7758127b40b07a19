"""Makes threads disturb each other as often as possible, in programs with this folder in
``PYTHONPATH``.

Threads give way every microsecond. A thread that builds the type information of a struct also
pauses at the critical point: msgspec publishes the information of the outer struct and then reads
the annotations of the structs in its fields, so that a second thread finds the outer one half built
and reads null pointers. Without the pause that happens in one start of ten.
"""

import sys
import threading
import time
from typing import Any

import msgspec._utils as utils

sys.setswitchinterval(1e-6)

_read = utils._get_class_mro_and_typevar_mappings
_begun = threading.local()


def _hold_up(struct: Any) -> Any:
    if threading.current_thread() is not threading.main_thread():
        if hasattr(_begun, "outer"):
            time.sleep(0.005)
        _begun.outer = True
    return _read(struct)


utils._get_class_mro_and_typevar_mappings = _hold_up
