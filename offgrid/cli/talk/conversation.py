"""The conversation of the terminal chat: its messages and options, and their file."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offgrid.api.chat.request import parse_chat
from offgrid.api.shapes import Json
from offgrid.errors import InvalidParameter, OffgridError
from offgrid.inprocess.messages import messages_of

_KIND = "offgrid conversation"
_MAX_FILE = 256 << 20
_SET_BY_CHAT = {"messages", "model", "stream", "stream_options", "n"}
"""Fields of a request that are no options here."""


class Conversation:
    """The messages so far, and the options of the next request.

    Attributes:
        messages: the messages, without the system message.
        system: the text of the system message; empty for none.
        options: fields of chat requests.
        images: paths of images for the next message.
    """

    def __init__(self, system: str = "", options: Mapping[str, Any] | None = None) -> None:
        self.messages: list[Json] = []
        self.system = system
        self.options: dict[str, Any] = {}
        self.images: list[str] = []
        for name, value in (options or {}).items():
            self.set(name, value)

    def begin_again(self) -> None:
        """Forget the messages; keep the system message and the options."""
        self.messages = []
        self.images = []

    def set(self, name: str, value: Any) -> None:
        """Set an option.

        Raises:
            InvalidParameter: chat requests have no such field, or it cannot have this value.
        """
        if name in _SET_BY_CHAT:
            raise InvalidParameter(f"{name} is set by the chat itself.", name)
        probe = {"messages": [{"role": "user", "content": "?"}], **self.options, name: value}
        parse_chat(probe)
        self.options[name] = value

    def add_image(self, path: str) -> None:
        """Add an image to the next message.

        Raises:
            InvalidParameter: it cannot be read, or is no image that models can read.
        """
        parse_chat({"messages": messages_of("", images=[path])})
        self.images.append(path)

    def ask(self, text: str) -> None:
        """Add a message of the user, with the images that wait for it.

        Raises:
            InvalidParameter: an image cannot be read any more.
        """
        self.messages += [dict(message) for message in messages_of(text, images=self.images)]
        self.images = []

    def take_back(self) -> Json | None:
        """Remove the last message of the user and what follows it; return that message."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index]["role"] == "user":
                message = self.messages[index]
                del self.messages[index:]
                return message
        return None

    def body(self, model: str) -> Json:
        """Return the request for the next answer."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {**self.options, "model": model, "messages": [*system, *self.messages]}

    # --- the file -----------------------------------------------------------------------------

    def save(self, path: Path, model: str) -> None:
        """Write the conversation to a file; one that holds something else is not replaced.

        Raises:
            OffgridError: it cannot be written.
        """
        path = path.expanduser()
        if os.path.lexists(path) and not _holds_conversation(path):
            raise OffgridError(f"{path} holds something else; choose another name")
        content = {
            "kind": _KIND, "model": model, "system": self.system, "options": self.options,
            "messages": self.messages,
        }  # fmt: skip
        try:
            _write(path, json.dumps(content, ensure_ascii=False, indent=1))
        except OSError as ex:
            raise OffgridError(f"{path} cannot be written: {ex.strerror or ex}") from None

    def load(self, path: Path) -> str:
        """Continue the conversation of a file; return the id of its model.

        Raises:
            OffgridError: the file cannot be read, or holds no conversation. Nothing has changed.
        """
        path = path.expanduser()
        content = _read(path)
        if not isinstance(content, dict) or content.get("kind") != _KIND:
            raise OffgridError(f"{path} holds no conversation; /save writes one")
        try:
            given = Conversation(content["system"], content["options"])
            given.messages = [dict(message) for message in content["messages"]]
            if given.messages:
                parse_chat(given.body(""))
            model = str(content["model"])
        except (KeyError, TypeError, AttributeError, ValueError) as ex:
            raise OffgridError(f"{path} cannot be used: {ex}") from None
        self.messages, self.system, self.options = given.messages, given.system, given.options
        self.images = []
        return model


def _write(path: Path, text: str) -> None:
    """Write a file that only this user may read; a full disk does not cost the older one."""
    descriptor, whole = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(whole, path)
    except BaseException:
        os.unlink(whole)
        raise


def _holds_conversation(path: Path) -> bool:
    try:
        content = _read(path)
    except OffgridError:
        return False
    return isinstance(content, dict) and content.get("kind") == _KIND


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise OffgridError(f"{path} is larger than {_MAX_FILE >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as ex:
        raise OffgridError(f"{path} cannot be read: {ex.strerror or ex}") from None
    except (ValueError, RecursionError):
        raise OffgridError(f"{path} holds no conversation; /save writes one") from None
