"""Images for a language model: libmtmd, with the projector file of the model.

An image takes some positions of the context. The projector computes their embeddings; embeddings of
tokens come from the model's table instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from typing import Any

import llama_cpp.llama_cpp as lc
import llama_cpp.mtmd_cpp as mtmd
import numpy as np
from numpy.typing import NDArray

from offgrid.engine.memory import free_memory
from offgrid.engine.worker.image import Embeddings, ImageTile

_NEGATIVE = np.uint32(1 << 31)


class VisionError(Exception):
    """The projector or an image cannot be used; the message is shown to the client."""


class EncodeError(Exception):
    """``mtmd_encode_chunk`` failed. The model's memory is unchanged."""


class Vision:
    """A projector. Any number of threads may call :meth:`read` at once, while one thread encodes
    and one decodes (``mtmd.h`` says only of ``mtmd_tokenize`` that it is thread-safe).

    Args:
        model: ``llama_model`` pointer.
        path: the projector's GGUF.
        n_threads: number of threads that encode.
        n_ubatch: most positions that the model computes at once.
        max_positions: most positions that an image may take. If the projector supports such a
            limit, larger images are made smaller.
        on_gpu: whether the projector runs on a graphics processor.

    Raises:
        VisionError: the projector cannot be loaded, or does not fit the model.
    """

    def __init__(
        self,
        model: Any,
        path: str,
        *,
        n_threads: int,
        n_ubatch: int,
        max_positions: int,
        on_gpu: bool,
    ) -> None:
        size, available = os.path.getsize(path), free_memory()
        if size > available:
            raise VisionError(
                "There is not enough memory for this model's projector: it needs "
                f"{size / 2**30:.1f} GiB and {available / 2**30:.1f} GiB are free."
            )
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = on_gpu
        params.print_timings = False
        params.n_threads = n_threads
        params.warmup = False
        params.image_max_tokens = max_positions
        self._n_ubatch = n_ubatch
        self._width = int(lc.llama_model_n_embd_inp(model))
        self._path = os.fsencode(path)
        self._context = mtmd.mtmd_init_from_file(self._path, model, params)
        if not self._context:
            raise VisionError(
                "This model's projector file cannot be loaded, or belongs to another model."
            )
        if not mtmd.mtmd_support_vision(self._context):
            self.close()
            raise VisionError("This model's projector does not support images.")

    def close(self) -> None:
        """Free the projector. Idempotent."""
        if self._context:
            mtmd.mtmd_free(self._context)
            self._context = None

    def read(self, data: bytes) -> list[NDArray[np.int32] | ImageTile]:
        """Return the parts of an image file in the prompt: its tiles, and token ids around them.

        It decodes and resizes the image (``mtmd_tokenize_from_parts``), which takes memory for all
        pixels, so the caller must first check the size in the file's header.

        Raises:
            VisionError: the image cannot be decoded, or the model cannot compute it at once.
        """
        bitmap = self._decode(data)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            part = mtmd.mtmd_input_part(None, bitmap)
            parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
            code = mtmd.mtmd_tokenize_from_parts(self._context, chunks, parts, 1, False)
            if code != 0:
                raise VisionError("This model's projector cannot process the image.")
            digest = hashlib.sha256(data).digest()
            count = mtmd.mtmd_input_chunks_size(chunks)
            return [
                self._take(mtmd.mtmd_input_chunks_get(chunks, index), index, digest)
                for index in range(count)
            ]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def _decode(self, data: bytes) -> int:
        options = mtmd.mtmd_helper_init_opt_default()
        # NOTE: libmtmd passes data that is not an image to ffmpeg as a video. With a folder that
        # cannot exist, it does not find ffmpeg.
        options.video_params.ffmpeg_bin_dir = self._path
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        found = mtmd.mtmd_helper_bitmap_init_from_buf_wrapper(
            self._context, buffer, len(data), False, options
        )
        if not found.bitmap:
            raise VisionError("This image cannot be decoded.")
        return int(found.bitmap)

    def _take(self, chunk: Any, index: int, digest: bytes) -> NDArray[np.int32] | ImageTile:
        """Return a chunk's token ids, or a copy of the chunk if it is an image."""
        size = ctypes.c_size_t()
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(size))
            return np.array(tokens[: size.value], dtype=np.int32)
        count = int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))
        n_positions = int(mtmd.mtmd_input_chunk_get_n_pos(chunk))
        if not 1 <= n_positions <= count:
            raise VisionError(
                "The way in which this model numbers image positions is not supported."
            )
        if mtmd.mtmd_decode_use_non_causal(self._context, chunk) and count > self._n_ubatch:
            raise VisionError(
                f"This model must process the {count} positions of an image in one batch, which "
                f"has room for {self._n_ubatch}; send a smaller image."
            )
        copy = mtmd.mtmd_input_chunk_copy(chunk)
        if not copy:
            raise VisionError("There is not enough memory for the image.")
        ids = image_ids(digest, index, count)
        return ImageTile(int(copy), ids, n_positions, mtmd.mtmd_input_chunk_free)

    def encode(self, tile: ImageTile) -> Embeddings:
        """Return the tile's embeddings, one for each id, (n, width of the model).

        Raises:
            EncodeError: encoding failed.
        """
        code = mtmd.mtmd_encode_chunk(self._context, tile.pointer)
        if code != 0:
            raise EncodeError(f"mtmd_encode_chunk returned {code}")
        values = mtmd.mtmd_get_output_embd(self._context)
        return np.ctypeslib.as_array(values, (len(tile.ids), self._width)).copy()

    def decode(
        self,
        context: Any,
        tile: ImageTile,
        embeddings: Embeddings,
        slot: int,
        start: int,
        n_batch: int,
    ) -> int:
        """Decode an encoded tile into a slot of the model's context, from position ``start`` on.

        Returns:
            The return value of ``llama_decode`` (``mtmd_helper_decode_image_chunk``). If it is not
            0, the slot may hold a part of the tile.
        """
        if embeddings.shape != (len(tile.ids), self._width):
            raise ValueError(f"an image of {len(tile.ids)} positions has {embeddings.shape}")
        values = embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        end = ctypes.c_int32(start)
        return int(
            mtmd.mtmd_helper_decode_image_chunk(
                self._context, context, tile.pointer, values, start, slot, n_batch,
                ctypes.byref(end), mtmd.mtmd_helper_post_decode_callback(0), None,
            )
        )  # fmt: skip


def image_ids(digest: bytes, index: int, count: int) -> NDArray[np.int32]:
    """Return negative ids for the embeddings of a tile, int32 (count,).

    Each has 31 bits of SHAKE-256, so that all of them together are equal only for equal images.
    """
    stream = hashlib.shake_256(digest + index.to_bytes(4, "little")).digest(4 * count)
    return (np.frombuffer(stream, dtype="<u4").astype(np.uint32) | _NEGATIVE).view(np.int32)
