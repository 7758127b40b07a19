"""What docs/PRIVACY.md promises: messages and answers are neither logged nor stored unasked."""

from __future__ import annotations

from pathlib import Path

from processes import serving
from support import STARTER, chat_body, request

SECRET = "Xanthippe"


def test_messages_are_neither_logged_nor_stored(tmp_path: Path) -> None:
    text = f"My name is {SECRET}."
    with serving(tmp_path, "--log-level", "trace") as child:
        url = child.wait_ready()
        for path, body in (
            ("/v1/chat/completions", chat_body(text, max_tokens=4)),
            ("/v1/chat/completions", chat_body(text, max_tokens=0)),  # an error
            ("/v1/completions", {"prompt": text, "max_tokens": 4}),
            ("/v1/embeddings", {"input": text}),
            ("/tokenize", {"content": text}),
            ("/v1/messages", {"messages": [{"role": "user", "content": text}], "max_tokens": 4}),
            ("/v1/responses", {"input": text, "max_output_tokens": 4, "store": False}),
        ):
            answer = request(url, "POST", path, {"model": STARTER, **body})
            assert answer.status in (200, 400), answer.body
        child.interrupt()
        assert child.wait() == 0
        assert SECRET not in child.out.text + child.err.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    # Nothing but a request to store writes a text to the disk.
    with serving(tmp_path) as child:
        url = child.wait_ready()
        answer = request(url, "POST", "/v1/responses", {"input": text, "max_output_tokens": 4})
        assert answer.status == 200, answer.body
        child.interrupt()
        assert child.wait() == 0
    # SQLite moves it from the "-wal" file to the other one at some later time.
    stored = tmp_path.glob("responses.sqlite3*")
    assert any(SECRET.encode() in path.read_bytes() for path in stored)
