"""Responses in the background: they outlive their clients, can be followed, and be cancelled."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from lasting import LASTING, SETTINGS, Running, lasting, write_lasting
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response
from responses_calls import EVENT, PATH, ask, body, text_of
from support import STARTER, TIMEOUT, Json, eventually, request

from offgrid.api.responses import background
from offgrid.api.responses.background import Background, BackgroundResponse, owner_lives, read
from offgrid.config import load_settings
from offgrid.errors import Overloaded
from offgrid.server import Server
from offgrid.store.file import Item, Owner
from offgrid.store.responses import ResponseStore, StoredResponse

ENDLESS: Json = {"model": LASTING, "ignore_eos": True}
MakeServer = Callable[..., Server]


def start(url: str, prompt: Any = "Hello!", **fields: Any) -> Json:
    answer = request(url, "POST", PATH, body(prompt, background=True, **fields))
    assert answer.status == 200, answer.body
    Response.model_validate(answer.json)
    return dict(answer.json)


def retrieve(url: str, id: str) -> Json:
    answer = request(url, "GET", f"{PATH}/{id}")
    assert answer.status == 200, answer.body
    Response.model_validate(answer.json)
    return dict(answer.json)


def finished(url: str, id: str) -> Json:
    eventually(lambda: retrieve(url, id)["status"] not in ("queued", "in_progress"), "it ends")
    return retrieve(url, id)


def test_a_response_is_made_after_its_client_has_left(base_url: str) -> None:
    first = start(base_url, "What is 7 + 5?", metadata={"a": "b"})
    assert (first["status"], first["background"], first["output"]) == ("queued", True, [])
    response = finished(base_url, first["id"])
    assert response["status"] == "completed"
    assert response["store"] is True
    assert text_of(response) == text_of(ask(base_url, "What is 7 + 5?"))
    listed = request(base_url, "GET", f"{PATH}/{first['id']}/input_items").json["data"]
    assert listed[0]["content"][0]["text"] == "What is 7 + 5?"
    assert ask(base_url, "And?", previous_response_id=first["id"])["status"] == "completed"


def test_its_events_can_be_followed_from_anywhere(client: OpenAI) -> None:
    made = client.responses.create(
        model=STARTER, input="Tell me a story.", background=True, max_output_tokens=12,
        temperature=0,
    )  # fmt: skip
    events = list(client.responses.retrieve(made.id, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.incomplete"
    for event in events:
        EVENT.validate_python(event.to_dict())
    rest = list(client.responses.retrieve(made.id, stream=True, starting_after=4))
    assert [event.to_dict() for event in rest] == [event.to_dict() for event in events[5:]]
    beyond = client.responses.retrieve(made.id, stream=True, starting_after=10**9)
    assert list(beyond) == []


def test_a_stream_that_is_cut_can_be_taken_up_again(client: OpenAI) -> None:
    asked: Any = {
        "model": STARTER, "input": "Tell me a story.", "temperature": 0, "max_output_tokens": 40,
    }  # fmt: skip
    seen = []
    with client.responses.create(**asked, background=True, stream=True) as opened:
        for event in opened:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    first = seen[0]
    assert first.type == "response.created"
    assert first.response.status == "queued"
    id, last = first.response.id, seen[-1].sequence_number
    seen += client.responses.retrieve(id, stream=True, starting_after=last)
    text = "".join(e.delta for e in seen if e.type == "response.output_text.delta")
    assert text == client.responses.create(**asked).output_text
    assert [event.sequence_number for event in seen] == list(range(len(seen)))


@pytest.fixture
def make_lasting(make_server: MakeServer, tmp_path: Path) -> MakeServer:
    """Start servers with the starter and a model whose answers last until a test ends them."""
    write_lasting(tmp_path)
    return lambda **flags: make_server(**SETTINGS, default_model=STARTER, max_models=2, **flags)


@pytest.fixture
def endless_url(make_lasting: MakeServer) -> str:
    return make_lasting().url


@pytest.fixture
def endless_client(endless_url: str) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{endless_url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT
    ) as client:
        yield client


def test_cancel(endless_client: OpenAI, endless_url: str) -> None:
    client, base_url = endless_client, endless_url
    made = client.responses.create(
        model=LASTING, input="Hello!", background=True, extra_body=ENDLESS
    )
    with Running(base_url, "/v1/completions", lasting()) as other:  # the queue is not blocked
        assert other.read_some()
    cancelled = client.responses.cancel(made.id)
    assert cancelled.status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert retrieve(base_url, made.id)["status"] == "cancelled"
    *_, last = client.responses.retrieve(made.id, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.status == "cancelled"
    done = finished(base_url, start(base_url)["id"])
    assert client.responses.cancel(done["id"]).status == "completed"
    with pytest.raises(NotFoundError):
        client.responses.cancel("resp_unknown")


def test_an_unfinished_response_is_not_continued_and_can_be_deleted(
    endless_client: OpenAI, endless_url: str
) -> None:
    client, base_url = endless_client, endless_url
    made = start(base_url, **ENDLESS)
    with pytest.raises(BadRequestError, match="not finished"):
        client.responses.create(model=STARTER, input="x", previous_response_id=made["id"])
    client.responses.delete(made["id"])
    with pytest.raises(NotFoundError):
        client.responses.retrieve(made["id"])
    with pytest.raises(NotFoundError):
        client.responses.retrieve(made["id"], stream=True)


def test_a_refused_request_is_an_error_at_once(base_url: str) -> None:
    for fields, code in (
        ({"input": "hello " * 5000}, "context_length_exceeded"),
        ({"temperature": 3}, "invalid_value"),
    ):
        answer = request(base_url, "POST", PATH, body(background=True) | fields)
        assert (answer.status, answer.json["error"]["code"]) == (400, code)


def test_odd_queries(base_url: str) -> None:
    made = start(base_url, max_output_tokens=1)
    for query, param in (
        ("stream=true&starting_after=x", "starting_after"),
        ("starting_after=1", "starting_after"),
        ("stream=yes", "stream"),
        ("stream=true&include=x", "include"),
    ):
        answer = request(base_url, "GET", f"{PATH}/{made['id']}?{query}")
        assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_their_number_is_limited(make_lasting: MakeServer) -> None:
    """Half of the places in the queue are left to others; a finished one makes room."""
    url = make_lasting(parallel=1, queue_size=1).url
    first = start(url, **ENDLESS)
    refused = request(url, "POST", PATH, body(background=True))
    assert (refused.status, refused.json["error"]["code"]) == (503, "server_busy")
    assert "retry-after" in refused.headers
    assert request(url, "POST", f"{PATH}/{first['id']}/cancel").json["status"] == "cancelled"
    assert finished(url, start(url)["id"])["status"] == "completed"


def test_a_caller_that_has_taken_all_places_leaves_some_to_others(tmp_path: Path) -> None:
    flags = {"responses_file": tmp_path / "r.sqlite3", "parallel": 2, "queue_size": 6}
    here = Background(load_settings(flags, environ={}))
    for _ in range(4):
        here.count("many")
    with pytest.raises(Overloaded, match="at most 4 responses in the background"):
        here.count("many")
    here.count("few")
    here.count("few")
    with pytest.raises(Overloaded):
        here.count("few")
    here.uncount("few")
    here.count("other")
    here.uncount("many")
    with pytest.raises(Overloaded):
        here.count("many")  # three, and its share is less


def test_a_server_that_stores_nothing_has_none(make_server: MakeServer, tmp_path: Path) -> None:
    answer = request(make_server(max_responses=0).url, "POST", PATH, body(background=True))
    assert (answer.status, answer.json["error"]["param"]) == (400, "background")
    assert not list(tmp_path.glob("*.sqlite3"))


def test_a_file_that_fails_is_an_error_and_leaves_nothing_running(
    make_server: MakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "file" / "responses.sqlite3"
    (tmp_path / "file").write_text("where the folder should be")
    server = make_server(responses_file=path, parallel=1, queue_size=1)
    answer = request(server.url, "POST", PATH, body(background=True, ignore_eos=True))
    assert (answer.status, answer.json["error"]["code"]) == (500, "store_failed")
    os.unlink(tmp_path / "file")
    assert finished(server.url, start(server.url)["id"])["status"] == "completed"


@pytest.mark.slow
def test_the_end_of_the_server_is_an_error_in_the_response(make_lasting: MakeServer) -> None:
    """An orderly end stores the failure."""
    first = make_lasting()
    made = start(first.url, **ENDLESS)
    first.stop()
    response = retrieve(make_lasting().url, made["id"])
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResponseStore]:
    store = ResponseStore(tmp_path / "r.sqlite3", 100, 1 << 30)
    yield store
    store.close()


def test_a_response_of_a_killed_server_has_failed(store: ResponseStore, tmp_path: Path) -> None:
    """A response of another server that still runs is left alone."""
    here = Background(load_settings({"responses_file": tmp_path / "r.sqlite3"}, environ={}))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd="/")
    owner = f"{child.pid} {psutil.Process(child.pid).create_time()} x"
    item = Item("msg_1", b"{}")
    store.put(StoredResponse("resp_1", None, b'{"status":"queued"}', (item,), (), owner))
    stored = read(store, here, "resp_1")
    assert stored is not None
    assert stored.owner == owner
    child.communicate(b"\n")
    for _ in range(2):
        stored = read(store, here, "resp_1")
        assert stored is not None
        assert stored.owner is None
        assert b'"failed"' in stored.body
        assert stored.inputs == (item,)
    assert read(store, here, "resp_2") is None
    here.close(0)


def test_owners(tmp_path: Path) -> None:
    here = Background(load_settings({"responses_file": tmp_path / "r.sqlite3"}, environ={}))
    assert owner_lives(here.owner)
    here.close(0)
    assert not owner_lives(here.owner)  # a server of this process that has ended
    assert not owner_lives(f"{os.getpid()} 0 x")
    assert not owner_lives("")
    assert not owner_lives("x y z")
    assert not owner_lives(f"{os.getppid()} 1.5 x")  # a later process with the same id


class Writer:
    def __init__(self) -> None:
        self.response: Json = {}

    def stream(self) -> Iterator[Json]:
        yield {"type": "response.created"}


class Group:
    def cancel(self) -> None:
        pass


def test_the_end_in_the_moment_in_which_a_response_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its thread is not joined before it is started, which is an error."""
    here = Background(load_settings({"responses_file": tmp_path / "r.sqlite3"}, environ={}))
    closed: list[bool] = []

    def close() -> None:
        here.close(TIMEOUT)
        closed.append(True)

    closing = threading.Thread(target=close)
    start = threading.Thread.start

    def start_late(thread: threading.Thread) -> None:
        if thread.name.startswith("background-"):
            start(closing)
            eventually(
                lambda: here._lock.locked() or not closing.is_alive(), "the end waits, or is over"
            )
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    writer: Any = Writer()
    group: Any = Group()
    response = BackgroundResponse("resp_1", lambda: False)
    here.count(response.whose)
    here.start(response, writer, group)
    closing.join(TIMEOUT)
    assert closed == [True]
    assert response.ended


def test_only_the_latest_events_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(background, "MAX_KEPT", 2)
    here = Background(load_settings({"responses_file": tmp_path / "r.sqlite3"}, environ={}))

    writer: Any = Writer()
    group: Any = Group()
    for number in range(4):
        response = BackgroundResponse(f"resp_{number}", lambda: False)
        here.count(response.whose)
        here.start(response, writer, group)
        assert b"".join(response.follow(-1, 0, lambda: True)).startswith(
            b"event: response.created\n"
        )
    here.close(10)
    assert [n for n in range(4) if here.find(f"resp_{n}", Owner())] == [2, 3]


def test_following_ends_when_the_client_leaves_and_pings_while_it_waits() -> None:
    response = BackgroundResponse("resp_1", lambda: True)
    frames = response.follow(-1, 0.001, lambda: True)
    assert next(frames) == b": ping\n\n"
    response.add({"type": "x"})
    assert next(frames) == b'event: x\ndata: {"type":"x"}\n\n'
    assert list(response.follow(0, 0, lambda: False)) == []
    response.end()
    assert list(frames) == []
