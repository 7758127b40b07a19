"""A thread that has read the book of peers and is then overtaken by another one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from support import TIMEOUT

from offgrid.peers.book import Book, Peer


@contextlib.contextmanager
def overtaken(book: Book, lock: threading.Lock, act: Callable[[], None]) -> Iterator[None]:
    """Let another thread act when this one has next read all peers of a book and not used them yet.

    If this one holds the lock, the other one has to wait for it and acts afterwards.
    """
    read, errors = book.all, list[BaseException]()
    this = threading.current_thread()
    begun: list[threading.Thread] = []

    def run() -> None:
        try:
            act()
        except BaseException as ex:
            errors.append(ex)

    def all() -> list[Peer]:
        peers = read()
        if threading.current_thread() is this and not begun:
            begun.append(threading.Thread(target=run, daemon=True))
            begun[0].start()
            if not lock.locked():
                begun[0].join(TIMEOUT)
        return peers

    book.all = all  # type: ignore[method-assign]
    try:
        yield
    finally:
        book.all = read  # type: ignore[method-assign]
        for thread in begun:
            thread.join(TIMEOUT)
    assert begun, "no thread has read the book"
    assert not begun[0].is_alive(), "the other thread waits for ever"
    if errors:
        raise errors[0]
