"""The dialects of the models that are loaded."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator

from offgrid.chat.dialect import Dialect
from offgrid.engine.protocol.reports import ModelInfo
from offgrid.errors import InvalidParameter

_MAX_DIALECTS = 16
_FOR_TOOLS = "tool_use"
_FOR_DOCUMENTS = "rag"
_NOT_FOR_CHAT = "rerank"
"""Names of templates, as model files with several have them."""


class Dialects:
    """The dialects of the models that are loaded, each made once: a large vocabulary takes time.

    A request whose dialect is being made waits for it; requests to other models do not wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[int, _Known] = OrderedDict()

    def of(self, info: ModelInfo, *, tools: bool = False, documents: bool = False) -> Dialect:
        """Return the dialect of a model.

        A model file may have several templates. The default one is used, unless it does not write
        the tools or documents of a request and another one does.

        Args:
            info: the object that its engine holds.
            tools: whether the request has tools.
            documents: whether it has documents.

        Raises:
            InvalidParameter: the default template is not valid.
        """
        with self._lock:
            # By identity: comparing infos with thousands of tokens each would take longer.
            known = self._known.get(id(info))
            if known is None:
                known = self._known[id(info)] = _Known(info)
            self._known.move_to_end(id(info))
            while len(self._known) > _MAX_DIALECTS:
                self._known.popitem(last=False)
        return known.dialect(tools, documents)


class _Known:
    def __init__(self, info: ModelInfo) -> None:
        self._info = info  # holding it keeps its id() from being reused
        self._lock = threading.Lock()
        self._dialects: dict[str, Dialect | None] = {}

    def dialect(self, tools: bool, documents: bool) -> Dialect:
        with self._lock:
            default = self._default()
            writes = default.template.conventions
            if tools and not writes.writes_tools:
                for dialect in self._others(_FOR_TOOLS):
                    if dialect.template.conventions.writes_tools:
                        return dialect
            elif documents and not tools and not writes.writes_documents:
                for dialect in self._others(_FOR_DOCUMENTS):
                    if dialect.template.conventions.writes_documents:
                        return dialect
            return default

    def _default(self) -> Dialect:
        dialect = self._dialects.get("")
        if dialect is None:
            dialect = self._dialects[""] = self._make(self._info.chat_template)
        return dialect

    def _others(self, first: str) -> Iterator[Dialect]:
        """Yield the dialects of the other templates, that with the usual name first."""
        templates = self._info.chat_templates
        for name in sorted(templates, key=lambda name: (name != first, name)):
            if name == _NOT_FOR_CHAT:
                continue
            if name not in self._dialects:
                self._dialects[name] = None
                with contextlib.suppress(InvalidParameter):  # one faulty template of several
                    self._dialects[name] = self._make(templates[name])
            dialect = self._dialects[name]
            if dialect is not None:
                yield dialect

    def _make(self, template: str | None) -> Dialect:
        info = self._info
        return Dialect(template, info.bos_text, info.eos_text, info.control_ids, info.n_ctx)


DIALECTS = Dialects()
"""Those of this process."""
