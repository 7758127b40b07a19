"""The body of a streamed response, and what has to happen when it ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from offgrid.api.http.once import Once


class StreamedBody(ABC):
    """Wraps the body of a streamed response, and hears of its end.

    Args:
        body: what the response sends: an iterable of bytes, with ``close`` if it has to be closed.
    """

    def __init__(self, body: Any) -> None:
        self._body = body
        self._frames = iter(body)
        self.whole = False
        """Whether the last frame was read."""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._frames)  # type: ignore[no-any-return]
        except StopIteration:
            self.whole = True
            raise

    def close(self) -> None:
        """Called by the server at the end of the response or when the client left. Idempotent."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self.ended()

    def __del__(self) -> None:
        # A framework may drop the body of a response without closing it.
        self.dropped()

    @abstractmethod
    def ended(self) -> None:
        """The response has ended, or its client left. Called at least once, also for an error."""

    @abstractmethod
    def dropped(self) -> None:
        """Nothing refers to the body any more, closed or not.

        The garbage collector may call this at any line of any thread, so it takes no lock that
        such a line may hold.
        """


class Leaving(StreamedBody):
    """A body whose end gives something back, for instance a place."""

    def __init__(self, body: Any, leave: Once) -> None:
        super().__init__(body)
        self._leave = leave

    def ended(self) -> None:
        self._leave()

    def dropped(self) -> None:
        self._leave()
