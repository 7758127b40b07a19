"""A model's log-probabilities for a text with images, computed by libmtmd's own helpers."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp.llama_cpp as lc
import llama_cpp.mtmd_cpp as mtmd
import numpy as np
from numpy.typing import NDArray
from reference_logits import ReferenceModel, log_softmax

MARKER = mtmd.mtmd_default_marker().decode()


class ReferenceVision(ReferenceModel):
    """A language model and its projector, for one prompt at a time."""

    def __init__(self, path: Path, projector: Path) -> None:
        super().__init__(path)
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = params.warmup = False
        params.n_threads = 1
        self._mtmd = mtmd.mtmd_init_from_file(str(projector).encode(), self._model, params)
        assert self._mtmd

    def close(self) -> None:
        mtmd.mtmd_free(self._mtmd)
        super().close()

    def greedy(self, text: str, images: list[bytes], n: int) -> tuple[NDArray[np.float64], int]:
        """Compute a text with a :data:`MARKER` for each image, then ``n`` greedy tokens.

        Returns:
            The log-probabilities from which each token was sampled, (n, n_vocab), and the number of
            positions of the prompt.
        """
        lc.llama_memory_clear(lc.llama_get_memory(self._context), True)
        position = self._prompt(text.encode(), images)
        rows = []
        for end in range(position, position + n):
            logits = lc.llama_get_logits_ith(self._context, -1)
            rows.append(np.ctypeslib.as_array(logits, (self._n_vocab,)).copy())
            token = (lc.llama_token * 1)(int(rows[-1].argmax()))
            assert lc.llama_decode(self._context, lc.llama_batch_get_one(token, 1)) == 0
            assert end < self._n_ctx
        return log_softmax(np.array(rows)), position

    def _prompt(self, text: bytes, images: list[bytes]) -> int:
        bitmaps = [
            mtmd.mtmd_helper_bitmap_init_from_buf(
                self._mtmd, (ctypes.c_uint8 * len(data)).from_buffer_copy(data), len(data), False
            )
            for data in images
        ]
        chunks = mtmd.mtmd_input_chunks_init()
        end = lc.llama_pos(0)
        try:
            source = mtmd.mtmd_input_text(text, len(text), True, True)
            array = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
            code = mtmd.mtmd_tokenize(self._mtmd, chunks, ctypes.byref(source), array, len(bitmaps))
            assert code == 0
            code = mtmd.mtmd_helper_eval_chunks(
                self._mtmd, self._context, chunks, 0, 0, 64, True, ctypes.byref(end)
            )
            assert code == 0
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)
        return end.value
