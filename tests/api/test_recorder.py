"""The recorder of clients' requests: what it writes, and that a client notices nothing."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import BadRequestError, OpenAI
from recorder import MAX_TEXT, Cleaner, Recorder, machine_values
from support import STARTER, TIMEOUT, request

ID = "123E4567-e89b-12d3-a456-426614174000"


@pytest.fixture
def recorder(base_url: str, tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path / "client.json", base_url, {"/home/me": "/home/user"})
    recorder.start()
    yield recorder
    recorder.stop()


def test_a_client_is_recorded_and_answered(
    recorder: Recorder, base_url: str, tmp_path: Path
) -> None:
    client = OpenAI(base_url=f"{recorder.url}/v1", api_key="sk-very-secret-key")
    messages = [{"role": "user", "content": f"Hello from /home/me, {ID}!"}]
    asked = {"model": STARTER, "max_tokens": 4, "temperature": 0, "messages": messages}
    whole = client.chat.completions.create(**asked)
    client.chat.completions.create(**asked)  # recorded once
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert [model.id for model in client.models.list()] == [STARTER]
    with pytest.raises(BadRequestError, match="temperature"):
        client.chat.completions.create(**{**asked, "temperature": 3})
    raw = (tmp_path / "client.json").read_text(encoding="utf-8")
    assert "secret" not in raw
    assert "/home/me" not in raw
    sent = json.loads(raw)
    assert len(raw.splitlines()) == len(sent) + 2
    assert [each["path"] for each in sent] == ["/v1/chat/completions"] * 3
    said = sent[0]["body"]["messages"][0]["content"]
    assert said == "Hello from /home/user, 00000000-0000-4000-8000-000000000001!"
    for each, status in zip(sent, (200, 200, 400), strict=True):
        assert request(base_url, "POST", each["path"], each["body"]).status == status


def test_a_body_in_chunks(recorder: Recorder, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection(recorder.url.removeprefix("http://"), timeout=TIMEOUT)
    connection.request(
        "POST", "/v1/embeddings", iter([b'{"input": ', b'"x"}']), encode_chunked=True
    )
    assert connection.getresponse().status == 200
    connection.close()
    sent = json.loads((tmp_path / "client.json").read_text(encoding="utf-8"))
    assert sent == [{"path": "/v1/embeddings", "body": {"input": "x"}}]


def test_what_is_replaced() -> None:
    cleaner = Cleaner({"/home/me": "/home/user", "me": "user", "box": "machine"})
    image = "data:image/png;base64," + "A" * 1000
    cleaned = cleaner.clean(
        {
            "api_key": "abc", "extra": {"Authorization": "x", "access_token": None},
            "text": "me@box in /home/me/a: mean boxes", "key": "use sk-abcdefgh12345",
            "ids": [ID, ID.lower(), ID.replace("1", "2")], "n": 5, "long": "x" * (MAX_TEXT + 50),
            "image": image,
        }
    )  # fmt: skip
    one, two = (f"00000000-0000-4000-8000-{number:012}" for number in (1, 2))
    assert cleaned == {
        "api_key": "removed", "extra": {"Authorization": "removed", "access_token": None},
        "text": "user@machine in /home/user/a: mean boxes", "key": "use removed",
        "ids": [one, one, two], "n": 5, "long": "A text of 400 characters.", "image": image,
    }  # fmt: skip


def test_this_machine_is_not_recorded() -> None:
    cleaner = Cleaner(machine_values())
    assert cleaner.clean(f"in {Path.home() / 'a'}") != f"in {Path.home() / 'a'}"
    assert cleaner.clean(f"in {Path.cwd()}") == "in /project"
