"""Requests to Ollama's API and their answers."""

from __future__ import annotations

import json
from collections.abc import Callable

from support import Json, Response, request


def lines_of(response: Response) -> list[Json]:
    """The lines of a stream; the last one ends it."""
    assert response.status == 200, response.body
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.body.endswith(b"\n")
    lines = [json.loads(line) for line in response.body.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    return lines


def both(url: str, path: str, body: Json, text: Callable[[Json], str]) -> tuple[Json, list[Json]]:
    """The whole answer to a request, and the lines of its stream, which say the same."""
    whole = request(url, "POST", path, {**body, "stream": False}).json
    lines = lines_of(request(url, "POST", path, body))
    assert "".join(map(text, lines)) == text(whole)
    last = lines[-1]
    assert whole.keys() >= last.keys()
    for name in ("model", "done", "done_reason", "prompt_eval_count", "eval_count"):
        assert whole[name] == last[name]
    return whole, lines


def content(line: Json) -> str:
    """The text of a line of a chat."""
    return str(line["message"]["content"])


def refused(url: str, path: str, body: Json, status: int = 400) -> str:
    """The message with which a request is refused."""
    response = request(url, "POST", path, body)
    assert response.status == status, response.body
    assert response.json.keys() == {"error"}
    assert response.headers["content-type"] == "application/json"
    return str(response.json["error"])
