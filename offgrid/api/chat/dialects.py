"""The dialects of the models that are loaded."""

from __future__ import annotations

import threading
from collections import OrderedDict

from offgrid.chat.dialect import Dialect
from offgrid.engine.protocol import ModelInfo

_MAX_DIALECTS = 16


class Dialects:
    """The dialects of the models that are loaded, each made once: a large vocabulary takes time.

    A request whose dialect is being made waits for it; requests to other models do not wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[int, _Known] = OrderedDict()

    def of(self, info: ModelInfo) -> Dialect:
        """Return the dialect of a model; ``info`` is the object that its engine holds."""
        with self._lock:
            # By identity: comparing infos with thousands of tokens each would take longer.
            known = self._known.get(id(info))
            if known is None:
                known = self._known[id(info)] = _Known(info)
            self._known.move_to_end(id(info))
            while len(self._known) > _MAX_DIALECTS:
                self._known.popitem(last=False)
        return known.dialect()


class _Known:
    def __init__(self, info: ModelInfo) -> None:
        self._info = info  # holding it keeps its id() from being reused
        self._lock = threading.Lock()
        self._dialect: Dialect | None = None

    def dialect(self) -> Dialect:
        info = self._info
        with self._lock:
            if self._dialect is None:
                self._dialect = Dialect(
                    info.chat_template, info.bos_text, info.eos_text, info.control_ids, info.n_ctx
                )
            return self._dialect


DIALECTS = Dialects()
"""Those of this process."""
