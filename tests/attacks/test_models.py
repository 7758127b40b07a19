"""Attacks with model files: too many to load at once, broken ones, replaced ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Child
from stopped_worker import Waiting
from support import Response, Stream, endless, eventually, request, together
from tiny_models import make

pytestmark = pytest.mark.usefixtures("access")
TEXT = "/v1/completions"
Serve = Callable[..., Child]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few hundred kB."""
    return make("llama", tmp_path_factory.mktemp("tiny"))


def ask(url: str, model: str, **fields: Any) -> Response:
    body = {"model": model, "prompt": "Once", "max_tokens": 2, "temperature": 0, **fields}
    return request(url, "POST", TEXT, body)


def link(tiny: Path, models: Path, names: str) -> None:
    for name in names:
        (models / f"{name}.gguf").symlink_to(tiny)


@pytest.mark.slow
def test_more_models_at_the_same_time_than_may_be_loaded(
    serve: Serve, models: Path, tiny: Path
) -> None:
    """Six models, with three allowed: each is loaded in turn, and no request is refused.

    The default run covers two models in turn with room for one, and the order of loads in
    ``tests/engine/client/test_pool.py``.
    """
    link(tiny, models, "abcdef")
    child = serve("--max-models", "3", "--ctx-size", "64", "--threads", "1")
    url = child.url
    answers = together([lambda model=model: ask(url, model) for model in "abcdef"])
    assert [answer.status for answer in answers] == [200] * 6
    assert [answer.json["model"] for answer in answers] == [*"abcdef"]
    # One that makes room may still be ending.
    eventually(lambda: len(child.workers()) <= 3, "three models are loaded")


@pytest.mark.slow
def test_two_models_in_turns_with_room_for_one(serve: Serve, models: Path, tiny: Path) -> None:
    """Each client's request unloads the other's model; all requests are answered."""
    link(tiny, models, "ab")
    url = serve("--max-models", "1", "--ctx-size", "64").url

    def client(model: str) -> list[int]:
        return [ask(url, model).status for _ in range(2)]

    assert together([lambda: client("a"), lambda: client("b")]) == [[200, 200], [200, 200]]


@pytest.mark.slow
def test_a_busy_model_is_left_to_its_stream_and_then_makes_room(
    serve: Serve, models: Path, tiny: Path
) -> None:
    """New requests for the busy model wait until the other one has been loaded.

    Otherwise endless requests for one model would keep another from ever being loaded. The default
    run covers the same without HTTP, in ``tests/engine/client/test_pool.py``.
    """
    link(tiny, models, "ab")
    child = serve("--max-models", "1", "--threads", "1", "--model", "a")
    url = child.wait_ready()
    worker = child.worker()
    ended: list[str] = []

    def other() -> None:
        assert ask(url, "b").status == 200
        ended.append("b")

    def newcomer() -> None:
        assert ask(url, "a").status == 200
        ended.append("a")

    with (
        Stream(url, TEXT, endless(model="a", max_tokens=2000)) as stream,
        Waiting(url, worker, others=1, model="a") as waiting,
    ):

        def go_on() -> None:
            # /health shows that the server has read the earlier requests.
            for _ in range(20):
                assert request(url, "GET", "/health").status == 200
            assert not ended
            worker.resume()
            *_, done = stream.events()
            assert done == "[DONE]"
            assert waiting.response().status == 200

        together([other, newcomer, go_on])
    assert sorted(ended) == ["a", "b"]


@pytest.mark.slow
def test_a_broken_file_never_costs_a_healthy_model_its_place(
    serve: Serve, models: Path, tiny: Path
) -> None:
    """Requested again and again without room, it is examined once, in a separate process."""
    link(tiny, models, "a")
    # Its header is right, so only llama.cpp notices.
    without_a_tensor = tiny.read_bytes().replace(b"output_norm.weight", b"output_nurm.weight")
    (models / "broken.gguf").write_bytes(without_a_tensor)
    child = serve("--max-models", "1", "--model", "a", "--ctx-size", "64")
    url = child.wait_ready()
    worker = child.worker()
    for _ in range(3):
        answer = ask(url, "broken")
        assert answer.status == 500
        assert answer.json["error"]["code"] == "model_load_failed"
        message = answer.json["error"]["message"]
        assert "The model broken cannot be loaded" in message
        assert str(models) not in message
        assert "/" not in message
        assert ask(url, "a").status == 200
    assert child.worker() == worker
    child.err.find("No other model is unloaded for it.")
    assert child.err.text.count("No other model is unloaded for it.") == 1
    # A replaced file is examined again.
    shutil.copy(tiny, models / "broken.gguf")
    assert ask(url, "broken").status == 200


def replace_in_place(path: Path, tiny: Path) -> None:
    """Write other contents to the same inode, and restore the modification time."""
    status = path.stat()
    path.write_bytes(tiny.read_bytes() + bytes(64))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.slow
def test_a_file_that_is_replaced_while_it_is_served(serve: Serve, models: Path, tiny: Path) -> None:
    """It is loaded again between two requests, even if one always runs: new requests wait.

    The default run covers a file that is replaced while one stream is computed, in
    ``test_held_files.py``.
    """
    shutil.copy(tiny, models / "a.gguf")
    child = serve("--max-models", "1", "--threads", "1")
    url = child.wait_ready()
    worker = child.worker()
    with Stream(url, TEXT, endless(model="a", max_tokens=2000)) as stream:
        assert stream.response.readline()
        worker.suspend()
        replace_in_place(models / "a.gguf", tiny)

        def go_on() -> list[str]:
            for _ in range(20):
                assert request(url, "GET", "/health").status == 200
            worker.resume()
            return list(stream.events())

        newcomer, events = together([lambda: ask(url, "a"), go_on])
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
    assert newcomer.status == 200
    assert child.worker() != worker
    child.err.find("the file of a was replaced")
