"""The other client of a server under attack, which ``attacks.py`` runs in a separate process.

    python benchmarks/attack_watcher.py PORT MODEL PID

PORT is the port of the server, MODEL the model whose streams it reads, PID the server's process.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
from attack_wire import TEXT, TIMEOUT, head
from report import percentile


class Watcher:
    """Reads streams and requests ``/health``; reports the worst of both since the last report."""

    def __init__(self, port: int, model: str, pid: int) -> None:
        self._port = port
        self._body = json.dumps({
            "model": model, "prompt": "Once upon a time", "ignore_eos": True, "stream": True,
        }).encode()  # fmt: skip
        self._server = psutil.Process(pid)
        self._lock = threading.Lock()
        self._steps: list[float] = []
        self._token_at = time.perf_counter()
        self._health: list[float] = []
        self._asked_at: float | None = None
        self._broken = 0
        self._peak = 0

    def run(self) -> None:
        """Answer each line of standard input with a line of JSON until that ends."""
        for work in (self._stream, self._poll, self._weigh):
            threading.Thread(target=self._forever, args=(work,), daemon=True).start()
        for _ in sys.stdin:
            print(json.dumps(self._tell()), flush=True)

    def _tell(self) -> dict[str, Any]:
        now = time.perf_counter()
        with self._lock:
            steps = [*self._steps, now - self._token_at]
            health = [*self._health, *([] if self._asked_at is None else [now - self._asked_at])]
            told = {
                "pause": max(steps), "step": percentile(steps, 0.5), "tokens": len(steps) - 1,
                "health": max(health, default=0.0), "broken": self._broken, "peak": self._peak,
                "resident": self._resident(),
            }  # fmt: skip
            self._steps, self._health, self._broken, self._token_at = [], [], 0, now
        return told

    def _forever(self, work: Callable[[], None]) -> None:
        while True:
            # A dead server shows as a long pause.
            with contextlib.suppress(OSError, http.client.HTTPException, psutil.Error):
                work()
            time.sleep(0.005)

    def _resident(self) -> int:
        try:
            return int(self._server.memory_info().rss)
        except psutil.Error:
            return 0

    def _weigh(self) -> None:
        self._peak = max(self._peak, self._resident())

    def _stream(self) -> None:
        last = b""
        with socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT) as sock:
            sock.sendall(head("POST", TEXT, len(self._body)) + self._body)
            while data := sock.recv(1 << 16):
                now = time.perf_counter()
                last = (last + data)[-32:]
                if b"data: " not in data:
                    continue
                with self._lock:
                    self._steps.append(now - self._token_at)
                    self._token_at = now
        if b"data: [DONE]" not in last:
            with self._lock:
                self._broken += 1

    def _poll(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        try:
            while True:
                self._asked_at = began = time.perf_counter()
                connection.request("GET", "/health")
                connection.getresponse().read()
                with self._lock:
                    self._health.append(time.perf_counter() - began)
                    self._asked_at = None
                time.sleep(0.002)
        finally:
            connection.close()


def main() -> None:
    """Watch the server that the arguments name."""
    port, model, pid = sys.argv[1:]
    Watcher(int(port), model, int(pid)).run()


if __name__ == "__main__":
    main()
