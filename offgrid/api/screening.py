"""The content filter of a request: from the settings and from the caller's key.

The middleware :class:`Screening` notes for each request that a filter may apply. Checks of prompts
and requests for the engine ask :func:`in_force` for it; in programs that use ``offgrid.LLM`` there
is none.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import falcon

from offgrid.api.http.caller import caller
from offgrid.config import Settings
from offgrid.errors import ConfigError, ContentRefused, EngineFault
from offgrid.filters.program import FilterProgram, compile_terms
from offgrid.filters.source import FilterAbsent, Terms, read_filter

if TYPE_CHECKING:
    from offgrid.sampling import Filter

log = logging.getLogger(__name__)

MAX_PROGRAMS = 64
"""Compiled filters that are kept: one for each file or pair of files in use."""


_IMAGE = re.compile(r"data:image/[\w.+-]{1,40};base64,[A-Za-z0-9+/=\s]*", re.ASCII)
"""An image in a request. The letters of its base64 are no text."""


@dataclass(frozen=True)
class ContentFilter:
    """A filter in force: for prompts, which the server checks, and for the workers."""

    program: FilterProgram
    prompts: Filter | None

    def check(self, text: str | None, param: str) -> None:
        """Refuse a text of a prompt.

        Raises:
            ContentRefused: it matches; the message names the field, and not what matches.
        """
        if text and self.prompts is not None and self.prompts.found(text):
            raise ContentRefused(param=param)

    def check_values(self, value: Any, param: str) -> None:
        """Refuse parsed JSON if a text in it matches; keys are texts too. Images are left out.

        Raises:
            ContentRefused: it names the place of the text, as in ``input[2].content[0].text``.
        """
        stack = [(value, param)]
        while stack:
            item, at = stack.pop()
            if isinstance(item, str):
                if not (at.endswith("url") and _IMAGE.fullmatch(item)):
                    self.check(item, at)
            elif isinstance(item, Mapping):
                self.check("\n".join(map(str, item)), at)
                stack += [(inner, f"{at}.{key}") for key, inner in reversed([*item.items()])]
            elif isinstance(item, (list, tuple)):
                places = [(inner, f"{at}[{index}]") for index, inner in enumerate(item)]
                stack += reversed(places)


class Filters:
    """The filters of the settings and of the callers, compiled.

    Args:
        settings: the settings in force.

    Raises:
        ConfigError: the file of the settings cannot be read, or a line of it is wrong.
    """

    def __init__(self, settings: Settings) -> None:
        self._general = settings.filter_file
        self._lock = threading.Lock()
        self._files: dict[str, Terms] = {}
        self._compiled: dict[tuple[str, ...], ContentFilter] = {}
        if self._general:
            self._files[self._general] = _read(self._general)
            self._make((self._general,))

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read the files in use again; return what puts them in force.

        The file of a key may be gone, and with it the key, or a restore has moved it. That must not
        keep the other settings back; a key that still names it gets no answers: see :meth:`of`.

        Raises:
            ConfigError: a file is wrong; nothing has changed.
        """
        fresh = Filters(settings)
        for path in [*self._files]:
            if path not in (self._general, fresh._general):
                try:
                    fresh._files[path] = _read(path)
                except FilterAbsent as ex:
                    log.warning("a filter that a key has named is gone: %s", ex)

        def commit() -> None:
            with self._lock:
                self._general = fresh._general
                self._files = fresh._files
                self._compiled = fresh._compiled

        return commit

    def of(self, own: str) -> ContentFilter | None:
        """Return the filter for a caller whose own filter file is ``own``; None for no filter.

        Raises:
            EngineFault: the caller's file cannot be used, so nothing may be answered.
        """
        paths = tuple(dict.fromkeys(path for path in (self._general, own) if path))
        if not paths:
            return None
        found = self._compiled.get(paths)
        if found is not None:
            return found
        with self._lock:
            try:
                for path in paths:
                    if path not in self._files:
                        self._files[path] = _read(path)
                return self._compiled.get(paths) or self._make(paths)
            except (ConfigError, ValueError) as ex:
                log.error("the filter of a key cannot be used: %s", ex)
                raise EngineFault(
                    "The content filter of this key cannot be used; the log of the server says why."
                ) from None

    def _make(self, paths: tuple[str, ...]) -> ContentFilter:
        files = [self._files[path] for path in paths]
        answers = (term for terms in files for term in terms.answers)
        prompts = (term for terms in files for term in terms.prompts)
        program = compile_terms(answers, prompts)
        tables = program.answers if program.prompts is None else program.prompts
        made = ContentFilter(program, tables.filter())
        while len(self._compiled) >= MAX_PROGRAMS:
            del self._compiled[next(iter(self._compiled))]
        self._compiled[paths] = made
        return made


def _read(path: str) -> Terms:
    return read_filter(Path(path).expanduser())


class _Served(threading.local):
    """The filters of the server whose request a thread serves."""

    filters: Filters | None = None


_served = _Served()


class Screening:
    """Middleware: a filter may apply to every request."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Remember the filters for the thread that serves the request."""
        _served.filters = self._filters


def in_force() -> ContentFilter | None:
    """Return the filter for the request that this thread serves; None for no filter.

    Raises:
        EngineFault: see :meth:`Filters.of`.
    """
    filters = _served.filters
    return None if filters is None else filters.of(caller().filter_file)


def program_in_force() -> FilterProgram | None:
    """Return what :func:`in_force` sends to the worker."""
    found = in_force()
    return None if found is None else found.program


def check_prompt(texts: Iterable[tuple[Any, str]]) -> None:
    """Refuse a request whose prompt matches the filter in force.

    Args:
        texts: parts of the prompt as parsed JSON, each with its field.

    Raises:
        ContentRefused: a part matches.
    """
    found = in_force()
    if found is not None and found.prompts is not None:
        for value, param in texts:
            found.check_values(value, param)


def fields_of(body: Mapping[str, Any], *names: str) -> Iterator[tuple[Any, str]]:
    """Yield the given fields of a body that are present, with their names."""
    for name in names:
        if body.get(name) is not None:
            yield body[name], name
