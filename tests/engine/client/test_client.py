"""The worker process killed and stopped, seen from HTTP: it may die, the server must not."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import all_stopped
from support import (
    STARTER,
    Stream,
    chat_body,
    endless,
    eventually,
    no_threads,
    request,
    text_of,
    together,
)
from variants import few

from offgrid.engine.client.blame import REFUSED_FOR
from offgrid.engine.client.client import EngineClient, Generation
from offgrid.engine.client.pending import State
from offgrid.engine.protocol.commands import Load, Submit
from offgrid.engine.protocol.requests import GenerationRequest, PromptPart
from offgrid.errors import (
    ContextLengthExceeded,
    EngineFault,
    ModelLoadFailed,
    RequestError,
    RequestRefused,
)
from offgrid.sampling import SamplingParams
from offgrid.server import Server

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MakeServer = Callable[..., Server]
pytestmark = pytest.mark.usefixtures("no_pauses")


class Clock:
    """A running clock that a test can move forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


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


@pytest.mark.slow
def test_killed_while_a_whole_answer_is_computed(make_server: MakeServer) -> None:
    server = make_server(parallel=1)
    engine = server.pool.engine(STARTER)

    def ask() -> Any:
        return request(server.url, "POST", TEXT, endless(max_tokens=1900, stream=False))

    def end() -> None:
        eventually(
            lambda: any(p.state >= State.SCORED for p in engine.requests.pending()), "it runs"
        )
        kill(server)

    response, _ = together([ask, end])
    assert response.status == 500
    assert response.json["error"]["code"] == "engine_fault"
    assert request(server.url, "POST", CHAT, chat_body()).status == 200


@pytest.mark.slow
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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(
    request: pytest.FixtureRequest, starter_path: Path, clock: Clock
) -> Iterator[EngineClient]:
    """A client with small batches, so a long prompt takes many steps, and by default one slot."""
    client = EngineClient(
        Load(str(starter_path), parallel=getattr(request, "param", 1), batch_size=8, threads=1),
        name="model", queue_size=8, load_timeout=60, stall_timeout=60, clock=clock,
    )  # fmt: skip
    client.start()
    client.wait_ready()
    yield client
    client.close()


def prompt(text: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest(parts=(PromptPart(text, True),), **fields)


def long_prompt(name: str) -> GenerationRequest:
    """A prompt with a prefill long enough to be interrupted."""
    text = f"{name}: " + "once upon a time there was " * 200
    greedy = SamplingParams(temperature=0.0)
    return prompt(text, max_tokens=2, sampling=greedy, cache_prompt=False)


def prefilled(client: EngineClient) -> int:
    """The number of prompts being computed."""
    return sum(p.state == State.STARTED for p in client.requests.pending())


def stop_while_computing(client: EngineClient, n: int = 1, after: int | None = None) -> int:
    """Stop the worker while it computes ``n`` prompts, and return its process id.

    ``after``: process id of an ended worker, to wait for its successor.
    """
    pid: int | None = None

    def caught() -> bool:
        nonlocal pid
        pid = client.pid
        if pid in (None, after) or prefilled(client) < n:
            return False
        os.kill(pid or 0, signal.SIGSTOP)
        eventually(lambda: all_stopped(pid or 0), "every thread of it has stopped")
        return True

    eventually(caught, "it is stopped within a prompt")
    assert pid is not None
    return pid


def finish(client: EngineClient, request: GenerationRequest) -> str:
    generation = client.submit(request)
    text = ""
    while not generation.finished:
        text += "".join(delta.text for delta in generation.next(10) or ())
    return text


class Asked:
    """Requests given to the worker one after the other, each awaited by a thread."""

    def __init__(self, client: EngineClient, *requests: GenerationRequest) -> None:
        self.results: list[Any] = [None] * len(requests)
        self._client = client
        self._requests = requests
        self._threads = [
            threading.Thread(target=self._ask, args=(i,)) for i in range(len(requests))
        ]
        self._started = 0

    def _ask(self, index: int) -> None:
        try:
            self.results[index] = finish(self._client, self._requests[index])
        except RequestError as ex:
            self.results[index] = ex

    def start(self, count: int, *, handed_over: bool = True) -> None:
        """Start the next ``count`` requests and wait until each is registered.

        Without a worker none is registered: then ``handed_over`` is false.
        """
        for thread in self._threads[self._started : self._started + count]:
            thread.start()
            self._started += 1
            if handed_over:
                eventually(
                    lambda: self._client.pending_count == self._started, "it was handed over"
                )

    def wait(self) -> list[Any]:
        """Return the text or the error of each request."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request hangs"
        return self.results


def crash(client: EngineClient, *requests: GenerationRequest) -> list[Any]:
    """Kill the worker while it computes the first request and the others wait."""
    asked = Asked(client, *requests)
    asked.start(1)
    pid = stop_while_computing(client)
    asked.start(len(requests) - 1)
    os.kill(pid, signal.SIGKILL)
    return asked.wait()


@pytest.mark.slow
def test_a_prompt_that_ends_the_worker_twice_is_refused_for_some_time(
    client: EngineClient, clock: Clock
) -> None:
    poison = long_prompt("poison")
    for _ in range(2):
        (error,) = crash(client, poison)
        assert isinstance(error, EngineFault)
    with pytest.raises(RequestRefused):
        client.submit(poison)
    assert finish(client, prompt("Once", max_tokens=2))
    clock.ahead += REFUSED_FOR
    assert finish(client, poison)
    assert client.in_flight == 0
    assert not client.pending_count


@pytest.mark.slow
def test_one_crash_is_one_strike_however_many_requests_share_the_prompt(
    client: EngineClient,
) -> None:
    poison = long_prompt("poison")
    errors = crash(client, poison, poison, poison)
    assert all(isinstance(error, EngineFault) for error in errors)
    assert finish(client, poison)


@pytest.mark.slow
def test_requests_that_wait_while_another_ends_the_worker_are_served(client: EngineClient) -> None:
    """Nothing was computed for them: the next worker gets them, and no client notices."""
    waiting = [
        prompt(f"number {i}", max_tokens=3, sampling=SamplingParams(seed=i)) for i in range(3)
    ]
    expected = [finish(client, request) for request in waiting]
    pid = client.pid
    error, *texts = crash(client, long_prompt("poison"), *waiting)
    assert isinstance(error, EngineFault)
    assert texts == expected
    assert client.pid != pid
    # They got no strike, so they may wait during a second crash too.
    error, *texts = crash(client, long_prompt("poison"), *waiting)
    assert isinstance(error, EngineFault)
    assert texts == expected


@pytest.mark.slow
def test_a_request_that_waits_while_the_worker_ends_twice_is_told_so(client: EngineClient) -> None:
    asked = Asked(client, long_prompt("one"), long_prompt("two"), prompt("Once", max_tokens=2))
    asked.start(1)
    pid = stop_while_computing(client)
    asked.start(2)
    os.kill(pid, signal.SIGKILL)
    os.kill(stop_while_computing(client, after=pid), signal.SIGKILL)
    *guilty, innocent = asked.wait()
    for error in guilty:
        assert isinstance(error, EngineFault)
        assert "died while computing this request" in str(error)
    assert isinstance(innocent, EngineFault)
    assert "died twice while this request waited" in str(innocent)
    assert finish(client, prompt("Once", max_tokens=2))


@pytest.mark.slow
@pytest.mark.parametrize("client", [2], indirect=True)
def test_of_two_prompts_in_one_crash_only_the_guilty_one_is_refused(client: EngineClient) -> None:
    """It is unknown which one ended the worker, so the server retries them one at a time."""
    guilty, innocent = long_prompt("guilty"), long_prompt("innocent")
    expected = finish(client, innocent)
    asked = Asked(client, guilty, innocent)
    # The worker receives both when it continues, and computes them together.
    os.kill(client.pid or 0, signal.SIGSTOP)
    asked.start(2)
    os.kill(client.pid or 0, signal.SIGCONT)
    pid = stop_while_computing(client, 2)
    os.kill(pid, signal.SIGKILL)
    pid = stop_while_computing(client, after=pid)
    assert prefilled(client) == 1
    os.kill(pid, signal.SIGKILL)
    error, text = asked.wait()
    assert isinstance(error, EngineFault)
    assert text == expected
    with pytest.raises(RequestRefused):
        client.submit(guilty)
    assert finish(client, innocent) == expected


def test_a_worker_killed_while_idle_costs_no_request(client: EngineClient) -> None:
    """The server may already know of the end, or may still write to a pipe without a reader."""
    for _ in range(2):
        pid = client.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert finish(client, prompt("Once", max_tokens=2))
        assert client.pid != pid


@pytest.mark.slow
@pytest.mark.parametrize("thread", few(1, ["worker-log", "load-limit"]))
def test_a_worker_is_started_as_soon_as_the_system_starts_threads_again(
    client: EngineClient, caplog: pytest.LogCaptureFixture, thread: str
) -> None:
    """Waiting requests are served; no error blames the model's file."""
    pid = client.pid
    asked = Asked(client, prompt("Once", max_tokens=2))
    with pytest.MonkeyPatch.context() as patch:
        no_threads(patch, thread)
        os.kill(pid or 0, signal.SIGKILL)
        eventually(lambda: caplog.text.count("no worker for model") >= 2, "it is tried again")
        assert client.load_failure is None
        asked.start(1, handed_over=False)
    (text,) = asked.wait()
    assert isinstance(text, str)


@pytest.mark.slow
def test_requests_wait_for_a_thread_that_sends_them(client: EngineClient) -> None:
    """Their worker dies, and the system starts no thread to send them to the next one."""
    pid = client.pid
    os.kill(pid or 0, signal.SIGSTOP)
    asked = Asked(client, prompt("Once", max_tokens=2))
    asked.start(1)
    with pytest.MonkeyPatch.context() as patch:
        no_threads(patch, "engine-retry")
        os.kill(pid or 0, signal.SIGKILL)
        eventually(lambda: client.requests.unsent > 0, "it waits to be sent")
        assert client.ready
        next_one = client.pid
    (text,) = asked.wait()
    assert isinstance(text, str)
    assert client.pid == next_one


@pytest.mark.slow
def test_a_request_too_large_for_the_pipe_whose_worker_dies_before_it_is_sent(
    client: EngineClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next worker's sender detects the size and reports it to the waiting request."""
    monkeypatch.setattr("offgrid.engine.protocol.frames.MAX_FRAME", 1 << 16)
    request = prompt("x" * (1 << 16), prompt_param="messages")
    pid = client.pid
    pending = client.requests.register(
        lambda id: Generation("", Submit(id, request), 1, client.requests.hooks, lambda: None),
        1,
        lambda: True,
        "",
    )
    os.kill(pid or 0, signal.SIGKILL)
    polls = iter(range(300))
    with pytest.raises(ContextLengthExceeded, match="exceeds 64 MiB") as caught:
        pending.wait_accepted(lambda: next(polls, None) is not None)
    assert caught.value.param == "messages"
    assert caught.value.code == "context_length_exceeded"
    assert not client.pending_count
    assert client.in_flight == 0
    assert finish(client, prompt("Once", max_tokens=2))


@pytest.mark.slow
def test_a_stopped_worker_is_ended_and_waiting_requests_are_served(client: EngineClient) -> None:
    pid = client.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    asked = Asked(client, prompt("Once", max_tokens=2))
    asked.start(1)
    watchdog = client.supervisor.watchdog
    pong_within, watchdog.pong_within = watchdog.pong_within, 0.0
    eventually(lambda: client.pid != pid, "it is ended")
    watchdog.pong_within = pong_within
    (text,) = asked.wait()
    assert isinstance(text, str)


@pytest.mark.slow
def test_a_reported_seed_stays_valid_after_a_crash(client: EngineClient) -> None:
    """The client has read the seed in the response's headers before the worker dies."""
    first = client.submit(prompt("Once", ignore_eos=True))
    assert first.next(60)
    warm = SamplingParams(temperature=2.0)  # no slot is idle: it is accepted and waits
    waiting = client.submit(prompt("Once upon", max_tokens=20, sampling=warm))
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    text = ""
    while not waiting.finished:
        text += "".join(delta.text for delta in waiting.next(10) or ())
    eventually(lambda: first.failed, "the one that ran has ended")
    warm = SamplingParams(temperature=2.0, seed=waiting.seed)
    assert finish(client, prompt("Once upon", max_tokens=20, sampling=warm)) == text


# tests/attacks/test_held_files.py truncates more files.
@pytest.mark.parametrize(
    "keep", [pytest.param(n, marks=pytest.mark.slow) for n in (4, 100, 1_000_000)] + [20_000]
)
def test_a_truncated_file(make_server: MakeServer, starter_path: Path, tmp_path: Path,
                                  keep: int) -> None:  # fmt: skip
    (tmp_path / "short.gguf").write_bytes(starter_path.read_bytes()[:keep])
    (tmp_path / "whole.gguf").symlink_to(starter_path)
    server = make_server(default_model="whole")
    response = request(server.url, "POST", TEXT, {"model": "short", "prompt": "x"})
    assert response.status == 500
    assert response.json["error"]["code"] == "model_load_failed"
    assert response.headers["x-should-retry"] == "false"
    message = response.json["error"]["message"]
    assert message.startswith("The model short cannot be loaded: the file is cut off: ")
    assert str(tmp_path) not in message  # llama.cpp's message contains the path of the file
    whole = request(server.url, "POST", TEXT, {"model": "whole", "prompt": "x", "max_tokens": 1})
    assert whole.status == 200


def test_a_file_that_is_no_model_is_not_listed(make_server: MakeServer, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    (tmp_path / "folder.gguf").mkdir()
    server = make_server(default_model=STARTER)
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
        assert client.load_failure is not None
    finally:
        client.close()


@pytest.mark.slow
def test_strange_prompts_beside_running_streams(make_server: MakeServer) -> None:
    """One client's strange prompts do not change the others' answers."""
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
