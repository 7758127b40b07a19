"""The search in titles and texts. What a user types is always text, never a query language.

A conversation is found if each word of the query is in its title or in the text of one of its
messages: as part of a longer word too, in any case. With the index and without it the results are
the same; the index makes it faster.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

from offgrid.store.history.file import is_indexed
from offgrid.store.history.message import folded

MAX_QUERY = 500
"""Characters of a query."""
_MAX_WORDS = 16
"""Words of a query; further ones are not looked for."""
_TRIGRAM = 3
"""Characters of the shortest text that the index can find."""
_STEPS = 1000
"""Steps of SQLite between two questions whether a search goes on: about a hundred messages."""


class SearchEnded(Exception):
    """A search was ended, because its result is not wanted any more."""


def condition(connection: sqlite3.Connection, query: str) -> tuple[str, list[str]]:
    """Return the SQL condition that a conversation ``c`` matches a query, and its values."""
    indexed = is_indexed(connection)
    parts: list[str] = []
    values: list[str] = []
    for word in dict.fromkeys(folded(query[:MAX_QUERY]).split()[:_MAX_WORDS]):
        found = "m.conversation = c.number AND instr(m.searched, ?)"
        given = [word, word]
        if indexed and len(word) >= _TRIGRAM:
            # The index knows no places, and folds case in its own way, so it may find more.
            found = f"m.number IN (SELECT rowid FROM words WHERE words MATCH ?) AND {found}"
            given = [word, _trigrams(word), word]
        parts.append(f"(instr(c.searched, ?) OR EXISTS (SELECT 1 FROM messages m WHERE {found}))")
        values += given
    return " AND ".join(parts) or "1", values


@contextlib.contextmanager
def while_wanted(connection: sqlite3.Connection, wanted: Callable[[], bool]) -> Iterator[None]:
    """End the statements of a connection as soon as their result is not wanted.

    Args:
        connection: it is used by this thread only.
        wanted: asked again and again while a statement runs.

    Raises:
        SearchEnded: ``wanted`` returned False.
    """
    connection.set_progress_handler(lambda: not wanted(), _STEPS)
    try:
        yield
    except sqlite3.OperationalError as ex:
        if str(ex) == "interrupted":
            raise SearchEnded from None
        raise
    finally:
        connection.set_progress_handler(None, 0)


def _trigrams(word: str) -> str:
    """Return the query of the index for texts that have all trigrams of a word."""
    grams = [word[at : at + _TRIGRAM] for at in range(len(word) - _TRIGRAM + 1)]
    return " ".join('"{}"'.format(gram.replace('"', '""')) for gram in dict.fromkeys(grams))
