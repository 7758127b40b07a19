"""The text that a model gives to a custom tool, read out of the arguments while they arrive."""

from __future__ import annotations

import re

import msgspec

from offgrid.api.responses.tools import INPUT

_BEGIN = re.compile(r'\s*\{\s*"' + INPUT + r'"\s*:\s*"')
_LONGEST_BEGIN = 256
"""Characters after which arguments that have not begun like this have another form."""
_SPECIAL = re.compile(r'["\\]')
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_UNPAIRED = "\ufffd"


class InputReader:
    """Reads the member :data:`~offgrid.api.responses.tools.INPUT` of a JSON object.

    A model that writes another object means its only text, or else the object itself.
    """

    def __init__(self) -> None:
        self._raw: list[str] = []
        self._size = 0
        self._begun = False
        self._other = False
        self._ended = False
        self._held = ""
        """The beginning of an escape."""

    def feed(self, text: str) -> str:
        """Add text of the arguments; return the text of the tool's input that is certain now."""
        if self._ended:
            return ""
        if self._begun:
            return self._decode(text)
        self._raw.append(text)
        self._size += len(text)
        if self._other:
            return ""
        raw = "".join(self._raw)
        match = _BEGIN.match(raw)
        if match is None:
            self._other = self._size > _LONGEST_BEGIN
            return ""
        self._begun = True
        return self._decode(raw[match.end() :])

    def finish(self) -> str:
        """Return the rest of the input, when the arguments have ended."""
        if self._begun:
            return ""
        raw = "".join(self._raw)
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError):
            return raw
        if not isinstance(value, dict) or not value:
            return "" if value == {} else raw
        text = value.get(INPUT, next(iter(value.values())) if len(value) == 1 else None)
        return text if isinstance(text, str) else raw

    def _decode(self, text: str) -> str:
        """Decode the inside of a JSON string; an escape may be split anywhere."""
        text = self._held + text
        self._held = ""
        decoded: list[str] = []
        at = 0
        while at < len(text):
            match = _SPECIAL.search(text, at)
            if match is None:
                decoded.append(text[at:])
                break
            decoded.append(text[at : match.start()])
            at = match.start()
            if match[0] == '"':
                self._ended = True
                break
            length = self._escape(text[at : at + 12])
            if not length:
                self._held = text[at:]
                break
            decoded.append(_unescaped(text[at : at + length]))
            at += length
        return "".join(decoded)

    @staticmethod
    def _escape(text: str) -> int:
        """Return the length of the escape at the beginning of a text; 0 if it may be longer."""
        if text[1:2] != "u":
            return 2 if len(text) >= 2 else 0
        if len(text) < 6:
            return 0
        if not 0xD800 <= int(text[2:6], 16) < 0xDC00:
            return 6
        following = text[6:8]
        if following != "\\u":
            return 0 if "\\u".startswith(following) else 6
        if len(text) < 12:
            return 0
        return 12 if 0xDC00 <= int(text[8:12], 16) < 0xE000 else 6


def _unescaped(escape: str) -> str:
    if escape[1] != "u":
        return _ESCAPES.get(escape[1], escape[1])
    code = int(escape[2:6], 16)
    if len(escape) == 12:
        return chr(0x10000 + ((code - 0xD800) << 10) + int(escape[8:12], 16) - 0xDC00)
    return _UNPAIRED if 0xD800 <= code < 0xE000 else chr(code)
