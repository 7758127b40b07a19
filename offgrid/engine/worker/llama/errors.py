"""Errors of llama.cpp."""

from __future__ import annotations

NO_ROOM = 1
"""``llama_decode``: no memory cell is free for the batch."""
INVALID_BATCH = -1
"""``llama_decode``: the batch is invalid."""


class LoadError(Exception):
    """The model cannot be loaded; the message is shown to clients.

    ``lasting``: the files are at fault, so another try would fail as well.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


class DecodeError(Exception):
    """``llama_decode`` failed. ``code`` is its return value (llama.h, ``llama_decode``).

    1: no room in the KV memory; 2: aborted; -1: an invalid batch; less than -1: a failed
    computation.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"llama_decode returned {code}")
        self.code = code

    @property
    def no_room(self) -> bool:
        """Whether the decode would succeed if more memory cells were free."""
        return self.code == NO_ROOM

    @property
    def retriable(self) -> bool:
        """Whether the memory is unchanged, so that parts of the batch can be tried alone.

        After any other failure, the memory content of the batch's sequences is undefined.
        """
        return self.code in (NO_ROOM, INVALID_BATCH)
