"""An image in a prompt: what it is to the model, and where it stands."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]
"""What a projector makes of a chunk: (positions, width of the model)."""


class Chunk:
    """An image, or a tile of one, resized and ready to be encoded.

    Attributes:
        pointer: what libmtmd knows it as; ``free`` is called with it at the end.
        ids: int32, one for each position that the image takes. All are negative, so that none is a
            token, and they are made from a hash of the image file: equal images have equal ids.
        n_positions: by how much positions are higher after it. Where an image has two dimensions
            (M-RoPE), that is less than it has embeddings.
    """

    def __init__(
        self,
        pointer: int,
        ids: NDArray[np.int32],
        n_positions: int,
        free: Callable[[int], object] = lambda pointer: None,
    ) -> None:
        self.pointer = pointer
        self.ids = ids
        self.n_positions = n_positions
        weakref.finalize(self, free, pointer)


@dataclass(frozen=True, slots=True)
class ImageSpan:
    """Where an image stands in a prompt: from index ``start`` up to ``end``."""

    start: int
    end: int
    chunk: Chunk

    @property
    def lag(self) -> int:
        """How far llama.cpp's position lags the token index after this image (M-RoPE)."""
        return self.end - self.start - self.chunk.n_positions
