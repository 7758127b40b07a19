"""What the application asks of the server, through the environment of a WSGI request.

Under a server other than waitress each answer is that it cannot be told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WRITE = "offgrid.write"
"""Key of a WSGI environment: the server's ``write`` (PEP 3333), kept by the application."""


def liveness(env: dict[str, Any]) -> Callable[[], bool]:
    """Return a function that says whether the client is still connected.

    waitress knows when it reads ahead (``channel_request_lookahead`` of at least 1); other servers
    give no such function, and then the next write finds out.
    """
    disconnected = env.get("waitress.client_disconnected")
    if disconnected is None:
        return lambda: True
    return lambda: not disconnected()


class DirectOutput:
    """The response of a waitress task, which may be written to from any thread."""

    def __init__(self, write: Callable[[bytes], None], channel: Any) -> None:
        self.write = write
        """Sends or keeps bytes; raises when the client is gone."""
        self._channel = channel

    @property
    def backlog(self) -> int:
        """Bytes kept."""
        return int(self._channel.total_outbufs_len)


def direct_output(env: dict[str, Any]) -> DirectOutput | None:
    """Return a way to write past the WSGI iteration, or None where the server has none."""
    write = env.get(WRITE)
    channel = getattr(getattr(write, "__self__", None), "channel", None)
    if write is None or not hasattr(channel, "total_outbufs_len"):
        return None
    return DirectOutput(write, channel)
