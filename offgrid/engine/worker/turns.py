"""Queues in which callers take turns: one item of each caller, then the next of each."""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Items of several callers. Within a caller, the order is that of arrival."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, deque[T]] = OrderedDict()
        """Caller -> its items, at least one. The first caller has the next turn."""

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[T]:
        return (item for items in list(self._items.values()) for item in list(items))

    def append(self, owner: str, item: T) -> None:
        """Add an item of a caller."""
        self._items.setdefault(owner, deque()).append(item)

    def first(self) -> T:
        """Return the item whose turn it is; there must be one."""
        return next(iter(self._items.values()))[0]

    def pop(self) -> T:
        """Remove and return the item whose turn it is. The next turn is another caller's."""
        owner, items = next(iter(self._items.items()))
        item = items.popleft()
        if items:
            self._items.move_to_end(owner)
        else:
            del self._items[owner]
        return item

    def remove(self, is_gone: Callable[[T], bool]) -> None:
        """Remove items."""
        for owner, items in list(self._items.items()):
            left = deque(item for item in items if not is_gone(item))
            if left:
                self._items[owner] = left
            else:
                del self._items[owner]


class TurnQueue(Generic[T]):
    """A queue between threads in which callers take turns."""

    def __init__(self) -> None:
        self._turns: Turns[T] = Turns()
        self._changed = threading.Condition()

    def put(self, owner: str, item: T) -> None:
        """Add an item of a caller."""
        with self._changed:
            self._turns.append(owner, item)
            self._changed.notify()

    def get(self, timeout: float | None = None) -> T:
        """Remove and return the item whose turn it is; wait for one.

        Args:
            timeout: most seconds to wait; None for no limit.

        Raises:
            queue.Empty: none came in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._turns:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise queue.Empty
                self._changed.wait(left)
            return self._turns.pop()
