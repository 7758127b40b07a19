"""The saved prefixes of one model: which one a prompt can begin after, and which one goes first.

Pure: neither files nor llama.cpp. Token ids are compared, never hashes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.worker.prefix import MIN_REUSE, REWRITTEN, TokenIds, common_prefix

StateBytes = NDArray[np.uint8]


@dataclass(eq=False, slots=True)
class SavedPrefix:
    """Tokens that were computed once, with the state of the slot that held them.

    Attributes:
        tokens: their ids, int32, at least ``MIN_REUSE``.
        n_prompt: how many of them are the prompt of their sequence; the others are its answer.
        size: bytes of the state.
        state: the state, while it is in memory.
        mark: a shorter length after which a sequence can begin too, where slots cannot be cut; 0 if
            there is none.
        mark_size: bytes at the end of the state: the checkpoint that this needs.
        path: the file with the state, if there is one.
        writing: whether the file is being written.
        seen: whether an idle worker has written it, or found it not worth it.
        partition: only sequences of this partition may use it.
    """

    tokens: TokenIds
    n_prompt: int
    size: int
    state: StateBytes | None = None
    path: Path | None = None
    writing: bool = False
    seen: bool = False
    partition: str = ""
    mark: int = 0
    mark_size: int = 0

    def parts(self, state: StateBytes) -> tuple[StateBytes, StateBytes]:
        """Divide the state into that of the slot and the checkpoint, which may be empty."""
        end = len(state) - self.mark_size
        return state[:end], state[end:]


class Index:
    """Saved prefixes, least recently used first.

    Args:
        can_cut: whether a restored slot can be cut. If not, a prefix is used as a whole or up to
            its mark.
    """

    def __init__(self, can_cut: bool) -> None:
        self.can_cut = can_cut
        self._all: OrderedDict[SavedPrefix, None] = OrderedDict()
        self._alike: dict[tuple[str, bytes], dict[SavedPrefix, None]] = {}
        """Partition and first tokens -> the prefixes of it that begin with them: only those can be
        long enough."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[SavedPrefix]:
        return iter(list(self._all))

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._all

    def add(self, prefix: SavedPrefix) -> None:
        """Add a prefix as the most recently used one."""
        self._all[prefix] = None
        self._alike.setdefault(_beginning(prefix.tokens, prefix.partition), {})[prefix] = None

    def remove(self, prefix: SavedPrefix) -> None:
        """Remove a prefix. Harmless if it is not there."""
        self._all.pop(prefix, None)
        beginning = _beginning(prefix.tokens, prefix.partition)
        alike = self._alike.get(beginning, {})
        alike.pop(prefix, None)
        if not alike:
            self._alike.pop(beginning, None)

    def use(self, prefix: SavedPrefix) -> None:
        """Note that a prefix was used."""
        if prefix in self._all:
            self._all.move_to_end(prefix)

    def longest(
        self,
        prompt: TokenIds,
        before_image: Callable[[int], int] = lambda length: length,
        partition: str = "",
    ) -> tuple[SavedPrefix | None, int]:
        """Return the saved prefix that has most tokens in common with a prompt, and their number.

        Among equals, one in memory is preferred, then the one with the smallest state.

        Args:
            prompt: the tokens that may be taken from it.
            before_image: shortens a length so that it does not end inside an image.
            partition: of the prompt's sequence.
        """
        best: SavedPrefix | None = None
        order = (0, False, 0)
        for prefix in self._like(prompt, partition):
            length = self._usable(prefix, before_image(common_prefix(prefix.tokens, prompt)))
            if length < MIN_REUSE:
                continue
            rank = (length, prefix.state is not None, -prefix.size)
            if best is None or rank > order:
                best, order = prefix, rank
        return best, order[0]

    def covered(self, tokens: TokenIds, partition: str = "", *, on_disk: bool = False) -> int:
        """Return how many of these tokens some saved prefix holds.

        Args:
            tokens: what a slot holds.
            partition: of these tokens.
            on_disk: whether only prefixes with a file count.
        """
        longest = 0
        for prefix in self._like(tokens, partition):
            if prefix.path is None and on_disk and not prefix.writing:
                continue
            length = common_prefix(prefix.tokens, tokens)
            longest = max(longest, self._usable(prefix, length))
        return longest

    def _usable(self, prefix: SavedPrefix, shared: int) -> int:
        """Return after how many of the ``shared`` tokens a sequence can begin."""
        if self.can_cut or shared == len(prefix.tokens):
            return shared
        return prefix.mark if prefix.mark <= shared else 0

    def superseded(self, prefix: SavedPrefix) -> list[SavedPrefix]:
        """Return the other prefixes that no request needs once this one is saved: earlier turns of
        the same conversation.

        As in a slot, only the end of an earlier answer differs, and the few tokens that a chat
        template rewrites (:data:`~offgrid.engine.worker.prefix.REWRITTEN`). If slots cannot be cut,
        a shorter prefix stays useful, and only one with the same tokens is superseded.
        """
        found = []
        for other in self._like(prefix.tokens, prefix.partition):
            if other is prefix:
                continue
            shared = common_prefix(other.tokens, prefix.tokens)
            same = shared == len(other.tokens) == len(prefix.tokens)
            if same or (self.can_cut and shared + REWRITTEN >= max(MIN_REUSE, other.n_prompt)):
                found.append(other)
        return found

    def _like(self, tokens: TokenIds, partition: str) -> list[SavedPrefix]:
        if len(tokens) < MIN_REUSE:
            return []
        return list(self._alike.get(_beginning(tokens, partition), {}))


def _beginning(tokens: TokenIds, partition: str) -> tuple[str, bytes]:
    return partition, tokens[:MIN_REUSE].tobytes()
