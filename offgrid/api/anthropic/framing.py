"""How the events of a streamed message are written."""

from __future__ import annotations

from offgrid.api.http.error_bodies import Problem, anthropic_error
from offgrid.api.http.framing import NamedEvents

PING = b'event: ping\ndata: {"type":"ping"}\n\n'


class MessageEvents(NamedEvents):
    """Named events, among them pings, and an error as the last one of a stream that fails.

    Args:
        request_id: the id of the request, which errors name.
    """

    error_shape = staticmethod(anthropic_error)

    def __init__(self, request_id: str = "") -> None:
        self._request_id = request_id

    def error(self, problem: Problem) -> bytes:
        return self.chunk(self.error_shape(problem._replace(request_id=self._request_id)))

    def ping(self, waiting: str) -> bytes:
        return PING
