"""The few functions of ggml, llama.cpp's library of kernels, with which attention is measured."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lc
import numpy as np
from numpy.typing import NDArray

F32, F16, I64 = 0, 1, 27
"""Numbers in ``enum ggml_type``."""
Tensor = int
"""The address of a ``struct ggml_tensor``."""
_P, _I, _L, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_SLACK = 1 << 20
"""Bytes for the descriptions of tensors and graph, and for what kernels keep beside."""


class GgmlMissing(Exception):
    """The functions are not found through llama.cpp's library (Windows)."""


class _Params(ctypes.Structure):
    _fields_ = [
        ("mem_size", ctypes.c_size_t), ("mem_buffer", _P), ("no_alloc", ctypes.c_bool),
    ]  # fmt: skip


_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (_P, (_Params,)),
    "ggml_free": (None, (_P,)),
    "ggml_new_tensor_4d": (_P, (_P, _I, _L, _L, _L, _L)),
    "ggml_view_4d": (_P, (_P, _P, _L, _L, _L, _L, *(ctypes.c_size_t,) * 4)),
    "ggml_reshape_2d": (_P, (_P, _P, _L, _L)),
    "ggml_permute": (_P, (_P, _P, _I, _I, _I, _I)),
    "ggml_cont_2d": (_P, (_P, _P, _L, _L)),
    "ggml_cast": (_P, (_P, _P, _I)),
    "ggml_set_rows": (_P, (_P, _P, _P, _P)),
    "ggml_mul_mat": (_P, (_P, _P, _P)),
    "ggml_soft_max_ext": (_P, (_P, _P, _P, _F, _F)),
    "ggml_flash_attn_ext": (_P, (_P, _P, _P, _P, _P, _F, _F, _F)),
    "ggml_new_graph": (_P, (_P,)),
    "ggml_build_forward_expand": (None, (_P, _P)),
    "ggml_graph_compute_with_ctx": (_I, (_P, _P, _I)),
    "ggml_get_data": (_P, (_P,)),
    "ggml_nbytes": (ctypes.c_size_t, (_P,)),
    "ggml_row_size": (ctypes.c_size_t, (_I, _L)),
}


def _bound() -> dict[str, Any]:
    found = {}
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            # A function object of its own: the bindings may declare the same one differently.
            function = ctypes.CDLL(lc._lib._name)[name]
        except (AttributeError, OSError) as ex:
            raise GgmlMissing(str(ex)) from None
        function.restype, function.argtypes = result, arguments
        found[name.removeprefix("ggml_")] = function
    return found


class Graph:
    """A graph and its tensors, in memory of its own.

    Args:
        size: bytes of all tensors, results included.

    Raises:
        GgmlMissing: see there.
    """

    def __init__(self, size: int) -> None:
        self._call = _bound()
        self._buffer = np.zeros(size + _SLACK, dtype=np.uint8)
        params = _Params(self._buffer.nbytes, self._buffer.ctypes.data, False)
        self._context = self._call["init"](params)
        self._graph = self._call["new_graph"](self._context)

    def close(self) -> None:
        """Free the graph. Idempotent."""
        if self._context:
            self._call["free"](self._context)
            self._context = None

    def tensor(self, kind: int, *shape: int) -> Tensor:
        """Return a new tensor of zeros; the fastest dimension comes first."""
        sizes = (*shape, 1, 1, 1)[:4]
        address: int = self._call["new_tensor_4d"](self._context, kind, *sizes)
        return address

    def op(self, name: str, *arguments: Any) -> Tensor:
        """Return the result of a function of ggml that takes the context first."""
        address: int = self._call[name](self._context, *arguments)
        return address

    def compute_for(self, result: Tensor) -> None:
        """Let the graph compute a tensor."""
        self._call["build_forward_expand"](self._graph, result)

    def data(self, tensor: Tensor) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, which may be changed."""
        size = int(self._call["nbytes"](tensor))
        return np.ctypeslib.as_array(
            (ctypes.c_uint8 * size).from_address(self._call["get_data"](tensor))
        )

    def row_size(self, kind: int, elements: int) -> int:
        """Return the bytes of so many elements of a type."""
        return int(self._call["row_size"](kind, elements))

    def compute(self, threads: int) -> None:
        """Compute the graph."""
        self._call["graph_compute_with_ctx"](self._context, self._graph, threads)
