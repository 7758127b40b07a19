"""Conversations and images as a program has them, as the messages of a chat request."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from offgrid.api.fields.body import parse_object
from offgrid.errors import InvalidParameter, RequestError
from offgrid.inprocess.options import Batch, Conversation, Image

_FOREIGN = {
    "model": "an LLM has one model",
    "stream": "use stream() or stream_complete()",
    "stream_options": "a stream always counts its tokens",
    "keep_alive": "the model stays loaded until close()",
}
"""Fields of requests that are no arguments, and why."""


def is_batch(messages: Conversation | Batch) -> TypeGuard[Sequence[Conversation]]:
    """Whether the argument is a list of conversations and not a conversation.

    Raises:
        InvalidParameter: it is neither.
    """
    if isinstance(messages, bytes) or not isinstance(messages, Sequence):
        wanted = "a text, a list of messages, or a list of such conversations"
        kind = type(messages).__name__
        raise InvalidParameter(f"messages must be {wanted}, not {kind}.", "messages")
    return not isinstance(messages, str) and bool(messages) and not isinstance(messages[0], Mapping)


def request_body(options: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the body of a request as the API's parsers get it from a client.

    Raises:
        InvalidParameter: an option is no field of such a request, or a value cannot be sent as
            JSON; ``param`` names it.
    """
    for name in options:
        if name in _FOREIGN:
            raise InvalidParameter(f"{name} cannot be given here: {_FOREIGN[name]}.", name)
    body = {**options, **fields}
    # A client's request also arrives as JSON: tuples are lists, and there are no odd numbers.
    try:
        return parse_object(json.dumps(body, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError):
        for name, value in body.items():
            _check_json(name, value)
        raise


def _check_json(name: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as ex:
        raise InvalidParameter(f"{name} cannot be written as JSON: {ex}.", name) from None


@contextlib.contextmanager
def counted_from(begin: int, field: str) -> Iterator[None]:
    """Inside, a request has a part of a list: errors name the place in the whole list.

    Args:
        begin: the index of the part's first item.
        field: the field of the request that has the part.
    """

    def place(match: re.Match[str]) -> str:
        return f"{field}[{int(match[1]) + begin}]"

    try:
        yield
    except RequestError as ex:
        pattern = re.compile(rf"\b{field}\[(\d+)\]")
        ex.message = pattern.sub(place, ex.message)
        ex.param = pattern.sub(place, ex.param) if ex.param else ex.param
        ex.args = (ex.message,)
        raise


def messages_of(
    conversation: Conversation, system: str | None = None, images: Sequence[Image] = ()
) -> list[Mapping[str, Any]]:
    """Return the messages of a chat request.

    Args:
        conversation: a text of the user, or messages.
        system: becomes a system message before the others.
        images: are added to the last message.

    Raises:
        InvalidParameter: there is no message, or an image cannot be read.
    """
    if isinstance(conversation, str):
        messages: list[Mapping[str, Any]] = [{"role": "user", "content": conversation}]
    else:
        messages = [*conversation]
    if images:
        if not messages or messages[-1].get("role") != "user":
            raise InvalidParameter("Images need a last message of the role user.", "images")
        messages[-1] = with_images(messages[-1], images)
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return messages


def with_images(message: Mapping[str, Any], images: Sequence[Image]) -> dict[str, Any]:
    """Return a message with images before its text.

    Raises:
        InvalidParameter: an image cannot be read.
    """
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": _data_url(image, f"images[{index}]")}}
        for index, image in enumerate(images)
    ]
    content = message.get("content")
    if isinstance(content, str) and content:
        parts.append({"type": "text", "text": content})
    elif isinstance(content, list):
        parts += content
    return {**message, "content": parts}


def _data_url(image: Image, param: str) -> str:
    """Return an image file as a data URL; the API checks what it contains."""
    if isinstance(image, bytes):
        data = image
    else:
        path = Path(os.path.expanduser(os.fspath(image)))
        try:
            data = path.read_bytes()
        except OSError as ex:
            raise InvalidParameter(f"{path} cannot be read: {ex.strerror or ex}.", param) from None
    return f"data:image/*;base64,{base64.b64encode(data).decode('ascii')}"
