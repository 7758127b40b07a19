"""The clients of ``soak.py``, which run in a separate process: people and programs in a hurry.

    python benchmarks/soak_clients.py < PLAN

PLAN is a JSON object with the fields of :class:`Plan`. While the clients run, the process writes
nothing; at the end it writes one JSON object with what they met.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

TIMEOUT = 120.0
"""Seconds without a byte after which a client counts its request as stuck."""
LONGEST_WAIT = 5.0
"""Most seconds that a client waits after 429 or 503, whatever Retry-After says."""
WORDS = "the otter swims to far bank where friends wait for news of sea boats fish storms".split()


@dataclass
class Plan:
    """What the clients do.

    Attributes:
        port: port of the server.
        model: the model that they ask.
        keys: secrets of API keys, used in turn; empty if the server has none.
        clients: how many come in all.
        at_once: how many are there at a time.
        seconds: how long all of this takes.
        seed: of all random choices.
    """

    port: int
    model: str
    keys: list[str]
    clients: int
    at_once: int
    seconds: float
    seed: int


@dataclass
class Seen:
    """What the clients met."""

    statuses: Counter[str] = field(default_factory=Counter)
    """Kind of request and status, such as ``stream 200``."""
    faults: Counter[str] = field(default_factory=Counter)
    """Everything that must not be, in words."""
    left: int = 0
    """Requests whose client left early."""
    served: int = 0
    """Clients that have come and gone."""


class Client:
    """One client: asks, reads, sometimes leaves in the middle, waits when told to.

    A third of the clients leave: each of their requests ends at a random moment.
    """

    def __init__(self, plan: Plan, number: int, seen: Seen, lock: threading.Lock) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed * 1_000_003 + number)
        self._leaves = number % 3 == 0
        self._key = plan.keys[number % len(plan.keys)] if plan.keys else ""
        self._seen, self._lock = seen, lock
        self._history: list[dict[str, str]] = []

    def live(self, until: float) -> None:
        """Send one request after the other until a time of ``time.monotonic``."""
        kinds = (
            ("stream", 40), ("whole", 20), ("choices", 8), ("response", 8), ("tokens", 8),
            ("models", 6), ("wrong", 10),
        )  # fmt: skip
        names, weights = zip(*kinds, strict=True)
        while time.monotonic() < until:
            kind = self._random.choices(names, weights)[0]
            pause = self._random.expovariate(4.0)
            try:
                pause = max(pause, self._ask(kind))
            except TimeoutError:
                self._fault(f"{kind}: no byte for {TIMEOUT:.0f} s")
            except (OSError, http.client.HTTPException) as ex:
                self._fault(f"{kind}: {type(ex).__name__}")
            time.sleep(min(pause, max(0.0, until - time.monotonic())))

    def _fault(self, what: str) -> None:
        with self._lock:
            self._seen.faults[what] += 1

    def _ask(self, kind: str) -> float:
        """Send one request; return the seconds that the server asks to wait."""
        method, path, body = self._request(kind)
        leave_at = self._random.randrange(1, 3000) if self._leaves else None
        connection = http.client.HTTPConnection("127.0.0.1", self._plan.port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            if leave_at is not None and self._random.random() < 0.3:
                return self._leave(connection)
            response = connection.getresponse()
            data = bytearray()
            while chunk := response.read1(4096):
                data += chunk
                if leave_at is not None and len(data) > leave_at:
                    return self._leave(connection)
        return self._judge(kind, response, bytes(data))

    def _leave(self, connection: http.client.HTTPConnection) -> float:
        with self._lock:
            self._seen.left += 1
        # Half of those who leave do so with a reset.
        if self._random.random() < 0.5 and connection.sock is not None:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        return 0.0

    def _judge(self, kind: str, response: http.client.HTTPResponse, data: bytes) -> float:
        status = response.status
        with self._lock:
            self._seen.statuses[f"{kind} {status}"] += 1
        if status in (429, 503):
            wait = response.headers.get("Retry-After")
            if wait is None or not wait.isdigit():
                self._fault(f"{kind}: {status} without Retry-After")
                return 1.0
            return min(LONGEST_WAIT, float(wait))
        if status != (400 if kind == "wrong" else 200):
            self._fault(f"{kind}: status {status}: {data[:120].decode(errors='replace')}")
        elif kind == "stream":
            self._judge_stream(data)
        else:
            try:
                json.loads(data)
            except ValueError:
                self._fault(f"{kind}: the body is no JSON")
        return 0.0

    def _judge_stream(self, data: bytes) -> None:
        events = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
        if not events or events[-1].strip() != b"[DONE]":
            self._fault("stream: it ended without [DONE]")
            return
        text = ""
        for event in events[:-1]:
            parsed = json.loads(event)
            if "error" in parsed:
                code = parsed["error"].get("code")
                with self._lock:
                    self._seen.statuses[f"stream error event {code}"] += 1
                if code not in ("server_busy", "rate_limit_exceeded"):
                    self._fault(f"stream: error event {code}")
                return
            for choice in parsed["choices"]:
                text += choice["delta"].get("content") or ""
        self._history.append({"role": "assistant", "content": text})

    def _request(self, kind: str) -> tuple[str, str, dict[str, Any] | None]:
        model, chat = self._plan.model, "/v1/chat/completions"
        tokens = self._random.choice((4, 16, 64))
        if kind == "models":
            return "GET", "/v1/models", None
        if kind == "tokens":
            return "POST", "/tokenize", {"model": model, "prompt": self._words(40)}
        if kind == "choices":
            body = {"model": model, "prompt": self._words(8), "n": 2, "max_tokens": tokens}
            return "POST", "/v1/completions", body
        if kind == "response":
            body = {"model": model, "input": self._words(12), "max_output_tokens": max(16, tokens)}
            return "POST", "/v1/responses", body
        if kind == "wrong":
            wrong = self._random.choice((
                {"temperature": -1}, {"n": 0}, {"messages": []}, {"max_tokens": "many"},
                {"messages": [{"role": "user"}]}, {"top_p": 7}, {"stop": [""] * 9},
            ))  # fmt: skip
            return "POST", chat, {"model": model, "messages": self._messages(), **wrong}
        body = {"model": model, "messages": self._messages(), "max_tokens": tokens}
        return "POST", chat, {**body, "stream": kind == "stream"}

    def _messages(self) -> list[dict[str, str]]:
        """A conversation that goes on, and begins anew after a few turns."""
        if len(self._history) > 6:
            self._history.clear()
        if self._history and self._history[-1]["role"] == "user":
            self._history.pop()
        self._history.append({"role": "user", "content": self._words(12)})
        return list(self._history)

    def _words(self, most: int) -> str:
        return " ".join(self._random.choices(WORDS, k=self._random.randint(1, most)))


def run(plan: Plan) -> Seen:
    """Let all clients come and go; return what they met."""
    seen, lock = Seen(), threading.Lock()
    began = time.monotonic()
    life = plan.seconds * plan.at_once / plan.clients
    numbers = iter(range(plan.clients))

    def place(first: int) -> None:
        # Not all at the same moment: the first clients of the places leave one after the other.
        end = began + life * (first + 1) / plan.at_once
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            Client(plan, number, seen, lock).live(end)
            with lock:
                seen.served += 1
            end += life

    threads = [threading.Thread(target=place, args=(index,)) for index in range(plan.at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def main() -> None:
    """Read a plan, follow it, write what the clients met."""
    seen = run(Plan(**json.load(sys.stdin)))
    json.dump(
        {"statuses": seen.statuses, "faults": seen.faults, "left": seen.left,
         "served": seen.served},
        sys.stdout,
    )  # fmt: skip


if __name__ == "__main__":
    main()
