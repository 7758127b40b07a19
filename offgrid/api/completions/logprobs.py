"""The legacy logprobs object of text completions."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from offgrid.engine.protocol.events import PromptToken, TokenLogprob

_BACKSLASH = ord("\\")
_utf8 = codecs.getincrementaldecoder("utf-8")


class LegacyLogprobs:
    """Makes the legacy logprobs object of one choice, in several pieces if its tokens come so.

    ``text_offset`` counts characters from the beginning of the prompt, echoed or not. A token that
    begins inside a character has that character's offset.

    Args:
        prompt: the prompt's text.
    """

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._offset = len(prompt)
        self._decoder = _utf8("replace")

    def of_prompt(self, tokens: Sequence[PromptToken], n_top: int) -> dict[str, Any]:
        """Return the object of a whole prompt with ``n_top`` alternatives for each token."""
        self._offset = 0
        self._decoder.reset()
        # Some tokenisers add a space before a text; it is not part of the text.
        shift = not self._prompt.startswith(" ")
        offsets = []
        for token in tokens:
            piece = b"" if token.silent else token.piece
            if shift and piece:
                piece, shift = piece.removeprefix(b" "), False
            offsets.append(self._pass(piece))
        self._offset = len(self._prompt)
        self._decoder.reset()
        return {
            "tokens": [_text(token.piece) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                None
                if token.logprob is None
                else _by_text((piece, logprob) for _, piece, logprob in token.top[:n_top])
                | {_text(token.piece): token.logprob}
                for token in tokens
            ],
            "text_offset": offsets,
        }

    def of_answer(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return the object of the answer's next tokens."""
        return {
            "tokens": [_text(token.piece) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                _by_text(token.top) | {_text(token.piece): token.logprob} for token in tokens
            ],
            "text_offset": [self._pass(b"" if t.silent else t.piece) for t in tokens],
        }

    def _pass(self, piece: bytes) -> int:
        """Advance the offset past a piece; return the offset at which the piece begins."""
        begin = self._offset
        if self._decoder.getstate()[0] and piece:
            # The first byte goes on with a character, or shows that there is none: then the piece
            # begins after what stands for it.
            first, piece = piece[:1], piece[1:]
            shown = len(self._decoder.decode(first))
            begin += shown + bool(self._decoder.getstate()[0]) > 1
            self._offset += shown
        self._offset += len(self._decoder.decode(piece))
        return begin


def joined(*objects: dict[str, Any] | None) -> dict[str, Any] | None:
    """Join the legacy objects of a text's parts into one; None if there are none."""
    given = [item for item in objects if item is not None]
    if not given:
        return None
    return {name: [entry for item in given for entry in item[name]] for name in given[0]}


def _by_text(top: Iterable[tuple[bytes, float]]) -> dict[str, float]:
    """Return a map from text to logprob. Of equal pieces the likelier one is kept."""
    result: dict[str, float] = {}
    for piece, logprob in top:
        result.setdefault(_text(piece), logprob)
    return result


def _text(piece: bytes) -> str:
    """Return the text of a piece. Bytes that are not UTF-8 by themselves have OpenAI's legacy form
    ``bytes:\\xe3\\x81``, so that different pieces have different texts."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(map(_byte, piece))


def _byte(value: int) -> str:
    return chr(value) if 0x20 <= value < 0x7F and value != _BACKSLASH else f"\\x{value:02x}"
