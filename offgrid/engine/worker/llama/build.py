"""Asks llama.cpp how it was built."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Any

import llama_cpp
import llama_cpp.llama_cpp as lc

from offgrid.engine.build import Device

_KINDS = {0: "cpu", 1: "gpu", 2: "gpu"}
"""``enum ggml_backend_dev_type``; 2 is a GPU that uses the memory of the machine."""


def versions() -> tuple[str, str]:
    """Return the versions of llama-cpp-python and of ggml; the latter is empty if unknown."""
    ggml = ""
    with contextlib.suppress(AttributeError):
        ggml = _text(lc._lib.ggml_version)
    return str(llama_cpp.__version__), ggml


def identity() -> tuple[str, ...]:
    """Return what tells this build of llama.cpp, and how it computes here, from others."""
    lc.llama_backend_init()
    return (*versions(), lc.llama_print_system_info().decode("utf-8", "replace"))


def features() -> tuple[str, ...]:
    """Return the names of what ``llama_print_system_info`` says is on."""
    lc.llama_backend_init()
    text = lc.llama_print_system_info().decode()
    pairs = [part.rpartition(":")[2].partition("=") for part in text.split("|")]
    return tuple(name.strip() for name, _, value in pairs if value.strip() not in ("", "0"))


def supports() -> tuple[bool, bool, bool, bool]:
    """Return whether this build supports GPUs, other machines (RPC), mmap and mlock."""
    return (
        bool(lc.llama_supports_gpu_offload()),
        bool(lc.llama_supports_rpc()),
        bool(lc.llama_supports_mmap()),
        bool(lc.llama_supports_mlock()),
    )


def devices() -> tuple[Device, ...]:
    """Return the devices that llama.cpp can compute on (``ggml-backend.h``).

    Where the system does not find functions of ggml through llama.cpp's library (Windows), there
    are none.
    """
    lib = lc._lib
    try:
        lib.ggml_backend_dev_count.restype = ctypes.c_size_t
        lib.ggml_backend_dev_get.restype = ctypes.c_void_p
        return tuple(
            _device(ctypes.c_void_p(lib.ggml_backend_dev_get(ctypes.c_size_t(index))))
            for index in range(lib.ggml_backend_dev_count())
        )
    except AttributeError:
        return ()


def gpus() -> tuple[Device, ...]:
    """Return the GPUs that llama.cpp can compute on, with their free memory now."""
    if not lc.llama_supports_gpu_offload():
        return ()
    return tuple(device for device in devices() if device.kind == "gpu")


def _device(device: ctypes.c_void_p) -> Device:
    lib = lc._lib
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=_text(lib.ggml_backend_dev_name, device),
        description=_text(lib.ggml_backend_dev_description, device),
        kind=_KINDS.get(lib.ggml_backend_dev_type(device), "accelerator"),
        free=free.value,
        total=total.value,
    )


def _text(function: Any, *arguments: ctypes.c_void_p) -> str:
    function.restype = ctypes.c_char_p
    value: bytes | None = function(*arguments)
    return "" if value is None else value.decode("utf-8", "replace")
