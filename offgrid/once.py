"""Values that several threads need and that are worth making only once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class OncePerKey(Generic[K, V]):
    """A cache in which each value is made by one thread, however many ask for it at once.

    Threads that want a value which is being made wait for it; nobody waits for the value of
    another key. ``functools.lru_cache`` is safe too, but lets every thread make its own.

    Args:
        make: makes the value of a key. What it raises goes to the caller, and the next one tries
            again.
        size: values that are kept; those not used for longest go first.
    """

    def __init__(self, make: Callable[[K], V], size: int) -> None:
        self._make = make
        self._size = size
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, key: K) -> V:
        """Return the value of a key, made now if it is not there."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)
        with entry.lock:
            if not entry.values:
                entry.values.append(self._make(key))
            return entry.values[0]


class _Entry(Generic[V]):
    """A value that is there, or is still to be made by the thread that has the lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: list[V] = []
        """The value, or nothing yet."""
