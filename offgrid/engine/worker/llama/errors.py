"""What goes wrong in llama.cpp."""

from __future__ import annotations


class LoadError(Exception):
    """The model cannot be loaded; the message is for the user."""


class DecodeError(Exception):
    """``llama_decode`` failed. ``code`` is its return value (llama.h, ``llama_decode``).

    1: no room in the KV memory; 2: aborted; -1: an invalid batch (both leave the memory as it
    was); less than -1: a failed computation (the memory of the batch's sequences is undefined).
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"llama_decode returned {code}")
        self.code = code
