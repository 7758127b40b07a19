"""Copies of what a slot holds: the state of a sequence as bytes, and back (``llama_state_seq_*``).

A state is only valid in a context like the one that it was taken from: the same weights, types of
keys and values, flash attention and build of llama.cpp. llama.cpp trusts the numbers in it, so only
bytes that are known to be unchanged may be loaded.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lc
import numpy as np
from numpy.typing import NDArray

WHOLE, PARTIAL = 0, 1
"""Flags: everything that a slot holds, or only what cannot be cut (``LLAMA_STATE_SEQ_FLAGS_*``):
the states of recurrent layers and the cells of sliding windows."""

StateBytes = NDArray[np.uint8]


def state_size(context: Any, slot: int, flags: int = WHOLE) -> int:
    """Return how many bytes the state of a slot has now (``llama_state_seq_get_size_ext``)."""
    return int(lc.llama_state_seq_get_size_ext(context, slot, flags))


def save_state(context: Any, slot: int, flags: int = WHOLE) -> StateBytes | None:
    """Return a copy of a slot's state, uint8 ``(bytes,)``; None if llama.cpp cannot copy it.

    Copies that the last step ordered (``llama_memory_seq_cp``) are carried out in the next decode,
    so a slot that was only just copied must not be saved before it.
    """
    state = np.empty(state_size(context, slot, flags), dtype=np.uint8)
    pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    written = lc.llama_state_seq_get_data_ext(context, pointer, len(state), slot, flags)
    return state if 0 < int(written) == len(state) else None


def load_state(context: Any, slot: int, state: StateBytes, flags: int = WHOLE) -> bool:
    """Replace what a slot holds by a state that :func:`save_state` returned.

    Returns:
        False if llama.cpp refuses it. The slot's content is then undefined: forget it.
    """
    if len(state) == 0:
        return False
    pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    return int(lc.llama_state_seq_set_data_ext(context, pointer, len(state), slot, flags)) == len(
        state
    )
