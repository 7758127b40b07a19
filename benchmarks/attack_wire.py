"""Requests of ``attacks.py``, byte by byte: their heads and bodies, and what comes back."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections import Counter
from collections.abc import Iterable
from typing import Any

TIMEOUT = 60.0
"""Seconds after which a request of an attack is abandoned."""
CHAT, RESPONSES, TEXT = "/v1/chat/completions", "/v1/responses", "/v1/completions"

KEY = "ATTACK_KEY"
"""The environment variable with the secret of the key that all requests have, if any."""

Outcome = Counter[str]
"""How often each status, or word for what happened instead, came back."""


def encoded(body: Any) -> bytes:
    """Return a body as bytes; bytes stay as they are, all else becomes JSON."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def head(method: str, path: str, length: int, headers: dict[str, str] | None = None) -> bytes:
    """Return the first line and the headers of a request; ``headers`` replace the usual ones."""
    more = {"Host": "127.0.0.1", "Connection": "close", "Content-Length": str(length)}
    if os.environ.get(KEY):
        more["Authorization"] = f"Bearer {os.environ[KEY]}"
    lines = [f"{name}: {value}" for name, value in {**more, **(headers or {})}.items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1", "replace")


def exchange(port: int, pieces: Iterable[bytes], timeout: float = TIMEOUT) -> str:
    """Send bytes over a new connection; return the status or a word for what happened instead."""
    answer = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
            # A server may respond and close before it has read everything.
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    sock.sendall(piece)
            while data := sock.recv(1 << 16):
                answer = answer or data
    except TimeoutError:  # after a response the connection stays open for the next request
        if not answer:
            return "no answer"
    except OSError:
        if not answer:
            return "reset"
    words = answer.split(b" ", 2)
    return words[1].decode("latin-1") if len(words) > 1 else "closed"


def chat(model: str, content: str = "Hello!", **fields: Any) -> dict[str, Any]:
    """The body of a short chat."""
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": 4, **fields}


def text(model: str, prompt: Any = "Once", **fields: Any) -> dict[str, Any]:
    """The body of a short completion."""
    return {"model": model, "prompt": prompt, "max_tokens": 4, **fields}
