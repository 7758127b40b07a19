"""Encodes images on a thread of its own, so that streams go on meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from offgrid.engine.worker.image import Chunk, Embeddings


class Encoder:
    """Encodes one image after another. Only one thread may call its methods.

    Args:
        encode: takes its time, on the encoder's thread.

    Attributes:
        chunk: the image that is being encoded, or is encoded and not yet taken.
    """

    def __init__(self, encode: Callable[[Chunk], Embeddings]) -> None:
        self._encode = encode
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self.chunk: Chunk | None = None
        self._result: Future[Embeddings] = Future()

    def take(self, chunk: Chunk, seconds: float) -> Embeddings | None:
        """Return the embeddings of an image if they are there; else see to it that they will be.

        An image that nobody asks for any more is encoded to its end first.

        Args:
            chunk: the image.
            seconds: how long to wait for what is being encoded.

        Raises:
            EncodeError: this image could not be encoded.
        """
        if self.chunk is None:
            self._start(chunk)
        wait([self._result], seconds)
        if not self._result.done():
            return None
        done, self.chunk = self.chunk, None
        if done is chunk:
            return self._result.result()
        self._start(chunk)
        return None

    def _start(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self._result = self._thread.submit(self._encode, chunk)
