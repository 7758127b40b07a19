"""Keeps banned strings out of one answer. Pure: no llama.cpp, no clock.

A :class:`Bans` follows the pieces of an answer. Tokens whose text may still become a banned string
are held back. When a banned string is complete, the answer is rewound to the place of its first
token, which is banned there, and the answer goes on from that place in another way. What has been
sent is never taken back.

The text is that of the whole answer before a stop string: reasoning, markers and calls too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.protocol.events import TokenLogprob
from offgrid.engine.worker.reasoning import ReasoningState
from offgrid.sampling import StringScanner, TextStream

PARAM = "banned_strings"
"""The request field."""
MAX_DISCARDED = 256
"""Most tokens that are sampled in vain between two that are sent; then the answer ends. A model may
write a banned string whichever of its tokens are banned."""
_NONE: frozenset[int] = frozenset()


class Rewind(NamedTuple):
    """An answer was rewound.

    Attributes:
        tokens: how many tokens were taken away before the one that was sampled last. If there are
            none, the next token is sampled from the same logits.
    """

    tokens: int


class Sent(NamedTuple):
    """A token whose text is sent.

    Attributes:
        text: what it adds to the text.
        size: bytes of its piece.
        logprobs: those of the token, if they are wanted.
    """

    text: str
    size: int
    logprobs: tuple[TokenLogprob, ...]


class Place(NamedTuple):
    """The state of an answer before one of its tokens.

    Attributes:
        sampler: of the sampler.
        reasoning: of its reasoning limit, or None.
        stops: of the search for stop strings.
        strings: of the search for banned strings.
        searched: bytes of the answer in which banned strings were looked for.
    """

    sampler: tuple[int, float, float]
    reasoning: ReasoningState | None
    stops: bytes
    strings: bytes
    searched: int


@dataclass(slots=True)
class _Held:
    """A token that is held back.

    Attributes:
        token: its id.
        begin: bytes of the answer before its piece.
        end: bytes of the answer after its piece.
        logprobs: those of the token, if they are wanted.
        free: whether another token may take its place.
        banned: tokens that are banned at its place.
        place: the state of the answer before it.
    """

    token: int
    begin: int
    end: int
    logprobs: tuple[TokenLogprob, ...]
    free: bool
    banned: frozenset[int]
    place: Place


class Bans:
    """The banned strings of one choice.

    Args:
        strings: none of them appears in the answer. Upper and lower case differ.
        stop: the stop strings of the answer.
        sampler: the state of the choice's sampler.

    Attributes:
        here: tokens that may not come next.
        sampler: the state of the sampler before the next token.
        stopped_by: the stop string that has been found, or an empty text.
        discarded: tokens that were taken away since a token was last sent.
    """

    __slots__ = (
        "_begin", "_decoder", "_end", "_held", "_mask", "_searched", "_stops", "_strings", "_text",
        "discarded", "here", "sampler", "stopped_by",
    )  # fmt: skip

    def __init__(
        self, strings: Sequence[str], stop: Sequence[str], sampler: tuple[int, float, float]
    ) -> None:
        self._strings = StringScanner(strings, what="banned string", param=PARAM)
        self._stops = StringScanner(stop)
        self._decoder = TextStream()
        self._held: list[_Held] = []
        self._text = bytearray()
        """The pieces of the tokens that are held back."""
        self._begin = 0
        """Bytes of the answer before them."""
        self._searched = 0
        """Bytes of the answer in which banned strings were looked for."""
        self._end = 0
        """Bytes of the answer that belong to its text: what may become a stop string does not."""
        self._mask: NDArray[np.uint32] | None = None
        self.here = _NONE
        self.sampler = sampler
        self.stopped_by = ""
        self.discarded = 0

    @property
    def held(self) -> int:
        """How many tokens are held back."""
        return len(self._held)

    @property
    def exhausted(self) -> bool:
        """Whether so many tokens were taken away that the answer ends."""
        return self.discarded >= MAX_DISCARDED

    def mask(self, base: NDArray[np.uint32] | None, n_vocab: int) -> int:
        """Return the address of a mask without the tokens that may not come next.

        Args:
            base: the mask that applies besides, or None. It is not changed.
            n_vocab: size of the vocabulary.
        """
        if self._mask is None:
            self._mask = np.empty((n_vocab + 31) // 32, dtype=np.uint32)
        if base is None:
            self._mask[:] = 0xFFFFFFFF
            if n_vocab % 32:
                self._mask[-1] = (1 << (n_vocab % 32)) - 1
        else:
            self._mask[:] = base
        for token in self.here:
            self._mask[token // 32] &= ~np.uint32(1 << (token % 32))
        return int(self._mask.ctypes.data)

    def add(
        self,
        token: int,
        piece: bytes,
        logprobs: tuple[TokenLogprob, ...],
        *,
        free: bool,
        reasoning: ReasoningState | None,
    ) -> range | None:
        """Hold back the next token of the answer.

        Args:
            token: its id.
            piece: its bytes.
            logprobs: those of the token, if they are wanted.
            free: whether another token, which is not banned here, could have come.
            reasoning: the state of the reasoning limit before it.

        Returns:
            The tokens of a banned string that is complete: their indices among those that are held
            back. None if there is no such string.
        """
        begin = self._begin + len(self._text)
        end = begin + len(piece)
        place = Place(
            self.sampler, reasoning, self._stops.state, self._strings.state, self._searched
        )
        self._held.append(_Held(token, begin, end, logprobs, free, self.here, place))
        self.here = _NONE
        self._text += piece
        read = self._stops.feed(piece)
        self._end = begin + read - self._stops.matched - self._stops.held
        if self._stops.matched:
            # All of it is held back: nothing is sent of what may become a stop string.
            stop = self._text[self._end - self._begin : begin + read - self._begin]
            self.stopped_by = stop.decode()
        return self._search()

    def finish(self) -> range | None:
        """Note that no text follows, so that nothing can become a stop string any more; return as
        :meth:`add` does."""
        if not self.stopped_by:
            self._end = self._begin + len(self._text)
        return self._search()

    def cut(self) -> None:
        """Take away what is left of banned strings, because the answer ends here."""
        while (found := self.finish()) is not None:
            self.drop(found.start)

    def _search(self) -> range | None:
        text = self._text[self._searched - self._begin : self._end - self._begin]
        self._searched += self._strings.feed(text)
        if not self._strings.matched:
            return None
        # A part of it may have been sent, if it could not become a banned string at that time.
        first = self._searched - self._strings.matched
        within = [
            index
            for index, held in enumerate(self._held)
            if held.end > first and held.begin < min(held.end, self._searched)
        ]
        return range(within[0], within[-1] + 1)

    def choose(self, found: range) -> int | None:
        """Return the place to which the answer is rewound.

        Args:
            found: the tokens of a banned string, or an empty range at the end of the answer if all
                tokens are banned there.

        Returns:
            The index of a token: the first one of the string that another token can replace, or
            else the nearest one before the string. None if there is no such token.
        """
        if self.exhausted:
            return None
        places = (*found, *reversed(range(found.start)))
        return next((index for index in places if self._held[index].free), None)

    def rewind(self, index: int) -> Place:
        """Take away the tokens from an index on; ban the first of them at its place, which is
        returned."""
        held = self._held[index]
        self.drop(index)
        self.here = held.banned | {held.token}
        return held.place

    def drop(self, index: int) -> None:
        """Take away the tokens from an index on."""
        if index >= len(self._held):
            return
        held = self._held[index]
        self.discarded += len(self._held) - index
        del self._held[index:]
        del self._text[held.begin - self._begin :]
        self._stops.restore(held.place.stops)
        self._strings.restore(held.place.strings)
        self._searched = held.place.searched
        self._end = held.begin
        self.sampler = held.place.sampler
        self.stopped_by = ""

    def release(self, *, everything: bool = False) -> list[Sent]:
        """Return the tokens that are sent now: those that can no longer be taken away.

        Args:
            everything: whether the answer ends here. Then all are, and what is left of a character
                belongs to the last of them.
        """
        count = len(self._held) if everything else self._count()
        sent = []
        for held in self._held[:count]:
            # Nothing is sent of a stop string, or of what follows it.
            piece = self._text[held.begin - self._begin : min(held.end, self._end) - self._begin]
            text = self._decoder.feed(piece)
            sent.append(Sent(text, held.end - held.begin, held.logprobs))
        if everything and (rest := self._decoder.flush()):
            last = sent.pop() if sent else Sent("", 0, ())
            sent.append(last._replace(text=last.text + rest))
        if count:
            del self._text[: self._held[count - 1].end - self._begin]
            self._begin = self._held[count - 1].end
            del self._held[:count]
            self.discarded = 0
        return sent

    def _count(self) -> int:
        """Return how many tokens can be sent: those before what may become a banned string, and
        only up to a place at which no stop string has begun. If the answer goes back to that place,
        a stop string that has begun before it could still be completed."""
        limit = self._searched - self._strings.held
        count = 0
        for index, held in enumerate(self._held, 1):
            if held.end > limit:
                break
            last = index == len(self._held)
            certain = self._searched if last else self._held[index].place.searched
            if held.end <= certain:
                count = index
        return count
