"""A small vocabulary for grammars: bytes, some longer texts, and markers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence


class Vocabulary:
    """All bytes, some longer texts, and markers as control tokens.

    Args:
        texts: longer texts that are tokens, unless a control token stands in them.
        control: texts of the control tokens.
    """

    def __init__(self, texts: Iterable[str], control: Sequence[str]) -> None:
        pieces = [text for text in texts if len(text) > 1 and not any(c in text for c in control)]
        self.pieces = [bytes([n]) for n in range(256)]
        self.pieces += [piece.encode() for piece in dict.fromkeys(pieces)]
        self.long = range(256, len(self.pieces))
        self.control = {text: len(self.pieces) + n for n, text in enumerate(control)}
        self.pieces += [text.encode() for text in control] + [b"<end>"]
        self.end = len(self.pieces) - 1
        self.n_vocab = len(self.pieces)
        self.eog_ids = frozenset((self.end,))
        self.control_ids = (*self.control.values(), self.end)
        ordered = sorted(control, key=len, reverse=True)
        self._split = re.compile("(" + ("|".join(map(re.escape, ordered)) or "(?!)") + ")")

    def vocab_pieces(self) -> list[bytes]:
        return self.pieces

    def tokens(self, text: str) -> Iterator[int]:
        for piece in self._split.split(text):
            if piece in self.control:
                yield self.control[piece]
            else:
                yield from piece.encode()
