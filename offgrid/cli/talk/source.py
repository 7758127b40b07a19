"""Who answers: a server that runs, or a model of the command's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from offgrid.api.shapes import Json
from offgrid.cli.options import settings_from
from offgrid.cli.talk.local import Local
from offgrid.cli.talk.options import MODEL_SETTINGS
from offgrid.cli.talk.remote import NEEDS_KEY, NoServer, Remote, ServerError, known_server
from offgrid.terminal import LogFormatter


class Source(Protocol):
    """What answers, a server or a model of the command's own. All methods raise OffgridError."""

    @property
    def where(self) -> str:
        """Where the model is, in words."""

    def close(self) -> None:
        """Release what it holds."""

    def models(self) -> list[str]:
        """Return the ids of its models."""

    def find(self, name: str) -> str:
        """Choose a model; return its id, or "" for a default model that is not known."""

    def chat(self, body: Json) -> Iterator[Json]:
        """Yield the chunks of an answer. Closing the iterator ends the generation."""

    def complete(self, body: Json) -> Iterator[Json]:
        """Yield the chunks of a continuation. Closing the iterator ends the generation."""


def open_source(
    model: str,
    flags: Mapping[str, Any],
    *,
    url: str | None,
    local: bool,
    say: Callable[[str], None],
) -> tuple[Source, str]:
    """Return who answers for a model, and the model's id.

    A server that listens on the configured address is used if it has the model; otherwise the
    command loads the model itself. With ``url``, or if the server needs another key, no other is
    asked.

    Args:
        model: the name that the user gave; "" for the default model.
        flags: the options for settings, and the key, by name.
        url: the address of a server, or None.
        local: whether no server is asked.
        say: tells the user which of the two it is.

    Raises:
        OffgridError: no source has this model.
    """
    key: str | None = flags.get("api_key")
    ca: str | None = flags.get("ca")
    if url is not None:
        remote = Remote(url, key, ca)
        return remote, _found(remote, model)
    reason = "" if local else "no address of a server is configured"
    known = None if local else known_server(settings_from(dict(flags)), key, ca)
    if known is not None:
        try:
            return known, _found(known, model)
        except NoServer:
            reason = f"no server answers at {known.url}"
        except ServerError as ex:
            if ex.code == NEEDS_KEY:
                raise
            reason = f"the server at {known.url} cannot be used: {ex}"
    if reason:
        say(f"{reason}; loading the model here")
    given = {name: flags[name] for name in MODEL_SETTINGS if flags.get(name) is not None}
    _log_warnings()
    own = Local(model, given, flags.get("config"))
    return own, own.find("")


def _found(remote: Remote, model: str) -> str:
    try:
        remote.models()
        return remote.find(model)
    except BaseException:
        remote.close()
        raise


def _log_warnings() -> None:
    """Print what the engine warns of, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("offgrid: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
