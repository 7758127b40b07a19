"""Encodes images on a separate thread, so that streams continue meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from offgrid.engine.worker.image import Embeddings, ImageTile


class Encoder:
    """Encodes one image after another. Only one thread may call its methods.

    Args:
        encode: encodes one image; called on the encoder's thread, because it is slow.

    Attributes:
        tile: the image that is being encoded, or that is encoded and not yet taken.
    """

    def __init__(self, encode: Callable[[ImageTile], Embeddings]) -> None:
        self._encode = encode
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self.tile: ImageTile | None = None
        self._result: Future[Embeddings] = Future()

    def take(self, tile: ImageTile, seconds: float) -> Embeddings | None:
        """Return the embeddings of an image if they are computed, else None.

        Otherwise encode this image next. If another one is being encoded, that is finished first,
        even if it is not needed any more.

        Args:
            tile: the image.
            seconds: how long to wait for the image that is being encoded.

        Raises:
            EncodeError: this image could not be encoded.
        """
        if self.tile is None:
            self._start(tile)
        wait([self._result], seconds)
        if not self._result.done():
            return None
        done, self.tile = self.tile, None
        if done is tile:
            return self._result.result()
        self._start(tile)
        return None

    def _start(self, tile: ImageTile) -> None:
        self.tile = tile
        self._result = self._thread.submit(self._encode, tile)
