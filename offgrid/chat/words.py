"""Words of a request that keep their mark until a template writes them, also as JSON."""

from __future__ import annotations

from typing import Any


class Word(str):
    """A word that could become a control text with its neighbours, marked when it is written.

    Other conversions by a template (``| upper``) lose the mark.
    """

    _marked: str

    def __new__(cls, text: str, marked: str) -> Word:
        word = super().__new__(cls, text)
        word._marked = marked
        return word

    def __str__(self) -> str:
        return self._marked

    def __format__(self, spec: str) -> str:
        return format(self._marked, spec)

    def __add__(self, other: str) -> str:
        return self._marked + str(other)

    def __radd__(self, other: str) -> str:
        return other + self._marked

    @property
    def marked(self) -> str:
        """The word with its mark."""
        return self._marked


def packed(value: Any) -> Any:
    """Return a value of a request as plain JSON that keeps words and the order of keys.

    An object becomes a list of pairs, so that no object of a request can look like a word.
    """
    if isinstance(value, Word):
        return {"word": [str.__str__(value), value.marked]}
    if isinstance(value, dict):
        return {"object": [[packed(key), packed(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [packed(item) for item in value]
    return value


def unpacked(value: Any) -> Any:
    """Return the value that :func:`packed` was given."""
    if isinstance(value, list):
        return [unpacked(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "word" in value:
        text, marked = value["word"]
        return Word(text, marked)
    return {unpacked(key): unpacked(item) for key, item in value["object"]}
