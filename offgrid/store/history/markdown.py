"""One branch of a conversation as Markdown that is imported again exactly.

::

    # Otters

    <!-- offgrid {"version":1,"id":"chat_1",...} -->

    ## User

    <!-- {"id":"msg_1","created_at":1790000000} -->

    Do otters swim?

Roles are headings. What has no place in the text is JSON in a comment below the heading: ids,
times, tool calls. Reasoning is below ``### Reasoning``, and the answer then below ``### Answer``.
Parts of a content begin with a comment, which names their type unless it is ``text``. A line of a
text that looks like one of these headings or comments is written with a backslash before it.
Comments may be absent, so a file written by hand can be imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from offgrid.store.history.message import Conversation, Json, StoredMessage

S = TypeVar("S", bound=msgspec.Struct)

VERSION = 1
_ROLES = {"System": "system", "User": "user", "Assistant": "assistant", "Tool": "tool"}
_HEADING = re.compile(rf"## ({'|'.join(_ROLES)})\s*")
_CONVERSATION = re.compile(r"<!-- offgrid (\{.*\}) -->\s*")
_MESSAGE = re.compile(r"<!-- (\{.*\}) -->\s*")
_PART = re.compile(r"<!-- part (\{.*\}) -->\s*")
_REASONING, _ANSWER = "### Reasoning", "### Answer"
_MARKER = re.compile(rf"\\*(## ({'|'.join(_ROLES)})\s*|### (Reasoning|Answer)\s*|<!-- part \{{.*)")
"""A line that could be a heading or the comment of a part, with the backslashes before it."""
_IMAGE = re.compile(r"!\[image\]\(([^)\n]*)\)")
_UNTITLED = "Conversation"


class InvalidMarkdown(ValueError):
    """A text is no exported conversation; the message names the line."""

    def __init__(self, line: int, reason: str) -> None:
        """``line`` counts from 0."""
        super().__init__(f"line {line + 1}: {reason}")


def written_title(title: str, fields: Json) -> str:
    """Return the beginning of a file: the title, and other fields of the conversation."""
    more = {name: value for name, value in fields.items() if name not in ("title", "object")}
    if not title or title != title.strip():
        more["title"] = title
    comment = _json({"version": VERSION, **more})
    return f"# {title.strip() or _UNTITLED}\n\n<!-- offgrid {comment} -->\n\n"


def written_message(message: StoredMessage) -> str:
    """Return a message as Markdown; its parent is the message before it."""
    given = msgspec.to_builtins(message)
    more = {name: given[name] for name in ("id", "model", "created_at") if given[name] is not None}
    more |= {
        name: given[name] for name in ("tool_calls", "tool_call_id") if given[name] is not None
    }
    more |= {"status": message.status} if message.status != "done" else {}
    more |= {"data": message.data} if message.data else {}
    if message.content is None or message.content == []:
        more["content"] = message.content
    heading = next(name for name, role in _ROLES.items() if role == message.role)
    text = _written_content(message.content)
    if message.reasoning is not None:
        text = f"{_REASONING}\n\n{_escaped(message.reasoning)}\n\n{_ANSWER}\n\n{text}"
    return f"## {heading}\n\n<!-- {_json(more)} -->\n\n{text}\n\n"


def _written_content(content: str | list[Json] | None) -> str:
    if isinstance(content, list):
        return "\n\n".join(map(_written_part, content))
    return _escaped(content or "")


def _written_part(part: Json) -> str:
    text, image = part.get("text"), part.get("image_url")
    shown = ""
    if part.get("type") == "text" and isinstance(text, str):
        part = {name: value for name, value in part.items() if name not in ("type", "text")}
        shown = _escaped(text)
    elif isinstance(image, dict) and isinstance(image.get("url"), str):
        drawn = f"![image]({image['url']})"
        if _IMAGE.fullmatch(drawn):
            part, shown = {**part, "image_url": {**image, "url": None}}, drawn
    return f"<!-- part {_json(part)} -->\n\n{shown}"


def _json(value: Any) -> str:
    # A comment must not contain two hyphens. In JSON they only occur in texts.
    return msgspec.json.encode(value).decode().replace("--", r"\u002d\u002d")


def _escaped(text: str) -> str:
    lines = text.split("\n")
    return "\n".join("\\" + line if _MARKER.fullmatch(line) else line for line in lines)


def _unescaped(lines: Sequence[str]) -> str:
    return "\n".join(
        line[1:] if line[:1] == "\\" and _MARKER.fullmatch(line) else line for line in lines
    )


def parse_markdown(text: str) -> Conversation:
    """Return the conversation of a file; its messages follow each other.

    Raises:
        InvalidMarkdown: the file has no messages, or a comment in it is wrong.
    """
    text = text.removeprefix("\ufeff")
    if text.partition("\n")[0].endswith("\r"):  # a program has changed the ends of all lines
        text = text.replace("\r\n", "\n")
    lines = text.removesuffix("\n").split("\n")
    starts = [number for number, line in enumerate(lines) if _HEADING.fullmatch(line)]
    if not starts:
        raise InvalidMarkdown(0, "the text has no heading such as '## User'")
    fields = _parse_beginning(lines[: starts[0]])
    messages: list[StoredMessage] = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        fallback = f"msg_{len(messages) + 1}"
        parent = messages[-1].id if messages else None
        messages.append(_parse_message(lines, start, end, fallback, parent))
    return _converted({**fields, "messages": messages}, Conversation, 0)


def _parse_beginning(lines: Sequence[str]) -> Json:
    fields: Json = {}
    for number, line in enumerate(lines):
        match = _CONVERSATION.fullmatch(line)
        if match:
            fields |= _object(match[1], number)
            version = fields.pop("version", VERSION)
            if not isinstance(version, int) or version > VERSION:
                raise InvalidMarkdown(number, "a later version of OffGrid wrote this file")
        elif line.startswith("# ") and "title" not in fields:
            fields["title"] = line[2:].strip()
        elif line.strip():
            raise InvalidMarkdown(number, "text before the first heading such as '## User'")
    return fields


def _parse_message(
    lines: Sequence[str], start: int, end: int, fallback: str, parent: str | None
) -> StoredMessage:
    """Read the message from its heading to the next one."""
    heading = _HEADING.fullmatch(lines[start])
    assert heading is not None
    begin = start + 1 + (start + 1 < end and not lines[start + 1].strip())
    comment = _MESSAGE.fullmatch(lines[begin]) if begin < end else None
    fields: Json = {"id": fallback}
    if comment:
        fields |= _object(comment[1], begin)
        begin += 1
    chunks = _chunks(lines, begin, end)
    fields |= _parse_texts(chunks, by_hand=comment is None) | (
        {"content": fields["content"]} if "content" in fields else {}
    )
    return _converted(
        {**fields, "role": _ROLES[heading[1]], "parent": parent}, StoredMessage, start
    )


Chunk = tuple[int, str, list[str]]
"""Line and text of a heading or comment, and the lines that follow it."""


def _chunks(lines: Sequence[str], begin: int, end: int) -> list[Chunk]:
    chunks: list[Chunk] = [(begin, "", [])]
    for number in range(begin, end):
        line = lines[number]
        if line[:1] != "\\" and _MARKER.fullmatch(line):
            chunks.append((number, line.rstrip(), []))
        else:
            chunks[-1][2].append(line)
    return chunks


def _parse_texts(chunks: Sequence[Chunk], *, by_hand: bool) -> Json:
    """Return reasoning and content."""
    fields: Json = {}
    parts: list[Json] = []
    content = _text(chunks[0][2], by_hand=by_hand)
    for number, marker, lines in chunks[1:]:
        text = _text(lines, by_hand=by_hand)
        if content and marker != _REASONING:
            raise InvalidMarkdown(number, f"text stands before {marker[:40]!r}")
        if marker == _REASONING:
            fields["reasoning"] = text
        elif marker == _ANSWER:
            content = text
        else:
            parts.append(_parse_part(marker, text, number))
    return {**fields, "content": parts or content}


def _text(lines: list[str], *, by_hand: bool) -> str:
    """Return the text of lines between headings, without the blank lines that are always there."""
    begin = bool(lines) and not lines[0]
    end = len(lines) - (len(lines) > begin and not lines[-1])
    text = _unescaped(lines[begin:end])
    return text.strip() if by_hand else text


def _parse_part(marker: str, text: str, number: int) -> Json:
    match = _PART.fullmatch(marker)
    if match is None:
        raise InvalidMarkdown(number, "the comment of a part does not end with '} -->'")
    part = _object(match[1], number)
    image = part.get("image_url")
    shown = _IMAGE.fullmatch(text)
    if "type" not in part:
        return {"type": "text", "text": text, **part}
    if isinstance(image, dict) and shown:
        return {**part, "image_url": {**image, "url": shown[1]}}
    if text:
        raise InvalidMarkdown(number, "text stands below a part that is not a text")
    return part


def _object(text: str, number: int) -> Json:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as ex:
        raise InvalidMarkdown(number, f"the comment is not JSON: {ex}") from None
    return value  # type: ignore[no-any-return]


def _converted(fields: Json, cls: type[S], number: int) -> S:
    try:
        return msgspec.convert(fields, cls)
    except msgspec.ValidationError as ex:
        raise InvalidMarkdown(number, str(ex)) from None
