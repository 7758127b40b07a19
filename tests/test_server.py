"""The end of a server: running answers finish, no new ones begin, no process is left."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import lasting
import psutil
import pytest
from lasting import Kept, write_lasting
from processes import Child, all_gone, models_flags, program
from stopped_worker import Waiting
from support import (
    STARTER,
    TIMEOUT,
    Response,
    Stream,
    chat_body,
    endless,
    eventually,
    request,
    text_of,
    together,
)

from offgrid.api.http.gate import places
from offgrid.config import load_settings
from offgrid.listening import listen
from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
FINISHING = "finishing running requests"
STOPPED_AT_ONCE = 130


StartServer = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    """Start programs in an empty folder; all are ended after the test."""
    children: list[Child] = []

    def start_program(*command: str, **options: Any) -> Child:
        child = Child(*command, cwd=tmp_path, **options)
        children.append(child)
        return child

    yield start_program
    for child in children:
        child.end()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """An empty models directory; the server uses the starter unless a test puts models there."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(start: StartServer, models: Path) -> StartServer:
    """Start ``offgrid serve`` on a free port, with more flags and variables."""

    def start_server(*flags: str, **options: Any) -> Child:
        command = (program("offgrid"), "serve", "--port", "0", *models_flags(models))
        return start(*command, *flags, **options)

    return start_server


def stop_by_term(child: Child) -> None:
    child.process.terminate()


def stop_all_by_term(child: Child) -> None:
    """Send SIGTERM to every process of the unit, as systemd does."""
    os.killpg(child.process.pid, signal.SIGTERM)


@pytest.mark.parametrize(
    "stop",
    [
        # test_a_drain_ends_when_its_time_is_up sends SIGTERM to the server alone.
        pytest.param(stop_by_term, marks=pytest.mark.slow),
        stop_all_by_term,
        Child.interrupt,
    ],
    ids=["SIGTERM", "SIGTERM to all", "Ctrl-C"],
)
def test_running_answers_finish(serve: StartServer, stop: Callable[[Child], None]) -> None:
    child = serve("--drain-timeout", "600")
    url = child.wait_ready()
    worker = child.worker()
    with (
        Stream(url, TEXT, endless(max_tokens=200)) as text,
        Stream(url, CHAT, chat_body(stream=True, ignore_eos=True, max_tokens=200)) as chat,
    ):
        assert text.read_some()
        assert chat.read_some()
        # Pause the answers so that they do not end before the checks below.
        with Waiting(url, worker, others=2) as waiting:
            stop(child)
            child.err.find(FINISHING)
            with pytest.raises(ConnectionRefusedError):
                request(url, "GET", "/health")
            assert child.process.poll() is None
            worker.resume()
            assert waiting.response().status == 200
        for stream in (text, chat):
            *events, done = stream.events()
            assert done == "[DONE]"
            reasons = [json.loads(event)["choices"][0]["finish_reason"] for event in events]
            assert reasons[-1] == "length"
    assert child.wait() == 0
    assert "Traceback" not in child.err.text
    all_gone([worker])


@pytest.mark.slow
def test_a_whole_answer_finishes(make_server: Callable[..., Server]) -> None:
    server = make_server(drain_timeout=60)
    engine = server.pool.engine(STARTER)
    body = endless(max_tokens=300, stream=False)
    assert engine.pid is not None
    worker = psutil.Process(engine.pid)
    worker.suspend()  # or the answer may end before the server is told to end

    def ask() -> Response:
        return request(server.url, "POST", TEXT, body)

    def stop() -> None:
        eventually(lambda: engine.in_flight == 1, "it runs")
        server.stop()

    def go_on() -> None:
        eventually(lambda: refuses(server.port), "it ends")
        worker.resume()

    response, _, _ = together([ask, stop, go_on])
    assert response.status == 200
    assert response.json["usage"]["completion_tokens"] == 300


def refuses(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) != 0


def test_stop_leaves_no_thread(make_server: Callable[..., Server]) -> None:
    before = set(threading.enumerate())
    server = make_server()
    assert request(server.url, "POST", CHAT, chat_body(max_tokens=1)).status == 200
    started = set(threading.enumerate()) - before
    assert len(started) > 8
    server.stop()
    eventually(lambda: not any(thread.is_alive() for thread in started), "no thread is left")


def test_an_error_does_not_keep_a_server_from_ending(start: StartServer, models: Path) -> None:
    """Whatever fails, all other parts of the end follow, and the loop of the sockets ends."""
    failing = """
        from offgrid.api.responses.background import Background
        from offgrid.api.transfers.running import Transfers
        from offgrid.cli import main
        from offgrid.engine.client.pool import EnginePool
        from offgrid.server import Server

        def fail(*arguments, **options):
            raise RuntimeError("this part cannot end")

        EnginePool.drain = Server._busy = Transfers.close = Background.close = fail
        main()
    """
    code = textwrap.dedent(failing)
    child = start(sys.executable, "-c", code, "serve", "--port", "0", *models_flags(models))
    child.wait_ready()
    worker = child.worker()
    child.process.terminate()
    assert child.wait() == 0
    assert child.err.text.count("RuntimeError: this part cannot end") >= 4
    all_gone([worker])


@pytest.mark.slow
@pytest.mark.parametrize("stuck", [False, True], ids=["at work", "stuck"])
def test_a_drain_ends_when_its_time_is_up(serve: StartServer, models: Path, stuck: bool) -> None:
    write_lasting(models)
    child = serve(*lasting.FLAGS, "--parallel", "2", OFFGRID_DRAIN_TIMEOUT="0.2" if stuck else "0")
    url = child.wait_ready()
    worker = child.worker()
    with Kept(url, TEXT, lasting.BODY) as one, Kept(url, TEXT, lasting.BODY) as two:
        if stuck:
            worker.suspend()
        child.process.terminate()
        for stream in (one, two):
            assert json.loads(stream.wait())["error"]["code"] == "server_shutting_down"
    assert child.wait() == 0
    all_gone([worker])


@pytest.mark.slow
def test_a_stuck_worker_with_a_full_pipe_does_not_stop_the_end(serve: StartServer) -> None:
    child = serve("--drain-timeout", "1", "--queue-size", "64")
    url = child.wait_ready()
    worker = child.worker()
    worker.suspend()
    body = chat_body("once upon a time " * 1500, stream=True)

    sent = threading.Barrier(9)

    def ask() -> None:
        # 25 kB each: some fit into the pipe, then a writer waits for ever.
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
        connection.request("POST", CHAT, json.dumps(body).encode())
        # One thread of the server reads all requests in order, so it has read the earlier ones.
        assert request(url, "GET", "/health").status == 200
        sent.wait(TIMEOUT)
        assert connection.getresponse().status in (500, 503)
        connection.close()

    def stop() -> None:
        sent.wait(TIMEOUT)
        child.process.terminate()
        assert child.wait() == 0

    together([*[ask] * 8, stop])
    all_gone([worker])


@pytest.mark.slow
def test_an_idle_server_finishes_nothing(serve: StartServer) -> None:
    child = serve()
    url = child.wait_ready()
    assert request(url, "POST", TEXT, {"prompt": "Once", "max_tokens": 1}).status == 200
    server = psutil.Process(child.process.pid)
    eventually(
        lambda: {one.status for one in server.net_connections("tcp")} == {"LISTEN"},
        "the request's connection is closed",
    )
    child.interrupt()
    assert child.wait() == 0
    assert child.err.text.endswith("stopping\n")
    assert FINISHING not in child.err.text


@pytest.mark.slow
def test_the_log_in_json_has_no_other_lines(serve: StartServer) -> None:
    """On standard error, from the start to the second signal."""
    child = serve("--log-format", "json", "--drain-timeout", "600")
    url = child.wait_ready()
    with Waiting(url, child.worker(), others=0):
        child.process.terminate()
        child.err.find(FINISHING)
        child.process.terminate()
        assert child.process.wait(TIMEOUT) == STOPPED_AT_ONCE
    child.err.find("stopped immediately")
    lines = [json.loads(line) for line in child.err.text.splitlines()]
    assert {"level", "logger", "message", "time"} <= lines[-1].keys()
    assert lines[-1]["logger"] == "offgrid.server"


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(serve: StartServer) -> None:
    child = serve("--drain-timeout", "600")
    url = child.wait_ready()
    worker = child.worker()
    with Waiting(url, worker, others=0):
        child.process.terminate()
        child.err.find(FINISHING)
        child.process.terminate()
        assert child.process.wait(TIMEOUT) == STOPPED_AT_ONCE
        worker.resume()
        all_gone([worker])
    child.err.find("stopped immediately")


@pytest.mark.parametrize(
    "stop",
    # Ctrl-C also reaches the worker.
    [pytest.param(stop_by_term, marks=pytest.mark.slow), Child.interrupt],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_a_signal_while_the_model_loads(serve: StartServer, stop: Callable[[Child], None]) -> None:
    child = serve("--drain-timeout", "600")
    assert child.url
    worker = child.worker()
    stop(child)
    assert child.wait() == 0
    assert "Traceback" not in child.err.text
    assert "ERROR" not in child.err.text
    all_gone([worker])


@pytest.mark.slow
def test_a_worker_outlives_no_server(serve: StartServer) -> None:
    child = serve()
    url = child.wait_ready()
    workers = child.workers()
    with Stream(url, TEXT, endless()) as stream:
        assert stream.read_some()
        child.process.kill()
        assert child.wait() == -signal.SIGKILL
        all_gone(workers)


@pytest.mark.slow
def test_answers_finish_when_the_reader_of_the_log_has_ended(serve: StartServer) -> None:
    """Ctrl-C under ``offgrid serve 2>&1 | tee log`` ends tee first."""
    reader, writer = os.pipe()
    child = serve("--drain-timeout", "600", stderr=writer)
    os.close(writer)
    url = child.wait_ready()
    with Stream(url, TEXT, endless(max_tokens=300)) as stream:
        assert stream.read_some()
        os.close(reader)
        child.interrupt()
        *_, done = stream.events()
        assert done == "[DONE]"
    assert child.wait() == 0


@pytest.mark.slow
def test_idle_connections_block_no_client(make_server: Callable[..., Server]) -> None:
    server = make_server()
    with contextlib.ExitStack() as idle:
        sockets = [
            idle.enter_context(socket.create_connection(("127.0.0.1", server.port), TIMEOUT))
            for _ in range(300)
        ]
        assert request(server.url, "GET", "/health").status == 200
        # No idle connection has been closed for that; later they would be.
        for connection in sockets:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)


def serve_by_waitress(start: StartServer, models: Path) -> tuple[Child, str]:
    """Start waitress-serve with the README's command; return it with its URL."""
    child = start(
        program("waitress-serve"),
        "--listen=127.0.0.1:0",
        "--threads=96",
        "--channel-request-lookahead=1",
        "--call",
        "offgrid.app:create_app",
        OFFGRID_MODELS_DIR=str(models),
        OFFGRID_DEFAULT_MODEL=STARTER,
    )
    return child, child.err.find(r"Serving on (http://\S+)")[1]


def test_the_readme_gives_waitress_serve_enough_threads() -> None:
    """Otherwise requests that wait would take the thread of /health."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    needed = places(load_settings(environ={}))
    assert f"settings that is {needed}." in text
    given = re.search(r"--threads=(\d+)", text)
    assert given is not None
    assert int(given[1]) > needed


@pytest.mark.parametrize(
    ("stop", "status"),
    # SIGTERM is in the default run because it lets waitress-serve run none of our code.
    [(stop_by_term, -signal.SIGTERM), pytest.param(Child.interrupt, 0, marks=pytest.mark.slow)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_waitress_serve(
    start: StartServer, tmp_path: Path, stop: Callable[[Child], None], status: int
) -> None:
    child, url = serve_by_waitress(start, tmp_path)
    body = chat_body(temperature=0)
    whole = request(url, "POST", CHAT, body)
    assert whole.status == 200
    with Stream(url, CHAT, {**body, "stream": True}) as stream:
        text = text_of(list(stream.events()))
    assert text == whole.json["choices"][0]["message"]["content"] != ""
    assert request(url, "GET", "/health").status == 200
    assert [model["id"] for model in request(url, "GET", "/v1/models").json["data"]] == [STARTER]
    assert request(url, "GET", "/ui/").headers["content-type"] == "text/html; charset=utf-8"
    known = {"If-None-Match": request(url, "GET", "/ui/main.js").headers["etag"]}
    assert request(url, "GET", "/ui/main.js", headers=known).status == 304
    worker = child.worker()
    stop(child)
    assert child.wait() == status
    assert "Traceback" not in child.err.text
    all_gone([worker])


def test_the_system_buffers_little_unread_data() -> None:
    with listen("127.0.0.1", 0) as listening, socket.socket() as client:
        client.connect(listening.getsockname())
        accepted, _ = listening.accept()
        with accepted:
            held = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert held <= 1 << 18
