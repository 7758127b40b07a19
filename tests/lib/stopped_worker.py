"""A request that waits in a stopped worker, so that its server has something to finish."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import psutil
from processes import all_stopped
from support import STARTER, TIMEOUT, Response, eventually, request, whole


class Waiting:
    """Stops a worker, and sends it a request. It is answered when the worker goes on.

    Answers that have begun may end before their worker is stopped, on a busy machine. This one
    cannot.

    Args:
        url: the server.
        worker: its one worker.
        others: most answers that are running.
        model: what the worker has loaded.
    """

    def __init__(self, url: str, worker: psutil.Process, others: int, model: str = STARTER) -> None:
        worker.suspend()
        eventually(lambda: all_stopped(worker.pid), "it has stopped")
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
        # More choices than there are other answers: the number shows that the server has them.
        body = {"model": model, "prompt": "Once", "max_tokens": 1, "n": others + 1}
        self._connection.request("POST", "/v1/completions", json.dumps(body).encode())
        eventually(lambda: sequences(url) > others, "the request is sent to the worker")

    def response(self) -> Response:
        """Wait for the answer."""
        with self._connection.getresponse() as response:
            return whole(response)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sequences(url: str) -> int:
    """The sequences that run or wait in the one model of a server."""
    (model,) = request(url, "GET", "/v1/loaded").json["data"]
    return int(model["sequences"])
