"""Limits of an answer that act at the ends of its lines, as llama-server defines them."""

from __future__ import annotations


class LineLimits:
    """Follows the text of one answer, and says where it has to end.

    Args:
        indent: spaces or tabs with which each line but the first must begin, 0 for any line. The
            first line continues a line of the prompt. An empty line is not indented.
        milliseconds: time of the answer after which it ends with the next line, 0 for no limit.
    """

    __slots__ = ("_indent", "_milliseconds", "_missing")

    def __init__(self, indent: int, milliseconds: int) -> None:
        self._indent = indent
        self._milliseconds = milliseconds
        self._missing = 0
        """Characters of indentation that the current line still lacks."""

    def advance(self, text: str) -> tuple[str, bool]:
        """Take the next text; return the part of it that belongs to the answer, and whether the
        answer ends there because its line is not indented enough."""
        if not self._indent:
            return text, False
        for place, character in enumerate(text):
            if self._missing and character not in " \t":
                return text[:place], True
            if self._missing:
                self._missing -= 1
            elif character == "\n":
                self._missing = self._indent
        return text, False

    def is_over(self, text: str, answer_ms: float) -> bool:
        """Whether the answer ends after a text because its time is over.

        Args:
            text: what the latest token has added.
            answer_ms: time of the answer so far, in milliseconds.
        """
        return 0 < self._milliseconds < answer_ms and "\n" in text
