"""Keeps a user's text from becoming control tokens.

Control tokens such as ``<|im_end|>`` may come only from the template itself, never from a user's
text. Therefore every string of the request is marked before rendering: a character that occurs
nowhere in the request is inserted into every control text, and into every text that could become
one together with neighbouring text. After rendering, an unmarked control text comes from the
template, and the marks are removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from offgrid.chat.words import Word
from offgrid.engine.protocol.requests import PromptPart
from offgrid.errors import InvalidParameter
from offgrid.sampling import TextSet

MARKS = [chr(code) for code in (*range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF, 0x1FFFE, 0x1FFFF)]
"""Unicode noncharacters: valid in text, but without any meaning."""
_WORD = re.compile(r"\w+")
_MAX_WORD = 256
"""Characters. Any word that templates look up is shorter."""


class Scaffold:
    """The control texts of a model: marks them in a user's text, and finds them in a prompt.

    Raises:
        InvalidParameter: the control texts are too long.
    """

    def __init__(self, control_texts: Sequence[str]) -> None:
        try:
            self._texts = TextSet(text for text in control_texts if text)
        except ValueError as ex:
            raise InvalidParameter(f"The model's control tokens: {ex}.", "messages") from None
        joined = "\0".join(control_texts)
        self._marks = [mark for mark in MARKS if mark not in joined]

    def free_marks(self, value: Any, number: int) -> list[str]:
        """Return characters that occur nowhere in a request's value, nor in a control text.

        Raises:
            InvalidParameter: there are fewer than ``number``.
        """
        free = (mark for mark in self._marks if not _contains(value, mark))
        marks = list(islice(free, number))
        if len(marks) < number:
            raise InvalidParameter("These messages use all Unicode noncharacters.", "messages")
        return marks

    def mark(self, value: Any, mark: str) -> Any:
        """Return a copy of a request's value in which no string can become a control text."""
        if isinstance(value, str):
            return self._mark_text(value, mark)
        if isinstance(value, dict):
            return {self.mark(k, mark): self.mark(item, mark) for k, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.mark(item, mark) for item in value]
        return value

    def split(self, text: str, mark: str, most: int) -> tuple[PromptPart, ...] | None:
        """Return the parts of a rendered prompt without the marks; None if there are too many.

        If one control text is the beginning of another, the longer one wins.
        """
        pieces = self._texts.split(text, mark, most)
        return None if pieces is None else tuple(PromptPart(*piece) for piece in pieces)

    def _mark_text(self, text: str, mark: str) -> str:
        """Put the mark after the first character of every actual or possible control text.

        A mark is never put before a text, where it would appear to mark the template's own text.
        """
        if text.isspace():
            return text
        marked, whole = self._texts.mark(text, mark)
        # Templates compare and look up words ("function", "content"), so words stay unchanged.
        if marked is not text and not whole and len(text) <= _MAX_WORD and _WORD.fullmatch(text):
            return Word(text, marked)
        return marked


def _contains(value: Any, text: str) -> bool:
    if isinstance(value, str):
        return text in value
    if isinstance(value, dict):
        return any(_contains(k, text) or _contains(item, text) for k, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_contains(item, text) for item in value)
    return False
