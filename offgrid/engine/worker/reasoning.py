"""Limits the reasoning of one answer to a number of tokens. Pure: no llama.cpp, no clock.

A :class:`ReasoningLimit` follows the pieces of an answer, recognises where reasoning begins and
ends, and counts the tokens between. When the budget is used up, it offers masks that allow a single
token, one after the other: those of the text that ends reasoning. So the forced tokens are drawn by
the same sampler, and followed by the same matcher, as all others.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.protocol.requests import ReasoningBudget

_KEPT = 512
"""Bytes of an answer in which markers are looked for. No marker with its header is longer."""
_PATIENCE = 8
"""Most tokens that an end waits for the rest of a character, or of a marker that the model has
begun to write. No character has as many bytes, so only bytes that are no UTF-8 are cut."""


class ReasoningState(NamedTuple):
    """The state of a :class:`ReasoningLimit`, for :meth:`ReasoningLimit.restore`."""

    text: bytes
    waited: int
    state: Callable[[ReasoningLimit], None]
    used: int
    forced: tuple[int, ...]
    close: tuple[int, ...]


class ReasoningLimit:
    """The reasoning of one choice.

    Args:
        budget: the limit, and the markers.
        close: the tokens of its text ``close``.
        insist: the tokens of its text ``insist``; empty for those of ``close``.
        n_vocab: the size of the vocabulary.

    Attributes:
        address: address of a mask of ``(n_vocab + 31) // 32`` uint32 words that allows only the
            token that must come next; 0 if the next token is free.
        used: how many tokens of reasoning have come, without the marker that opened it.
    """

    __slots__ = (
        "_begins",
        "_close",
        "_ends",
        "_forced",
        "_insist",
        "_later",
        "_limit",
        "_markers",
        "_mask",
        "_n_vocab",
        "_state",
        "_text",
        "_waited",
        "address",
        "used",
    )  # fmt: skip

    def __init__(
        self, budget: ReasoningBudget, close: Iterable[int], insist: Iterable[int], n_vocab: int
    ) -> None:
        self._begins = re.compile(budget.first.encode(), re.DOTALL)
        self._later = re.compile(budget.later.encode(), re.DOTALL) if budget.later else None
        self._markers = tuple(end.encode() for end in budget.ends)
        self._ends = re.compile(b"|".join(map(re.escape, self._markers)))
        self._limit = budget.tokens
        self._close = tuple(close)
        self._insist = tuple(insist) or self._close
        self._n_vocab = n_vocab
        self._mask: NDArray[np.uint32] | None = None
        self._forced: deque[int] = deque()
        self._text = b""
        self._waited = 0
        # Functions, not methods: methods would hold this object and keep it from being freed.
        self._state: Callable[[ReasoningLimit], None] = ReasoningLimit._begin
        self.address = 0
        self.used = 0
        if budget.opened:
            self._open(b"")

    def follow(self, piece: bytes) -> None:
        """Note the next token of the answer.

        Args:
            piece: its bytes; the text of a control token if the answer contains that.
        """
        self._text += piece
        if self._forced:
            self._allow(self._forced.popleft(), False)
            self._aim()
        else:
            self._state(self)

    @property
    def mask(self) -> NDArray[np.uint32] | None:
        """The mask at :attr:`address`; None if the next token is free."""
        return self._mask if self.address else None

    @property
    def state(self) -> ReasoningState:
        """What the answer so far has left."""
        return ReasoningState(
            self._text, self._waited, self._state, self.used, tuple(self._forced), self._close
        )

    def restore(self, state: ReasoningState) -> None:
        """Go back to the place of the answer where :attr:`state` was read."""
        self._text, self._waited, self._state, self.used, forced, self._close = state
        self._forced = deque(forced)
        if self._mask is not None:
            self._mask[:] = 0
        self._aim()

    # --- states: each reads the text after a token --------------------------------------------

    def _begin(self) -> None:
        """The beginning of the answer: reasoning, or anything else."""
        match = self._begins.match(self._text)
        if match is not None:
            self._open(self._text[match.end() :])
        elif len(self._text) > _KEPT:
            self._state = ReasoningLimit._outside
        else:
            self._outside()

    def _outside(self) -> None:
        """Content or calls, among which reasoning may begin in some formats."""
        match = None if self._later is None else self._later.search(self._text)
        if match is not None:
            self._open(self._text[match.end() :])
        elif self._state is ReasoningLimit._outside:
            self._text = self._text[-_KEPT:]

    def _inside(self) -> None:
        self.used += 1
        self._read()

    def _read(self) -> None:
        """Read the text of reasoning: has it ended, or must it?"""
        end = self._ends.search(self._text)
        if end is not None:
            # The marker may also be the beginning of the next header.
            self._text = self._text[end.start() :]
            self._state = ReasoningLimit._outside
            return
        self._text = self._text[-_KEPT:]
        self._check()

    # --- the end ------------------------------------------------------------------------------

    def _open(self, text: bytes) -> None:
        """Reasoning has begun with a text, which may be empty."""
        self._text = text
        self._state = ReasoningLimit._inside
        self._read()

    def _check(self) -> None:
        """End reasoning if the budget is used up and nothing is cut in two."""
        if self.used < self._limit:
            return
        if self._waited < _PATIENCE and self._is_within():
            self._waited += 1
            return
        self._forced.extend(self._close)
        self._close = self._insist  # if reasoning begins again
        self._text = b""
        self._waited = 0
        self._state = ReasoningLimit._outside
        self._aim()

    def _is_within(self) -> bool:
        """Whether the text ends within a character or within a marker that ends reasoning."""
        return within_character(self._text) or any(
            self._text.endswith(marker[:size])
            for marker in self._markers
            for size in range(1, len(marker))
        )

    def _aim(self) -> None:
        """Let the mask allow the next forced token, or let the next token be free."""
        if not self._forced:
            self.address = 0
            return
        if self._mask is None:
            self._mask = np.zeros((self._n_vocab + 31) // 32, dtype=np.uint32)
        self._allow(self._forced[0], True)
        self.address = int(self._mask.ctypes.data)

    def _allow(self, token: int, allowed: bool) -> None:
        assert self._mask is not None
        self._mask[token // 32] = (1 << (token % 32)) if allowed else 0


def within_character(text: bytes) -> bool:
    """Return whether the last character of a text is incomplete UTF-8."""
    for back, byte in enumerate(reversed(text[-3:]), 1):
        if byte < 0x80:
            return False
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back < size
    return False
