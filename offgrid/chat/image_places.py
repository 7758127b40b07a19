"""Images in a prompt: a template sees texts only, so the image numbers are quoted in them.

After rendering, each quoted number becomes a separate part.
"""

from __future__ import annotations

from collections.abc import Sequence

from offgrid.chat.conventions import Message
from offgrid.engine.protocol.requests import PromptPart
from offgrid.errors import InvalidParameter

_MOVED = "The image is in the next message."
"""Text for an image that a template does not write in a result."""


def images_of(messages: Sequence[Message]) -> list[int]:
    """Return the numbers of all images, in order."""
    contents = [m["content"] for m in messages if isinstance(m["content"], list)]
    return [part for content in contents for part in content if isinstance(part, int)]


def quoted(messages: Sequence[Message], quote: str) -> list[Message]:
    """Write the image numbers into the texts, between characters that occur in no text."""
    result = []
    for message in messages:
        content = message["content"]
        if isinstance(content, list):
            content = "".join(f"{quote}{p}{quote}" if isinstance(p, int) else p for p in content)
        result.append({**message, "content": content})
    return result


def with_images(
    parts: Sequence[PromptPart], quote: str, images: Sequence[int]
) -> tuple[PromptPart, ...]:
    """Return the parts of a rendered prompt, with parts for the images whose numbers it quotes.

    Raises:
        InvalidParameter: the template has omitted or moved an image.
    """
    result: list[PromptPart] = []
    for part in parts:
        for place, text in enumerate(part.text.split(quote)):
            if place % 2:
                result.append(PromptPart("", False, _number(text)))
            elif text:
                result.append(PromptPart(text, part.special))
        if part.text.count(quote) % 2:
            # An unpaired quote: an invalid number.
            result.append(PromptPart("", False, len(images)))
    if [part.image for part in result if part.image >= 0] != list(images):
        raise InvalidParameter(
            "The model's chat template does not write each image at its place.", "messages"
        )
    return tuple(result)


def _number(text: str) -> int:
    """Return the number of an image, or a number that is too large if the text is invalid."""
    return int(text) if len(text) < 4 and text.isascii() and text.isdigit() else 1 << 30


def with_moved_images(messages: Sequence[Message]) -> list[Message]:
    """Move the images of results into a user message after these results."""
    moved: list[Message] = []
    images: list[int] = []
    for message in messages:
        if images and message["role"] != "tool":
            moved.append({"role": "user", "content": list(images)})
            images.clear()
        content = message["content"]
        if message["role"] == "tool" and isinstance(content, list):
            images += [part for part in content if isinstance(part, int)]
            texts = [part if isinstance(part, str) else _MOVED for part in content]
            message = {**message, "content": "\n".join(texts)}
        moved.append(message)
    return [*moved, {"role": "user", "content": images}] if images else moved
