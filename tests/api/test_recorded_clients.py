"""Requests of third-party clients are answered: recorded ones, and ones written in their shape.

``clients/recorded`` holds them; ``tests/README.md`` says how they are made.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from documented import SSE, Documented
from support import Json, request

FILES = sorted((Path(__file__).parents[1] / "clients" / "recorded").glob("*.json"))


@pytest.fixture(scope="module")
def documented(base_url: str) -> Documented:
    return Documented.of(base_url)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_recorded_requests(base_url: str, documented: Documented, file: Path) -> None:
    sent: list[Json] = json.loads(file.read_text(encoding="utf-8"))
    assert sent
    for each in sent:
        response = request(base_url, "POST", each["path"], each["body"])
        assert response.status == 200, (each, response.body)
        path = each["path"].partition("?")[0]
        documented.check(response, "post", path)
        if not each["body"].get("stream"):
            continue
        assert response.headers["content-type"].startswith(SSE)
        events = [
            line.removeprefix("data: ")
            for line in response.body.decode().splitlines()
            if line.startswith("data: ")
        ]
        if path == "/v1/responses":
            assert json.loads(events[-1])["type"] in ("response.completed", "response.incomplete")
        elif path == "/v1/messages":
            assert json.loads(events[-1])["type"] == "message_stop"
        else:
            assert events[-1] == "[DONE]"
            chunks = [json.loads(event) for event in events[:-1]]
            ends = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
            assert ends[-1] in ("stop", "length", "tool_calls")
