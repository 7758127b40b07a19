"""An image in a prompt: its form for the model, and its place."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]
"""The projector's output for a tile: (positions, width of the model)."""


class ImageTile:
    """An image, or a tile of one, resized and ready to be encoded.

    Attributes:
        pointer: libmtmd's pointer to it, passed to ``free`` at the end.
        ids: int32, one for each embedding of the image. All are negative, so that none is a token,
            and they are computed from a hash of the image file, so that equal images have equal
            ids.
        n_positions: by how much llama.cpp's positions advance over the image. With two-dimensional
            positions (M-RoPE), that is less than the number of embeddings.
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
    """The span of an image in a prompt: from index ``start`` up to, not including, ``end``."""

    start: int
    end: int
    tile: ImageTile

    @property
    def lag(self) -> int:
        """How far llama.cpp's position lags the token index after this image (M-RoPE)."""
        return self.end - self.start - self.tile.n_positions
