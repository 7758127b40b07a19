"""The worker process under ill treatment, seen from HTTP: it may die, the server may not."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import all_stopped
from support import STARTER, Stream, chat_body, endless, eventually, request, text_of, together

from offgrid.engine.client import EngineClient
from offgrid.engine.protocol import GenerationRequest, Load, Part
from offgrid.errors import EngineFault, ModelLoadFailed, RequestRefused
from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MakeServer = Callable[..., Server]


def kill(server: Server) -> int:
    pid = server.pool.engine(STARTER).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def test_killed_in_mid_stream(make_server: MakeServer) -> None:
    server = make_server()
    with (
        Stream(server.url, TEXT, endless(max_tokens=1900)) as one,
        Stream(server.url, TEXT, endless(max_tokens=1900)) as two,
    ):
        assert one.read_some()
        assert two.read_some()
        pid = kill(server)
        assert request(server.url, "GET", "/health").status == 200
        for stream in (one, two):
            *_, last = stream.events()
            assert json.loads(last)["error"]["code"] == "engine_fault"
    answer = request(server.url, "POST", CHAT, chat_body(temperature=0))
    assert answer.status == 200
    assert answer.json["choices"][0]["message"]["content"]
    assert server.pool.engine(STARTER).pid != pid


def test_killed_while_a_whole_answer_is_computed(make_server: MakeServer) -> None:
    server = make_server(parallel=1)
    engine = server.pool.engine(STARTER)

    def ask() -> Any:
        return request(server.url, "POST", TEXT, endless(max_tokens=1900, stream=False))

    def end() -> None:
        eventually(lambda: engine.in_flight == 1, "it runs")
        kill(server)

    response, _ = together([ask, end])
    assert response.status == 500
    assert response.json["error"]["code"] == "engine_fault"
    assert request(server.url, "POST", CHAT, chat_body()).status == 200


def test_a_stopped_worker_does_not_stop_the_server(make_server: MakeServer) -> None:
    server = make_server()
    pid = server.pool.engine(STARTER).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        for path in ("/health", "/", "/v1/models"):
            assert request(server.url, "GET", path).status == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    assert request(server.url, "POST", CHAT, chat_body()).status == 200


def test_a_prompt_that_ends_the_worker_twice_is_refused(starter_path: Path) -> None:
    client = EngineClient(
        Load(str(starter_path), parallel=1, batch_size=32, threads=1),
        queue_size=4, load_timeout=60, stall_timeout=60,
    )  # fmt: skip
    client.start()
    try:
        client.wait_ready()
        poison = GenerationRequest(parts=(Part("once upon a time " * 100, True),))
        for _ in range(2):
            pid = client.pid
            assert pid is not None

            def end(pid: int = pid) -> bool:
                # The prompt is on its way and no token of it has come: now the process ends.
                os.kill(pid, signal.SIGKILL)
                return True

            # A stopped process takes the prompt but computes nothing of it.
            os.kill(pid, signal.SIGSTOP)
            eventually(lambda pid=pid: all_stopped(pid), "every thread of it has stopped")
            with pytest.raises(EngineFault):
                client.submit(poison, alive=end)
            client.wait_ready()
        with pytest.raises(RequestRefused):
            client.submit(poison)
        other = client.submit(GenerationRequest(parts=(Part("Once", True),), max_tokens=2))
        while not other.finished:
            other.next(10)
        assert client.in_flight == 0
    finally:
        client.close()


def test_no_command_gets_ahead_of_what_to_load(
    starter_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog's ping may come in the very moment in which a worker is started."""
    client = EngineClient(
        Load(str(starter_path), parallel=1, threads=1),
        queue_size=1,
        load_timeout=60,
        stall_timeout=60,
    )

    class PingsAtOnce(threading.Timer):
        def start(self) -> None:
            client._ping(1)
            super().start()

    monkeypatch.setattr(threading, "Timer", PingsAtOnce)
    client.start()
    try:
        assert client.wait_ready().n_parallel == 1
    finally:
        client.close()


@pytest.mark.parametrize("keep", [4, 100, 20_000, 1_000_000])
def test_a_file_that_is_cut_short(make_server: MakeServer, starter_path: Path, tmp_path: Path,
                                  keep: int) -> None:  # fmt: skip
    (tmp_path / "short.gguf").write_bytes(starter_path.read_bytes()[:keep])
    (tmp_path / "whole.gguf").symlink_to(starter_path)
    server = make_server(default_model="whole")
    response = request(server.url, "POST", TEXT, {"model": "short", "prompt": "x"})
    assert response.status == 500
    assert response.json["error"]["code"] == "model_load_failed"
    assert response.headers["x-should-retry"] == "false"
    whole = request(server.url, "POST", TEXT, {"model": "whole", "prompt": "x", "max_tokens": 1})
    assert whole.status == 200


def test_a_file_that_is_no_model_is_not_listed(make_server: MakeServer, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "folder.gguf").mkdir()
    server = make_server()
    models = request(server.url, "GET", "/v1/models").json["data"]
    assert [model["id"] for model in models] == [STARTER]


def test_load_errors_reach_the_caller(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    client = EngineClient(Load(str(file)), queue_size=1, load_timeout=60, stall_timeout=60)
    client.start()
    try:
        with pytest.raises(ModelLoadFailed, match=r"x\.gguf"):
            client.wait_ready()
        assert client.load_failed
    finally:
        client.close()


def test_strange_prompts_beside_running_streams(make_server: MakeServer) -> None:
    """One client's poison does not change the others' answers."""
    server = make_server()
    body = chat_body("Tell me a short story.", temperature=0, stream=True)

    def story() -> str:
        with Stream(server.url, CHAT, body) as stream:
            return text_of(list(stream.events()))

    def poison() -> None:
        for text in ("A" * 60_000, "\U0001f600" * (1 << 18), "\x00\x07" * 500):
            assert request(server.url, "POST", CHAT, chat_body(text)).status in (200, 400)

    alone = story()
    assert together([story, story, poison])[:2] == [alone, alone]
