"""Which tensors a GGUF has: llama.cpp's C API does not tell it of a loaded model."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lc

_PART = re.compile(r"-00001-of-(\d{5})\.gguf$", re.IGNORECASE)
"""The end of the name of a split model's first file, as llama.cpp's ``gguf-split`` writes it."""


class _InitParams(ctypes.Structure):
    """``gguf_init_params`` of ``gguf.h``."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _library() -> Any:
    """Return the library with the functions of ``gguf.h``: looked up in libllama, they are found in
    the library that it loads, except on Windows."""
    if hasattr(lc._lib, "gguf_find_tensor"):
        return lc._lib
    return ctypes.CDLL(str(Path(lc._lib._name).with_name("ggml-base.dll")))


_lib = _library()
_open = _lib.gguf_init_from_file
_open.argtypes, _open.restype = [ctypes.c_char_p, _InitParams], ctypes.c_void_p
_find = _lib.gguf_find_tensor
_find.argtypes, _find.restype = [ctypes.c_void_p, ctypes.c_char_p], ctypes.c_int64
_free = _lib.gguf_free
_free.argtypes, _free.restype = [ctypes.c_void_p], None


def has_tensor(path: Path, names: Iterable[str]) -> bool:
    """Return whether a file has a tensor with one of these names.

    It reads the file's metadata, and no weights. False for a file that is no GGUF.
    """
    file = _open(os.fsencode(path), _InitParams(no_alloc=True, ctx=None))
    if not file:
        return False
    try:
        return any(_find(file, name.encode()) >= 0 for name in names)
    finally:
        _free(file)


def parts_of(path: Path) -> list[Path]:
    """Return the files of a model: those of a split one by its first, or the file itself."""
    match = _PART.search(path.name)
    if match is None:
        return [path]
    begin = path.name[: match.start()]
    n_parts = int(match[1])
    return [
        path.with_name(f"{begin}-{number:05}-of-{n_parts:05}{path.suffix}")
        for number in range(1, n_parts + 1)
    ]
