"""A model whose logits depend only on the tokens before them: it rounds nothing.

It takes vocabulary and batch of a real model, and keeps what each slot holds as a list of tokens. A
gap in the positions is an error, as in llama.cpp, and a token that should have been cut off changes
every later row.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offgrid.engine.worker.llama.errors import DecodeError
from offgrid.engine.worker.llama.model import Model

NO_ROOM = 1
_SPREAD = 3.0
"""Standard deviation of the part that depends on the last two tokens: answers repeat themselves."""
_DETAIL = 1.0
"""Standard deviation of what the whole of the text adds."""


class FixedLogits:
    """Computes logits by a formula, in place of llama.cpp.

    Args:
        model: a loaded model, for its vocabulary, batch and sizes.
        room: cells of all slots together. llama.cpp has the same error if it finds no free cell.

    Attributes:
        rows: the number of tokens of each decode.
    """

    def __init__(self, model: Model, room: int = 1 << 30) -> None:
        self._model = model
        self._room = room
        self._slots: list[list[int]] = [[] for _ in range(model.n_parallel)]
        self._logits: dict[int, NDArray[np.float32]] = {}
        self.rows: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def decode(self) -> None:
        batch = self._model.batch
        self._logits = {}
        if sum(map(len, self._slots)) + len(batch) > self._room:
            raise DecodeError(NO_ROOM)
        self.rows.append(len(batch))
        for index in range(len(batch)):
            cells = self._slots[batch._seq_id[index]]
            assert batch._pos[index] == len(cells), "a position is missing, or was not cut off"
            cells.append(int(batch._token[index]))
            if batch._want[index]:
                self._logits[index] = row_after(cells, self._model.n_vocab)

    def logits(self, index: int) -> int:
        return int(self._logits[index].ctypes.data)

    def forget(self, slot: int) -> None:
        self._slots[slot].clear()

    def cut(self, slot: int, keep: int) -> bool:
        assert 0 <= keep <= len(self._slots[slot])
        del self._slots[slot][keep:]
        return True

    def copy(self, source: int, target: int, *, at_once: bool = False) -> None:
        assert not self._slots[target], "the target of a copy is not empty"
        self._slots[target] = self._slots[source].copy()

    def held(self, slot: int) -> list[int]:
        """Return the tokens that a slot holds."""
        return self._slots[slot]


def row_after(tokens: list[int], n_vocab: int) -> NDArray[np.float32]:
    """Return the logits after a text."""
    near = np.random.default_rng(tokens[-2:]).standard_normal(n_vocab, dtype=np.float32)
    whole = np.random.default_rng(zlib.crc32(np.array(tokens, dtype=np.int32).tobytes()))
    return _SPREAD * near + _DETAIL * whole.standard_normal(n_vocab, dtype=np.float32)
